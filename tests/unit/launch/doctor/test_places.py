"""Storage, model and MLflow as `medray doctor` sees them: real folders, a real S3 service, real servers and dead ones."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow_server import MlflowServer
from s3_server import S3Server, s3_server

from medray.launch.doctor.conditional_put import Keys, _signature, keys
from medray.launch.doctor.finding import Finding, Question, examine
from medray.launch.doctor.places import models, tracking
from medray.launch.doctor.storage import CONTENT, FIRST, begun, missing_here, of_node, storage

SECRET = "s3cr3t-passw0rd"


def only(state: str, findings: list[Finding] | Finding) -> Finding:
    (one,) = findings if isinstance(findings, list) else [findings]
    assert (one.state, bool(one.fix)) == (state, state != "ok"), one
    return one


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = only("fail", storage(Question(storage=str(tmp_path / "file" / "runs")))).detail
    assert "cannot be written: Not a directory" in told
    only("ok", storage(Question(storage=str(tmp_path / "runs"))))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_folder_that_nodes_do_not_share(tmp_path: Path) -> None:
    question = Question(storage=str(tmp_path), mark=".mark", first="n1", own="node-1")
    with begun(question):
        assert "locked" in only("ok", of_node(question)).detail
        assert missing_here(question, {"node-1": "n2", "node-2": "n3"}) == ["n3"]
    assert list(tmp_path.iterdir()) == []
    told = only("fail", of_node(question)).detail
    assert "is not shared: the file that n1 wrote does not exist" in told
    (tmp_path / ".mark").mkdir()
    (tmp_path / ".mark" / FIRST).write_bytes(CONTENT)  # and nobody's lock is seen
    assert "the lock that n1 holds has no effect" in only("warn", of_node(question)).detail
    (tmp_path / ".mark" / FIRST).write_bytes(b"of yesterday")
    assert "has other content" in only("fail", of_node(question)).detail


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3"), "bucket") as server:
        yield server


def test_a_bucket(s3: S3Server) -> None:
    question = Question(storage="s3://bucket/runs")
    assert "moved and listed; conditional puts" in only("ok", storage(question)).detail
    with s3.without_conditions():
        assert "HTTP 200, 200" in only("warn", storage(question)).detail
    from medray import storage as bucket

    assert [path.name for path in bucket.at("s3://bucket/runs").iterdir()] == []
    lost = only("fail", storage(Question(storage="s3://another/runs")))
    assert "cannot be written: NO_SUCH_BUCKET" in lost.detail


def test_keys_for_a_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment's come first, then those of a profile; the keys of a machine's role are not looked for."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert keys() is None
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    assert keys() == Keys("a", "b", "")
    monkeypatch.setenv("AWS_PROFILE", "none")
    assert keys() is None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "c")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "d")
    assert keys() == Keys("c", "d", "")


def test_a_bucket_that_hangs(s3: S3Server) -> None:
    s3.process.send_signal(signal.SIGSTOP)
    try:
        (found,) = examine({"storage": storage}, Question(storage="s3://bucket/runs", seconds=1.0))
    finally:
        s3.process.send_signal(signal.SIGCONT)
    assert only("fail", found).detail == "the check got no answer within 1 s"


@pytest.mark.parametrize("session", ["", "a-session"])
def test_a_signature_is_that_of_the_sdk(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature equals botocore's for the same request, because moto does not check signatures."""
    from botocore import auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    headers = {
        "host": "bucket.s3.eu-west-1.amazonaws.com",
        "if-none-match": "*",
        "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-amz-date": "20261130T120000Z",
    }
    if session:
        headers["x-amz-security-token"] = session
    request = AWSRequest("PUT", f"https://{headers['host']}/runs/a%20b/.mark", headers, b"")
    request.context["timestamp"] = headers["x-amz-date"]
    signer = auth.S3SigV4Auth(Credentials("AKID", SECRET, session or None), "s3", "eu-west-1")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    theirs = signer.signature(text, request)
    ours = _signature(
        "/runs/a%20b/.mark", headers, headers["x-amz-date"], "eu-west-1", Keys("AKID", SECRET, session)
    )
    assert ours.endswith(f"Signature={theirs}")
    assert SECRET not in ours + repr(Keys("AKID", SECRET, session))


def test_models_on_the_disk(tmp_path: Path) -> None:
    assert only("ok", models(Question(models=("smollm2-135m-instruct",)))).name == "model"
    folder, question = tmp_path / "model", Question(models=(str(tmp_path / "model"),))
    assert "cannot be read: No such file" in only("fail", models(question)).detail
    folder.mkdir()
    assert "no config.json" in only("fail", models(question)).detail
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    assert "no weights in *.safetensors" in only("fail", models(question)).detail
    (folder / "model.safetensors").write_bytes(bytes(2048))
    assert "2.0 KiB of weights" in only("ok", models(question)).detail
    assert models(Question()) == []


class Hub(BaseHTTPRequestHandler):
    """A hub with one model, and one that wants a licence accepted."""

    def do_GET(self) -> None:
        answer = {"id": "open/model", "siblings": [{"rfilename": "model.safetensors", "size": 3 << 30}]}
        body = json.dumps(answer if "open/model" in self.path else {"error": SECRET}).encode()
        self.send_response(200 if "open/model" in self.path else 403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


ASK = """
import json, sys
from medray.launch.doctor.finding import Question
from medray.launch.doctor.places import models
print(json.dumps([one.as_json() for one in models(Question(models=tuple(sys.argv[1:])))]))
"""


def asked_of_hub(cache: Path, *names: str, **environment: str) -> list[Finding]:
    done = subprocess.run(
        [sys.executable, "-c", ASK, *names],
        env={**os.environ, "HF_HUB_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout
    return [Finding(**row) for row in json.loads(done.stdout)]


def keep(cache: Path, owner: str, files: dict[str, str]) -> None:
    """A model as the hub's library keeps it."""
    model = cache / f"models--{owner}--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("a" * 40)
    (model / "snapshots" / ("a" * 40)).mkdir(parents=True)
    for name, text in files.items():
        (model / "snapshots" / ("a" * 40) / name).write_text(text)


def test_models_of_a_hub(tmp_path: Path) -> None:
    shards = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"]
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))})
    keep(tmp_path, "kept", {"config.json": "{}", "model.safetensors": ""})
    keep(
        tmp_path,
        "parts",
        {"config.json": "{}", "model.safetensors.index.json": index, **dict.fromkeys(shards, "")},
    )
    keep(tmp_path, "cut", {"config.json": "{}", "model.safetensors.index.json": index, shards[0]: ""})
    names = ("kept/model", "parts/model", "cut/model", "open/model")
    kept, parts, cut, other = asked_of_hub(tmp_path, *names, HF_HUB_OFFLINE="1")
    assert "in the cache" in only("ok", kept).detail
    assert "in the cache" in only("ok", parts).detail
    assert "is not in the cache" in only("fail", cut).detail
    assert "HF_HUB_OFFLINE forbids" in only("fail", other).detail
    with HTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        there = {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": SECRET,
        }
        open_, gated = asked_of_hub(tmp_path, "open/model", "gated/model", **there)
        hub.shutdown()
    assert "can be downloaded: 3.0 GiB" in only("ok", open_).detail
    assert "HTTP 403" in only("fail", gated).detail
    (dead,) = asked_of_hub(tmp_path, "open/model", **there)
    assert "the hub cannot be reached" in only("fail", dead).detail


def test_mlflow_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "mlflow.db"
    question = Question(tracking=f"sqlite:///{file}")
    assert "a new database" in only("ok", tracking(question)).detail
    assert not file.parent.exists()
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE runs (id)")
        assert "can be written" in only("ok", tracking(question)).detail
        file.unlink()
        file.write_bytes(b"no database at all, but some text" * 100)
        assert "(DatabaseError)" in only("fail", tracking(question)).detail


def test_mlflow_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        (found,) = examine({"MLflow": tracking}, Question(tracking=f"http://{address}", seconds=1.0))
        assert only("fail", found).detail == "the check got no answer within 1 s"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{SECRET}@{address}")
    refused = only("fail", tracking(Question(tracking="")))
    assert "the store of MLFLOW_TRACKING_URI cannot be used (Connection refused)" in refused.detail
    assert SECRET not in str(refused)
    assert address not in str(refused)


@pytest.mark.long
def test_mlflow_that_answers(tmp_path: Path) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    try:
        for _ in range(2):  # the second finds what the first has deleted
            told = only("ok", tracking(Question(tracking=server.uri))).detail
            assert told == f"{server.uri}: a run was written and removed"
        from medray.tracking.mlflow_run import open_client

        assert [one.name for one in open_client(server.uri).search_experiments()] == ["Default"]
    finally:
        server.kill()
