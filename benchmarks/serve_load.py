"""Load a served model: requests per second and latencies at several numbers of clients, and hostile requests.

    python benchmarks/serve_load.py [--model RUN|MODEL] [--seconds 20] [--clients 1,8,32] [--hostile 1000]

Starts `medray serve` on a private Ray of this machine, on loopback with a token, and asks it from threads of this process
with keep-alive connections. Without --model it serves a random model of 1M parameters, which shows the cost of the
server itself. Each answer is compared with the one that the same question got first: an answer that differs is an
error. Then hostile requests (tests/support/hostile.py) are sent from 16 clients while another client asks ordinary
questions. Prints one JSON object with versions and machine; exit code 1 if anything was lost, wrong or crashed.
"""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import itertools
import json
import os
import platform
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import hostile  # noqa: E402
import tiny  # noqa: E402

QUESTIONS = [row["input"] for row in tiny.rows(40, seed=1)]
BODY_KB, TOO_MANY_WORDS = 256, 20_000
HOSTILE_CLIENTS = 16


@dataclass(kw_only=True)
class Server:
    """A running `medray serve`. texts: the first answer to each question."""

    port: int
    token: str
    tokens: int
    texts: dict[tuple[str, int], str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def ask(
        self, connection: http.client.HTTPConnection, question: str, *, stream: bool
    ) -> tuple[float, int]:
        """Ask and check one question. Return (seconds to the first byte of the answer's text, tokens)."""
        begun = time.perf_counter()
        body = {
            "model": "loaded",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": self.tokens,
            "stream": stream,
        } | ({"stream_options": {"include_usage": True}} if stream else {})
        status, text, first = self.send(connection, "POST", hostile.CHAT, json.dumps(body).encode())
        if status != 200:
            raise RuntimeError(f"status {status}: {text[:200]!r}")
        if stream:
            trees = [json.loads(line[6:]) for line in text.split(b"\n\n") if line and line != b"data: [DONE]"]
            answer = "".join(
                choice["delta"].get("content", "") for tree in trees for choice in tree["choices"]
            )
            tokens = trees[-1]["usage"]["completion_tokens"]
        else:
            tree = json.loads(text)
            answer, tokens = tree["choices"][0]["message"]["content"], tree["usage"]["completion_tokens"]
        with self.lock:
            if self.texts.setdefault((question, self.tokens), answer) != answer:
                raise RuntimeError("an answer differs from the first one to the same question")
        return first - begun, tokens

    def send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes, float]:
        """Return (status, body, time of the first byte of the body)."""
        own = {"content-type": "application/json", "authorization": f"Bearer {self.token}"}
        connection.request(method, path, body, own | (headers or {}))
        response = connection.getresponse()
        first_byte = response.read(1)
        first = time.perf_counter()
        return response.status, first_byte + response.read(), first


def load(server: Server, clients: int, seconds: float) -> dict[str, Any]:
    """Ask from `clients` threads, every second question streamed. Return the figures."""
    latencies: list[float] = []
    tokens = 0
    errors: Counter[str] = Counter()
    lock, end = threading.Lock(), time.perf_counter() + seconds

    def client(number: int) -> None:
        nonlocal tokens
        connection = server.connection()
        for turn in itertools.count():
            if time.perf_counter() > end:
                return
            begun = time.perf_counter()
            try:
                question = QUESTIONS[(number * 7 + turn) % len(QUESTIONS)]
                _, written = server.ask(connection, question, stream=turn % 2 == 1)
            except Exception as error:
                with lock:
                    errors[f"{type(error).__name__}: {error}"[:200]] += 1
                connection.close()
                continue
            with lock:
                latencies.append(time.perf_counter() - begun)
                tokens += written

    begun = time.perf_counter()
    _together(clients, client)
    taken = time.perf_counter() - begun
    ordered = sorted(latencies)
    return {
        "clients": clients,
        "requests": len(ordered),
        "requests_per_second": round(len(ordered) / taken, 2),
        "tokens_per_second": round(tokens / taken, 1),
        "p50_ms": round(1000 * statistics.median(ordered), 1) if ordered else None,
        "p99_ms": round(1000 * ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)], 1)
        if ordered
        else None,
        "errors": dict(errors),
    }


def attack(server: Server, count: int) -> dict[str, Any]:
    """Send hostile requests while one client asks ordinary questions. Return what was lost or wrong."""
    cases = hostile.requests("loaded", body_bytes=BODY_KB << 10, words=TOO_MANY_WORDS)
    names: list[tuple[str, Callable[[], str | None]]] = [
        (case.name, partial(_refused, server, case)) for case in cases
    ]
    names += [("no HTTP", partial(_broken, server)), ("gone in the body", partial(_gone, server))]
    todo = iter(range(count))
    wrong: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    lock, done = threading.Lock(), threading.Event()
    ordinary: dict[str, Any] = {}

    def attacker(_: int) -> None:
        while True:
            with lock:
                number = next(todo, None)
            if number is None:
                return
            name, send = names[number % len(names)]
            try:
                problem = send()
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            with lock:
                sent[name] += 1
                if problem:
                    wrong[f"{name}: {problem}"[:200]] += 1

    def client(_: int) -> None:
        connection, asked, failed = server.connection(), 0, Counter[str]()
        while not done.is_set():
            try:
                server.ask(connection, QUESTIONS[asked % len(QUESTIONS)], stream=False)
                asked += 1
            except Exception as error:
                failed[f"{type(error).__name__}: {error}"[:200]] += 1
                connection.close()
        ordinary.update(answered=asked, errors=dict(failed))

    begun = time.perf_counter()
    beside = threading.Thread(target=client, args=(0,))
    beside.start()
    _together(HOSTILE_CLIENTS, attacker)
    done.set()
    beside.join()
    return {
        "sent": sum(sent.values()),
        "kinds": len(sent),
        "seconds": round(time.perf_counter() - begun, 1),
        "lost_or_wrong": dict(wrong),
        "ordinary_beside": ordinary,
    }


def _refused(server: Server, case: hostile.Hostile) -> str | None:
    connection = server.connection()
    try:
        status, text, _ = server.send(connection, case.method, case.path, case.body, dict(case.headers))
    except (BrokenPipeError, ConnectionResetError):  # refused before the whole body was read
        return None if case.status == 413 else "the connection was reset"
    finally:
        connection.close()
    return None if status == case.status else f"status {status} instead of {case.status}: {text[:80]!r}"


def _broken(server: Server) -> str | None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(b"no HTTP at all\r\n\r\n")
        sock.recv(1000)
    return None


def _gone(server: Server) -> str | None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        head = f"POST /predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.token}\r\n"
        sock.sendall(f"{head}content-type: application/json\r\ncontent-length: 500\r\n\r\n{{".encode())
    return None


def _together(count: int, work: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(count) as pool:
        for each in [pool.submit(work, number) for number in range(count)]:
            each.result()


def listens_elsewhere(pid: int) -> list[str]:
    """Return the addresses other than loopback at which a process and its descendants listen."""
    import psutil

    found = set()
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        for each in process.net_connections("inet"):
            ip = ipaddress.ip_address(each.laddr.ip)
            own = (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip
            if each.status == psutil.CONN_LISTEN and not own.is_loopback:
                found.add(f"{ip}:{each.laddr.port} of {process.name()}")
    return sorted(found)


def made_model(folder: Path) -> str:
    """Write a random model of 1M parameters with a tokenizer. Return its folder."""
    from tiny_answerer import asked_tiny

    return asked_tiny(folder).weights


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(port=port, token=secrets.token_urlsafe(32), tokens=arguments.tokens)
    named = [arguments.model] if arguments.model else [made_model(folder), "data.prompts={label: Summarise}"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "medray", "serve", *named, "--name", "loaded", "--port", str(port)),
            *("--max-batch", str(arguments.batch), "--max-body-kb", str(BODY_KB)),
        ],
        env={**os.environ, "MEDRAY_SERVE_TOKEN": server.token, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        begun = time.perf_counter()
        said = []
        for line in process.stderr:
            said.append(line)
            if "answers at" in line:
                break
        else:
            sys.exit("".join(said))
        started = time.perf_counter() - begun
        load(server, 1, min(arguments.seconds, 3))  # warm
        found = [load(server, clients, arguments.seconds) for clients in arguments.clients]
        attacked = attack(server, arguments.hostile)
        status, health, _ = server.send(server.connection(), "GET", "/health", b"")
        elsewhere = listens_elsewhere(process.pid)
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    finally:
        process.kill()
        process.wait()
    return {
        "model": arguments.model or "random, 1M parameters",
        "max_batch": arguments.batch,
        "answer_tokens": arguments.tokens,
        "start_seconds": round(started, 1),
        "load": found,
        "hostile": attacked,
        "health": {"status": status} | json.loads(health),
        "listens_elsewhere": elsewhere,
        "exit_code": code,
        "versions": {
            name: version(name) for name in ("ray", "torch", "transformers", "uvicorn", "starlette")
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="run, export or model; default: a random one of 1M parameters")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument(
        "--clients", type=lambda text: [int(each) for each in text.split(",")], default=[1, 8, 32]
    )
    parser.add_argument("--hostile", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    print(json.dumps(found, indent=1))
    bad = [each["errors"] for each in found["load"]] + [
        found["hostile"]["lost_or_wrong"],
        found["hostile"]["ordinary_beside"]["errors"],
        found["listens_elsewhere"],
    ]
    return int(any(bad) or found["exit_code"] != 75 or found["hostile"]["sent"] != arguments.hostile)


if __name__ == "__main__":
    sys.exit(main())
