"""What `train.deepspeed` may say: keys that DeepSpeed reads, with values that it takes, asked of DeepSpeed itself."""

from __future__ import annotations

import difflib
from typing import Any

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
    choose_accelerator()
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
    from pydantic import ValidationError

    noted = _Noted(deepspeed_config(train, micro_batch_size=1, world_size=1, precision=precision))
    try:
        DeepSpeedConfig(noted)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise _refusal(f"{error.title}: {name}: {first['msg'].lower()}") from None
    except (DeepSpeedConfigError, AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise _refusal(f"{type(error).__name__}: {reason}") from None
    for name in train.deepspeed:
        if name not in noted.asked:
            near = difflib.get_close_matches(name, noted.asked, n=1)
            raise InputError(
                "DeepSpeed reads no such key",
                key=f"train.deepspeed.{name}",
                mend=f"train.deepspeed.{near[0]}" if near else "leave it out",
            )


def _refusal(reason: str) -> InputError:
    return InputError(
        f"DeepSpeed does not take it ({reason})",
        key="train.deepspeed",
        mend="names and values of DeepSpeed's own configuration",
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
