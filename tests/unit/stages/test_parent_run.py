"""The MLflow run of the whole: its params, its end after an error, and a server that is down."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from medray.config import Config
from medray.errors import MedrayError, RunFailedError, StoppedError
from medray.stages.parent_run import end, ended_on_error, parent_run
from medray.tracking.mlflow_run import RUN_FILE, UNSENT_FILE, RunIdentity, open_client
from medray.train.driver.tracking import tracking_spec
from medray.train.run_folder.files import RunResult, folder_of


def config(folder: Path, uri: str) -> Config:
    (folder / "three").mkdir()
    return Config.model_validate(
        {
            "run": {"storage": str(folder), "name": "three"},
            "tracking": {"uri": uri},
            "stages": [{"name": "pre"}, {"name": "post", "train": {"optimizer": {"lr": 1e-3}}}],
        }
    )


def test_the_params_of_the_whole_name_the_keys_of_each_stage(tmp_path: Path) -> None:
    params = tracking_spec(config(tmp_path, "http://127.0.0.1:9")).params
    assert params["stages.2-post.train.optimizer.lr"] == "0.001"
    assert not any(name.startswith("stages.1-pre.") or name == "stages" for name in params)


@pytest.mark.parametrize(
    ("error", "status"), [(RunFailedError("x"), "FAILED"), (StoppedError("x"), "KILLED")]
)
def test_a_whole_that_raises_is_ended_once_a_stage_has_reached_mlflow(
    error: MedrayError, status: str, tmp_path: Path
) -> None:
    made, said = config(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}"), []
    parent = parent_run(made, None)
    assert parent is not None

    def raise_it() -> None:
        with (
            pytest.raises(type(error)),
            ended_on_error(made, parent, lambda name, text: said.append(text)),
        ):
            raise error

    raise_it()
    assert not (tmp_path / "mlflow.db").exists()
    client = open_client(parent.spec.uri)
    run_id, _ = RunIdentity(folder_of(made), parent.spec, said.append).open(client, 1, lambda: False)
    raise_it()
    assert client.get_run(run_id).info.status == status
    assert json.loads((tmp_path / "three" / RUN_FILE).read_text())["run_id"] == run_id
    assert said == []


def test_a_server_that_is_down_is_told_about_and_raises_nothing(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = config(tmp_path, f"http://127.0.0.1:{free.getsockname()[1]}")
        said: list[str] = []
        parent = parent_run(made, None)
        assert parent is not None
        result = RunResult(folder_of(made), {"status": "done", "steps": 3})
        end(parent, result, lambda name, text: said.append(text))
    assert any("did not receive" in text for text in said)
    assert (tmp_path / "three" / UNSENT_FILE).exists()


def test_without_tracking_there_is_none(tmp_path: Path) -> None:
    made = config(tmp_path, "http://127.0.0.1:9")
    assert parent_run(made.override({"tracking.enabled": False}), None) is None
    assert parent_run(Config(), None) is None
