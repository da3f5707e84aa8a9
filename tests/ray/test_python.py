"""Training from Python: read a config, change it, check it and run it on the connected cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from medray import train
from medray.config import read

YAML = """
run: {storage: runs, name: first}
model: {name: null, init: random, preset: llama-tiny}
data: {train: rows.jsonl, tokenizer: train, vocab_size: 400, shard_rows: 6, max_input_tokens: 64}
method: {name: sft}
train: {max_steps: 3, global_batch_size: 4, micro_batch_size: 2, precision: fp32}
cluster: {workers: 1, cpus_per_worker: 0.5, threads_per_worker: 1}
tracking: {enabled: false}
"""


class Phases:
    """A console that keeps the names of the phases."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.steps = 0

    def phase(self, name: str, detail: str = "") -> None:
        self.seen.append(name)

    def show(self, record: dict[str, Any], *, total_steps: int) -> None:
        self.steps += record["kind"] == "step"

    def heartbeat(self) -> None:
        pass

    def table(self, title: str, rows: list[tuple[str, ...]]) -> None:
        pass


@pytest.mark.long
def test_a_config_is_read_changed_checked_and_run(connected: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(YAML)
    tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.rows(12))
    config = read(tmp_path / "run.yaml", ["train.max_steps=2"]).override({"run.name": "second"})
    train.check(config)

    console = Phases()
    result = train.run(config, console=console)
    assert isinstance(result, train.RunResult)
    assert (result.summary["status"], result.summary["steps"], console.steps) == ("done", 2, 2)
    assert result.folder == tmp_path / "runs" / "second"
    assert json.loads((tmp_path / "runs" / "second" / "summary.json").read_text()) == result.summary
    assert console.seen.count("model") == 1

    again = train.run(config)  # finished: returned as it is
    assert again == result
