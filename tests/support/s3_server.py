"""An S3 server of the test's own (moto's), as a process that can be stopped and started again at its address."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEYS = {
    "AWS_REGION": "eu-west-1",
    "AWS_ACCESS_KEY_ID": "medray-test-key",
    "AWS_SECRET_ACCESS_KEY": "medray-test-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """Holds everything in its memory."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._away = log.with_suffix(".away")
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(self.port), str(self._away)],
                stdout=stream,
                stderr=stream,
            )
        limit = time.monotonic() + 60
        while not self._listens():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < limit, "moto does not listen"
            time.sleep(0.05)

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables that a process needs to reach the server."""
        return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", **KEYS}

    def make_bucket(self, name: str) -> None:
        from pyarrow import fs

        fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            region=KEYS["AWS_REGION"],
            access_key=KEYS["AWS_ACCESS_KEY_ID"],
            secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            allow_bucket_creation=True,
        ).create_dir(name)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Inside, it answers every request with 503, as S3 does when it cannot serve."""
        self._away.touch()
        try:
            yield
        finally:
            self._away.unlink()

    @contextlib.contextmanager
    def without_conditions(self) -> Iterator[None]:
        """Inside, it does not know conditional puts, as S3 services of before 2024."""
        (file := self._away.with_suffix(".old")).touch()
        try:
            yield
        finally:
            file.unlink()

    def end(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextlib.contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[S3Server]:
    """A server with an empty bucket; the environment of this process names it."""
    server = S3Server(folder / "s3.log")
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    try:
        server.make_bucket(bucket)
        yield server
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        server.end()


def _serve(port: int, away: Path) -> None:
    """Run the server. moto ends a multipart upload with CompleteMultipartUploadResponse; S3 and pyarrow use Result."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    moto = DomainDispatcherApplication(create_backend_app)

    def application(environment: Any, start: Any) -> Iterator[bytes]:
        if away.exists():
            start("503 Service Unavailable", [("Content-Length", "0")])
            return iter([b""])
        if away.with_suffix(".old").exists():
            environment.pop("HTTP_IF_NONE_MATCH", None)
        kept: list[Any] = []
        body = b"".join(moto(environment, lambda *answer: kept.append(answer)))
        (status, headers, *_) = kept[0]
        if b"<CompleteMultipartUploadResponse" in body[:200]:
            body = body.replace(b"CompleteMultipartUploadResponse", b"CompleteMultipartUploadResult")
            headers = [pair for pair in headers if pair[0].lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        start(status, headers)
        return iter([body])

    run_simple("127.0.0.1", port, application, threaded=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]))
