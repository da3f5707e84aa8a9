"""Metrics of the validation split on the live engine, during training: all ranks take part and get the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import distributed

from medray.config.eval import EvalConfig
from medray.errors import InputError, RunFailedError
from medray.evaluate.decoding import Decoding
from medray.evaluate.metrics import MetricError, score
from medray.evaluate.validation import Validation
from medray.methods import MethodLoss
from medray.methods.cross_entropy import TokenLoss
from medray.models.generation import unused_note
from medray.train.engine import Engine
from medray.train.loop.build import Built
from medray.train.loop.news import News
from medray.train.loop.step import Progress


def evaluate(
    built: Built, news: News, asked: EvalConfig, method: MethodLoss, progress: Progress, *, generate: bool
) -> dict[str, float]:
    """Evaluate the validation split, and report and return its metrics for the last step; {} without such a split.

    Collective. method: as in the last step. generate: also score generated text.
    """
    if built.validation is None:
        return {}
    news.phase("evaluation")
    with news.timed("evaluate"):
        metrics = losses(built.validation, built.engine, method, built.loss)
        if generate:
            metrics |= text_metrics(built.validation, built.engine, built.tokenizer, asked)
    progress.evaluated = progress.step
    if built.engine.rank == 0:
        news.reporter.evaluation({"step": progress.step, "metrics": metrics})
    news.reporter.sync({"step": progress.step, **metrics})
    return metrics


def losses(validation: Validation, engine: Engine, method: MethodLoss, loss: TokenLoss) -> dict[str, float]:
    """Return the loss over the whole split, not smoothed, its parts, and the method's changing values such as alpha.

    Raises RunFailedError on all ranks if no row has a token with loss, because the mean would be a perfect 0.
    """
    totals = validation.totals(method)
    if not any(totals.values()):
        raise RunFailedError(
            f"nothing was evaluated: none of {len(validation.rows)} validation rows has a token with loss for "
            f"{', '.join(method.tasks)}. Look at data.validation, or leave it out"
        )
    sums = validation.loss_sums(
        engine.model, method, engine.device, engine.rank, engine.world_size, loss.unsmoothed()
    )
    summed = engine.sum(
        torch.tensor([sums[term] for term in method.terms], dtype=torch.float64, device=engine.device)
    )
    by_term = dict(zip(method.terms, summed.tolist(), strict=True))
    parts = method.logged(by_term, totals, prefix="loss_")
    return {"loss": method.loss(by_term, totals)} | parts | method.settings


def text_metrics(
    validation: Validation, engine: Engine, tokenizer: Any, asked: EvalConfig
) -> dict[str, float]:
    """Return the metrics of the text that the model writes for the first rows; {} if none are asked for."""
    count = min(asked.generation.rows, len(validation.rows))
    if not count or not asked.metrics:
        return {}
    mine = validation.predictions(
        engine.model,
        tokenizer,
        count,
        Decoding.of(asked.generation),
        device=engine.device,
        rank=engine.rank,
        world_size=engine.world_size,
        synced=engine.gathers and engine.world_size > 1,
    )
    parts: list[Any] = [mine]
    if engine.world_size > 1:
        parts = [None] * engine.world_size
        distributed.all_gather_object(parts, mine)
    texts = dict(pair for part in parts for pair in part)
    references = [validation.reference(number) for number in range(count)]
    try:
        return score(asked.metrics, [texts[number] for number in range(count)], references)
    except MetricError as error:
        raise InputError(error.what, key="eval.metrics", fix=error.fix) from None


def tell_unused_settings(
    validation: Validation | None, engine: Engine, asked: EvalConfig, say: Callable[[str], None]
) -> None:
    """Report the generation settings of the base model that the evaluation does not use, if there are any."""
    if validation is None or not asked.numbers:
        return
    if note := unused_note(engine.model, base_settings=asked.generation.base_settings):
        say(note)
