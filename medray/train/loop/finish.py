"""The end of a worker loop: the weights that are exported, the export itself, and what rank 0 returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import distributed

from medray import storage
from medray.models.export import export
from medray.models.export.usage import write_usage
from medray.models.forward import unwrap
from medray.models.quantized import elements
from medray.train import checkpoint
from medray.train.checkpoint.state_files import Retries
from medray.train.engine import gathered
from medray.train.export.card import usage_of_plan
from medray.train.loop.build import Built
from medray.train.loop.device import DeviceMemory, device_memory
from medray.train.loop.news import News
from medray.train.loop.step import Progress
from medray.train.worker_plan import WorkerPlan


@dataclass
class WorkerResult:
    """The result of a worker loop.

    exported: step whose weights were exported. evaluated: their metrics. seconds: duration of each phase of this
    attempt. trainable, parameters: numbers of the model's elements.
    """

    status: str
    progress: Progress
    exported: int | None
    evaluated: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    world_size: int = 1
    memory: DeviceMemory | None = None
    trainable: int = 0
    parameters: int = 0


def load_best(plan: WorkerPlan, built: Built, news: News, retries: Retries) -> checkpoint.Checkpoint | None:
    """Load the weights that are best by train.keep_best into the engine. Returns None if the last weights are exported."""
    metric = plan.config.train.keep_best
    if not metric:
        return None
    root = storage.at(plan.run_folder) / "checkpoints"
    best = checkpoint.load_best(root, metric, built.engine, news.message, retries)
    if best:
        news.message(f"the export has the weights of step {best.progress.step}, the best by {metric}")
    return best


def export_model(plan: WorkerPlan, built: Built, news: News) -> None:
    """Write the model or adapter of the engine to the run's export folder. Collective."""
    folder, engine = storage.at(plan.run_folder) / "export", built.engine
    news.phase("export")
    with news.timed("export"):
        export(
            built.model,
            built.tokenizer,
            folder,
            write=engine.rank == 0,
            gathered=lambda parameter: gathered(engine, [parameter]),
            base=built.base,
        )
        if engine.rank == 0:
            write_usage(folder, usage_of_plan(plan, built.tokenizer, unwrap(built.model)))
        if engine.world_size > 1:
            distributed.barrier()


def worker_result(
    built: Built,
    news: News,
    status: str,
    progress: Progress,
    exported: int | None,
    evaluated: dict[str, float],
) -> WorkerResult:
    sizes = [(elements(parameter), parameter.requires_grad) for parameter in built.model.parameters()]
    return WorkerResult(
        status,
        progress,
        exported,
        evaluated,
        news.seconds,
        built.engine.world_size,
        device_memory(built.memory_before),
        sum(size for size, trained in sizes if trained),
        sum(size for size, _ in sizes),
    )
