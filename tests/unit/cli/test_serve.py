"""Tests of what `medray serve` refuses before it starts Ray."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_answerer import asked_tiny

from medray.cli import main as command
from medray.cli import serve
from medray.evaluate import asking


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(asked_tiny(tmp_path_factory.mktemp("model")).weights)


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = os.umask(0o022)
    for name in (*command.QUIET, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_worker_niceness"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr("medray.cli.cluster.before_import", lambda _: None)
    monkeypatch.setattr("medray.cli.cluster.connect", _no_ray)
    monkeypatch.delenv("MEDRAY_SERVE_TOKEN", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    os.umask(before)


def _no_ray(_: Any) -> None:
    pytest.fail("Ray was started")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--host", "0.0.0.0"), "must send a token"),
        (("--token-env", "ABSENT"), "not set"),
        (("--replicas", "0"), "--replicas"),
        (("--cpus", "-1"), "--cpus"),
        (("--max-batch", "0"), "--max-batch"),
        (("--max-new-tokens", "-5"), "--max-new-tokens"),
        (("--name", "two words"), "--name"),
        (("--port", "70000"), "--port"),
        (("--host", "203.0.113.9", "--token-file", "no-such-file"), "cannot read this file"),
        (("data.template=file.jinja",), "file.jinja"),
    ],
    ids=" ".join,
)
def test_wrong_options_end_with_2(
    model: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert command.main(["serve", str(model), *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Fix:" in err


def test_a_port_that_is_in_use_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert command.main(["serve", str(model), "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_the_extra_is_named_if_it_is_absent(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    assert command.main(["serve", str(model)]) == 2
    assert "pip install 'medray[serve]'" in capsys.readouterr().err


def test_a_model_that_finds_key_words_first_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = asking.asked_model

    def two_step(*arguments: Any) -> Any:
        found = own(*arguments)
        return replace(found, spec=replace(found.spec, appends_keys=True))

    monkeypatch.setattr(asking, "asked_model", two_step)
    for verb in ("serve", "chat"):
        assert command.main([verb, str(model)]) == 2
        assert "two_step" in capsys.readouterr().err


def test_a_model_is_named_by_its_folder() -> None:
    names = {"runs/notes": "notes", "runs/notes/export/": "notes", "notes.yaml": "notes", "s3://b/x y": "x-y"}
    assert {each: serve._own_name(each) for each in names} == names
