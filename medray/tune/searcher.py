"""The searcher that Ray Tune asks for trials. It hands out numbers; the values are in the trials' files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from medray.tune.scheduler import NUMBER
from medray.tune.state import SearchState
from medray.tune.trial import OUTCOME
from medray.tune.trials import Trial


class StateSearcher(Searcher):
    """A searcher over the state of a search. begun, ended: called with each trial, in the thread of Ray Tune."""

    def __init__(
        self, state: SearchState, begun: Callable[[Trial], None], ended: Callable[[Trial], None]
    ) -> None:
        super().__init__()
        self._state, self._begun, self._ended = state, begun, ended
        self._numbers: dict[str, int] = {}  # by Ray Tune's own ids

    def suggest(self, trial_id: str) -> Any:
        """Return the number of the next trial; None: ask again when a trial has ended; FINISHED: there is no other."""
        if self._state.full():
            return None
        trial = self._state.next()
        if trial is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = trial.number
        self._begun(trial)
        return {NUMBER: trial.number}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        text = None if error or result is None else result.get(OUTCOME)
        outcome = json.loads(text) if text else None
        self._ended(self._state.ended(self._numbers.pop(trial_id), outcome))

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune writes a copy of it that is never read."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file, which Ray Tune moves. The state is in the trials' files."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a search is never restored by Ray Tune."""
