"""A run's config as the plain numbers of `phases.Job` and `cost.Work`: which forward pass is the longest, what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from medray.config.method_specs import spec_of
from medray.plan import adapters, parameters
from medray.plan.activations import Forward, Training
from medray.plan.cost import Work
from medray.plan.headers import ParameterCount
from medray.plan.phases import BUCKET, Job
from medray.plan.steps import MOST_ROWS, split_batch, total_steps

if TYPE_CHECKING:
    from medray.config import Config

# The same numbers as in medray/methods/cross_entropy.py, which imports torch.
CHUNK_LOGITS, CHUNKS_THAT_PAY = 2**25, 4
_EIGHT_BIT_MOMENTS = 2 + 2 * 4 / 256  # two moments of one byte, and their scales per block of 256
_LONGEST_TEMPLATE = 64  # tokens that a chat template adds to a row


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskLengths:
    """The lengths of one task in tokens.

    length, longest: mean and maximum in a forward pass; for an encoder-decoder, of the source. target, longest_target:
    mean and maximum number of positions with loss. share: part of the rows that have the task, from 0 to 1.
    """

    length: float
    longest: int
    target: float
    longest_target: int
    share: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """The lengths of a run's rows by task. rows: number of training rows; None if unknown. origin: how they were found."""

    tasks: Mapping[str, TaskLengths]
    rows: int | None
    origin: str


def lengths_of_limits(config: Config, *, seq2seq: bool) -> Lengths:
    """Return the longest rows that the config allows: an upper bound without any data."""
    data, found = config.data, {}
    for task in spec_of(config.method).tasks:
        target, source = task.limit(data), data.max_input_tokens
        length = source if seq2seq else source + target + _LONGEST_TEMPLATE
        found[task.name] = TaskLengths(length=length, longest=length, target=target, longest_target=target)
    return Lengths(tasks=found, rows=None, origin="the limits of the config: the longest rows that it allows")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The settings that a plan varies. micro_batch_size: rows of a worker at once."""

    stage: int
    offload: bool
    workers: int
    micro_batch_size: int
    checkpointing: bool

    @classmethod
    def of(cls, config: Config, workers: int, micro_batch_size: int | None = None) -> Choice:
        """Return the settings of a config for this number of workers."""
        return cls(
            stage=config.train.zero_stage,
            offload=config.train.offload == "cpu",
            workers=workers,
            micro_batch_size=micro_batch_size or rows_at_once(config, workers),
            checkpointing=config.train.gradient_checkpointing,
        )


def rows_at_once(config: Config, workers: int) -> int:
    """Return the rows of a micro-batch as a run without a plan has them."""
    train = config.train
    if train.global_batch_tokens is not None:
        return train.micro_batch_size or MOST_ROWS
    return split_batch(
        train.global_batch_size, workers, train.micro_batch_size, train.gradient_accumulation_steps
    ).micro_batch_size


def most_rows_at_once(config: Config, workers: int, lengths: Lengths) -> int:
    """Return the most rows of a micro-batch that make sense: the share of one worker in a global batch."""
    train = config.train
    if train.global_batch_tokens is None:
        return -(-train.global_batch_size // workers)
    mean = sum(task.length for task in lengths.tasks.values()) / max(len(lengths.tasks), 1)
    return max(1, ceil(train.global_batch_tokens / max(mean, 1) / workers))


def job_of(
    config: Config,
    model: Mapping[str, Any],
    count: ParameterCount,
    choice: Choice,
    lengths: Lengths,
    *,
    precision: str,
    on_gpu: bool,
) -> Job:
    """Return the numbers of a run. precision: fp32, bf16 or fp16. Raises ValueError for a model of an unknown family."""
    train, peft = config.train, config.peft
    width = 4 if precision == "fp32" else 2
    trained = count.total if peft.type == "none" else adapters.trained(model, peft)
    training = Training(
        weight_bytes=width,
        on_gpu=on_gpu,
        checkpointing=choice.checkpointing,
        adapted=_adapted(config, model),
        rank=peft.rank if peft.type == "lora" else peft.adalora.init_rank if peft.type == "adalora" else 0,
        adapter_dropout=peft.type in ("lora", "adalora") and peft.dropout > 0,
    )
    frozen = None
    if config.model.quantization == "nf4":
        frozen = adapters.nf4_bytes(model, width, double=config.model.double_quantization)
    forward = longest_forward(config, lengths, choice.micro_batch_size)
    whole_logits = spec_of(config.method).encodings is not None
    return Job(
        model=model,
        total=count.total,
        trained=trained,
        adapter=0 if peft.type == "none" else trained,
        largest_layer=count.largest_layer,
        largest_trained=_largest_trained(config, model, count, trained),
        training=training,
        forward=forward,
        stage=choice.stage,
        workers=choice.workers,
        offload=choice.offload,
        plain_torch=_plain_torch(config, choice, precision),
        accumulates=forwards_of(config, choice) > 1,
        chunk=None if whole_logits else chunk_of(train.loss_chunk_tokens, model, forward),
        frozen_bytes=frozen,
        moment_bytes=_EIGHT_BIT_MOMENTS if train.optimizer.name.endswith("8bit") else 8,
        bucket=_bucket(train.deepspeed),
        pretrained=config.model.init == "pretrained",
        reference=spec_of(config.method).reference is not None,
        eval_rows=config.eval.batch_size,
        new_tokens=config.eval.generation.max_new_tokens if config.eval.numbers else 0,
        beams=config.eval.generation.num_beams,
    )


def longest_forward(config: Config, lengths: Lengths, rows: int) -> Forward:
    """Return the forward pass with the most tokens: `rows` of the longest rows, of one group of tasks."""
    if (packed := config.data.pack_tokens) is not None:
        share = max((task.target / max(task.length, 1) for task in lengths.tasks.values()), default=1.0)
        return Forward(rows=rows, length=packed, targets=min(packed, ceil(packed * share)), masked=True)
    virtual = (
        config.peft.virtual_tokens if config.peft.type in ("prompt", "multitask_prompt", "prefix") else 0
    )
    found = []
    spec = spec_of(config.method)
    for names, together in [(group, len(group)) for group in spec.row_groups] + [
        (spec.mixed_tasks, 1)
    ] * bool(spec.mixed_tasks):
        each = [lengths.tasks[name] for name in names if name in lengths.tasks]
        if each:
            found.append(
                Forward(
                    rows=rows * together,
                    length=max(task.longest for task in each) + virtual,
                    targets=max(task.longest_target for task in each),
                    masked=rows * together > 1,
                )
            )
    return max(found, key=lambda forward: (forward.tokens, forward.logits))


def work_of(config: Config, lengths: Lengths) -> Work | None:
    """Return the sequences and steps of a whole run; None if the number of rows is not known and decides the steps."""
    train, tasks = config.train, lengths.tasks.values()
    per_row = sum(task.share for task in tasks)
    if per_row <= 0:
        return None
    length = sum(task.share * task.length for task in tasks) / per_row
    target = sum(task.share * task.target for task in tasks) / per_row
    row_tokens = per_row * length
    packed = config.data.pack_tokens
    units = (
        lengths.rows
        if packed is None or lengths.rows is None
        else max(1, ceil(lengths.rows * row_tokens / packed))
    )
    batch = train.global_batch_size
    if train.global_batch_tokens is not None:
        batch = max(1, round(train.global_batch_tokens / (packed or max(row_tokens, 1))))
    try:
        steps = total_steps(units, batch, train.epochs, train.max_steps)
    except ValueError:
        return None
    a_step = (
        batch if units is None else units / ceil(units / batch)
    )  # the last batch of an epoch may be smaller
    sequences = steps * a_step
    if packed is not None:
        return Work(source=packed, target=packed * target / max(length, 1), rows=sequences, steps=steps)
    return Work(source=length, target=target, rows=sequences * per_row, steps=steps)


def _adapted(config: Config, model: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the names of linear layers that keep their input for an adapter; None if every weight is trained."""
    peft = config.peft
    if peft.type == "none":
        return None
    if peft.type in ("lora", "adalora"):
        return frozenset(layer.name for layer in parameters.adapted(model, peft.targets))
    if peft.type == "ia3":  # it scales keys, values and inner features
        return frozenset(("k", "v", "wo", "k_proj", "v_proj", "down_proj"))
    return frozenset()


def _largest_trained(config: Config, model: Mapping[str, Any], count: ParameterCount, trained: int) -> int:
    peft = config.peft
    if peft.type == "none":
        return count.largest_layer
    if peft.type in ("lora", "adalora"):
        rank = peft.rank if peft.type == "lora" else peft.adalora.init_rank
        return rank * max(max(one.inputs, one.outputs) for one in parameters.adapted(model, peft.targets))
    return min(count.largest_layer, trained)


def _plain_torch(config: Config, choice: Choice, precision: str) -> bool:
    """Return whether the run uses torch alone, by the rule of `WorkerPlan.plain_torch`."""
    train = config.train
    if choice.workers > 1 or precision != "fp32" or train.deepspeed or choice.offload:
        return False
    return choice.stage == 0 or (choice.stage < 3 and train.optimizer.name == "adamw")


def forwards_of(config: Config, choice: Choice) -> int:
    """Return the forward passes of a worker in one step."""
    train, spec = config.train, spec_of(config.method)
    groups = 1 if config.data.pack_tokens is not None else len(spec.row_groups) + bool(spec.mixed_tasks)
    if train.global_batch_tokens is not None:
        return max(2, groups)  # row lengths decide
    return groups * max(1, ceil(train.global_batch_size / choice.workers / choice.micro_batch_size))


def chunk_of(asked: int | None, model: Mapping[str, Any], forward: Forward) -> int | None:
    """Return the positions whose logits exist at once in a forward pass, by `train.loss_chunk_tokens`; None: all."""
    if asked == 0:
        return None
    chunk = asked or max(CHUNK_LOGITS // parameters.size(model, "vocab_size"), 1)
    least = chunk if asked else CHUNKS_THAT_PAY * chunk
    return chunk if forward.logits > least else None


def _bucket(deepspeed: Mapping[str, Any]) -> int:
    zero = deepspeed.get("zero_optimization", {})
    given = zero.get("reduce_bucket_size", BUCKET)
    return int(given) if isinstance(given, int | float) and not isinstance(given, bool) else BUCKET
