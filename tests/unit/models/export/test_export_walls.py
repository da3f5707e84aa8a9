"""Limits of an export: it never writes a tensor without values, and never gathers on only one rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_decoders import decoder, with_lora
from torch import nn

from medray.errors import RunFailedError
from medray.models.export import export


@contextmanager
def whole(parameter: nn.Parameter) -> Iterator[None]:
    yield


def emptied(model: Any, name: str) -> Any:
    """Return an empty parameter, as a rank has it that holds no slice of it."""
    dict(model.named_parameters())[name].data = torch.empty(0)
    return model


@pytest.mark.parametrize(("adapter", "which"), [(False, 0), (False, 3), (False, -1), (True, 0), (True, -1)])
def test_an_empty_tensor_is_never_exported(adapter: bool, which: int, tmp_path: Path) -> None:
    """Try one empty tensor among others, at any position. The folder of an earlier export must not change."""
    model = with_lora(decoder("llama-tiny")) if adapter else decoder("llama-tiny")
    export(model, None, tmp_path / "export", write=True, gathered=whole)
    files = {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()}
    names = [name for name, one in model.named_parameters() if one.requires_grad or not adapter]
    with pytest.raises(
        RunFailedError,
        match="the weights to export are empty",
    ):
        export(emptied(model, names[which]), None, tmp_path / "export", write=True, gathered=whole)
    assert {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()} == files
    assert [file.name for file in tmp_path.iterdir()] == ["export"]


def test_an_adapter_without_a_trained_parameter_is_refused(tmp_path: Path) -> None:
    model = with_lora(decoder("llama-tiny"))
    for parameter in model.parameters():
        parameter.requires_grad = False
    with pytest.raises(
        RunFailedError,
        match="the weights to export are empty",
    ):
        export(model, None, tmp_path / "export", write=True, gathered=whole)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("adapter", [False, True])
def test_all_ranks_gather_every_exported_parameter_and_one_at_a_time(adapter: bool, tmp_path: Path) -> None:
    """Gather on all ranks: under ZeRO-3 this is collective, and a rank that skips one would block the others forever."""
    model = with_lora(decoder("llama-tiny")) if adapter else decoder("llama-tiny")
    names = {id(one): name for name, one in model.named_parameters()}
    seen: list[list[str]] = []
    for write in (True, False):
        gathered: list[str] = []
        open_now: list[str] = []

        @contextmanager
        def gathers(
            parameter: nn.Parameter, gathered: list[str] = gathered, open_now: list[str] = open_now
        ) -> Iterator[None]:
            assert open_now == []
            open_now.append(names[id(parameter)])
            kept = parameter.data
            gathered.append(names[id(parameter)])
            yield
            open_now.clear()
            parameter.data = kept

        export(model, None, tmp_path / f"export-{write}", write=write, gathered=gathers)
        seen.append(gathered)
    assert seen[0] == seen[1]
    assert len(seen[0]) == sum(one.requires_grad or not adapter for one in model.parameters())
    assert not (tmp_path / "export-False").exists()


def test_buffers_that_a_model_saves_are_exported_too(tmp_path: Path) -> None:
    model = decoder("llama-tiny")
    model.register_buffer("kept", torch.arange(3.0))
    model.register_buffer("made_anew", torch.arange(3.0), persistent=False)
    export(model, None, tmp_path / "export", write=True, gathered=whole)
    stored = load_file(tmp_path / "export" / "model.safetensors")
    assert torch.equal(stored["kept"], torch.arange(3.0))
    assert "made_anew" not in stored


def test_a_parameter_is_read_while_it_is_gathered(tmp_path: Path) -> None:
    """Use parameters that have no values outside of `gathered`, as at stage 3."""
    model = decoder("llama-tiny")
    values = {name: one.detach().clone() for name, one in model.named_parameters()}
    names = {id(one): name for name, one in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data = torch.empty(0)

    @contextmanager
    def gathers(parameter: nn.Parameter) -> Iterator[None]:
        parameter.data = values[names[id(parameter)]].clone()
        yield
        parameter.data.zero_()  # freed for others' use
        parameter.data = torch.empty(0)

    export(model, None, tmp_path / "export", write=True, gathered=gathers)
    stored = load_file(tmp_path / "export" / "model.safetensors")
    assert stored
    for name, one in stored.items():
        assert torch.equal(one, values[name]), name
