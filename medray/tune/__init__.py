"""A search over keys of a config: `check` a search, `run` it on the connected Ray cluster, and get a `SearchResult`.

    points ──▶ trial files ──▶ Ray Tune ──▶ one `medray.train.run` per trial ──▶ ranking, best.yaml
    (values)   (the record)    (when, where)     (a whole run, with an export)

Ray Tune decides when and where trials run, and which are stopped early. The search's own record is one small file per
trial in `<run.name>/trials/`, written before a trial begins and after it ends. A search that was killed at any moment
reads these files and continues; Tune's own snapshots are not used. They are written every few seconds (a kill loses
trials), must be read by the same version of Ray, and cannot be given more trials.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medray.tune.checks import check
    from medray.tune.results import SearchResult
    from medray.tune.search import run

__all__ = ["SearchResult", "check", "run"]

_MODULES = {
    "SearchResult": "medray.tune.results",
    "check": "medray.tune.checks",
    "run": "medray.tune.search",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
