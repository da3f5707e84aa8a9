"""Preference training on a cluster: the driver names the weights, and a second run finds the reference's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
from preference_pairs import pairs

from medray import train
from medray.config import read

YAML = """
run: {storage: runs, name: first}
model: {name: null, init: random, preset: llama-tiny}
data: {train: pairs.jsonl, split: {validation: 0.2}, tokenizer: train, vocab_size: 400, shard_rows: 6, max_label_tokens: 40}
method: {name: dpo, loss: dpop, beta: 0.3}
peft: {type: lora, rank: 4}
train: {max_steps: 3, global_batch_size: 4, micro_batch_size: 2, precision: fp32, keep_best: preference_accuracy}
eval: {every_steps: 2, metrics: []}
cluster: {workers: 1, cpus_per_worker: 0.5, threads_per_worker: 1}
tracking: {enabled: false}
"""


class Messages:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def phase(self, name: str, detail: str = "") -> None:
        self.texts.append(detail)

    def show(self, record: dict[str, Any], *, total_steps: int) -> None:
        self.texts.append(str(record.get("text", "")))

    def heartbeat(self) -> None: ...
    def table(self, title: str, rows: list[tuple[str, ...]]) -> None: ...


def test_a_second_run_finds_the_reference_of_the_first(connected: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(YAML)
    tiny.write_jsonl(tmp_path / "pairs.jsonl", pairs())
    computed = []
    for changes in (["run.name=first"], ["run.name=second", "method.beta=0.5", "method.dpop_lambda=0.0"]):
        console = Messages()
        result = train.run(read(tmp_path / "run.yaml", changes), console=console)
        assert result.summary["status"] == "done"
        assert result.summary["eval"]["after"].keys() >= {"preference_accuracy", "reward_margin"}
        computed.append(any("log-probabilities" in text for text in console.texts))
        page = (tmp_path / "runs" / changes[0].partition("=")[2] / "report.html").read_text()
        assert "Share of pairs" in page
        assert "mean tokens of an answer, chosen and rejected" in page
    assert computed == [True, False]
