"""The MLflow run of a search: there before its trials, one for all of them, and never in their way."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from medray.config import Config
from medray.tracking.mlflow_run import PARENT_TAG, RUN_FILE, UNSENT_FILE, RunIdentity, open_client
from medray.train.driver.tracking import tracking_spec
from medray.train.run_folder.files import folder_of
from medray.tune.parent_run import end, opening, parent_run, send_unsent
from medray.tune.share import Share
from medray.tune.trials import Trial, trial_config

SHARE = Share(concurrent=2, workers=1, cpus=1.0, gpus=0, threads=1)


def config(folder: Path, uri: str) -> Config:
    (folder / "s").mkdir()
    return Config.model_validate(
        {
            "run": {"storage": str(folder), "name": "s"},
            "tracking": {"uri": uri, "run_name": "shown"},
            "tune": {"space": {"peft.rank": {"grid": [4, 8]}}},
        }
    )


@pytest.mark.long
def test_trials_are_children_of_the_run_of_their_search(tmp_path: Path) -> None:
    search = config(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    parent = parent_run(search, None)
    assert parent is not None
    opening(parent).result()
    whole = json.loads((tmp_path / "s" / RUN_FILE).read_text())["run_id"]
    client = open_client(parent.spec.uri)
    for number in (1, 2):
        trial = Trial(number=number, configuration=number, seed=0, values={"peft.rank": 4 * number})
        made = trial_config(search, SHARE, trial)
        folder_of(made).mkdir()
        identity = RunIdentity(folder_of(made), tracking_spec(made, None, parent), lambda text: None)
        run_id, _ = identity.open(client, 1, lambda: False)
        run = client.get_run(run_id)
        assert run.data.tags[PARENT_TAG] == whole
        assert run.info.run_name == f"shown.trial-000{number}"
        assert run.data.params["peft.rank"] == str(4 * number)
    said: list[Any] = []
    assert (tmp_path / "s" / UNSENT_FILE).exists()
    send_unsent(search, {"status": "done", "steps": 3}, None, lambda *line: said.append(line))
    assert not (tmp_path / "s" / UNSENT_FILE).exists()
    run = client.get_run(whole)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "shown")
    assert "tune.space.peft.rank.grid" in run.data.params


def test_a_server_that_is_down_is_told_about_and_raises_nothing(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        search = config(tmp_path, f"http://127.0.0.1:{free.getsockname()[1]}")
        said: list[str] = []
        parent = parent_run(search, None)
        assert parent is not None
        opening(parent).result()
        end(parent, {"status": "done", "steps": 3}, lambda name, text: said.append(text))
    assert any("did not receive" in text for text in said)
    assert (tmp_path / "s" / UNSENT_FILE).exists()


def test_without_tracking_there_is_none(tmp_path: Path) -> None:
    search = config(tmp_path, "http://127.0.0.1:9").override({"tracking.enabled": False})
    assert parent_run(search, None) is None
