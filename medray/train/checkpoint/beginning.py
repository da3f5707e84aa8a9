"""The weights of another run's checkpoint as the first weights of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medray import storage
from medray.errors import InputError
from medray.train import checkpoint
from medray.train.checkpoint.state_files import Retries, StateReader
from medray.train.engine import Engine
from medray.train.engine.state import WEIGHT


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """A checkpoint of another run. folder: of the checkpoint. run: name of the run. step: that of the checkpoint."""

    folder: str
    run: str
    step: int

    @property
    def named(self) -> str:
        return f"{self.run}@{self.step}"


def load_weights(beginning: Beginning, engine: Engine, retries: Retries) -> None:
    """Set the trained weights of an engine to those of a checkpoint, and leave the optimizer as it is. Collective.

    Raises InputError if the checkpoint is damaged or gone, or if its weights have other names or sizes.
    """
    folder = storage.at(beginning.folder)
    found = retries.attempt(checkpoint.read, folder)
    if not checkpoint.is_sound(found, engine, retries):
        raise _refused(
            beginning,
            "is gone, incomplete or damaged",
            "begin from another step, or copy the folder again",
        )
    assert found is not None
    with retries.attempt(StateReader, found.state_files) as reader:
        if difference := _difference(reader.sizes(WEIGHT), _trained(engine.model)):
            raise _refused(
                beginning,
                f"does not fit the model of this run: {difference}",
                "use the model and the adapter of that run",
            )
        engine.state().load_weights(
            lambda kind, name, start, stop: retries.attempt(reader.read, kind, name, start, stop)
        )


def _trained(model: Any) -> dict[str, int]:
    """Return the number of values of each trained parameter, of all ranks together."""
    inner: nn.Module = getattr(model, "module", model)
    named: dict[str, torch.Tensor] = {
        name: one for name, one in inner.named_parameters() if one.requires_grad
    }
    return {name: int(getattr(one, "ds_numel", one.numel())) for name, one in named.items()}


def _difference(there: dict[str, int], here: dict[str, int]) -> str | None:
    """Return the first difference between the sizes of two sets of weights, in words; None if they are equal."""
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            return f"it has {there.get(name, 0):,} values of {name}, and the run {here.get(name, 0):,}"
    return None


def _refused(beginning: Beginning, what: str, fix: str) -> InputError:
    return InputError(
        f"the checkpoint of step {beginning.step} {what}",
        key="run.begin_from",
        value=beginning.folder,
        fix=fix,
    )
