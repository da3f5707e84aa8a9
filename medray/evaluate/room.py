"""The context of a loaded model: how many tokens a prompt and its answer may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Limits in tokens; None means no limit.

    prompt: longest prompt. whole: longest prompt and answer together, for a causal model. answer: longest answer, for
    an encoder-decoder.
    """

    prompt: int | None = None
    whole: int | None = None
    answer: int | None = None

    def limit(self, prompt: int, wanted: int) -> int:
        """Return how many of the `wanted` tokens an answer to a prompt of this length may have, 0 if none."""
        found = wanted
        if self.prompt is not None and prompt > self.prompt:
            return 0
        if self.whole is not None:
            found = min(found, self.whole - prompt)
        if self.answer is not None:
            found = min(found, self.answer)
        return max(found, 0)


def room_of(model: Any) -> Room:
    """Return the limits of a loaded model. Virtual tokens of an adapter need positions too."""
    from medray.models.forward import unwrap
    from medray.models.positions import positions

    config = unwrap(model).config
    virtual = sum(
        int(getattr(each, "num_virtual_tokens", 0) or 0)
        for each in getattr(model, "peft_config", {}).values()
    )
    found = positions(config.to_dict())
    source = None if found.source is None else max(found.source - virtual, 1)
    if config.is_encoder_decoder:
        return Room(prompt=source, answer=found.target)
    return Room(prompt=source, whole=source)
