"""The check of `train.deepspeed`: DeepSpeed itself says which keys it reads and which values it accepts."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from medray.config.loading.dotted import walk
from medray.config.train import TrainConfig
from medray.errors import InputError
from medray.train.engine import choose_accelerator, deepspeed_config

_DOCUMENTED = "use a key and a value that DeepSpeed's documentation lists"


def check_deepspeed_keys(train: TrainConfig, precision: str) -> None:
    """Check `train.deepspeed`. Raises InputError for the first key or value that DeepSpeed does not accept.

    DeepSpeed rejects unknown keys in sections, but silently ignores them at the top level. So the top-level keys that it
    reads are recorded, and all others are rejected here.
    """
    if not train.deepspeed:  # importing DeepSpeed takes seconds
        return
    with _own_environment():
        choose_accelerator()
        from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
        from deepspeed.runtime.config_utils import DeepSpeedConfigModel

    noted = _Noted(deepspeed_config(train, micro_batch_size=1, world_size=1, precision=precision))
    try:
        DeepSpeedConfig(noted)
    except ValidationError as error:
        raise _of_section(error, train.deepspeed, DeepSpeedConfigModel) from None
    except (DeepSpeedConfigError, AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise _refusal(f"{type(error).__name__}: {reason}") from None
    for name in train.deepspeed:
        if name not in noted.asked:
            near = difflib.get_close_matches(name, noted.asked, n=1)
            raise InputError(
                "DeepSpeed reads no such key",
                key=f"train.deepspeed.{name}",
                fix=f"did you mean train.deepspeed.{near[0]}?" if near else "remove it",
            )


@contextmanager
def _own_environment() -> Iterator[None]:
    """Restore the environment variables at the end of the block.

    A Ray cluster that the driver starts later inherits them, and its workers may have other devices than the driver.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _of_section(error: ValidationError, overrides: dict[str, Any], sections: Any) -> InputError:
    """Return the InputError for DeepSpeed's validation error. sections: the base class of DeepSpeed's sections."""
    first = error.errors(include_input=False, include_url=False)[0]
    *above, name = (str(part) for part in first["loc"])
    fields: Iterable[str] = next(
        (one.model_fields for one in sections.__subclasses__() if one.__name__ == error.title), {}
    )
    near = [] if above else difflib.get_close_matches(name, fields, n=1)
    return InputError(
        f"DeepSpeed does not accept it ({first['msg'][0].lower()}{first['msg'][1:]})",
        key=next(
            (key for key, _ in walk(overrides, key="train.deepspeed") if key.endswith(f".{name}")), name
        ),
        fix=f"did you mean {near[0]}?" if near and near[0] != name else _DOCUMENTED,
    )


def _refusal(reason: str) -> InputError:
    return InputError(
        f"DeepSpeed does not accept it ({reason})",
        key="train.deepspeed",
        fix=_DOCUMENTED,
    )


class _Noted(dict[str, Any]):
    """A dict that records which keys are read, from it and from its copies."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def keys(self) -> Any:  # DeepSpeed only tests whether a key is in them
        return self
