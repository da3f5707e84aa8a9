"""Preference training on a cluster: the driver names the weights, the workers compute the reference and train."""

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


def test_a_run_on_pairs_from_files_to_report(connected: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(YAML)
    tiny.write_jsonl(tmp_path / "pairs.jsonl", pairs())
    console = Messages()
    result = train.run(read(tmp_path / "run.yaml"), console=console)
    assert result.summary["status"] == "done"
    assert result.summary["eval"]["after"].keys() >= {"preference_accuracy", "reward_margin"}
    assert any("the reference's log-probabilities of" in text for text in console.texts)
    values = {file.parent for file in (tmp_path / "runs" / "tokens").rglob("values/*/*.parquet")}
    assert len({folder.name for folder in values}) == 1  # named by the weights, in both splits
    assert len(values) == 2
    page = (tmp_path / "runs" / "first" / "report.html").read_text()
    assert "Share of pairs" in page
    assert "mean tokens of an answer, chosen and rejected" in page
