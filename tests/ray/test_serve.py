"""`medray serve` on a real Ray Serve: OpenAI's client, hostile requests, and an end that finishes what is being answered."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile
import openai
import pytest
import tiny
from clusters import Cluster, free_ports
from tiny_answerer import asked_tiny
from watched import Seen

from medray.config import Config
from medray.data.records import Message
from medray.evaluate.asking import Answerer, asked_model
from medray.evaluate.decoding import Decoding

TOKEN = "a-token-of-the-tests"
PROMPT, BODY_KB = "Summarise", 256
LONG = 300  # tokens of an answer that is still being written when the server is stopped


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A running command. answerer: the same model in this process."""

    process: subprocess.Popen[str]
    port: int
    answerer: Answerer

    def expected(self, text: str, **decoding: Any) -> str:
        ids = self.answerer.prompt_ids([Message("user", text)])
        [answer] = self.answerer.answers([ids], Decoding(**decoding))
        return answer.text

    def client(self, token: str = TOKEN) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=token, max_retries=0)

    def ask(self, text: str, **more: Any) -> Any:
        return self.client().chat.completions.create(
            model="notes", messages=[{"role": "user", "content": text}], **more
        )

    def raw(self, case: hostile.Hostile) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
        # Ray Serve takes its request id from this header and has it in its logs.
        headers |= dict(case.headers) | {"x-request-id": hostile.MARK}
        try:
            connection.request(case.method, case.path, case.body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def start(weights: str, environment: dict[str, str], *options: str) -> Server:
    """Start the command and wait until it answers."""
    port = free_ports(1)[0]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "medray", "serve", weights),
            *(f"data.prompts={{label: {PROMPT}}}", "--name", "notes", "--port", str(port)),
            *("--max-body-kb", str(BODY_KB), "--token-env", "OWN_TOKEN", *options),
        ],
        env=environment | {"OWN_TOKEN": TOKEN},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "answers at" in line:
            break
    else:
        pytest.fail("".join(said))
    config = Config().override({"data.prompts": {"label": PROMPT}})
    return Server(process=process, port=port, answerer=Answerer(asked_model(weights, config)))


def end(server: Server) -> None:
    server.process.kill()
    server.process.communicate()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return asked_tiny(tmp_path_factory.mktemp("model")).weights


@pytest.fixture(scope="module")
def server(cluster: Cluster, weights: str) -> Iterator[Server]:
    found = start(weights, {**os.environ, "RAY_ADDRESS": cluster.address}, "--max-batch", "4")
    yield found
    end(found)


def test_the_client_of_openai_gets_the_answers_of_predict(server: Server, cluster: Cluster) -> None:
    assert [model.id for model in server.client().models.list()] == ["notes"]
    texts = [row["input"] for row in tiny.rows(8, seed=2)]
    wanted = [server.expected(text, max_new_tokens=7) for text in texts]

    def ask(at: int) -> str:
        if at % 2:
            return str(server.ask(texts[at], max_tokens=7).choices[0].message.content)
        return "".join(
            piece.choices[0].delta.content or "" for piece in server.ask(texts[at], max_tokens=7, stream=True)
        )

    with ThreadPoolExecutor(len(texts)) as pool:
        assert list(pool.map(ask, range(len(texts)))) == wanted
    with pytest.raises(ConnectionRefusedError):  # the node has this address, but the proxy was given another
        socket.create_connection((cluster.address.partition(":")[0], server.port), timeout=5)
    *_, last = server.ask(texts[0], max_tokens=7, stream=True, stream_options={"include_usage": True})
    assert last.usage.completion_tokens <= 7


def test_hostile_requests_are_refused_and_are_in_no_log(server: Server, cluster: Cluster) -> None:
    for case in hostile.requests("notes", body_bytes=BODY_KB << 10, words=3000):
        status, text = server.raw(case)
        assert status == case.status, (case.name, text)
    with pytest.raises(openai.AuthenticationError, match="Bearer TOKEN"):
        server.client("wrong").models.list()
    with pytest.raises(openai.BadRequestError, match="tools"):
        server.ask("fever", tools=[{"type": "function", "function": {"name": "x"}}])
    with socket.create_connection(("127.0.0.1", server.port)) as broken:  # no HTTP at all
        broken.sendall(f"{hostile.MARK}\r\n\r\n".encode())
        broken.recv(1000)
    with socket.create_connection(("127.0.0.1", server.port)) as left:  # gone in the middle of its body
        left.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
        left.sendall(f"authorization: Bearer {TOKEN}\r\ncontent-length: 500\r\n\r\n{hostile.MARK}".encode())
    assert server.ask("fever", max_tokens=5).choices[0].message.content == server.expected(
        "fever", max_new_tokens=5
    )
    logs = Path(re.sub(r".*:(\d+)$", r"/tmp/medray-ray-\1", cluster.address)) / "session_latest" / "logs"
    files = [file for file in logs.rglob("*") if file.is_file()]
    assert any("serve" in str(file) for file in files)
    assert [str(file) for file in files if hostile.MARK.encode() in file.read_bytes()] == []
    assert [str(file) for file in files if TOKEN.encode() in file.read_bytes()] == []


def test_term_finishes_the_answer_that_is_being_written(server: Server) -> None:
    texts = [row["input"] for row in tiny.rows(9, seed=6)]
    long = max(texts, key=lambda text: len(server.expected(text, max_new_tokens=LONG)))
    stream = server.ask(long, max_tokens=LONG, stream=True)
    pieces = [next(stream), next(stream)]
    server.process.send_signal(signal.SIGTERM)
    pieces += stream
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == server.expected(
        long, max_new_tokens=LONG
    )
    _, said = server.process.communicate(timeout=100)
    assert server.process.returncode == 75, said
    assert "no answer is pending" in said


@pytest.mark.long
def test_a_private_server_listens_on_loopback_only_and_leaves_no_files(weights: str, short: Path) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    server, seen = start(weights, own | {"RAY_TMPDIR": str(short)}, "--replicas", "2"), Seen()
    try:
        seen.look(server.process.pid, short)
        seen.assert_private("ServeReplica", "ProxyActor")
        assert [server.ask("fever", max_tokens=5).choices[0].message.content for _ in range(4)] == [
            server.expected("fever", max_new_tokens=5)
        ] * 4
        server.process.send_signal(signal.SIGINT)
        _, said = server.process.communicate(timeout=100)
        assert server.process.returncode == 130, said
        assert "raylet" not in said
        assert list(short.iterdir()) == []
    finally:
        end(server)
