from __future__ import annotations

from typing import Literal

from medray.config.section import Section, key


class PeftConfig(Section):
    """Which parameters are trained beside, or in place of, the model's own."""

    type: Literal["none", "lora"] = key("none", "none trains every parameter.")
    rank: int = key(16, "Rank of the low-rank update.", ge=1)
    alpha: float = key(32.0, "The update is scaled by alpha / rank.", gt=0)
    dropout: float = key(0.0, "Dropout on the adapter's input.", ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = key(
        "all-linear", "Module names, or every linear layer."
    )
