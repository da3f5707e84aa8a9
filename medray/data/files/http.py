"""Reading of files at http:// and https:// URLs, with time-outs, even if the server does not say how large a file is.

A request for the first bytes shows whether the file exists, how large it is, whether the server supports ranges, and
whether it sent a web page. Without ranges, the file is first copied to a private local file. No message quotes what a
server sent.
"""

from __future__ import annotations

import base64
import functools
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from medray import storage
from medray.errors import InputError

WAIT_SECONDS = 30.0  # time-out for a connection, and for the next bytes
HEAD_SECONDS = 60.0  # time-out for all first bytes together: a server may send them one by one
MOST_COPIED = 64 << 30  # largest file that is copied, in bytes
_HEAD_BYTES = 1024
_CHUNK = 1 << 20
_PAGE = re.compile(rb"\s*(<!doctype\s+html|<html)", re.IGNORECASE)


class Answer(NamedTuple):
    """The answer of a server about a file.

    size: bytes, or None if the server does not say. ranges: whether parts of the file can be requested. page: whether
    the server sent a web page instead of a file. etag, changed: the headers ETag and Last-Modified, or "".
    """

    size: int | None
    ranges: bool
    etag: str
    changed: str
    page: bool


def is_http(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def ask(path: str) -> Answer:
    """Ask the server about a file.

    Raises InputError if the file is missing, the server does not answer, or its redirect is not allowed.
    """
    began = time.monotonic()
    with _opened(path, {"Range": f"bytes=0-{_HEAD_BYTES - 1}"}) as response:
        head = b""
        while len(head) < _HEAD_BYTES and (more := response.read1(_HEAD_BYTES - len(head))):
            head += more
            if time.monotonic() - began > HEAD_SECONDS:
                raise _silent(path, HEAD_SECONDS)
        headers = response.headers
        given = headers.get("Content-Range", "")
        if response.status == 206 and not re.match(r"bytes 0-\d+/", given):
            raise _other_part(path)
        total = re.fullmatch(r"bytes 0-\d+/(\d+)", given)
        length = headers.get("Content-Length", "")
        size = (
            int(total[1]) if total else int(length) if response.status == 200 and length.isdigit() else None
        )
    return Answer(
        size,
        response.status == 206 and total is not None,
        headers.get("ETag", ""),
        headers.get("Last-Modified", ""),
        bool(_PAGE.match(head)),
    )


def local_copy(path: str, answer: Answer) -> Path:
    """Download a file and return the path of the private copy. Each process downloads a file once.

    Raises InputError if the file is longer than MOST_COPIED.
    """
    return _copied(path, answer.etag or answer.changed)


@functools.lru_cache(maxsize=64)
def _copied(path: str, version: str) -> Path:
    target, copied = storage.temporary_folder() / "file", 0
    with _opened(path, {}) as response, target.open("wb") as stream:
        if response.status == 206:
            raise _other_part(path)
        length = response.headers.get("Content-Length", "")
        while data := response.read1(_CHUNK):
            copied += len(data)
            if copied > MOST_COPIED:
                raise _wrong(
                    path,
                    f"the file at this URL is longer than {MOST_COPIED >> 20:,} MB, the limit for a server without ranges",
                    "copy it to a disk, and use the path of the copy",
                )
            stream.write(data)
    if length.isdigit() and copied != int(length):
        raise _wrong(path, f"the download ended after {copied:,} of {int(length):,} bytes", "try again")
    return target


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects to http and https only, and never from https to http, where others could read the request."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        there = urllib.parse.urlsplit(newurl).scheme
        if there not in ("http", "https") or (req.type == "https" and there != "https"):
            if fp is not None:
                fp.close()
            raise _wrong(
                req.full_url,
                f"this URL redirects from {req.type} to {there or 'nowhere'}",
                "use the URL that it redirects to",
            )
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if (
            made is not None
            and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(req.full_url).netloc
        ):
            made.remove_header("Authorization")
        return made


@contextmanager
def _opened(path: str, headers: dict[str, str]) -> Iterator[Any]:
    parts = urllib.parse.urlsplit(path)
    user, at, host = parts.netloc.rpartition("@")
    if at:
        name = urllib.parse.unquote(user)
        headers = headers | {"Authorization": f"Basic {base64.b64encode(name.encode()).decode()}"}
    url = parts._replace(
        netloc=host, fragment="", path=urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~")
    )
    try:
        request = urllib.request.Request(url.geturl(), headers=headers | {"Accept-Encoding": "identity"})
        with urllib.request.build_opener(_Redirects).open(request, timeout=WAIT_SECONDS) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()
        what = "the server has no such file" if error.code in (404, 410) else "the server refused the request"
        what = "the redirect of this URL cannot be followed" if 300 <= error.code < 400 else what
        raise _wrong(
            path, f"{what} (HTTP {error.code})", "check the URL, and whether it can be read without login"
        ) from None
    except TimeoutError:
        raise _silent(path, WAIT_SECONDS) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _silent(path, WAIT_SECONDS) from None
        reason = storage.summary(error.reason) if isinstance(error.reason, Exception) else "no connection"
        raise _wrong(path, f"this URL cannot be read ({reason})", "check the URL and the network") from None
    except (OSError, ValueError, EOFError) as error:
        raise _wrong(
            path, f"this URL cannot be read ({storage.summary(error)})", "check the URL and the network"
        ) from None


def _other_part(path: str) -> InputError:
    return _wrong(
        path,
        "the server sent another part of the file than was requested",
        "copy the file to a disk and use the copy",
    )


def _silent(path: str, seconds: float) -> InputError:
    return _wrong(
        path,
        f"the server sent nothing for {seconds:g} s",
        "check the server, or copy the file to a disk and use the copy",
    )


def _wrong(path: str, what: str, fix: str) -> InputError:
    from medray.data.files.remote import shown

    return InputError(what, file=shown(path), fix=fix)
