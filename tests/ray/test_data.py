"""Data is prepared on a real cluster: every corpus gives the same tokens and plan, whatever fails meanwhile."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import until
from watched import run_watched

from medray import train
from medray.cli.main import main
from medray.config import Config
from medray.data.shards.pipeline import Pipeline
from medray.data.shards.preparation import ready
from medray.data.shards.token_split import TokenSet
from medray.errors import RunFailedError
from medray.plan.model_config import describe
from medray.train.driver import data_phase


def config(folder: Path, name: str = "run", **sections: dict[str, Any]) -> Config:
    base: dict[str, dict[str, Any]] = {
        "run": {"storage": str(folder / "runs"), "name": name, "seed": 5},
        "model": {"name": None, "init": "random", "preset": "llama-tiny"},
        "data": {
            "tokenizer": "train",
            "vocab_size": 400,
            "shard_rows": 6,
            "window_shards": 2,
            "max_input_tokens": 64,
            "max_label_tokens": 32,
        },
        "train": {"max_steps": 8, "global_batch_size": 4, "precision": "fp32", "save_every_steps": 100},
        "cluster": {"workers": 2, "cpus_per_worker": 0.5},
        "eval": {"metrics": [], "at_start": False},
    }
    for section, values in sections.items():
        base[section] = {**base.get(section, {}), **values}
    return Config.model_validate(base)


def prepared(made: Config) -> dict[str, TokenSet]:
    """Write every shard of `made` with a new actor."""
    import ray

    pipeline: Any = ray.remote(Pipeline).options(num_cpus=0).remote(made, "causal", None)
    try:
        sets: dict[str, TokenSet] = ray.get(pipeline.index.remote())
        ray.get(pipeline.encode.remote())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        ray.kill(pipeline)
    return sets


def ids(tokens: TokenSet) -> list[str]:
    store = tokens.store()
    return [str(store.text(shard, row, "id")) for shard, row in tokens.rows()]


def contents(tokens: TokenSet) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(tokens.folder).glob("shard-*.parquet")}


def test_every_kind_of_file_ends_in_the_same_kind_of_shard(connected: Any, tmp_path: Path) -> None:
    rows = [{"id": f"a{n}", "input": f"question {n}", "label": f"answer {n}"} for n in range(8)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    chats = [
        {
            "id": f"b{n}",
            "messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": "a"}],
        }
        for n in range(3)
    ]
    (tmp_path / "b.json").write_text(json.dumps(chats, indent=1))
    (tmp_path / "c.PubTator.txt").write_text(
        "7|t|Aspirin helps.\n7|a|It treats pain.\n7\t0\t7\tAspirin\tChemical\tC1\n7\t25\t29\tpain\tDisease\tD1\n\n"
    )
    (tmp_path / "d.csv").write_text('id,input,label\nd0,"a\nb",c\nd1,,c\nd2,"x",y\n')
    names = ("a.jsonl.gz", "b.json", "c.PubTator.txt", "d.csv")
    made = config(
        tmp_path,
        data={"train": [str(tmp_path / name) for name in names], "max_rejects": 0.1, "tokenizer": "train"},
    )
    tokens = prepared(made)["train"]
    assert ids(tokens) == [*(f"a{n}" for n in range(8)), "b0", "b1", "b2", "7", "d0", "d2"]
    [reject] = (Path(tokens.folder) / "rejects.jsonl").read_text().splitlines()
    assert json.loads(reject) == {"file": "d.csv", "line": 4, "reason": "column 'input' is empty"}
    assert not (Path(tokens.folder).parent / "converted").exists(), "text of patients is not left behind"


def test_rows_of_too_many_tokens_are_dropped_before_shards_are_cut(connected: Any, tmp_path: Path) -> None:
    file = str(tiny.write_jsonl(tmp_path / "train.jsonl", tiny.rows(30)))
    tokenizer = str(tiny.tokenizer(tmp_path))
    data: dict[str, Any] = {"train": file, "tokenizer": tokenizer, "max_input_tokens": 999}
    plain = prepared(config(tmp_path, data=data))["train"]
    store = plain.store()
    lengths = {
        str(store.text(shard, row, "id")): int(store.counts(shard, "label", "length")[row])
        for shard, row in plain.rows()
    }
    limit = sorted(lengths.values())[20]
    made = config(tmp_path, data=data | {"drop_longer_than": limit})
    found = prepared(made)["train"]
    assert ids(found) == [name for name, length in lengths.items() if length < limit]
    assert found.index.dropped == {"too long": sum(length >= limit for length in lengths.values())}
    assert ready(made, "causal", None) is not None


@pytest.mark.long
def test_two_runs_that_prepare_at_once_make_the_same_shards(connected: Any, tmp_path: Path) -> None:
    import ray

    file = str(tiny.write_jsonl(tmp_path / "train.jsonl", tiny.rows(60)))
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(Path(file).read_bytes()))
    made = config(tmp_path, data={"train": f"{file}.gz"})
    pipelines: list[Any] = [
        ray.remote(Pipeline).options(num_cpus=0).remote(made, "causal", None) for _ in range(2)
    ]
    sets = ray.get([pipeline.index.remote() for pipeline in pipelines])
    ray.get([pipeline.encode.remote() for pipeline in pipelines])
    for pipeline in pipelines:
        ray.kill(pipeline)
    assert sets[0] == sets[1]
    alone = prepared(config(tmp_path / "other", data={"train": f"{file}.gz"}))
    assert contents(sets[0]["train"]) == contents(alone["train"])
    assert Counter(ids(alone["train"])) == Counter(f"row-{n}" for n in range(60))


def test_a_second_start_finds_everything_and_any_change_makes_new_shards(
    connected: Any, tmp_path: Path
) -> None:
    file = tiny.write_jsonl(tmp_path / "train.jsonl", tiny.rows(30))
    base: dict[str, Any] = {"train": str(file), "split": {"validation": 0.2}}
    made = config(tmp_path, data=base)
    assert ready(made, "causal", None) is None
    sets = prepared(made)
    assert ready(made, "causal", None) == sets
    same = config(tmp_path, "trial", data=base, method={"alpha": 0.1}, train={"optimizer": {"lr": 1.0}})
    assert ready(same, "causal", None) == sets, "trials of a search share one set of shards"
    for other in (
        {"max_label_tokens": 31},
        {"prompts": {"label": "other"}},
        {"split": {"validation": 0.3}},
        {"template": "chatml"},
        {"columns": {"label": "rationale"}},
        {"shard_rows": 7},
        {"decontaminate": str(file)},
    ):
        assert ready(config(tmp_path, data=base | other), "causal", None) is None, other
    assert ready(config(tmp_path, data=base, method={"train_on": "all"}), "causal", None) is None
    tiny.write_jsonl(file, tiny.rows(31))
    assert ready(made, "causal", None) is None


@pytest.mark.long
def test_packed_batches_train_every_row_once(connected: Any, tmp_path: Path) -> None:
    """The number of steps depends on lengths: the run waits for all shards, and ends after one epoch."""
    file = str(tiny.write_jsonl(tmp_path / "train.jsonl", tiny.rows(40)))
    made = config(
        tmp_path,
        data={"train": file, "pack_tokens": 120},
        method={"name": "distill", "alpha": 0.3},
        train={"max_steps": None, "global_batch_size": 3},
    )
    summary = train.run(made).summary
    assert (summary["samples"], summary["epochs"]) == (40, 1.0)
    tokens = ready(made, "causal", None)
    assert tokens is not None
    assert summary["steps"] == tokens["train"].plan(made).steps(1.0) < 40 / 3


@pytest.mark.long
def test_corpora_are_mixed_by_weight_and_batches_cut_by_tokens(connected: Any, tmp_path: Path) -> None:
    for name, count in (("a", 30), ("b", 10)):
        rows = [row | {"id": f"{name}{row['id']}"} for row in tiny.rows(count, seed=count)]
        tiny.write_jsonl(tmp_path / f"{name}.jsonl", rows)
    made = config(
        tmp_path,
        data={
            "train": [{"path": str(tmp_path / f"{name}.jsonl"), "weight": 1.0} for name in ("a", "b")],
        },
        train={"max_steps": None, "global_batch_size": None, "global_batch_tokens": 400, "epochs": 2.0},
    )
    summary = train.run(made).summary
    assert summary["samples"] == 40, "an epoch ends when the smaller corpus is used up: 10 rows of each"
    assert summary["passes"] == {"0: a.jsonl": 0.6667, "1: b.jsonl": 2.0}
    tokens = ready(made, "causal", None)
    assert tokens is not None
    plan, store = tokens["train"].plan(made), tokens["train"].store()
    seen = Counter(
        str(store.text(int(shard), int(row), "id"))[0]
        for step in range(plan.steps(2.0))
        for shard, row in zip(*(lambda b: (b.shards, b.rows))(plan.batch(step)), strict=True)
    )
    assert seen == {"a": 20, "b": 20}
    assert plan.repeats(plan.steps(2.0)) == pytest.approx({0: 20 / 30, 1: 2.0})


class Nobody:
    """A listener that ignores everything."""

    def phase(self, name: str, detail: str = "") -> None: ...
    def beat(self) -> None: ...


def killed_while_encoding(cluster: Any, made: Config, kills: int) -> data_phase.Encoding:
    """Encode `made` while its process is killed `kills` times, first when a few shards exist."""
    encoding = data_phase.begin(made, describe(made.model, made.data.vocab_size), Nobody())
    pids = set[int]()
    until(lambda: encoding.shards("train")[0] > 1, "the first shards")
    for _ in range(kills):
        until(
            lambda: {one.pid for one in cluster.processes("ray::Pipeline.encode")} - pids != set(),
            "the process that encodes",
        )
        (process,) = (one for one in cluster.processes("ray::Pipeline.encode") if one.pid not in pids)
        pids.add(process.pid)
        process.kill()
    written, every = encoding.shards("train")
    assert 1 < written < every
    return encoding


def many_rows(folder: Path, name: str) -> Config:
    clinic = {"size": "medium", "train_rows": 3000, "validation_rows": 0}
    return config(folder, name, data={"dataset": "clinic", "clinic": clinic, "shard_rows": 20})


def test_a_killed_pipeline_is_restarted(connected: Any, tmp_path: Path) -> None:
    encoding = killed_while_encoding(connected, many_rows(tmp_path, "killed"), kills=1)
    while not encoding.done(1.0):
        pass
    assert encoding.manifests(Nobody())["train"]["rows"] == 3000
    tokens = encoding.sets["train"]
    assert len(set(ids(tokens))) == 3000
    assert encoding.shards("train") == (150, 150)


@pytest.mark.long
def test_a_pipeline_that_is_always_killed_stops_with_a_reason(connected: Any, tmp_path: Path) -> None:
    """Processes that wait for shards, such as workers of a run, get the error too."""
    encoding = killed_while_encoding(connected, many_rows(tmp_path, "always"), data_phase.RESTARTS + 1)
    while not encoding.done(1.0):
        pass
    with pytest.raises(RunFailedError, match="its process was killed"):
        encoding.manifests(Nobody())
    store, (_, every) = encoding.sets["train"].store(), encoding.shards("train")
    with pytest.raises(RunFailedError, match="its process was killed"):
        store.wait(next(shard for shard in range(every) if not store.has(shard)))


@pytest.mark.long
def test_a_published_corpus_by_name(connected: Any, tmp_path: Path, corpora: Path) -> None:
    made = config(
        tmp_path,
        data={
            "dataset": "svamp",
            "root": str(corpora / "svamp_palm"),
            "shard_rows": 100,
            "max_input_tokens": 512,
            "max_label_tokens": 64,
        },
        method={"name": "distill", "label_source": "llm"},
    )
    sets = prepared(made)
    assert (sets["train"].index.rows, sets["validation"].index.rows) == (720, 80)
    assert not sets["train"].index.rejects
    empty = sum(
        int((sets["train"].store().counts(shard.index, "label", "loss_tokens") == 0).sum())
        for shard in sets["train"].index.shards
    )
    assert 0 < empty <= 13, "rows whose teacher could not be parsed stay, without a label to learn"


def test_inspect_as_a_command_on_a_cluster_of_its_own(
    tmp_path: Path, short: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call needs no cluster. Text is shown where it is wanted, and nowhere else."""
    rows = tiny.rows(13)
    rows = [
        row | {"input": f"Hannelore {row['input']}", "label": f"Quittenbaum {row['label']}"} for row in rows
    ]
    rows[5] |= {"label": None}
    rows[9] |= {"input": rows[2]["input"], "label": rows[2]["label"]}
    tiny.write_jsonl(tmp_path / "train.jsonl", rows)
    tree = config(tmp_path, data={"train": "train.jsonl", "max_rejects": 0.1}).model_dump(
        mode="json", exclude_unset=True
    )
    (tmp_path / "run.yaml").write_text(json.dumps(tree))
    page, secrets = tmp_path / "page.html", ("Hannelore", "Quittenbaum")
    words = ["data", "inspect", str(tmp_path / "run.yaml"), "--json", f"--html={page}"]

    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    shown, seen = run_watched([sys.executable, "-m", "medray", *words, "--no-text"], env, tmp_path, short)
    seen.assert_private()
    assert list(short.iterdir()) == [], "files of Ray are left"
    facts = json.loads(shown.splitlines()[0])
    (split,) = facts["splits"]
    (rejected,) = split["rejected"]
    assert (split["rows"], split["duplicates"], rejected["rows"]) == (12, 1, 1)
    assert rejected["places"] == ["train.jsonl:6"]
    (label,) = facts["tasks"]
    assert (label["task"], label["rows"]) == ("label", 12)
    assert not any(secret in shown + page.read_text() for secret in secrets)

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main([*words, "--force"]) == 0
    assert json.loads(capsys.readouterr().out) == facts, "the shards are there: no cluster is asked"
    text = re.sub("<[^>]*>", "", page.read_text())  # tokens stand in elements of their own
    assert all(secret in text for secret in secrets), "samples are shown unless --no-text forbids them"


@pytest.mark.long
def test_prepare_as_a_command(cluster: Any, tmp_path: Path) -> None:
    tiny.write_jsonl(tmp_path / "train.jsonl", [row | {"label": "Quittenbaum"} for row in tiny.rows(13)])
    tree = config(tmp_path, data={"train": "train.jsonl"}).model_dump(mode="json", exclude_unset=True)
    (tmp_path / "run.yaml").write_text(json.dumps(tree))
    done = subprocess.run(
        [sys.executable, "-m", "medray", "data", "prepare", str(tmp_path / "run.yaml"), "--json"],
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Quittenbaum" not in done.stdout + done.stderr
    made = json.loads(done.stdout)
    manifest = made["splits"]["train"]
    assert (manifest["rows"], manifest["rejected"]) == (13, 0)
    assert manifest["tasks"]["label"]["rows"] == 13
    assert len(list(Path(made["folders"]["train"]).glob("shard-*.parquet"))) == manifest["shards"]
