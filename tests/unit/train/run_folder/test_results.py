"""The results of a run whose model is destroyed: status done, and warnings in the summary and on the page."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
from recorder import Recorder

from medray.data.shards.split_summary import summarize
from medray.train.export.evaluation import TextSample
from medray.train.loop import training
from medray.train.run_folder.results import write_results


def test_a_destroyed_model_is_done_with_warnings(tmp_path: Path) -> None:
    folder, recorder = tmp_path / "run", Recorder()
    tokens = tiny.token_set(tmp_path, tiny.rows(23))
    plan = tiny.plan(
        folder,
        tokens,
        "llama-tiny",
        validation=tokens,
        workers=1,
        micro=4,
        max_steps=4,
        train={"zero_stage": 0, "optimizer": {"lr": 100.0}, "scheduler": {"warmup_steps": 1}},
        eval={"at_start": True, "metrics": ["rouge"], "generation": {"rows": 0}},
    )
    outcome = training.run(plan, recorder)
    for name, records in (("steps.jsonl", recorder.steps), ("evals.jsonl", recorder.evaluations)):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    samples = [TextSample(str(number), "a prompt", f"note {number}", "") for number in range(4)]
    found = write_results(
        plan,
        outcome,
        {"rougeL": 0.0},
        samples,
        {},
        1.0,
        {"train": summarize(tokens)},
        planned_bytes=2 * 10**9,
    ).summary
    assert found["status"] == "done"
    assert {warning["name"] for warning in found["warnings"]} >= {
        "validation_loss_rose",
        "empty_predictions",
        "metric_fell_to_zero",
    }
    assert json.loads((folder / "summary.json").read_text())["warnings"] == found["warnings"]
    assert found["memory"]["planned_bytes"] == 2 * 10**9
    page = (folder / "report.html").read_text()
    assert "peak memory as planned for the longest rows" in page
    assert "4 of 4 predictions are empty" in page
    assert f"done, with {len(found['warnings'])} warnings" in page
