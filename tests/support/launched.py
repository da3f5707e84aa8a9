"""Configs that are launched on Kubernetes and need no other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medray.config import read
from medray.launch.environment import allowed
from medray.launch.k8s import Launch, render

SOUND = """\
run: {name: first, storage: s3://bucket/runs}
data: {dataset: clinic, tokenizer: train}
model: {name: null, init: random, preset: llama-tiny}
tracking: {enabled: false}
launch: {k8s: {image: registry.example.org/medray:0.1.0}}
"""


def config_file(folder: Path) -> Path:
    """A sound config in `folder`."""
    file = folder / "run.yaml"
    file.write_text(SOUND)
    return file


def launched(folder: Path, *overrides: str, environ: Mapping[str, str] | None = None) -> Launch:
    """The launch of the sound config with overrides."""
    config = read(config_file(folder), overrides)
    return render(config, allowed(config.launch.env, environ or {}), launched_at=1_700_000_000)
