"""A whole run on a real cluster: files, numbers and messages as DESIGN.md says."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import oracle
import pytest
import tiny
import torch
from commands import SECRET
from runs import CALM_STEPS, EVALUATED

from medray import train
from medray.config import Config, read
from medray.data.shards.preparation import ready
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError, RunFailedError
from medray.models.adapters import add_adapter
from medray.models.load import load_model
from medray.train.engine.optimizers import learning_rate
from medray.train.run_folder.earlier_run import finished_result

PHASES = ("start", "cluster", "data", "model", "evaluation", "training", "export")


def config(folder: Path, name: str, **sections: dict[str, Any]) -> Config:
    """A small run over files in `folder`, made on the first call."""
    rows = tiny.rows(30)
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


COMPARED = 12  # steps


def expected(made: Config, tokens: TokenSet) -> list[float]:
    """Losses of the oracle over the shards that the pipeline wrote, for the first steps."""
    order, steps = tokens.plan(made), made.train.max_steps or 0
    tokenizer, seed = load_tokenizer(tokens.tokenizer), made.run.seed
    model: Any = load_model(
        made.model, tiny.model_dict("llama-tiny"), tokenizer, dtype=torch.float32, seed=seed
    )
    model = add_adapter(model, made.peft, seq2seq=False, seed=seed)
    return oracle.losses(
        tokens.folder,
        [
            [(int(shard), int(row)) for shard, row in zip(batch.shards, batch.rows, strict=True)]
            for batch in map(order.batch, range(COMPARED))
        ],
        model,
        {"label": 0.3, "rationale": 0.7},
        seq2seq=False,
        lrs=[
            learning_rate(step, steps, made.train.optimizer.lr, made.train.scheduler)
            for step in range(COMPARED)
        ],
        weight_decay=made.train.optimizer.weight_decay,
        clip=1.0,
    )


def test_a_run_from_files_to_report(calm_run: Path) -> None:
    folder, above = calm_run, calm_run.parents[1]
    made = read(above / "calm.yaml", EVALUATED)
    summary = json.loads((folder / "summary.json").read_text())

    steps = lines(folder / "steps.jsonl")
    assert [step["step"] for step in steps] == list(range(1, CALM_STEPS + 1))
    assert {"loss", "loss/label", "loss/rationale", "lr", "grad_norm", "tokens", "seconds"} <= steps[0].keys()
    sets = ready(made, "causal", None)
    assert sets is not None
    assert [shard.rows for shard in sets["train"].index.shards] == [6, 6, 6, 4]
    # Ray Data, Ray Train, two workers and ZeRO-2 end with the losses of plain torch.
    wanted = expected(made, sets["train"])
    assert wanted[-1] < wanted[0] - 0.1, "the oracle did not learn: the comparison would be empty"
    assert [step["loss"] for step in steps[:COMPARED]] == pytest.approx(wanted, abs=1e-4)

    assert (summary["status"], summary["steps"], summary["world_size"]) == ("done", CALM_STEPS, 2)
    # An epoch of 22 rows is two batches of 8 and one of 6.
    assert (summary["samples"], summary["epochs"]) == (13 * 22 + 8, pytest.approx(40 / 3, abs=1e-3))
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
    assert (folder / "export" / "adapter_model.safetensors").exists()

    with sqlite3.connect(above / "runs" / "mlflow.db") as database:
        points = database.execute(
            "select count(*), count(distinct step) from metrics where key = 'train/loss'"
        )
        assert points.fetchone() == (CALM_STEPS, CALM_STEPS)
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
        kept = database.execute("select key, step, value from metrics where key like 'eval/%'").fetchall()
        tags = dict(database.execute("select key, value from tags").fetchall())
    # The metrics of the last step have the same names as those before training, once, in every record.
    after = summary["eval"]["after"]
    assert {key: value for key, step, value in kept if step == CALM_STEPS} == {
        f"eval/{key}": value for key, value in after.items()
    }
    assert len({(key, step) for key, step, _ in kept}) == len(kept)
    assert [(one["step"], one["metrics"]) for one in lines(folder / "evals.jsonl")] == [
        (0, summary["eval"]["before"]),
        (CALM_STEPS, after),
    ]
    assert tags["medray.version"] == summary["versions"]["medray"]
    assert tags["medray.exported_step"] == str(CALM_STEPS)

    again = finished_result(made)
    assert again is not None
    assert again.summary == summary


def test_what_a_run_prints(calm_run: Path) -> None:
    """Every phase in its order, steps with numbers, the metrics before and after, and where things are."""
    shown = (calm_run.parents[1] / "calm.log").read_text()
    positions = [shown.index(f"] {phase}") for phase in PHASES]
    assert positions == sorted(positions)
    assert re.search(r"step +\d+/\d+ +loss \d.*tokens/s.*left", shown)
    for text in ("before", "after", "rouge_avg", str(calm_run / "report.html"), "medray ui", "lora rank 2"):
        assert text in shown
    assert "Warning" not in shown
    assert len(re.findall(r"^\[(?: *\d+ min)? *[\d.]+ s\]", shown, re.M)) > 10
    for file in ("report.html", "steps.jsonl", "summary.json"):
        shown += (calm_run / file).read_text()
    assert SECRET not in shown


@pytest.mark.long
def test_shards_are_reused_and_a_killed_tokenization_goes_on(connected: Any, tmp_path: Path) -> None:
    import ray

    from medray.data.shards.pipeline import Pipeline
    from medray.data.shards.preparation import ready

    def encode() -> dict[Path, int]:
        actor: Any = ray.remote(Pipeline).options(num_cpus=0)
        pipeline = actor.remote(config(tmp_path, "data"), "causal", None)
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


def test_what_the_cluster_cannot_hold_is_refused_before_any_worker(connected: Any, tmp_path: Path) -> None:
    batch = {"global_batch_size": 80, "micro_batch_size": 2}
    with pytest.raises(InputError, match=r"40 workers of 0.5 CPUs? need 21 CPUs.* this cluster has 4"):
        train.run(config(tmp_path, "wrong", cluster={"workers": 40, "nodes": 1}, train=batch))
    assert not (tmp_path / "runs" / "wrong" / "attempts.jsonl").exists()


def test_bad_rows_are_counted_and_stop_past_the_limit(connected: Any, tmp_path: Path) -> None:
    made = config(tmp_path, "rejects")
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write('{"input": "x"}\nnot json\n')
    with pytest.raises(InputError, match=r"2 of 24 train rows are bad") as caught:
        train.run(made)
    assert "max_rejects" in str(caught.value)
    assert not (tmp_path / "runs" / "rejects" / "attempts.jsonl").exists()


@pytest.mark.long
def test_a_task_without_a_token_of_loss_is_refused_before_any_worker(connected: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has a token of the task 'label' that carries loss"):
        train.run(config(tmp_path, "wrong", data={"max_label_tokens": 1}))
    assert not (tmp_path / "runs" / "wrong" / "attempts.jsonl").exists()


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
