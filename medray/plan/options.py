"""The choice of a plan: what fits on the GPUs for every ZeRO stage and offload, which of these is cheapest, and what to
change if nothing fits.

`Given` holds what a plan is made from. Everything here is arithmetic on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from medray.errors import InputError
from medray.plan.cost import EFFICIENCY, Cost, cost, sent_bytes
from medray.plan.gpus import Gpus, smallest, with_count
from medray.plan.headers import ParameterCount
from medray.plan.jobs import (
    Choice,
    Lengths,
    forwards_of,
    job_of,
    lengths_of_limits,
    most_rows_at_once,
    rows_at_once,
    work_of,
)
from medray.plan.parameters import ENCODER_DECODERS
from medray.plan.phases import Job, RunMemory, run_memory

if TYPE_CHECKING:
    from medray.config import Config

MOST_ROWS = 256  # largest micro-batch that is looked for
_MOST_GPUS = 4096
_SUGGESTED_LORA = {"peft.type": "lora", "peft.rank": 16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """The input of a plan.

    precision: fp32, bf16 or fp16. gpus: None if no GPUs are named. on_gpu: whether workers have GPUs. host_memory: bytes
    of memory of one node; None if not known. workers_per_node: workers that share it.
    """

    config: Config
    model: Mapping[str, Any]
    count: ParameterCount
    lengths: Lengths
    precision: str
    on_gpu: bool
    workers: int
    gpus: Gpus | None = None
    host_memory: int | None = None
    workers_per_node: int = 1
    efficiency: float = EFFICIENCY
    price: float | None = None

    def job(self, choice: Choice) -> Job:
        return job_of(
            self.config,
            self.model,
            self.count,
            choice,
            self.lengths,
            precision=self.precision,
            on_gpu=self.on_gpu,
        )

    def fits(self, memory: RunMemory) -> bool | None:
        """Return whether a worker fits; None if neither the GPUs nor the memory of a node are known."""
        verdict: bool | None = None
        if self.on_gpu and self.gpus is not None:
            verdict = memory.device <= self.gpus.gpu.memory
        if self.host_memory is not None:
            on_node = memory.on_node(self.workers_per_node) <= self.host_memory
            verdict = on_node and verdict is not False
        return verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One ZeRO stage, with or without offload, and what a run needs with it.

    memory: what the micro-batch of the config needs. fits: whether that fits; None if unknown. most_rows: rows of the
    largest micro-batch that fits; 0 if none fits, None if unknown. rows: rows of the micro-batch that a run takes. sent:
    bytes that a worker receives in one step. smallest_gpu: name of the smallest GPU of the table that
    holds the config's micro-batch.
    """

    choice: Choice
    memory: RunMemory
    fits: bool | None
    most_rows: int | None
    rows: int
    sent: int
    smallest_gpu: str | None

    @property
    def possible(self) -> bool:
        """Return whether some micro-batch fits."""
        return bool(self.most_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The result of planning a run.

    options: every stage and offload that medray accepts. asked: the option that the config sets. cheapest: the best
    option that fits with some micro-batch; None if none does. cost: None if the number of steps is unknown. changes:
    sentences about what would fit, if nothing does.
    """

    given: Given
    options: tuple[Option, ...]
    asked: Option
    cheapest: Option | None
    cost: Cost | None
    changes: tuple[str, ...] = field(default=())


def plan(given: Given, micro_batch_size: int | None = None) -> Plan:
    """Return the plan of a run. Raises ValueError for a model whose memory cannot be computed from its config."""
    asked_choice = Choice.of(given.config, given.workers, micro_batch_size)
    found = tuple(_options(given, asked_choice))
    asked = next((one for one in found if one.choice == asked_choice), None) or _option(given, asked_choice)
    cheapest = min((one for one in found if one.possible), key=_expense, default=None)
    if cheapest is not None:  # with the micro-batch that a run would take
        cheapest = _option(given, replace(cheapest.choice, micro_batch_size=cheapest.rows))
    used = cheapest.choice if cheapest else asked.choice
    work = work_of(given.config, given.lengths)
    total = None
    if work is not None:
        total = cost(
            given.job(used),
            work,
            given.gpus if given.on_gpu else None,
            efficiency=given.efficiency,
            price=given.price,
            checkpoints=given.config.train.keep_checkpoints,
            passes=forwards_of(given.config, used),
        )
    known = given.host_memory is not None or (given.on_gpu and given.gpus is not None)
    changes = tuple(_changes(given)) if known and cheapest is None else ()
    return Plan(given=given, options=found, asked=asked, cheapest=cheapest, cost=total, changes=changes)


def largest_rows(given: Given, choice: Choice) -> int:
    """Return the rows of the largest micro-batch that fits with this stage and offload; 0 if not one row fits."""

    def fits(rows: int) -> bool:
        return given.fits(run_memory(given.job(replace(choice, micro_batch_size=rows)))) is not False

    most = min(MOST_ROWS, most_rows_at_once(given.config, choice.workers, given.lengths))
    low, high = 0, max(most, 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def taken_rows(config: Config, workers: int, most: int) -> int:
    """Return the rows of a micro-batch that a run takes if `most` rows fit: a divisor of the worker's share of the batch.

    It is never more than a run takes without a plan: more rows would not be wrong, but the bytes are not measured on a GPU.
    """
    usual = min(rows_at_once(config, workers), max(most, 1))
    if config.train.global_batch_tokens is not None:
        return usual
    share = -(-config.train.global_batch_size // workers)
    return max(size for size in range(1, usual + 1) if share % size == 0)


def _options(given: Given, asked: Choice) -> Iterator[Option]:
    for stage, offload in allowed(given.config):
        yield _option(given, replace(asked, stage=stage, offload=offload))


def allowed(config: Config) -> tuple[tuple[int, bool], ...]:
    """Return the pairs of ZeRO stage and offload that medray accepts with the config's adapter, model and optimizer."""
    train, peft = config.train, config.peft
    stages = range(4)
    if peft.type == "adalora":
        stages = range(1)
    elif config.model.quantization == "nf4" or peft.dora:
        stages = range(3)
    if train.precision == "fp16":
        stages = range(1, stages.stop)
    plain = train.optimizer.name == "adamw" and peft.type != "adalora"
    return tuple(
        (stage, offload) for offload in (False, True) for stage in stages if not offload or (stage and plain)
    )


def _option(given: Given, choice: Choice) -> Option:
    job = given.job(choice)
    memory = run_memory(job)
    fits = given.fits(memory)
    small = smallest(memory.device, bf16=given.precision == "bf16") if given.on_gpu else None
    most = None if fits is None else largest_rows(given, choice)
    return Option(
        choice=choice,
        memory=memory,
        fits=fits,
        most_rows=most,
        rows=choice.micro_batch_size if most is None else taken_rows(given.config, choice.workers, most),
        sent=sent_bytes(job, passes=forwards_of(given.config, choice)),
        smallest_gpu=small.name if small else None,
    )


def _expense(option: Option) -> tuple[Any, ...]:
    """Order options: without offload, few bytes sent, large micro-batches, and a low stage first."""
    choice = option.choice
    return choice.offload, not option.fits, option.sent, -(option.most_rows or 0), choice.stage


def _changes(given: Given) -> Iterator[str]:
    """Yield changes of the config, each of which fits alone or with the ones that it names, and larger clusters."""
    steps: list[dict[str, Any]] = []
    config = given.config
    if not config.train.gradient_checkpointing and config.peft.type != "prefix":
        steps.append({"train.gradient_checkpointing": True})
    if config.peft.type == "none":
        steps.append(_SUGGESTED_LORA)
    tried: dict[str, Any] = {}
    for step in steps:
        tried |= step
        if found := _best(given, tried):
            yield _said(tried, found)
            break
    if given.on_gpu and config.model.quantization == "none" and config.peft.type in ("none", "lora"):
        small = {
            **tried,
            **(_SUGGESTED_LORA if config.peft.type == "none" else {}),
            "model.quantization": "nf4",
        }
        if found := _best(given, small):
            yield _said(small, found)
    halved = {**tried, "data.max_input_tokens": max(1, config.data.max_input_tokens // 2)}
    if config.data.pack_tokens is None and given.lengths.rows is None and (found := _best(given, halved)):
        yield _said(halved, found)
    if given.gpus is not None and given.on_gpu:
        yield from _larger(given)


def _best(given: Given, changes: Mapping[str, Any]) -> Option | None:
    """Return the cheapest option with these changes; None if none fits or they exclude each other."""
    try:
        config = given.config.override(dict(changes))
    except InputError:
        return None
    lengths = given.lengths
    if lengths.rows is None and "data.max_input_tokens" in changes:
        lengths = lengths_of_limits(config, seq2seq=given.model.get("model_type") in ENCODER_DECODERS)
    other = replace(given, config=config, lengths=lengths)
    asked = Choice.of(config, given.workers)
    return min((one for one in _options(other, asked) if one.possible), key=_expense, default=None)


def _said(changes: Mapping[str, Any], option: Option) -> str:
    choice = option.choice
    keys = {
        **changes,
        "train.zero_stage": choice.stage,
        "train.offload": "cpu" if choice.offload else "none",
        "train.micro_batch_size": option.rows,
    }
    shown = " ".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in keys.items()
    )
    return f"set {shown}"


def _larger(given: Given) -> Iterator[str]:
    """Yield the smallest number of such GPUs that fits with checkpointing, and a larger kind that fits as it is."""
    gpus, config = given.gpus, given.config
    assert gpus is not None
    beside = ""
    if not config.train.gradient_checkpointing and config.peft.type != "prefix":
        config = config.override({"train.gradient_checkpointing": True})
        beside = " with train.gradient_checkpointing=true"
    count = gpus.count * 2
    while count <= _MOST_GPUS:
        larger = with_count(gpus, count)
        stage = _stage_that_fits(replace(given, config=config, gpus=larger, workers=count))
        if stage is not None:
            yield f"use --gpus {larger.described}{beside}{' and' if beside else ' with'} train.zero_stage={stage}"
            break
        count *= 2
    asked = run_memory(given.job(Choice.of(given.config, given.workers)))
    other = smallest(asked.device, bf16=given.precision == "bf16")
    if other is not None and other.memory > gpus.gpu.memory:
        yield f"use --gpus {replace(gpus, gpu=other).described} with the settings of the config"


def _stage_that_fits(given: Given) -> int | None:
    """Return the lowest ZeRO stage without offload that holds one row at once; None if none does."""
    try:
        asked = Choice.of(given.config, given.workers, 1)
    except InputError:  # the config's own numbers do not divide the batch over this number of workers
        return None
    for stage, offload in allowed(given.config):
        memory = run_memory(given.job(replace(asked, stage=stage, offload=offload)))
        if not offload and given.fits(memory):
            return stage
    return None
