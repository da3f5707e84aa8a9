"""Checks of optimizer, learning rate schedule and checkpoint settings that need no heavy import."""

from __future__ import annotations

import importlib.util

from medray.config import Config
from medray.config.method_specs import spec_of
from medray.config.train import SchedulerConfig, TrainConfig
from medray.errors import InputError

LARGEST_USUAL_LR = 0.1
WSD_KEYS = ("decay_steps", "decay_ratio", "decay_shape")


def check_train(config: Config, *, planned: bool = False) -> None:
    """Raise InputError for the first setting of `train` that cannot work with the others.

    planned: this machine need not have the package of the optimizer.
    """
    _check_scheduler(config.train.scheduler, config.train.max_steps)
    _check_optimizer(config, planned=planned)
    _check_best(config)
    _check_loss_scale(config.train)


def learning_rate_notes(config: Config) -> tuple[str, ...]:
    """Return warnings about learning rates that are allowed but would destroy the model."""
    optimizer, found = config.train.optimizer, []
    rates = {"train.optimizer.lr": optimizer.lr}
    for number, group in enumerate(optimizer.groups):
        rate = group.lr if group.lr is not None else (group.lr_scale or 1.0) * optimizer.lr
        rates[f"train.optimizer.groups[{number}]"] = rate
    for name, rate in rates.items():
        if rate > LARGEST_USUAL_LR:
            found.append(
                f"{name}: a learning rate of {rate:g} is far above the usual range of AdamW, 1e-6 to 1e-2, and "
                f"{'destroys' if rate >= 1 else 'probably destroys'} the model. Fix: use a value such as 1e-4"
            )
    return tuple(found)


def _check_loss_scale(train: TrainConfig) -> None:
    if train.precision == "fp16" and train.zero_stage == 0:
        raise InputError(
            "fp16 without sharding trains with wrong gradients: at stage 0, DeepSpeed unscales gradients that it never scaled",
            key="train.zero_stage",
            value=0,
            fix="set train.zero_stage: 1",
        )


def _check_best(config: Config) -> None:
    """Raise InputError if no evaluation has the metric of train.keep_best."""
    best, evaluation, spec = config.train.keep_best, config.eval, spec_of(config.method)
    if best is None:
        return
    if evaluation.every_steps is None:
        raise InputError(
            "the best checkpoint is chosen by evaluations during training, but eval.every_steps is not set",
            key="train.keep_best",
            value=best,
            fix="set eval.every_steps: 100, or train.keep_best: null",
        )
    if best == "loss" and spec.moving_weights:
        raise InputError(
            "alpha changes during training, so the total losses of two evaluations cannot be compared",
            key="train.keep_best",
            value=best,
            fix="set train.keep_best: loss_label",
        )
    there = evaluation_metrics(config)
    if best not in there:
        raise InputError(
            "evaluations of this run have no metric of this name",
            key="train.keep_best",
            value=best,
            fix=f"use one of {', '.join(there)}; eval.metrics adds others",
        )


def evaluation_metrics(config: Config) -> tuple[str, ...]:
    """Return the names of the metrics that every evaluation of a run has."""
    spec = spec_of(config.method)
    return ("loss", *(f"loss_{term}" for term in spec.terms), *spec.metrics, *config.eval.numbers)


def _check_scheduler(scheduler: SchedulerConfig, max_steps: int | None) -> None:
    def wrong(what: str, name: str, fix: str) -> InputError:
        return InputError(
            what, key=f"train.scheduler.{name}", value=getattr(scheduler, name.split(".")[0]), fix=fix
        )

    has_warmup = bool(scheduler.warmup_steps) or (
        scheduler.warmup_steps is None and scheduler.warmup_ratio > 0
    )
    if scheduler.name == "constant" and has_warmup:
        # In transformers, `constant` silently ignores a warm-up; here no setting is ignored.
        raise wrong(
            "the schedule `constant` has no warm-up, but warm-up steps are set",
            "name",
            "set train.scheduler.name: constant_with_warmup",
        )
    if scheduler.name.startswith("constant") and scheduler.min_lr_ratio:
        raise wrong(
            "this key sets the final learning rate, but a constant schedule keeps its rate",
            "min_lr_ratio",
            "remove this key, or set train.scheduler.name to wsd, cosine or linear",
        )
    unchanged = SchedulerConfig()
    if scheduler.name != "wsd":
        for name in WSD_KEYS:
            if getattr(scheduler, name) != getattr(unchanged, name):
                raise wrong(
                    f"this key is for the schedule wsd; {scheduler.name} has no separate decay phase",
                    name,
                    "remove this key, or set train.scheduler.name: wsd",
                )
        return
    warmup = scheduler.warmup_steps if scheduler.warmup_steps is not None else scheduler.warmup_ratio
    decay = scheduler.decay_steps if scheduler.decay_steps is not None else scheduler.decay_ratio
    if scheduler.warmup_steps is None and scheduler.decay_steps is None and warmup + decay > 1:
        raise wrong(
            f"warm-up ({warmup:g} of the run) and decay together are longer than the run",
            "decay_ratio",
            "use a shorter warm-up or a shorter decay",
        )
    if max_steps is not None and _steps(warmup, max_steps) + _steps(decay, max_steps) > max_steps:
        name = "decay_steps" if scheduler.decay_steps is not None else "decay_ratio"
        raise wrong(
            f"warm-up and decay together are longer than the run's {max_steps} steps",
            name,
            "use a shorter warm-up or a shorter decay",
        )


def _steps(value: float, total: int) -> float:
    return value if isinstance(value, int) else value * total


def _check_optimizer(config: Config, *, planned: bool) -> None:
    train, name = config.train, config.train.optimizer.name
    if name == "adamw":
        return
    if not planned and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            "the package bitsandbytes is not installed",
            key="train.optimizer.name",
            value=name,
            fix="run pip install 'medray[quant]', or set train.optimizer.name: adamw",
        )
    if train.zero_stage == 3:
        raise InputError(
            "checkpoints cannot store this optimizer's moments if ZeRO stage 3 shards them",
            key="train.optimizer.name",
            value=name,
            fix="set train.zero_stage: 0, 1 or 2, or train.optimizer.name: adamw",
        )
    if train.offload == "cpu":
        raise InputError(
            f"the optimizer {name} keeps its moments on the GPU, but this value moves them to host memory",
            key="train.offload",
            value="cpu",
            fix="set train.offload: none, or train.optimizer.name: adamw",
        )
    if name.startswith("paged") and config.cluster.gpus is False:
        raise paged_without_gpu(name)


def paged_without_gpu(name: str) -> InputError:
    """Return the error for a paged optimizer on a machine without a GPU.

    bitsandbytes would only warn and not page.
    """
    return InputError(
        "a paged optimizer moves memory between a GPU and the host, but this machine has no GPU",
        key="train.optimizer.name",
        value=name,
        fix="set train.optimizer.name: adamw or adamw_8bit",
    )
