"""The checks of what a run asks for against what the cluster has: workers, batch layout, memory, precision."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from medray.config import Config
from medray.config.checks.train import paged_without_gpu
from medray.errors import InputError
from medray.plan import adapters, parameters
from medray.plan.headers import ParameterCount, from_safetensors
from medray.plan.memory import zero_bytes
from medray.plan.model_config import ModelDescription
from medray.plan.resources import NodeSupply, Request, Supply, memory_shortage, resolve, shortage, threads


@dataclass(frozen=True)
class Resources:
    """The number of workers and the share of each.

    workers: the minimum, if the cluster decides. cpus: reserved in Ray. threads: compute threads, whatever is reserved.
    """

    workers: int
    cpus: float
    gpus: int
    threads: int

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


def supply() -> Supply:
    """Return what the living nodes of the connected cluster have."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Supply.of(
        *(
            NodeSupply(
                node.get("CPU", 0.0),
                node.get("GPU", 0.0),
                int(node.get("memory", 0)),
                next((name.partition(":")[2] for name in node if name.startswith("accelerator_type:")), ""),
            )
            for node in nodes
        )
    )


def resources(config: Config, have: Supply) -> Resources:
    """Return the share of each worker. Raises InputError with the numbers if the cluster can never hold the workers."""
    cluster = config.cluster
    gpus = int(cluster.gpus if cluster.gpus is not None else have.gpus > 0)
    request = Request(cluster.fewest_workers, cluster.cpus_per_worker, gpus)
    if lack := shortage(request, have):
        raise InputError(lack.what, key="cluster.workers", value=cluster.workers, fix=lack.fix)
    most = replace(request, workers=cluster.most_workers)
    granted = resolve(request if shortage(most, have) else most, have)
    return Resources(
        cluster.fewest_workers,
        granted.cpus_per_worker or 1.0,
        gpus,
        cluster.threads_per_worker or threads(replace(granted, workers=cluster.most_workers), have),
    )


def precision(config: Config, device: str) -> str:
    """Return fp32, bf16 or fp16. `auto` is bf16 on GPUs, and fp32 on CPUs and for AdaLoRA."""
    chosen = config.train.precision
    if chosen == "auto":
        chosen = "bf16" if device == "cuda" and config.peft.type != "adalora" else "fp32"
    return chosen


def check_optimizer(config: Config, device: str) -> None:
    """Raise InputError if the optimizer needs a device that the workers will not have."""
    name = config.train.optimizer.name
    if name.startswith("paged") and device != "cuda":
        raise paged_without_gpu(name)


def check_memory(
    config: Config,
    model: ModelDescription,
    have: Supply,
    granted: Resources,
    chosen: str,
    *,
    force: bool = False,
) -> str:
    """Return one line about the size of model states.

    Raises InputError if they exceed the largest node's memory, unless `force`.
    """
    count = counted(model)
    if count is None:
        return "not known for this architecture"
    trainable, weight_bytes = _trained(config, model.config, count.total), 4 if chosen == "fp32" else 2
    plan = zero_bytes(
        count.total + (trainable if config.peft.type != "none" else 0),
        trainable,
        stage=config.train.zero_stage,
        world_size=granted.workers,
        weight_bytes=weight_bytes,
        offload=config.train.offload,
        largest_layer=count.largest_layer,
    )
    if config.model.quantization == "nf4":
        with suppress(ValueError):  # an unknown family counts as not quantized
            base = adapters.nf4_bytes(model.config, weight_bytes, double=config.model.double_quantization)
            plan = replace(plan, weights=base + weight_bytes * trainable)
    if granted.device == "cpu" and not force:
        largest = max(have.nodes, key=lambda node: node.memory_bytes)
        each = min(granted.workers, max(1, int(largest.cpus / granted.cpus)))
        if lack := memory_shortage(plan.total, each, largest.memory_bytes):
            model_name = config.model.name or config.model.preset
            raise InputError(lack.what, key="model.name", value=model_name, fix=lack.fix)
    about = (
        "about " if config.model.preset else ""
    )  # its tokenizer is not made yet, and may have a smaller vocabulary
    return f"{about}{count.total:,} parameters, {trainable:,} trained, {plan.total / 1e9:.2f} GB of model states a worker"


def _trained(config: Config, model: dict[str, Any], total: int) -> int:
    if config.peft.type == "none":
        return total
    try:
        return adapters.trained(model, config.peft)
    except ValueError:
        return total // 50


def counted(model: ModelDescription) -> ParameterCount | None:
    """Return the parameters of a model, from its config or the headers of its weights; None if neither can be counted."""
    try:
        return parameters.from_config(model.config)
    except ValueError:
        pass
    try:
        return from_safetensors(Path(model.folder)) if model.folder else None
    except (OSError, ValueError):
        return None
