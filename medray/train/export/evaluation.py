"""The evaluation of a run's export, after its workers have released their resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medray import storage
from medray.errors import RunFailedError
from medray.evaluate.decoding import Decoding
from medray.evaluate.metrics import score
from medray.evaluate.predict import Prediction, PredictSpec, predict
from medray.evaluate.validation import reference
from medray.train.failure import last_line
from medray.train.prepare import Resources
from medray.train.side_thread import SideThread
from medray.train.worker_plan import WorkerPlan

BEAT_SECONDS = 0.2


@dataclass(frozen=True)
class TextSample:
    """A prediction with its prompt and reference. They contain text of a record: show them only if the config allows it."""

    id: str
    prompt: str
    reference: str
    prediction: str


def at_exported_step(evaluated: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return all metrics of the exported weights: one value for each name.

    evaluated: measured at that step during training, and logged. after: measured on the export. With train.keep_best
    both contain the text metrics; the logged value is used, because MLflow keeps only one value per step.
    """
    return {**evaluated, **after, **evaluated}  # this order puts the losses first


def evaluate_export(
    plan: WorkerPlan, granted: Resources, beat: Callable[[], None]
) -> tuple[dict[str, float], list[TextSample]]:
    """Generate text for the validation split with the exported weights, and return (metrics, texts).

    beat: called repeatedly while the Ray Data job runs. Both results are empty if the config asks for no generation.
    """
    evaluation, tokens = plan.config.eval, plan.validation
    rows = min(evaluation.generation.rows, tokens.index.rows) if tokens else 0
    if tokens is None or not rows or not evaluation.metrics:
        return {}, []
    spec = PredictSpec(
        export=str(storage.at(plan.run_folder) / "export"),
        tokens=tokens,
        rows=rows,
        batch_size=evaluation.batch_size,
        decoding=Decoding.of(evaluation.generation),
        workers=granted.workers,
        cpus=granted.cpus,
        gpus=granted.gpus,
        threads=granted.threads,
    )
    job = SideThread(lambda: predict(spec))
    while job.running(BEAT_SECONDS):
        beat()
    try:
        predictions: Sequence[Prediction] = job.result()
    except Exception as error:
        raise RunFailedError(
            f"evaluating the export failed: {last_line(error)}. Fix: run the same command again, which evaluates it without "
            "training; eval.batch_size decides how much memory it needs"
        ) from error
    store = tokens.store()
    references = [reference(store, *row) for row in tokens.rows()[:rows]]
    metrics = score(evaluation.metrics, [found.prediction for found in predictions], references)
    samples = [
        TextSample(found.id, found.prompt, truth.text, found.prediction)
        for found, truth in zip(predictions, references, strict=True)
    ]
    return metrics, samples
