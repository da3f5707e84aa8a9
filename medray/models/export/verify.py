"""Whether written weights do what they were made from: logits and loss of both on the same rows.

The loss tells how much of the training's gain is kept. The logits are compared too: they are all there is for a run
whose token shards are gone, and they find wrong weights of a run that gained nothing. Each model is loaded alone, in
float32, so that what differs is the weights and not the arithmetic.
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

ROWS, TOKENS = 4, 64  # whose logits are compared; more would cost time and tell no more
# Of the root mean square of the difference to that of the logits, both without the mean of their position, which changes
# no probability. fp32 leaves the rounding of a sum in another order; 16 and 8 bits that of every weight; 4 bits are lossy
# by nature (0.3 for SmolLM2-135M on text), and only nonsense is refused.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "nf4": 0.7, "f16": 2e-2, "q8_0": 1e-1, "q4_k_m": 0.7}
LEAST_GAIN = 1e-4  # nats per token; below, the rounding of sums would decide what share is kept
LEAST_KEPT = 97.0  # percent of the gain

Loss = Callable[[Any], float | None]  # of a model, on the rows of a run


@dataclass(frozen=True)
class TokenRow:
    """ids: int [tokens], of the input. target: of an encoder-decoder int [tokens], else None."""

    ids: np.ndarray
    target: np.ndarray | None = None

    def cut(self) -> TokenRow:
        return TokenRow(self.ids[:TOKENS], None if self.target is None else self.target[:TOKENS])


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The written weights beside those of the run.

    rows: where the rows are from, in words. places: positions whose logits were compared. dtype: of the written weights.
    greatest: largest difference of two logits. relative: see TOLERANCE. same_token: share of positions whose likeliest
    token is the same. effect: as `relative`, of the untuned model against the run's weights; from_base: of the untuned
    model against the written ones. loss_…: mean loss per token of the label task, in nats, of the untuned model, of the
    run's weights and of the written ones. None: not measured.
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
        """Whether the logits differ by no more than rounding explains."""
        return self.relative <= TOLERANCE[self.dtype]

    @property
    def nearer_to_base(self) -> bool:
        """Whether the written weights are the untuned model rather than the run's."""
        return self.from_base is not None and self.from_base < 0.5 * self.relative

    @property
    def gain(self) -> float | None:
        """How much lower training made the loss; below 0 where it made it higher."""
        if self.loss_base is None or self.loss_run is None:
            return None
        return self.loss_base - self.loss_run

    @property
    def kept_percent(self) -> float | None:
        """Share of the gain that the written weights keep; None where there is no gain, or it was not measured."""
        gain = self.gain
        if gain is None or self.loss_written is None or self.loss_base is None:
            return None
        if not (math.isfinite(gain) and math.isfinite(self.loss_written)) or gain < LEAST_GAIN:
            return None
        return 100 * (self.loss_base - self.loss_written) / gain

    def loss_line(self) -> str:
        """The losses and the share that is kept, in one line for people."""
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
        """Say in words which share of the gain is kept, or why none can be named."""
        if self.kept_percent is not None:
            return f"{self.kept_percent:.4g} % of what training gained is kept"
        if self.gain is None:
            return "the untuned model could not be loaded, so the share that is kept is not known"
        if self.gain >= LEAST_GAIN or not math.isfinite(self.gain):
            return "a loss is not a finite number"
        if self.gain > -LEAST_GAIN:
            return "training changed the loss too little to say what share of it is kept"
        return "training made the loss worse, so there is no gain to keep"

    def line(self) -> str:
        """All of it, in one line for people."""
        return (
            f"{self.loss_line()}; logits of {self.places} positions differ by {self.greatest:.2g} at most, "
            f"{self.relative:.2g} of their spread ({self.dtype}: {TOLERANCE[self.dtype]:g} is allowed); "
            f"the likeliest token is the same at {self.same_token:.1%}"
        )


@dataclass(frozen=True)
class Measured:
    """The outputs of one model. logits: [positions, vocabulary] of all rows. loss: None without rows of the run."""

    logits: Tensor
    loss: float | None


@dataclass(frozen=True)
class Reference:
    """base: the untuned model, None where it is not known."""

    run: Measured
    base: Measured | None


def reference(
    load: Callable[[], Any],
    rows: Sequence[TokenRow],
    loss: Loss | None = None,
    load_base: Callable[[], Any] | None = None,
) -> Reference:
    """Measure the run's weights and the untuned model.

    load: gives the run's model, which is dropped afterwards. loss: None measures logits alone. load_base: gives the untuned
    model where the run's is not an adapter that can be switched off; may give None.
    """
    model = load()
    found, bare = measured(model, rows, loss), None
    settings = adapter_of(model)
    can_be_off = (
        settings is not None and getattr(settings, "bias", "none") == "none"
    )  # peft leaves trained biases on
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
    """Measure the written weights. dtype: theirs. source: where the rows are from, in words."""
    model = load()
    found = measured(model, rows, loss)
    del model
    gc.collect()
    run, base = wanted.run, wanted.base
    alike = (
        base is not None and base.logits.shape == run.logits.shape
    )  # a vocabulary may have grown in training
    return Comparison(
        rows=source,
        places=len(run.logits),
        dtype=dtype,
        greatest=float((found.logits - run.logits).abs().max()),
        relative=_relative(found.logits, run.logits),
        same_token=float((found.logits.argmax(-1) == run.logits.argmax(-1)).float().mean()),
        effect=_relative(base.logits, run.logits) if base is not None and alike else None,
        from_base=_relative(found.logits, base.logits) if base is not None and alike else None,
        loss_base=None if base is None else base.loss,
        loss_run=run.loss,
        loss_written=found.loss,
    )


def made_up(vocabulary: int, seq2seq: bool) -> list[TokenRow]:
    """Rows for a run that has none left: ids from all over the vocabulary."""
    drawn = np.random.default_rng(0).integers(0, vocabulary, (ROWS, 2, 16))
    return [TokenRow(ids, target if seq2seq else None) for ids, target in drawn]


def measured(model: Any, rows: Sequence[TokenRow], loss: Loss | None = None) -> Measured:
    """Logits of `rows`, and the model's loss."""
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
                # Labels would make peft add AdaLoRA's penalty to a loss, which a model that is not trained cannot.
                given |= {"labels": target} if drops_decoder_ids(model) else {"decoder_input_ids": target}
            given |= task_inputs(model, ["label"], device)
            found.append(model(**given).logits[0].float().cpu())
    return found


def _relative(one: Tensor, other: Tensor) -> float:
    one, other = (logits - logits.mean(-1, keepdim=True) for logits in (one, other))
    return float((one - other).square().mean().sqrt() / other.square().mean().sqrt().clamp_min(1e-12))
