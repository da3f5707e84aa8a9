"""A census of memory while a tiny model trains on a CPU: the tensors that are alive, and those that torch keeps for the
backward pass. Tests of the plan compare these with its arithmetic.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from medray.config.method import MethodConfig
from medray.config.peft import PeftConfig
from medray.config.train import TrainConfig
from medray.data.batching.collate import MicroBatch
from medray.evaluate.loss_sums import loss_sums
from medray.methods import loss_of
from medray.methods.cross_entropy import TokenLoss
from medray.models.adapters import add_adapter
from medray.train.engine import DeepSpeedEngine, TorchEngine, deepspeed_config, prepare_process

BUCKET = 10_000  # values of DeepSpeed's bucket: small beside a tiny model


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A tiny run. targets: labels of a row. padded: the rows differ in length. rank: of a LoRA on every linear layer; 0:
    none. stage: None for plain torch."""

    model: dict[str, Any]
    stage: int | None = None
    precision: str = "fp32"
    offload: bool = False
    rank: int = 0
    rows: int = 3
    length: int = 96
    targets: int = 40
    padded: bool = True
    checkpointing: bool = False
    chunk: int | None = None
    deepspeed: dict[str, Any] = field(default_factory=dict)


def measured(case: Case) -> dict[str, int]:
    """Return bytes on this rank during and after a second optimizer step.

    weights, optimizer: storages of the model's parameters, and of the optimizer's states and master copies. saved: kept by
    the forward pass. resting, differentiated: all tensors alive between steps, and after a backward pass.
    """
    if case.stage is not None:
        prepare_process(1)
    gc.collect()
    gc.freeze()  # what is alive already is not looked at again, which takes most of the time
    engine, own = _engine(case)
    found: dict[str, int] = {}
    for _ in range(2):
        loss, found["saved"] = forward(case, engine.model, own)
        engine.backward(loss)
        del loss
        gc.collect()
        found["differentiated"] = _alive()
        engine.step(1e-3)
        gc.collect()
        found["resting"] = _alive()
    optimizer = engine.optimizer if case.stage is None else engine.model.optimizer
    found["weights"], found["optimizer"] = (
        _size(_weights(engine.model)),
        _optimizer_size(engine.model, optimizer),
    )
    gc.unfreeze()
    return found


def peaks(case: Case) -> dict[str, int]:
    """Return the most bytes allocated in the forward and backward pass and the step, after a first step; plain torch only."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        engine, own = _engine(case)
        for number in range(2):
            with record_function(f"forward {number}"):
                loss, _ = forward(case, engine.model, own)
            with record_function(f"backward {number}"):
                engine.backward(loss)
                del loss
            with record_function(f"step {number}"):
                engine.step(1e-3)
    kineto, times, sizes = _allocated(seen)
    found = {}
    for each in kineto:
        if each.name() in ("forward 1", "backward 1", "step 1"):
            span = np.searchsorted(times, [each.start_ns(), each.start_ns() + each.duration_ns()])
            found[each.name().split()[0]] = int(sizes[span[0] : span[1]].max())
    return found


def evaluation_peak(case: Case) -> int:
    """Return the most bytes allocated in a forward pass without gradients."""
    model, seq2seq = build(case).eval(), case.model["model_type"] == "t5"
    micro = _micro_batch(case, seq2seq=seq2seq)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        loss_sums(model, micro, loss_of(MethodConfig()), torch.device("cpu"), seq2seq=seq2seq)
    return int(_allocated(seen)[2].max())


def _allocated(seen: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the events of a profile, and the allocated bytes over time: [changes], [changes]."""
    events = seen.profiler.kineto_results.events()
    changes = sorted((each.start_ns(), each.nbytes()) for each in events if each.name() == "[memory]")
    return events, np.array([time for time, _ in changes]), np.cumsum([size for _, size in changes])


def forward(case: Case, model: nn.Module, own: set[int]) -> tuple[Tensor, int]:
    """Return the loss of one forward pass, and the bytes of the tensors that it keeps, without the model's own storages."""
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        base = tensor._base if tensor._base is not None else tensor
        storage = tensor.untyped_storage()
        if not isinstance(base, nn.Parameter) and storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    seq2seq = case.model["model_type"] == "t5"
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sums = loss_sums(
            model,
            _micro_batch(case, seq2seq=seq2seq),
            loss_of(MethodConfig()),
            torch.device("cpu"),
            seq2seq=seq2seq,
            loss=TokenLoss(chunk_tokens=case.chunk),
        )
    return sums["label"] / 100, sum(saved.values())


def build(case: Case) -> nn.Module:
    """Return the model of a case with its adapter, before an engine takes it."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    values = dict(case.model)
    kind = values.pop("model_type")
    seq2seq = kind == "t5"
    torch.manual_seed(0)
    auto: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    model = auto.from_config(AutoConfig.for_model(kind, **values), dtype=dtype)
    if case.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if case.rank:
        model = add_adapter(
            model, PeftConfig(type="lora", rank=case.rank), seq2seq=seq2seq, seed=0, total_steps=10
        )
    built: nn.Module = model
    return built


def _engine(case: Case) -> tuple[Any, set[int]]:
    model = build(case)
    zero = {"reduce_bucket_size": BUCKET, "stage3_param_persistence_threshold": 0}
    train = TrainConfig.model_validate(
        {
            "zero_stage": case.stage or 0,
            "offload": "cpu" if case.offload else "none",
            "deepspeed": {"zero_optimization": zero} if case.stage else {},
        }
    )
    if case.stage is None:
        engine: Any = TorchEngine(model, train, torch.device("cpu"))
    else:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        settings = deepspeed_config(
            train, micro_batch_size=case.rows, world_size=world, precision=case.precision
        )
        engine = DeepSpeedEngine(model, train, settings, torch.device("cpu"))
    return engine, {one.untyped_storage().data_ptr() for one in _weights(engine.model)}


def _micro_batch(case: Case, *, seq2seq: bool) -> MicroBatch:
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 60, (case.rows, case.length))
    mask = np.ones_like(ids)
    if case.padded:
        mask[0, :2] = 0
    labels = rng.integers(3, 60, (case.rows, case.targets))
    if not seq2seq:
        labels = ids.copy()
        labels[:, : case.length - case.targets] = -100
    return MicroBatch(task="label", input_ids=ids, attention_mask=mask, labels=labels)


def _weights(model: nn.Module) -> list[Tensor]:
    """Return the tensors that hold this rank's weights."""
    inner: Any = getattr(model, "module", model)
    return [getattr(one, "ds_tensor", one) for one in inner.parameters()]


def _optimizer_size(model: nn.Module, optimizer: Any) -> int:
    """Return the bytes of moments and of float32 copies of weights."""
    inner = getattr(optimizer, "optimizer", optimizer)
    moments = [
        value for state in inner.state.values() for value in state.values() if isinstance(value, Tensor)
    ]
    copies = [one for group in inner.param_groups for one in group["params"]]
    copies += getattr(optimizer, "fp32_partitioned_groups_flat", ())  # of stage 3
    own = {one.untyped_storage().data_ptr() for one in _weights(model)}
    return _size(one for one in (*moments, *copies) if one.untyped_storage().data_ptr() not in own)


def _size(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' storages, each counted once."""
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


def _alive() -> int:
    """Return the bytes of all tensors that Python has made since `gc.freeze`, and of their gradients."""
    seen: list[Tensor] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # asking some objects of libraries for their class warns
        for one in gc.get_objects():
            if type(one) in (Tensor, nn.Parameter):
                seen.append(one)
                if one.is_leaf and one.grad is not None:
                    seen.append(one.grad)
    return _size(seen)
