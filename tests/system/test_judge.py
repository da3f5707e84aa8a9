"""`medray judge` with real models: two OpenAI-compatible servers of transformers on this machine, and a local model."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from medray.cli.main import main
from medray.plan.packaged import ensure

NAME = "smollm2-135m-instruct"
START_SECONDS = 180.0
pytestmark = pytest.mark.long


@contextmanager
def served(model: Path, log: Path) -> Iterator[str]:
    """Yield the base URL of a server of `transformers serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--host", "127.0.0.1",
               "--port", str(port), "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    with log.open("wb") as stream:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        try:
            _await(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            time.sleep(0.5)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def test_two_servers_and_a_local_model_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ensure(NAME)
    rows = [
        {"id": "a", "input": "Is water wet? Answer yes or no.", "answer": "yes", "gold": "yes"},
        {"id": "b", "input": "What is 2 + 2?", "answer": "5", "gold": "4"},
        {"id": "c", "input": "Name the organ that pumps blood.", "answer": "the heart", "gold": "the heart"},
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ExitStack() as stack:
        urls = [stack.enter_context(served(model, tmp_path / f"{name}.log")) for name in "ab"]
        (tmp_path / "judge.yaml").write_text(
            "items: items.jsonl\nfolder: judged\nmax_new_tokens: 40\ntries: 2\nshow_gold: true\njudges:\n"
            + "".join(
                f"- {{name: judge-{number}, base_url: '{url}', model: '{model}', limits: {{concurrency: 1}}}}\n"
                for number, url in enumerate(urls)
            )
        )
        config = str(tmp_path / "judge.yaml")
        assert main(["judge", config, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["states"]["pending"] == 0
        first, second = found["requests"].values()
        assert first["replies"] == second["replies"] >= 3
        assert first["completion_tokens"] == second["completion_tokens"] > 0  # the same model, greedy
        assert found["judges"]["judge-0"] == found["judges"]["judge-1"]

        monkeypatch.setattr("sys.stdin", io.StringIO("c\nc\nc\n"))
        assert main(["judge", "review", str(tmp_path / "judged")]) == 0
        report = json.loads((tmp_path / "judged" / "report.json").read_text())
        assert report["states"]["agreed"] + report["states"]["resolved"] == 3

        capsys.readouterr()
        local = f'judges=[{{name: served, base_url: "{urls[0]}", model: "{model}"}}, {{name: local, type: local, model: {NAME}}}]'
        assert main(["judge", config, local, "folder=other", "--json"]) == 0
    mixed = json.loads(capsys.readouterr().out)
    assert mixed["states"]["pending"] == 0
    assert mixed["requests"]["local"]["completion_tokens"] == mixed["requests"]["served"]["completion_tokens"]
    replies = [
        json.loads(line)["verdicts"]
        for line in (tmp_path / "other" / "results.jsonl").read_text().splitlines()
    ]
    assert all(each["served"] == each["local"] for each in replies)
