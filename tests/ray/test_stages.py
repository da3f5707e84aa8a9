"""Three stages of one YAML: merged in between, never repeated, and after any kill with the bits of a calm run.

The run that is killed logs to MLflow too, so it also shows that its runs keep their ids and their parent.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import recipes
import tiny
import yaml
from clusters import Cluster
from commands import run, steps_of, until
from runs import ended, start, summary
from s3_server import S3Server

from medray import storage
from medray.data.tokenizer import load_tokenizer
from medray.storage import StoragePath
from medray.tracking.mlflow_run import open_client

STEPS = (6, 20, 6)
pytestmark = pytest.mark.long


def write(folder: Path, name: str) -> Path:
    """Pre-training, another data set, and the first data set again; the base and its tokenizer are in a folder."""
    rows = tiny.rows(30)
    tiny.write_jsonl(folder / "notes.jsonl", rows[:20])
    tiny.write_jsonl(folder / "other.jsonl", rows[20:])
    base = folder.parent / "base"
    if not base.exists():
        tiny.saved_model(base, "llama-tiny", tiny.token_set(folder.parent / "tokens-of-base", rows))
    tree: dict[str, Any] = {
        "run": {"storage": "runs", "name": name, "seed": 5},
        "model": {"name": str(base)},
        "data": {"train": ["notes.jsonl"], "max_input_tokens": 64, "max_label_tokens": 32, "shard_rows": 6},
        "train": {
            "max_steps": STEPS[0],
            "global_batch_size": 4,
            "precision": "fp32",
            "optimizer": {"lr": 1e-2},
            "save_every_steps": 2,
        },
        "peft": {"type": "lora", "rank": 2, "dropout": 0.1},
        "cluster": {"workers": 1, "cpus_per_worker": 0.5, "threads_per_worker": 1},
        "eval": {"metrics": []},
        "tracking": {"enabled": False},
        "stages": [
            {"name": "pre"},
            {"name": "other", "data": {"train": ["other.jsonl"]}, "train": {"max_steps": STEPS[1]}},
            {"name": "post"},
        ],
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return folder / f"{name}.yaml"


def weights(run_folder: StoragePath) -> str:
    return hashlib.sha256((run_folder / "export" / "adapter_model.safetensors").read_bytes()).hexdigest()


def listing(tokens: Path) -> list[str]:
    return sorted(str(path.relative_to(tokens)) for path in tokens.rglob("*.parquet"))


def test_stages_go_on_wherever_they_are_killed(cluster: Cluster, tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, killed):
        folder.mkdir()
    config = write(calm, "three")
    done = run(cluster, config)
    assert done.returncode == 0, done.stderr
    stages = [calm / "runs" / f"three.{name}" for name in ("1-pre", "2-other", "3-post")]
    assert [len(steps_of(stage)) for stage in stages] == list(STEPS)
    whole = summary(calm / "runs" / "three")
    assert [each["status"] for each in whole["stages"]] == ["done"] * 3
    assert whole["status"] == "done"
    # The third stage reads the first one's shards: only two sets of data were ever encoded.
    tokens = calm / "runs" / "tokens"
    assert len({path.split("/")[0] for path in listing(tokens)}) == 2
    before = listing(tokens)
    again = run(cluster, config)
    assert again.returncode == 0, again.stderr
    assert listing(tokens) == before
    assert [len(steps_of(stage)) for stage in stages] == list(STEPS)

    config = write(killed, "three")
    store = f"sqlite:///{killed / 'mlflow.db'}"
    config.write_text(
        yaml.safe_dump(yaml.safe_load(config.read_text()) | {"tracking": {"uri": store}}, sort_keys=False)
    )
    stages = [killed / "runs" / f"three.{name}" for name in ("1-pre", "2-other", "3-post")]
    moments = (
        lambda: len(steps_of(stages[0])) >= 3,
        lambda: "merge" in config.with_suffix(".log").read_text(),
        lambda: len(steps_of(stages[1])) >= 5,
        lambda: len(steps_of(stages[2])) >= 3,
    )
    for number, moment in enumerate(moments):
        driver = start(cluster, config)
        until(moment, f"moment {number}", driver=driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    # A storage folder that was moved is where the stages go on.
    (killed / "runs").rename(killed / "moved")
    driver = start(cluster, config, f"run.storage={killed / 'moved'}")
    ended(driver, config)
    for stage in ("1-pre", "2-other", "3-post"):
        assert weights(killed / "moved" / f"three.{stage}") == weights(calm / "runs" / f"three.{stage}")
    client = open_client(store)

    def mlflow_run(folder: str) -> Any:
        return client.get_run(
            json.loads((killed / "moved" / folder / "mlflow_run.json").read_text())["run_id"]
        )

    whole_run = mlflow_run("three")
    for stage, steps in zip(("1-pre", "2-other", "3-post"), STEPS, strict=True):
        child = mlflow_run(f"three.{stage}")
        assert child.data.tags["mlflow.parentRunId"] == whole_run.info.run_id
        history = client.get_metric_history(child.info.run_id, "train/loss")
        assert sorted(metric.step for metric in history) == list(range(1, steps + 1))
        assert child.info.status == "FINISHED"
    assert whole_run.info.status == "FINISHED"
    assert whole_run.info.run_name == "three"
    assert not list((killed / "moved").glob("three*/mlflow_unsent"))

    # A finished whole sends what MLflow lacks: here that it has ended.
    client.update_run(whole_run.info.run_id, status="RUNNING")
    (killed / "moved" / "three" / "mlflow_unsent").touch()
    again = run(cluster, config, f"run.storage={killed / 'moved'}")
    assert again.returncode == 0, again.stderr
    assert mlflow_run("three").info.status == "FINISHED"
    assert not list((killed / "moved").glob("three*/mlflow_unsent"))


def test_stages_in_a_bucket_go_on_after_a_kill_in_the_merge(
    cluster: Cluster, s3: S3Server, tmp_path: Path
) -> None:
    calm, config = (write(tmp_path, name) for name in ("calm", "killed"))
    for file, place in ((calm, "runs"), (config, "s3://bucket/stages")):
        tree = yaml.safe_load(file.read_text())
        first, last = tree["stages"][0], tree["stages"][2] | {"train": {"max_steps": 4}}
        file.write_text(
            yaml.safe_dump(tree | {"run": tree["run"] | {"storage": place}, "stages": [first, last]})
        )
    done = run(cluster, calm)
    assert done.returncode == 0, done.stderr

    driver = start(cluster, config)
    until(lambda: " merge " in config.with_suffix(".log").read_text(), "the merge", driver=driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    pre, post = (storage.at(f"s3://bucket/stages/killed.{name}") for name in ("1-pre", "2-post"))
    assert not (post / "config.yaml").exists()
    ended(start(cluster, config), config)
    assert "was finished before" in config.with_suffix(".log").read_text()
    assert [len((each / "attempts.jsonl").read_text().splitlines()) for each in (pre, post)] == [1, 1]
    for ours, name in ((pre, "calm.1-pre"), (post, "calm.2-post")):
        assert weights(ours) == weights(tmp_path / "runs" / name)
    whole = json.loads((pre.parent / "killed" / "summary.json").read_text())
    assert [each["status"] for each in whole["stages"]] == ["done"] * 2
    merged = storage.sizes(pre / "merged")
    again = run(cluster, config, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == whole
    assert storage.sizes(pre / "merged") == merged


def test_the_recipe_of_dfpo_runs_on_a_tiny_gemma(cluster: Cluster, tmp_path: Path) -> None:
    """4 bits, pairs without them, 4 bits again; the third stage reads the shards of the first."""
    rows = tiny.rows(24)
    asked = [{"instruction": "Answer", "input": row["input"], "output": row["label"]} for row in rows]
    tiny.write_jsonl(tmp_path / "finetune.jsonl", asked)
    pairs = [{"prompt": r["input"], "chosen": r["label"], "rejected": f"not {r['label']}"} for r in rows[:12]]
    tiny.write_jsonl(tmp_path / "pairs.jsonl", pairs)
    tokenizer = load_tokenizer(str(tiny.tokenizer(tmp_path)))
    marks = ["<start_of_turn>", "<end_of_turn>"]
    tokenizer.add_special_tokens(
        {"bos_token": "<bos>", "eos_token": "<eos>", "additional_special_tokens": marks}
    )
    base = recipes.tiny_model(tmp_path / "base", "gemma2", len(tokenizer))
    tokenizer.save_pretrained(base)
    config = tmp_path / "dfpo.yaml"
    shutil.copy(recipes.ROOT / "dfpo.yaml", config)
    small = [
        f"{stage}train.{key}"
        for stage in ("", "stages.2.")
        for key in ("max_steps=3", "optimizer.name=adamw")
    ]
    driver = start(
        cluster,
        config,
        *small,
        *("run.storage=runs", f"model.name={base}", "data.drop_longer_than=70", "tracking.enabled=false"),
        *("stages.2.data.drop_longer_than=null", "cluster={workers: 1, cpus_per_worker: 0.5}"),
    )
    driver.wait(timeout=500)
    said = config.with_suffix(".log").read_text()
    assert driver.returncode == 0, said
    assert [each["status"] for each in summary(tmp_path / "runs" / "dfpo")["stages"]] == ["done"] * 3
    notes = [
        json.loads((tmp_path / "runs" / f"dfpo.{stage}" / "data.json").read_text())
        for stage in ("1-pre-ft", "2-dpop", "3-post-ft")
    ]
    assert notes[0]["tokens"] == notes[2]["tokens"] != notes[1]["tokens"]
    assert "(5 too long)" in said
