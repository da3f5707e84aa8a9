"""Comparison of written weights with those of the run: logits and loss of both on the same rows.

The loss shows how much of the training's gain is kept. The logits are compared too: they are the only measure if the
run's token shards are gone, and they detect wrong weights even if a run gained nothing. Models are loaded one at a
time, in float32, so that only the weights differ and not the arithmetic.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medray.models.adapters.virtual_tokens import adapter_of, drops_decoder_ids, task_inputs

ROWS, TOKENS = 4, 64  # rows and tokens whose logits are compared; more would take longer and show nothing new
# Largest ratio of two root mean squares: of the difference, and of the logits. The mean of each position is subtracted from
# both, because it does not change a probability. fp32 allows the rounding of a sum in a different order; 16 and 8 bits the
# rounding of every weight; 4 bits are lossy by nature (0.3 for SmolLM2-135M on text), so only nonsense is refused.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "nf4": 0.7, "f16": 2e-2, "q8_0": 1e-1, "q4_k_m": 0.7}
LEAST_GAIN = 1e-4  # nats per token; below this, the rounding of sums would decide the kept share
LEAST_KEPT = 97.0  # percent of the gain

Loss = Callable[[Any], float | None]  # returns the loss of a model on the rows of a run


@dataclass(frozen=True)
class TokenRow:
    """One row for the comparison. ids: token ids of the input, int [tokens].

    target: int [tokens] for an encoder-decoder, else None.
    """

    ids: np.ndarray
    target: np.ndarray | None = None

    def cut(self) -> TokenRow:
        return TokenRow(self.ids[:TOKENS], None if self.target is None else self.target[:TOKENS])


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The result of comparing written weights with those of the run. None means not measured.

    rows: description of the rows. `places`: number of positions whose logits were compared. dtype: type of the written
    weights. greatest: largest difference of two logits. relative: difference relative to the spread of the logits, see
    TOLERANCE. same_token: share of positions with the same likeliest token. effect: like `relative`, between the
    untuned model and the run's weights. from_base: like `relative`, between the untuned model and the written weights.
    loss_base, loss_run, loss_written: mean loss per token of the label task, in nats, of the untuned model, the run's
    weights and the written weights.
    """

    rows: str
    places: int
    dtype: str
    greatest: float
    relative: float
    same_token: float
    effect: float | None = None
    from_base: float | None = None
    loss_base: float | None = None
    loss_run: float | None = None
    loss_written: float | None = None

    @property
    def within_tolerance(self) -> bool:
        """Return whether rounding explains the difference between the logits."""
        return self.relative <= TOLERANCE[self.dtype]

    @property
    def nearer_to_base(self) -> bool:
        """Return whether the written weights are closer to the untuned model than to those of the run."""
        return self.from_base is not None and self.from_base < 0.5 * self.relative

    @property
    def gain(self) -> float | None:
        """Return by how much training reduced the loss; negative if it increased it; None if not measured."""
        if self.loss_base is None or self.loss_run is None:
            return None
        return self.loss_base - self.loss_run

    @property
    def kept_percent(self) -> float | None:
        """Return the percentage of the training's gain that the written weights keep; None if there is no gain or no
        measurement.
        """
        gain = self.gain
        if gain is None or self.loss_written is None or self.loss_base is None:
            return None
        if not (math.isfinite(gain) and math.isfinite(self.loss_written)) or gain < LEAST_GAIN:
            return None
        return 100 * (self.loss_base - self.loss_written) / gain

    def loss_line(self) -> str:
        """Return the losses and the kept share in one line for the user."""
        if self.loss_written is None:
            return "loss not measured: no rows of the run are left"
        shown = [
            ("the untuned model", self.loss_base),
            ("the run", self.loss_run),
            ("these weights", self.loss_written),
        ]
        losses = ", ".join(f"{name} {loss:.4g}" for name, loss in shown if loss is not None)
        return f"loss on {self.rows}: {losses}; {self.verdict}"

    @property
    def verdict(self) -> str:
        """Return a clause that says how much of the gain is kept, or why that is unknown."""
        if self.kept_percent is not None:
            return f"{self.kept_percent:.4g} % of what training gained is kept"
        if self.gain is None:
            return "the untuned model could not be loaded, so the kept share is unknown"
        if self.gain >= LEAST_GAIN or not math.isfinite(self.gain):
            return "a loss is not a finite number"
        if self.gain > -LEAST_GAIN:
            return "training changed the loss too little to say how much of the gain is kept"
        return "training made the loss worse, so there is no gain to keep"

    def line(self) -> str:
        """Return the whole comparison in one line for the user."""
        return (
            f"{self.loss_line()}; logits of {self.places} positions differ by at most {self.greatest:.2g}, "
            f"{self.relative:.2g} of their spread ({self.dtype}: {TOLERANCE[self.dtype]:g} is allowed); "
            f"the likeliest token is the same at {self.same_token:.1%}"
        )


@dataclass(frozen=True)
class Measured:
    """The outputs of one model on the rows that are compared. logits: [positions, vocabulary] of all rows.

    loss: None if it was not measured, because the rows are not those of the run.
    """

    logits: Tensor
    loss: float | None


@dataclass(frozen=True)
class Reference:
    """The outputs with which the written weights are compared: those of the run's model and of the untuned model.

    base: None if the untuned model is not available.
    """

    run: Measured
    base: Measured | None


def reference(
    load: Callable[[], Any],
    rows: Sequence[TokenRow],
    loss: Loss | None = None,
    load_base: Callable[[], Any] | None = None,
) -> Reference:
    """Measure logits and loss of the run's model and of the untuned model on `rows`.

    load: function that returns the run's model, which is released afterwards. loss: function that returns the loss of
    a model; None to measure logits only. load_base: function that returns the untuned model, or None if it is not
    available. It is called if the run has no adapter that can be disabled.
    """
    model = load()
    found, bare = measured(model, rows, loss), None
    settings = adapter_of(model)
    can_be_off = (
        settings is not None and getattr(settings, "bias", "none") == "none"
    )  # peft does not disable trained biases
    if settings is not None and settings.is_prompt_learning:
        bare = measured(model.get_base_model(), rows, loss)
    elif can_be_off:
        with model.disable_adapter():
            bare = measured(model, rows, loss)
    del model
    gc.collect()
    if bare is None and load_base is not None and (base := load_base()) is not None:
        bare = measured(base, rows, loss)
        del base
        gc.collect()
    return Reference(found, bare)


def compare(
    wanted: Reference,
    load: Callable[[], Any],
    rows: Sequence[TokenRow],
    source: str,
    dtype: str,
    loss: Loss | None = None,
) -> Comparison:
    """Measure written weights on `rows` and compare them with the reference.

    load: function that returns the model with these weights. dtype: type of the written weights. source: description
    of the rows.
    """
    model = load()
    found = measured(model, rows, loss)
    del model
    gc.collect()
    run, base = wanted.run, wanted.base
    comparable = (
        base is not None and base.logits.shape == run.logits.shape
    )  # a vocabulary may have grown in training
    return Comparison(
        rows=source,
        places=len(run.logits),
        dtype=dtype,
        greatest=float((found.logits - run.logits).abs().max()),
        relative=_relative(found.logits, run.logits),
        same_token=float((found.logits.argmax(-1) == run.logits.argmax(-1)).float().mean()),
        effect=_relative(base.logits, run.logits) if base is not None and comparable else None,
        from_base=_relative(found.logits, base.logits) if base is not None and comparable else None,
        loss_base=None if base is None else base.loss,
        loss_run=run.loss,
        loss_written=found.loss,
    )


def made_up(vocabulary: int, seq2seq: bool) -> list[TokenRow]:
    """Return rows of random tokens from the whole vocabulary, for a run whose own rows are gone."""
    drawn = np.random.default_rng(0).integers(0, vocabulary, (ROWS, 2, 16))
    return [TokenRow(ids, target if seq2seq else None) for ids, target in drawn]


def measured(model: Any, rows: Sequence[TokenRow], loss: Loss | None = None) -> Measured:
    """Return the logits of a model on `rows`, and its loss."""
    return Measured(torch.cat(_logits(model, rows)), None if loss is None else loss(model))


def _logits(model: Any, rows: Sequence[TokenRow]) -> list[Tensor]:
    device = next(model.parameters()).device
    found = []
    with torch.no_grad():
        for row in rows:
            ids = torch.from_numpy(np.asarray(row.ids, np.int64))[None].to(device)
            given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if row.target is not None:
                target = torch.from_numpy(np.asarray(row.target, np.int64))[None].to(device)
                # With labels, peft would add AdaLoRA's penalty to the loss, which fails for a model that is not trained.
                given |= {"labels": target} if drops_decoder_ids(model) else {"decoder_input_ids": target}
            given |= task_inputs(model, ["label"], device)
            found.append(model(**given).logits[0].float().cpu())
    return found


def _relative(one: Tensor, other: Tensor) -> float:
    one, other = (logits - logits.mean(-1, keepdim=True) for logits in (one, other))
    return float((one - other).square().mean().sqrt() / other.square().mean().sqrt().clamp_min(1e-12))
