"""The loss of supervised fine-tuning: L = S / T, the exact mean over the T label tokens of the global batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from medray.config.method import MethodConfig
from medray.config.method_specs import spec_of
from medray.methods.loss import MethodLoss


@dataclass(frozen=True, kw_only=True)
class SftLoss(MethodLoss):
    """The mean cross-entropy of the label's tokens."""

    @classmethod
    def of(cls, method: MethodConfig) -> Self:
        return cls(spec=spec_of(method), norm=method.loss_norm)

    @property
    def weights(self) -> dict[str, float]:
        return dict.fromkeys(self.tasks, 1.0)

    def factors(self, denominators: Mapping[str, int]) -> dict[str, float]:
        return {term: 1 / denominators[term] if denominators[term] else 0.0 for term in self.terms}
