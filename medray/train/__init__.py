"""Training: `check` a config, `run` it on the connected Ray cluster, and get a `RunResult`.

The three are imported when they are asked for, so that `import medray.train` loads neither torch nor Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medray.train.checks import check
    from medray.train.driver.run import run
    from medray.train.run_folder.files import RunResult

__all__ = ["RunResult", "check", "run"]

_MODULES = {
    "RunResult": "medray.train.run_folder.files",
    "check": "medray.train.checks",
    "run": "medray.train.driver.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
