"""What `train.deepspeed` may say: keys that DeepSpeed reads, with values that it takes, asked of DeepSpeed itself."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from medray.config.dotted import walk
from medray.config.train import TrainConfig
from medray.errors import InputError
from medray.train.engine import choose_accelerator, deepspeed_config


def check_deepspeed_keys(train: TrainConfig, precision: str) -> None:
    """Raises InputError for the first key or value of `train.deepspeed` that DeepSpeed does not take.

    Its sections refuse what they do not know. On the top level it leaves that out without a word, so the keys that it asks
    for are noted.
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
                fix=f"train.deepspeed.{near[0]}" if near else "leave it out",
            )


@contextmanager
def _own_environment() -> Iterator[None]:
    """A cluster that is started here takes the environment over, and its workers may have other devices than the driver."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _of_section(error: ValidationError, overrides: dict[str, Any], sections: Any) -> InputError:
    """sections: the class of all of them; which one it was, the error says by name."""
    first = error.errors(include_input=False, include_url=False)[0]
    *above, name = (str(part) for part in first["loc"])
    fields: Iterable[str] = next(
        (one.model_fields for one in sections.__subclasses__() if one.__name__ == error.title), {}
    )
    near = [] if above else difflib.get_close_matches(name, fields, n=1)
    return InputError(
        f"DeepSpeed does not take it ({first['msg'][0].lower()}{first['msg'][1:]})",
        key=next(
            (key for key, _ in walk(overrides, key="train.deepspeed") if key.endswith(f".{name}")), name
        ),
        fix=f"did you mean {near[0]}?" if near and near[0] != name else "as DeepSpeed's documentation has it",
    )


def _refusal(reason: str) -> InputError:
    return InputError(
        f"DeepSpeed does not take it ({reason})",
        key="train.deepspeed",
        fix="as DeepSpeed's documentation has it",
    )


class _Noted(dict[str, Any]):
    """A dict that knows which keys it was asked for; so do its copies."""

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

    def keys(self) -> Any:  # what DeepSpeed does with them is ask for one
        return self
