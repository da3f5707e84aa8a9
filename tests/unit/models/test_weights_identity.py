"""The name of the weights that a run begins with: what decides it, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medray.config.model import ModelConfig
from medray.models import weights_identity as module
from medray.models.weights_identity import weights_identity

CONFIG = {"model_type": "llama", "hidden_size": 8, "vocab_size": 400}


def folder(path: Path, weights: bytes = b"weights") -> str:
    path.mkdir(exist_ok=True)
    (path / "model.safetensors").write_bytes(weights)
    (path / "config.json").write_text("{}")
    return str(path)


def identity(cache: Path, seed: int = 0, precision: str = "fp32", tokens: int = 400, **model: Any) -> str:
    return weights_identity(
        ModelConfig(**model), CONFIG, tokens=tokens, seed=seed, precision=precision, cache=cache
    )


def test_equal_weights_have_one_name_wherever_they_are(tmp_path: Path) -> None:
    one, copy = folder(tmp_path / "one"), folder(tmp_path / "copy")
    name = identity(tmp_path / "cache", name=one)
    assert name == identity(tmp_path / "cache", name=copy) == identity(tmp_path / "cache", seed=1, name=one)
    (tmp_path / "one" / "README.md").write_text("a card")
    assert identity(tmp_path / "cache", name=one) == name


def test_whatever_decides_the_numbers_decides_the_name(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one"), folder(tmp_path / "other", b"weightz")
    adapter = folder(tmp_path / "adapter")
    cache = tmp_path / "cache"
    names = [
        identity(cache, name=one),
        identity(cache, name=other),
        identity(cache, name=one, adapter=adapter),
        identity(cache, name=one, precision="bf16"),
        identity(cache, name=one, quantization="nf4"),
        identity(cache, name=one, tokens=401),  # its embedding is drawn from the seed
        identity(cache, name=one, tokens=401, seed=1),
        identity(cache, name=None, init="random", preset="llama-tiny"),
        identity(cache, name=None, init="random", preset="llama-tiny", seed=1),
        identity(cache, name="smollm2-135m-instruct"),
    ]
    assert len(set(names)) == len(names)


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def counting(path: str) -> str:
        hashed.append(Path(path).name)
        return str(len(Path(path).read_bytes()))

    monkeypatch.setattr(module, "content_hash", counting)
    one = folder(tmp_path / "one")
    before = identity(tmp_path / "cache", name=one)
    assert identity(tmp_path / "cache", name=one) == before
    assert sorted(hashed) == ["config.json", "model.safetensors"]
    folder(tmp_path / "one", b"other weights")
    assert identity(tmp_path / "cache", name=one) != before
