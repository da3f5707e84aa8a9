"""The settings by which a model writes its answers. Imports neither torch nor Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medray.config.eval import GenerationConfig
from medray.errors import InputError

MOST_STOPS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """The way in which answers are written: greedy, with beams, or sampled.

    max_new_tokens: longest answer. num_beams: 1 for no beam search. temperature: 0 is greedy; otherwise the scores are
    divided by it before a token is drawn. top_p: a token is drawn from the most probable ones that together have at
    least this probability. seed: with the id of a row, decides what is drawn for the row. stop: texts that end an
    answer and are not part of it. base_settings: see `eval.generation.base_settings`.

    Raises InputError for values that do not fit together. Its key is the option of the command line.
    """

    max_new_tokens: int = 128
    num_beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    base_settings: bool = False

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams"):
            if getattr(self, name) < 1:
                raise _wrong(name, getattr(self, name), "must be at least 1", "use 1 or more")
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= 100):
            raise _wrong(
                "temperature", self.temperature, "is not between 0 and 100", "use 0 (greedy) or about 0.7"
            )
        if not 0 < self.top_p <= 1:
            raise _wrong("top_p", self.top_p, "is not above 0 and at most 1", "use 1, or a value such as 0.9")
        if not 0 <= self.seed < 2**63:
            raise _wrong("seed", self.seed, "is not between 0 and 2**63 - 1", "use a number such as 0")
        if len(self.stop) > MOST_STOPS or not all(self.stop):
            raise _wrong(
                "stop",
                len(self.stop),
                f"more than {MOST_STOPS} texts, or an empty one",
                "name few short texts",
            )
        if self.samples and self.num_beams > 1:
            raise _wrong(
                "temperature",
                self.temperature,
                f"sampling and a search with {self.num_beams} beams exclude each other",
                "use temperature 0, or eval.generation.num_beams=1",
            )
        if self.top_p < 1 and not self.samples:
            raise _wrong(
                "top_p",
                self.top_p,
                "has no effect at temperature 0",
                "set a temperature, or remove this option",
            )

    @property
    def samples(self) -> bool:
        """Return whether tokens are drawn at random."""
        return self.temperature > 0

    @classmethod
    def of(cls, asked: GenerationConfig, **changes: Any) -> Decoding:
        """Return the decoding of `eval.generation`. changes: values that replace those of the config."""
        own = {
            "max_new_tokens": asked.max_new_tokens,
            "num_beams": asked.num_beams,
            "base_settings": asked.base_settings,
        }
        return cls(**(own | changes))

    @classmethod
    def of_export(cls, generation: Mapping[str, Any]) -> Decoding:
        """Return the decoding of the evaluations of a run, from `generation` in the `medray.json` of its export."""
        known: dict[str, Any] = {
            name: value
            for name in ("max_new_tokens", "num_beams")
            if isinstance(value := generation.get(name), int) and value >= 1
        }
        return cls(**known)


def _wrong(name: str, value: object, what: str, fix: str) -> InputError:
    return InputError(what, key=f"--{name.replace('_', '-')}", value=value, fix=fix)
