"""A whole run on a real cluster: files, numbers and messages as DESIGN.md says."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import tiny
import torch

from medray import train
from medray.config import Config
from medray.data.batching.batch_plan import BatchPlan, Corpus, PlanSpec
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError, RunFailedError
from medray.models.load import load_model
from medray.train.engine.optimizers import learning_rate
from medray.train.run_folder.earlier_run import finished_result

SECRET = "zebrafish"  # stands in every record; no log, report or metric may hold it


def config(folder: Path, name: str, **sections: dict[str, Any]) -> Config:
    """A small run over files in `folder`, made on the first call."""
    rows = [
        {**row, "input": f"{SECRET} {row['input']}", "label": f"{row['label']} {SECRET}"}
        for row in tiny.rows(30)
    ]
    for split, part in (("train", rows[:22]), ("validation", rows[22:])):
        if not (folder / f"{split}.jsonl").exists():
            tiny.write_jsonl(folder / f"{split}.jsonl", part)
    base: dict[str, dict[str, Any]] = {
        "run": {"storage": str(folder / "runs"), "name": name, "seed": 5},
        "model": {"name": None, "init": "random", "preset": "llama-tiny"},
        "data": {
            "train": [str(folder / "train.jsonl")],
            "validation": [str(folder / "validation.jsonl")],
            "tokenizer": "train",
            "vocab_size": 400,
            "shard_rows": 6,
            "window_shards": 2,
            "max_input_tokens": 64,
            "max_label_tokens": 32,
            "max_rationale_tokens": 32,
        },
        "method": {"name": "distill", "alpha": 0.3},
        "train": {
            "max_steps": 12,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "precision": "fp32",
            "optimizer": {"lr": 1e-2},
            "save_every_steps": 5,
        },
        "cluster": {"workers": 2, "cpus_per_worker": 0.5, "threads_per_worker": 1},
        "eval": {"metrics": ["rouge"], "batch_size": 4, "generation": {"rows": 6, "max_new_tokens": 4}},
    }
    for section, values in sections.items():
        base[section] = {**base.get(section, {}), **values}
    return Config.model_validate(base)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def expected(made: Config, tokens: Path, shard_rows: tuple[int, ...], tokenizer: str) -> list[float]:
    """Losses of the oracle over the shards that the pipeline wrote."""
    pool = Corpus(tuple(range(len(shard_rows))), shard_rows)
    spec = PlanSpec(
        corpora=(pool,),
        seed=made.run.seed,
        window_shards=made.data.window_shards,
        global_batch_size=made.train.global_batch_size,
    )
    order = BatchPlan(spec, lambda shard: np.zeros(shard_rows[shard], np.int32))
    steps = made.train.max_steps or 0
    batches = [
        [(int(s), int(r)) for s, r in zip(batch.shards, batch.rows, strict=True)]
        for batch in map(order.batch, range(steps))
    ]
    model = load_model(
        made.model,
        tiny.model_dict("llama-tiny"),
        load_tokenizer(tokenizer),
        dtype=torch.float32,
        seed=made.run.seed,
    )
    lrs = [learning_rate(step, steps, made.train.optimizer.lr, made.train.scheduler) for step in range(steps)]
    return oracle.losses(
        str(tokens),
        batches,
        model,
        {"label": 0.3, "rationale": 0.7},
        seq2seq=False,
        lrs=lrs,
        weight_decay=0.0,
        clip=1.0,
    )


def test_a_run_from_files_to_report(
    connected: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = config(tmp_path, "whole")
    summary = train.run(made).summary
    folder = tmp_path / "runs" / "whole"

    steps = lines(folder / "steps.jsonl")
    assert [step["step"] for step in steps] == list(range(1, 13))
    assert {"loss", "loss/label", "loss/rationale", "lr", "grad_norm", "tokens", "seconds"} <= steps[0].keys()
    [tokens] = [
        found
        for found in (tmp_path / "runs" / "tokens").glob("*/train")
        if json.loads((found / "manifest.json").read_text())["rows"] == 22
    ]
    shard_rows = tuple(shard["rows"] for shard in json.loads((tokens / "index.json").read_text())["shards"])
    assert shard_rows == (6, 6, 6, 4)
    [tokenizer] = (tmp_path / "runs" / "tokenizers").iterdir()
    # Ray Data, Ray Train, two workers and ZeRO-2 end with the losses of plain torch.
    assert [step["loss"] for step in steps] == pytest.approx(
        expected(made, tokens, shard_rows, str(tokenizer)), abs=1e-4
    )

    assert json.loads((folder / "summary.json").read_text()) == summary
    assert (summary["status"], summary["steps"], summary["samples"], summary["world_size"]) == (
        "done",
        12,
        88,
        2,
    )
    assert summary["epochs"] == pytest.approx(4.0)
    assert summary["restarts"] == 0
    assert summary["train_loss_first"] == steps[0]["loss"]
    assert summary["train_loss_last"] == steps[-1]["loss"] < steps[0]["loss"]
    assert summary["eval"]["after"]["loss"] < summary["eval"]["before"]["loss"]
    assert {"rouge1", "rouge_avg"} <= summary["eval"]["before"].keys() & summary["eval"]["after"].keys()
    assert set(summary["seconds"]) == {
        "setup",
        "data",
        "first_step",
        "train",
        "checkpoint_blocked",
        "evaluate",
        "export",
        "total",
    }
    assert 0 <= summary["padding_fraction"] < 1
    assert len(summary["order_sha256"]) == 64
    assert {"torch", "ray", "deepspeed", "python"} <= summary["versions"].keys()

    for name in ("config.yaml", "report.html", "predictions.jsonl"):
        assert (folder / name).stat().st_size
    assert len(lines(folder / "predictions.jsonl")) == 6
    assert (folder / "export" / "model.safetensors").exists()
    shown = capfd.readouterr()
    for text in (
        (folder / "report.html").read_text(),
        shown.out,
        shown.err,
        (folder / "steps.jsonl").read_text(),
        (folder / "summary.json").read_text(),
    ):
        assert SECRET not in text

    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as database:
        points = database.execute(
            "select count(*), count(distinct step) from metrics where key = 'train/loss'"
        )
        assert points.fetchone() == (12, 12)
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
        kept = database.execute("select key, step, value from metrics where key like 'eval/%'").fetchall()
        tags = dict(database.execute("select key, value from tags").fetchall())
    # The metrics of the last step stand under the same names as those before training, once, and everywhere alike.
    after = summary["eval"]["after"]
    assert {key: value for key, step, value in kept if step == 12} == {
        f"eval/{key}": value for key, value in after.items()
    }
    assert len({(key, step) for key, step, _ in kept}) == len(kept)
    assert [(one["step"], one["metrics"]) for one in lines(folder / "evals.jsonl")] == [
        (0, summary["eval"]["before"]),
        (12, after),
    ]
    assert (tags["medray.version"], tags["medray.exported_step"]) == (summary["versions"]["medray"], "12")

    again = finished_result(made)
    assert again is not None
    assert again.summary == summary


@pytest.mark.long
def test_shards_are_reused_and_a_killed_tokenization_goes_on(connected: Any, tmp_path: Path) -> None:
    import ray

    from medray.data.shards.pipeline import Pipeline
    from medray.data.shards.preparation import ready

    def encode() -> dict[Path, int]:
        pipeline = ray.remote(Pipeline).options(num_cpus=0).remote(config(tmp_path, "data"), "causal", None)
        ray.get(pipeline.index.remote())
        ray.get(pipeline.encode.remote())
        ray.kill(pipeline)
        return {
            file: file.stat().st_mtime_ns
            for file in (tmp_path / "runs" / "tokens").glob("*/*/shard-*.parquet")
        }

    first = encode()
    assert len(first) == 6
    assert encode() == first
    lost = sorted(first)[0]
    content = lost.read_bytes()
    lost.unlink()
    (lost.parent / "manifest.json").unlink()
    third = encode()
    assert {file for file in first if third[file] != first[file]} == {lost}
    assert lost.read_bytes() == content
    damaged = bytearray(content)
    damaged[100] ^= 1
    lost.write_bytes(damaged)
    assert ready(config(tmp_path, "data"), "causal", None) is None, (
        "shards of an earlier run are hashed first"
    )
    fourth = encode()
    assert {file for file in first if fourth[file] != third[file]} == {lost}
    assert lost.read_bytes() == content
    assert lost.with_name(f"{lost.name}.damaged").read_bytes() == damaged


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        (
            {
                "cluster": {"workers": 40, "nodes": 1},
                "train": {"global_batch_size": 40, "micro_batch_size": 1},
            },
            "40 workers of 0.5 CPUs? need 21 CPUs.* this cluster has 4",
        ),
        ({"data": {"max_label_tokens": 1}}, "none has a token of the task 'label' that carries loss"),
        ({"data": {"columns": {"input": "text"}}}, "has no such column"),
    ],
)
def test_wrong_input_is_refused_before_any_worker(
    connected: Any, sections: Any, says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        train.run(config(tmp_path, "wrong", **sections))
    assert not (tmp_path / "runs" / "wrong" / "attempts.jsonl").exists()


def test_bad_rows_are_counted_and_stop_past_the_limit(connected: Any, tmp_path: Path) -> None:
    made = config(tmp_path, "rejects")
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write('{"input": "x"}\nnot json\n')
    with pytest.raises(InputError, match=r"2 of 24 train rows are bad") as caught:
        train.run(made)
    assert "max_rejects" in str(caught.value)
    (tmp_path / "empty.jsonl").write_text('{"input": "", "label": ""}\n')
    with pytest.raises(InputError, match="the train split is empty"):
        train.run(config(tmp_path, "empty", data={"train": [str(tmp_path / "empty.jsonl")]}))


@pytest.mark.long
def test_a_run_does_not_go_on_with_other_data(connected: Any, tmp_path: Path) -> None:
    made = config(
        tmp_path, "changed", train={"max_steps": 2, "save_every_steps": 1}, eval={"at_start": False}
    )
    train.run(made)
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write(json.dumps(tiny.rows(1, seed=9)[0]) + "\n")
    longer = config(
        tmp_path, "changed", train={"max_steps": 4, "save_every_steps": 1}, eval={"at_start": False}
    )
    for again in (made, longer):
        with pytest.raises(InputError, match="checkpoints of other data"):
            train.run(again)
    (tmp_path / "train.jsonl").unlink()
    assert finished_result(made) is not None


@pytest.mark.long
def test_a_run_that_diverges_fails_with_a_reason(connected: Any, tmp_path: Path) -> None:
    made = config(
        tmp_path, "diverges", train={"optimizer": {"lr": 1e30}, "clip_grad_norm": 0}, eval={"at_start": False}
    )
    with pytest.raises(RunFailedError, match=r"the grad_norm of step 2 is inf"):
        train.run(made)
    summary = json.loads((tmp_path / "runs" / "diverges" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "the grad_norm of step 2" in summary["reason"]
