"""The recipes of configs/ that are configs of a run. Files of other verbs, such as judge.yaml, name another schema."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "configs"
RUN_CONFIGS = tuple(
    file
    for file in sorted(FOLDER.glob("*.yaml"))
    if file.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=medray.schema.json\n")
)
assert RUN_CONFIGS
