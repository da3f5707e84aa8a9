"""The model without its adapter, for a while: the frozen weights that the adapter was put on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medray.models.adapters.virtual_tokens import adapter_of


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Let a model run as if it had no adapter; nothing changes for a model without one.

    peft's own context also turns the gradients of the adapter's weights off and on, which DeepSpeed's hooks do not
    expect, and looks at all modules twice. Adapters of layers need the switch alone.
    """
    inner = getattr(model, "module", model)
    settings = adapter_of(model)
    if settings is None:
        yield
    elif settings.is_prompt_learning:
        with inner.disable_adapter():
            yield
    else:
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [one for one in inner.modules() if isinstance(one, BaseTunerLayer)]
        _switch(layers, off=True)
        try:
            yield
        finally:
            _switch(layers, off=False)


def _switch(layers: list[Any], *, off: bool) -> None:
    for layer in layers:
        layer._disable_adapters = off
