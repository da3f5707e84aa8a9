"""Files over http from a server that misbehaves: no length, no ranges, silence, redirects, error pages."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar

import pytest

from medray.data.files import content_hash, expand, http, open_binary, size, stamp
from medray.data.readers import ranges, read
from medray.errors import InputError

ROWS = b'{"input": "a", "label": "b"}\n' * 200
PAGE = b"<!DOCTYPE html><html><body>Please log in: SECRET</body></html>"


class Misbehaving(BaseHTTPRequestHandler):
    """A server that answers in the way that the first part of the path names."""

    release = Event()
    asked: ClassVar[list[str]] = []
    sent = 0

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        type(self).asked.append(f"{self.command} {kind}")
        if kind == "silent":
            self.release.wait(20)
            return
        if kind in ("ftp", "file", "moved", "round"):
            self.send_response(302)
            target = {"ftp": "ftp://host/a.jsonl", "file": "file:///etc/passwd", "moved": "/ranges/a.jsonl"}
            self.send_header("Location", target.get(kind, self.path))
            self.end_headers()
            return
        if kind == "denied":
            self.send_error(403, "SECRET")
            return
        if kind == "gone":
            self.send_error(404)
            return
        body = PAGE if kind in ("page", "folder") else b"" if kind == "empty" else ROWS
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if kind == "ranges" and asked:
            begin, end = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(body)}")
            body = body[begin : end + 1]
        elif kind in ("elsewhere", "unsaid"):
            self.send_response(206)
            if kind == "elsewhere":
                self.send_header("Content-Range", f"bytes 50-60/{len(body)}")
            body = body[50:61]
        else:
            self.send_response(200)
        if kind not in ("nolength", "endless", "drip"):
            self.send_header("Content-Length", str(len(body) + (10 if kind == "short" else 0)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for number in range(200 if kind == "drip" else 0):
                self.wfile.write(body[number : number + 1])
                if self.release.wait(0.02):
                    return
            self.wfile.write(body)
            while kind == "endless":
                type(self).sent += self.wfile.write(b"x" * 100_000)
        except OSError:
            pass

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    made.daemon_threads = True
    Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    Misbehaving.release.set()
    made.shutdown()
    made.server_close()


def refusal(url: str, ask: Any = None) -> str:
    with pytest.raises(InputError) as caught:
        (ask or (lambda path: expand(path, key="data.train")))(url)
    assert "SECRET" not in str(caught.value)
    assert caught.value.fix
    return str(caught.value)


@pytest.mark.parametrize("kind", ["ranges", "norange", "nolength", "moved"])
def test_a_file_is_read_whatever_the_server_says_about_it(kind: str, server: str) -> None:
    url = f"{server}/{kind}/a.jsonl?sig=SECRET"
    Misbehaving.asked.clear()
    assert expand(url, key="x") == (url,)
    assert set(Misbehaving.asked) <= {f"GET {kind}", "GET ranges"}, "no isdir"
    assert size(url) == len(ROWS)
    assert [each.row for each in read(url, "jsonl")] == [{"input": "a", "label": "b"}] * 200
    parts = [each.position for part in ranges(url, "jsonl", 2000) for each in read(url, "jsonl", *part)]
    assert parts == [29 * number for number in range(200)]
    assert content_hash(url) == content_hash(f"{server}/ranges/a.jsonl")
    assert stamp(url) != stamp(url), "without etag and time, nothing may be cached"


def test_a_copy_is_private(server: str) -> None:
    copy = http.local_copy(f"{server}/nolength/b.jsonl", http.ask(f"{server}/nolength/b.jsonl"))
    assert copy.read_bytes() == ROWS
    assert Path(copy).parent.stat().st_mode & 0o077 == 0


def test_a_silent_or_slow_server_times_out(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (http.WAIT_SECONDS, http.HEAD_SECONDS, http.MOST_COPIED) == (30.0, 60.0, 64 << 30)
    monkeypatch.setattr(http, "WAIT_SECONDS", 0.2)
    for ask in (None, size, stamp, open_binary):
        assert "the server sent nothing for 0.2 s" in refusal(f"{server}/silent/a.jsonl", ask)
    monkeypatch.setattr(http, "WAIT_SECONDS", 5.0)
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.1)
    assert "the server sent nothing for 0.1 s" in refusal(f"{server}/drip/a.jsonl")


def test_an_endless_file_is_bounded(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_COPIED", 3 << 20)
    assert expand(f"{server}/endless/a.jsonl", key="x")
    assert "is longer than 3 MB" in refusal(f"{server}/endless/a.jsonl", open_binary)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("page", "the server sent a web page instead of a data file"),
        ("denied", "the server refused the request (HTTP 403)"),
        ("gone", "the server has no such file (HTTP 404)"),
        ("empty", "the file is empty"),
        ("ftp", "redirects from http to ftp"),
        ("file", "the redirect of this URL cannot be followed (HTTP 302)"),
        ("round", "the redirect of this URL cannot be followed (HTTP 302)"),
    ],
)
def test_an_answer_that_is_not_a_file_is_refused(kind: str, says: str, server: str) -> None:
    assert says in refusal(f"{server}/{kind}/a.jsonl?sig=SECRET")


@pytest.mark.parametrize("kind", ["elsewhere", "unsaid"])
@pytest.mark.parametrize("ask", [None, size, stamp, open_binary])
def test_a_part_that_was_not_asked_for_is_refused(kind: str, ask: Any, server: str) -> None:
    assert "another part of the file" in refusal(f"{server}/{kind}/a.jsonl", ask)


def test_a_copy_is_never_partial(server: str) -> None:
    answer = http.Answer(None, False, "", "", False)
    assert "another part of the file" in refusal(
        f"{server}/elsewhere/a.jsonl", lambda path: http.local_copy(path, answer)
    )


def test_a_file_that_ends_too_early(server: str) -> None:
    assert (
        "cannot be read" in (said := refusal(f"{server}/short/a.jsonl", open_binary)) or "ended after" in said
    )


def test_https_never_leads_to_http() -> None:
    handler = http._Redirects()
    request = urllib.request.Request("https://host/a", headers={"Authorization": "SECRET"})
    with pytest.raises(InputError, match="from https to http"):
        handler.redirect_request(request, None, 302, "", {}, "http://host/a")
    elsewhere = handler.redirect_request(request, None, 302, "", {}, "https://other/a")
    assert not elsewhere.has_header("Authorization")
