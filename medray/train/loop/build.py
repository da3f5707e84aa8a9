"""Everything that a rank needs before its first step: model, engine, loss and validation split, made from a plan."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import distributed

from medray.config import Config
from medray.errors import InputError
from medray.evaluate.validation import Validation
from medray.methods.cross_entropy import TokenLoss
from medray.models.adapters import add_adapter
from medray.models.generation import keep_protocol
from medray.models.load import load_model
from medray.models.probes import keeps_boundaries, refuse_sight_ahead
from medray.plan.model_config import architecture
from medray.train.engine import DeepSpeedEngine, Engine, TorchEngine, deepspeed_config, prepare_process
from medray.train.loop.batch_reader import BatchLayout, batch_layout
from medray.train.loop.device import this_device, used_bytes
from medray.train.loop.news import News
from medray.train.loop.token_loss import token_loss
from medray.train.worker_plan import WorkerPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """Everything that a rank trains with.

    base: makes the base model again if the export must include it, for an adapter on random weights; else None.
    memory_before: bytes in use when model and optimizer were complete.
    """

    engine: Engine
    tokenizer: Any
    layout: BatchLayout
    loss: TokenLoss
    validation: Validation | None
    base: Callable[[], Any] | None
    memory_before: int
    seq2seq: bool

    @property
    def model(self) -> Any:
        """The model without the wrapper of its engine."""
        return getattr(self.engine.model, "module", self.engine.model)


def build(plan: WorkerPlan, news: News) -> Built:
    """Load the model of a plan into its engine. Collective. Raises InputError if it must not be trained this way."""
    config, ranks = plan.config, world_size()
    seq2seq = architecture(plan.model) == "seq2seq"
    with news.timed("setup"):
        if plan.plain_torch(ranks):
            torch.set_num_threads(plan.threads)
        else:
            prepare_process(plan.threads)
        tokenizer = plan.train.load_tokenizer()
        layout = batch_layout(config.train, ranks)
        news.phase("model")
        base = partial(
            load_model, config.model, plan.model, tokenizer, dtype=_dtype(plan), seed=config.run.seed
        )
        engine = _engine(plan, base, tokenizer, layout, seq2seq=seq2seq)
        _refuse_leaks(config, engine, seq2seq=seq2seq)
        loss = token_loss(config, engine, seq2seq=seq2seq, say=news.message)
    return Built(
        engine=engine,
        tokenizer=tokenizer,
        layout=layout,
        loss=loss,
        validation=_validation(plan, tokenizer),
        base=base if config.model.init == "random" and config.peft.type != "none" else None,
        memory_before=used_bytes(),
        seq2seq=seq2seq,
    )


def world_size() -> int:
    """Return the number of ranks in the group that Ray Train or torchrun has made; 1 if there is none."""
    if distributed.is_initialized():
        return int(distributed.get_world_size())
    return int(os.environ.get("WORLD_SIZE", "1"))


def _dtype(plan: WorkerPlan) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.precision, torch.float32)


def _engine(
    plan: WorkerPlan, base: Callable[..., Any], tokenizer: Any, layout: BatchLayout, *, seq2seq: bool
) -> Engine:
    config, ranks = plan.config, world_size()
    ds_config = deepspeed_config(
        config.train, micro_batch_size=layout.micro_batch_size, world_size=ranks, precision=plan.precision
    )
    device = this_device()
    model = base(zero3=ds_config if config.train.zero_stage == 3 else None)
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    keep_protocol(model, tokenizer, plan.train.spec)
    adapted = add_adapter(
        model,
        config.peft,
        seq2seq=seq2seq,
        seed=config.run.seed,
        total_steps=plan.total_steps,
        tokenizer=tokenizer,
        start=config.model.adapter,
    )
    if plan.plain_torch(ranks):
        return TorchEngine(adapted, config.train, device)
    return DeepSpeedEngine(adapted, config.train, ds_config, device)


def _refuse_leaks(config: Config, engine: Engine, *, seq2seq: bool) -> None:
    """Raise InputError for a model that sees the tokens to be predicted. Asks the model itself, on all ranks."""
    if not seq2seq:
        refuse_sight_ahead(engine.model, engine.device)
    tokens = config.data.pack_tokens
    if tokens is not None and not keeps_boundaries(engine.model, engine.device):
        raise InputError(
            "this model lets packed rows see each other",
            key="data.pack_tokens",
            value=tokens,
            fix="set data.pack_tokens: null",
        )


def _validation(plan: WorkerPlan, tokenizer: Any) -> Validation | None:
    config, tokens = plan.config, plan.validation
    if tokens is None:
        return None
    return Validation(
        tokens.store(patience_seconds=config.cluster.hang_seconds),
        tuple(tokens.rows()),
        tokens.spec.architecture,
        tokenizer.pad_token_id,
        config.eval.batch_size,
        plan.stored_reference(tokens),
    )
