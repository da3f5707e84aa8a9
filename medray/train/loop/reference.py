"""The pass of the reference: what the frozen model gives for each row, computed by the workers before the first step.

At step 0 the trained model is the reference, so no second copy is loaded: the workers run forwards of the model that they
have just built, sharded as it trains, in evaluation mode. An adapter is off meanwhile, except one that training
begins with: then the reference includes it. The numbers are stored shard by shard next to the tokens, under the name of
the weights, and other runs on the same tokens and weights find them. A resumed run whose numbers are gone computes them
again before it loads its checkpoint, when the workers have the first weights once more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch

from medray.data.shards.token_split import TokenSet
from medray.evaluate.loss_sums import Frozen
from medray.evaluate.validation import Validation
from medray.models.adapters.frozen import without_adapter
from medray.train.loop.build import Built
from medray.train.loop.interruption import NOTICED, Interruption, killed_when_hung
from medray.train.loop.news import News
from medray.train.worker_plan import WorkerPlan


def compute_reference(plan: WorkerPlan, built: Built, news: News) -> str | None:
    """Compute and store what is missing. Collective. Returns the reason if a stop was asked for, otherwise None."""
    if plan.stored_reference(plan.train) is None:
        return None
    splits = [tokens for tokens in (plan.train, plan.validation) if tokens is not None]
    missing = [(tokens, _missing(plan, built, tokens)) for tokens in splits]
    if not any(shards for _, shards in missing):
        return None
    count = sum(len(shards) for _, shards in missing)
    interruption = Interruption(news.reporter, built.engine, news.message)
    news.phase("reference")
    news.message(f"the reference's log-probabilities of {count} shards are computed before the first step")
    every, done = max(count // 10, 1), 0
    with news.timed("reference"):
        for tokens, shards in missing:
            for shard in shards:
                reason = _compute(plan, built, tokens, shard, interruption)
                if reason is not None:
                    return reason
                done += 1
                if done % every == 0 and done < count:
                    news.message(f"reference: {done} of {count} shards are computed")
    return None


def _missing(plan: WorkerPlan, built: Built, tokens: TokenSet) -> Sequence[int]:
    """Return the shards that the run needs and that are not stored, as rank 0 sees them. Collective."""
    store = plan.stored_reference(tokens)
    assert store is not None
    needed = _needed(plan, tokens)
    absent = [float(built.engine.rank == 0 and not store.has(shard)) for shard in needed]
    flags = built.engine.sum(torch.tensor(absent, device=built.engine.device)).tolist()
    return [shard for shard, is_absent in zip(needed, flags, strict=True) if is_absent]


def _needed(plan: WorkerPlan, tokens: TokenSet) -> Sequence[int]:
    """Return the shards whose rows the run reads: all, or those of a run shorter than an epoch."""
    if tokens != plan.train:
        return [shard.index for shard in tokens.index.shards]
    batches = tokens.plan(plan.config)
    order: list[int] = batches.shard_order().tolist()
    if batches.epoch(plan.total_steps) >= 1:
        return order
    read = {int(shard) for step in range(plan.total_steps) for shard in np.unique(batches.batch(step).shards)}
    return [shard for shard in order if shard in read]


def _compute(
    plan: WorkerPlan, built: Built, tokens: TokenSet, shard: int, interruption: Interruption
) -> str | None:
    """Compute the numbers of a shard on all ranks, each its share of the rows; rank 0 stores them. Collective.

    Returns the reason if a stop was asked for; then nothing of the shard is stored.
    """
    engine, method, patience = built.engine, plan.method, plan.config.cluster.hang_seconds
    numbers, store = plan.stored_reference(tokens), tokens.store(1, patience)
    assert numbers is not None
    store.wait(shard)
    count = next(one.rows for one in tokens.index.shards if one.index == shard)
    rows = Validation(
        store,
        tuple((shard, row) for row in range(count)),
        tokens.spec.architecture,
        built.tokenizer.pad_token_id,
        plan.config.eval.batch_size,
    )
    frozen: Frozen = without_adapter if plan.config.model.adapter is None else _as_it_is
    passes = rows.reference_values(
        engine.model, method, engine.device, engine.rank, engine.world_size, built.loss, frozen
    )
    found = np.zeros((2, len(numbers.names), count))  # the numbers, and whether a row has them
    while True:
        began = time.perf_counter()
        with killed_when_hung(patience):
            batch, values = next(passes, ((), None))
            if values is None:
                break
            for at, row in [(at, row[1]) for at, row in enumerate(batch) if row is not None]:
                found[0, :, row], found[1, :, row] = values[:, at], 1
            reason = interruption.asked(step_seconds=time.perf_counter() - began)
        if reason == NOTICED:
            interruption.saved(0)  # there is nothing to save: shards are stored as soon as they are complete
        elif reason is not None:
            return reason
    # The numbers of a row are 0 on all ranks but one, so their sum is exact.
    values, known = engine.sum(torch.from_numpy(found).to(engine.device)).cpu().numpy()
    if engine.rank == 0:
        numbers.write(shard, np.where(known > 0, values, np.nan))
    return None


def _as_it_is(model: object) -> nullcontext[None]:
    return nullcontext()
