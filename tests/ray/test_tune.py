"""Searches on a cluster: a trial that is stopped early, one that is exported, the best one again, and kills at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import Cluster
from commands import steps_of, until, write_config
from runs import attempts, ended, summary

from medray import train, tune
from medray.config import Config, read
from medray.tracking.mlflow_run import open_client

STEPS = 120


def write(folder: Path, search: dict[str, Any], steps: int = STEPS, **sections: dict[str, Any]) -> Path:
    """Write the config of a search over tiny runs of one worker."""
    file = write_config(folder, "search", steps)
    tree = yaml.safe_load(file.read_text())
    tree["cluster"] |= {"workers": 1, "max_failures": 1}
    tree["train"] |= {"save_every_steps": 40}
    tree["tracking"] = {"enabled": False}
    file.write_text(yaml.safe_dump(tree | sections | {"tune": search}))
    return file


def trials(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = summary(folder / "runs" / "search")["search"]["trials"]
    return found


def losses(run: Path) -> list[float]:
    return [step["loss"] for step in steps_of(run)]


def test_a_bad_trial_is_stopped_and_leaves_nothing_behind(connected: Cluster, tmp_path: Path) -> None:
    import ray

    space = {"train.optimizer.lr": {"grid": [1e-2, 1e-7]}}
    config = read(
        write(
            tmp_path,
            {"space": space, "scheduler": "asha", "concurrent": 1},
            eval={"metrics": [], "every_steps": 10},
        )
    )
    cpus = ray.cluster_resources()["CPU"]
    result = tune.run(config)
    first, second = (tmp_path / "runs" / f"search.trial-000{number}" for number in (1, 2))
    assert [trial["state"] for trial in trials(tmp_path)] == ["done", "stopped"]
    assert "asha" in trials(tmp_path)[1]["reason"]
    assert (first / "export" / "adapter_model.safetensors").exists()
    assert summary(second)["status"] == "stopped"
    assert len(steps_of(second)) < STEPS
    assert 0 < trials(tmp_path)[1]["tokens"] < trials(tmp_path)[0]["tokens"]
    assert not (second / "checkpoints").exists(), "only the best are kept"
    # Nothing that the stopped trial had is left behind.
    until(lambda: ray.available_resources().get("CPU") == cpus, "all CPUs back")
    search = result.summary["search"]
    assert (result.summary["status"], search["best"]["trial"]) == ("done", 1)
    assert "asha" in (result.folder / "report.html").read_text()


def start(cluster: Cluster, config: Path, *overrides: str) -> subprocess.Popen[bytes]:
    with config.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "medray", "tune", str(config), *overrides],
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            stdout=log,
            stderr=log,
        )


FOUR = {"space": {"train.optimizer.lr": {"grid": [1e-2, 3e-3, 1e-3, 3e-4]}}, "concurrent": 2}


def trial(folder: Path, number: int) -> Path:
    return folder / "runs" / f"search.trial-000{number}"


def mlflow_id(run: Path) -> str:
    return str(json.loads((run / "mlflow_run.json").read_text())["run_id"])


def state(folder: Path, number: int) -> str | None:
    file = folder / "runs" / "search" / "trials" / f"000{number}.json"
    return str(json.loads(file.read_text())["state"]) if file.exists() else None


@pytest.mark.long
def test_a_search_goes_on_wherever_it_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, killed):
        folder.mkdir()
    ended(start(cluster, write(calm, FOUR)), calm / "search.yaml")
    config = write(killed, FOUR)
    moments = (
        lambda: state(killed, 1) == "begun",
        lambda: (trial(killed, 1) / "config.yaml").exists(),
        lambda: len(steps_of(trial(killed, 1))) >= 50,
        lambda: state(killed, 1) == "done",
        lambda: state(killed, 3) == "begun" and len(steps_of(trial(killed, 3))) >= 10,
    )
    before: list[int] = []
    for number, moment in enumerate(moments):
        driver = start(cluster, config)
        until(moment, f"moment {number}", driver=driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        if number == 3:
            before = [len(attempts(trial(killed, 1)))]
            # A kill between the end of a run and its record leaves this.
            file = killed / "runs" / "search" / "trials" / "0001.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"state": "begun"}))
    ended(start(cluster, config), config)
    assert [each["state"] for each in trials(killed)] == ["done"] * 4
    assert [len(attempts(trial(killed, 1)))] == before, "a finished trial is not repeated"
    for number in range(1, 5):
        assert losses(trial(killed, number)) == losses(trial(calm, number))
    assert [each["value"] for each in trials(killed)] == [each["value"] for each in trials(calm)]
    ended(start(cluster, config), config)
    assert "finished before" in config.with_suffix(".log").read_text()


def interrupt(driver: subprocess.Popen[bytes], folder: Path) -> None:
    driver.send_signal(signal.SIGINT)


def terminate(driver: subprocess.Popen[bytes], folder: Path) -> None:
    driver.send_signal(signal.SIGTERM)


def ask_to_stop(driver: subprocess.Popen[bytes], folder: Path) -> None:
    words = [sys.executable, "-m", "medray", "stop", str(folder / "runs" / "search")]
    asked = subprocess.run(words, check=False, capture_output=True)
    assert asked.returncode == 0, asked.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("stop", "code", "rates"),
    [(interrupt, 130, [1e-2, 3e-3]), (terminate, 75, [1e-2]), (ask_to_stop, 76, [1e-2])],
    ids=["ctrl-c", "term", "medray-stop"],
)
def test_a_search_is_told_to_stop_and_goes_on(
    stop: Callable[[subprocess.Popen[bytes], Path], None],
    code: int,
    rates: list[float],
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    search = {"space": {"train.optimizer.lr": {"grid": rates}}, "concurrent": len(rates)}
    config = write(tmp_path, search)
    numbers = range(1, len(rates) + 1)
    driver = start(cluster, config)
    runs = [trial(tmp_path, number) for number in numbers]
    until(lambda: all(len(steps_of(run)) >= 5 for run in runs), "all trials", driver=driver)
    stop(driver, tmp_path)
    ended(driver, config, code=code)
    saved = {number: len(steps_of(trial(tmp_path, number))) for number in numbers}
    for number in numbers:
        assert state(tmp_path, number) == "begun"
        assert summary(trial(tmp_path, number))["status"] == "stopped"
        assert saved[number] < STEPS
    ended(start(cluster, config), config)
    assert [each["state"] for each in trials(tmp_path)] == ["done"] * len(rates)
    for number in numbers:
        assert attempts(trial(tmp_path, number))[1]["resumed_step"] == saved[number]


@pytest.mark.long
def test_a_trial_whose_process_dies_resumes(cluster: Cluster, tmp_path: Path) -> None:
    config = write(tmp_path, {"space": {"train.optimizer.lr": {"grid": [1e-2]}}})
    driver = start(cluster, config)
    until(lambda: len(steps_of(trial(tmp_path, 1))) >= 50, "the trial", driver=driver)
    (process,) = cluster.processes("ray::ImplicitFunc")
    process.kill()
    ended(driver, config)
    assert [each["state"] for each in trials(tmp_path)] == ["done"]
    assert len(steps_of(trial(tmp_path, 1))) == STEPS
    assert [each["resumed_step"] for each in attempts(trial(tmp_path, 1))] == [0, 40]


@pytest.mark.long
def test_tpe_with_seeds_takes_more_trials_and_keeps_the_best(connected: Cluster, tmp_path: Path) -> None:
    search = {
        "space": {"train.optimizer.lr": {"loguniform": [1e-5, 1e-1]}, "peft.rank": {"choice": [2, 4]}},
        "searcher": "tpe",
        "seeds": 2,
        "trials": 2,
        "keep_exports": 1,
    }
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    # Two workers per trial, which share what they train.
    config = read(write(tmp_path, search, steps=10, tracking={"uri": store}), ["cluster.workers=2"])
    first = tune.run(config).summary["search"]
    assert first["counts"] == {"done": 4}
    assert [each["seed"] for each in first["trials"]] == [5, 6, 5, 6]
    second = tune.run(config.override({"tune.trials": 3}))
    found = second.summary["search"]
    assert found["trials"][:4] == [
        old | {"kept": new["kept"]} for old, new in zip(first["trials"], found["trials"][:4], strict=True)
    ]
    assert len(found["trials"]) == 6
    exports = [number for number in range(1, 7) if (trial(tmp_path, number) / "export").exists()]
    assert set(exports) == {each["number"] for each in found["trials"] if each["kept"]}
    assert found["best"]["trial"] in exports
    assert 1 <= len(exports) <= 2
    assert found["best"]["standard_deviation"] is not None
    client = open_client(store)
    runs = [
        client.get_run(mlflow_id(tmp_path / "runs" / "search")),
        *(client.get_run(mlflow_id(trial(tmp_path, number))) for number in range(1, 7)),
    ]
    assert [run.info.status for run in runs] == ["FINISHED"] * 7
    assert {run.data.tags["mlflow.parentRunId"] for run in runs[1:]} == {runs[0].info.run_id}
    assert len({run.info.run_id for run in runs}) == 7

    number = found["best"]["trial"]
    best = train.run(read(str(second.folder / "best.yaml")))
    assert losses(Path(str(best.folder))) == losses(trial(tmp_path, number))
    assert best.summary["eval"]["after"]["loss"] == found["trials"][number - 1]["value"]


@pytest.mark.long
def test_a_drawn_trial_fails_alone_and_a_time_limit_ends_a_search(connected: Cluster, tmp_path: Path) -> None:
    space = {"peft.type": {"choice": ["lora", "adalora"]}, "train.optimizer.lr": {"choice": [1e-3, 1e-2]}}
    config = read(write(tmp_path, {"space": space, "trials": 4}, steps=10))
    found = tune.run(_without_rank(config)).summary["search"]
    assert found["counts"] == {"done": 2, "failed": 2}
    assert all("adalora" in str(each["reason"]) for each in found["trials"] if each["state"] == "failed")

    limited = config.override({"run.name": "limited", "tune.max_seconds": 1.0})
    with pytest.raises(Exception, match="max_seconds was reached"):
        tune.run(_without_rank(limited))


def _without_rank(config: Config) -> Config:
    return config.override({"peft": {"type": "lora"}})
