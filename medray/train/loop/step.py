"""One optimizer step: it passes the micro-batches of a rank through model and loss to the engine.

Imports neither Ray nor tracking.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from medray.errors import RunFailedError
from medray.evaluate.loss_sums import PLAIN, AnyMicroBatch, count_loss_tokens, loss_sums
from medray.methods import MethodLoss
from medray.methods.cross_entropy import TokenLoss
from medray.models.adapters.adalora import orthogonal_penalty
from medray.train.engine import Engine
from medray.train.loop.batch_reader import Prepared


@dataclass
class Progress:
    """The progress of a run, which every checkpoint contains. order: chained SHA-256 of all ids in their order.

    evaluated: the last step after which the validation split was evaluated.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    order: str = ""
    evaluated: int = 0

    def add(self, prepared: Prepared) -> None:
        self.step += 1
        self.samples += prepared.batch.real
        self.tokens += prepared.tokens
        self.loss_tokens += sum(prepared.loss_tokens.values())
        for name in prepared.ids:
            self.order = hashlib.sha256((self.order + name).encode()).hexdigest()


def train_step(
    engine: Engine,
    prepared: Prepared,
    method: MethodLoss,
    *,
    lr: float,
    seed: int,
    step: int,
    seq2seq: bool,
    loss: TokenLoss = PLAIN,
) -> dict[str, Any]:
    """Run the 0-based `step` and return its record: losses of the whole global batch, equal on all ranks.

    The loss is the one that is minimized, with label smoothing if the run has it. lr is read back from the optimizer, and
    lr/… is that of each group. computed_tokens counts the positions that were computed, with padding and rows without
    weight.
    """
    began = time.perf_counter()
    engine.model.train()
    terms, denominators = method.terms, prepared.denominators
    factors = method.factors(denominators)
    # One sum per term; then the loss itself, and the number of positions.
    sums = torch.zeros(len(terms) + 2, dtype=torch.float64, device=engine.device)
    forwards = (micro for parts in prepared.micro for micro in parts)
    for number, micro in enumerate(forwards):
        # Dropout depends on (seed, step, forward, rank) alone: a resumed run needs no generator state.
        torch.manual_seed(_mix(seed, step, number, engine.rank))
        losses = loss_sums(engine.model, micro, method, engine.device, seq2seq=seq2seq, loss=loss)
        if method.norm == "micro_batch":
            factors = _micro_batch_factors(method, micro, prepared.micro_batches)
        parts = [found * factors[term] for term, found in losses.items() if term in method.spec.terms]
        share = torch.stack(parts).sum()
        penalty = (
            orthogonal_penalty(engine.model) if number == 0 else None
        )  # once a step, whatever the layout
        engine.backward(share if penalty is None else share + penalty / engine.world_size)
        for term, found in losses.items():
            sums[terms.index(term)] += found.detach()
        sums[-2] += share.detach()
        sums[-1] += micro.input_ids.size + (micro.labels.size if seq2seq else 0)
    grad_norm = engine.step(lr)
    *summed, shares, places = engine.sum(sums).tolist()
    by_term = dict(zip(terms, summed, strict=True))
    return {
        "step": step + 1,
        "loss": shares if method.norm == "micro_batch" else method.loss(by_term, denominators),
        **method.logged(by_term, denominators, prefix="loss/"),
        **_rates(engine.rates(), lr),
        "grad_norm": grad_norm,
        "tokens": prepared.tokens,
        "loss_tokens": sum(prepared.loss_tokens.values()),
        "computed_tokens": int(places),
        "seconds": time.perf_counter() - began,
    }


def check_finite(record: dict[str, Any], *, fp16: bool) -> None:
    """Raise RunFailedError for a loss or gradient norm that is not finite. All ranks have the same, so all stop here.

    In fp16 an overflow is part of the loss scaling: that step is skipped, and its norm is not known.
    """
    for name in ("loss", "grad_norm"):
        if math.isfinite(record[name]):
            continue
        if name == "grad_norm" and fp16:
            record[name] = None
            continue
        raise RunFailedError(
            f"the {name} of step {record['step']} is {record[name]}; try a lower "
            "train.optimizer.lr, or train.precision: fp32"
        )


def _rates(in_force: Mapping[str, float], scheduled: float) -> dict[str, float]:
    """Return lr, and lr/pattern of each group in the characters of a metric's name.

    scheduled: the value of lr if the groups contain all parameters.
    """
    named: dict[str, float] = {}
    for match, rate in in_force.items():
        if match:
            name = re.sub(r"[^A-Za-z0-9_.-]+", "_", match).strip("_.-")
            named[f"lr/{name}" if name and f"lr/{name}" not in named else f"lr/group_{len(named)}"] = rate
    return {"lr": in_force.get("", scheduled)} | named


def _micro_batch_factors(method: MethodLoss, micro: AnyMicroBatch, micro_batches: int) -> dict[str, float]:
    """Return the factors of one micro-batch alone: its own means, averaged over the micro-batches of the step."""
    factors = method.factors(method.denominators(count_loss_tokens(micro, method)))
    return {term: factor / micro_batches for term, factor in factors.items()}


def _mix(*numbers: int) -> int:
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
