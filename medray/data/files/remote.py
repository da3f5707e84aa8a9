"""Files at a URL of S3 or of another protocol.

pyarrow opens S3 and reads the usual AWS_* variables; fsspec opens the other protocols. No message quotes the error text of a library, because it may contain a signed URL.
"""

from __future__ import annotations

import io
import re
from typing import Any, NamedTuple, NoReturn

from medray.data.files import http
from medray.errors import InputError
from medray.storage import s3_filesystem, summary

FIX = "check the name, the network and the credentials in the environment"


def shown(path: str) -> str:
    """Return a path in a form that is safe to print: user, password, parameters and query of a URL are removed."""
    if "://" not in path:
        return path
    path = re.sub(r"(?<=://)[^/]*@", "", path)
    web = re.search("https?://", path, re.IGNORECASE)  # in other URLs, # is part of a name
    return re.sub(r"[?;#].*" if web else r"[?;].*", "", path, flags=re.DOTALL)


class Place(NamedTuple):
    """A URL split into its file system, the name in that file system (root), and the part of the URL before it (head)."""

    filesystem: Any
    root: str
    head: str | None

    def url(self, name: str) -> str:
        return str(self.filesystem.unstrip_protocol(name)) if self.head is None else self.head + name

    def etag(self) -> str | None:
        if type(self.filesystem).__name__ != "ArrowFSWrapper":
            return None
        with self.filesystem.fs.open_input_stream(self.root, compression=None) as stream:
            found = stream.metadata().get("ETag")
        return found.decode() if found else None


def place(path: str) -> Place:
    """Split a URL into file system and path. Raises InputError for an unknown protocol or a missing package."""
    protocol = path.split("://", 1)[0].split("::")[-1]
    if protocol in ("s3", "s3a") and "::" not in path:
        root = path.split("://", 1)[1].rstrip("/")
        if "@" in root.split("/", 1)[0]:
            raise InputError(
                "credentials must not be part of a URL",
                file=shown(path),
                fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        from fsspec.implementations.arrow import ArrowFSWrapper

        system = ArrowFSWrapper(s3_filesystem(root.split("/", 1)[0]), skip_instance_cache=True)
        return Place(system, root, f"{protocol}://")
    import fsspec.core

    try:
        filesystem, root = fsspec.core.url_to_fs(path, **_time_outs(path))
    except ImportError as error:
        package = error.name or next(iter(re.findall(r"[Ii]nstall (\w+)", str(error))), None)
        raise InputError(
            f"{protocol}:// needs the package {package or f'of fsspec for {protocol}'}, which is not installed",
            file=shown(path),
            fix=f"run pip install {package or f'fsspec[{protocol}]'}",
        ) from None
    except ValueError:
        raise InputError(
            f"{protocol}:// is not a protocol that fsspec knows",
            file=shown(path),
            fix="use s3://, https://, gs://, or a local path",
        ) from None
    return Place(filesystem, root, path[: len(path) - len(root)] if path.endswith(root) else None)


def _time_outs(path: str) -> dict[str, Any]:
    """Return options for shorter time-outs: by default, fsspec waits five minutes for a silent server."""
    if not http.is_http(path):
        return {}
    import aiohttp

    wait = aiohttp.ClientTimeout(total=None, connect=http.WAIT_SECONDS, sock_read=http.WAIT_SECONDS)
    return {"client_kwargs": {"timeout": wait}}


class RemoteStream(io.RawIOBase):
    """A raw stream over a file of fsspec, so that Python's own buffered reader can find the lines."""

    def __init__(self, stream: Any, path: str) -> None:
        self._stream, self._path = stream, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except Exception as error:
            unreadable(error, self._path)
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def unreadable(error: Exception, path: str) -> NoReturn:
    fix = FIX if "://" in path else "check that the file exists and that this user may read it"
    raise InputError(f"this file cannot be read ({summary(error)})", file=shown(path), fix=fix) from None
