"""The bearer token of a server. Only its digest is sent to other processes."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from medray.errors import InputError

VARIABLE = "MEDRAY_SERVE_TOKEN"
SHORTEST, LONGEST = 16, 1024  # characters
_MAKE = "make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`"


def digest(token: str) -> str:
    """Return the digest of a token, which is compared instead of the token."""
    return hashlib.sha256(b"medray serve " + token.encode("utf-8", "surrogateescape")).hexdigest()


def allowed(header: str | None, wanted: str) -> bool:
    """Return whether an Authorization header has the token of this digest. Takes the same time for any token."""
    kind, _, token = (header or "").partition(" ")
    return hmac.compare_digest(digest(token.strip()), wanted) and kind.lower() == "bearer"


def is_loopback(host: str) -> bool:
    """Return whether only processes of this machine reach a server that listens at `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def wanted_digest(
    host: str, *, variable: str | None, file: Path | None, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Return the digest of the token that requests must send; None if there is none, on a loopback address only.

    variable: environment variable that the user named; None: VARIABLE, if it is set. file: read instead. Raises
    InputError without a token on other addresses, and for a token that is short or that other users can read.
    """
    if variable is not None and file is not None:
        raise InputError(
            "an environment variable and a file exclude each other",
            key="--token-file",
            fix="use one of --token-env and --token-file",
        )
    if file is not None:
        token: str | None = _of_file(file)
        place = "--token-file"
    else:
        name = variable or VARIABLE
        token, place = environment.get(name), f"${name}"
        if token is None and variable is not None:
            raise InputError(
                "this environment variable is not set",
                key="--token-env",
                value=variable,
                fix=f"set it; {_MAKE}",
            )
    if token is None:
        if is_loopback(host):
            return None
        raise InputError(
            "other machines can reach this address, so requests must send a token",
            key="--host",
            value=host,
            fix=f"set {VARIABLE}, or use --token-file; {_MAKE}. Without a token use --host 127.0.0.1",
        )
    if not SHORTEST <= len(token) <= LONGEST or any(not "!" <= each <= "~" for each in token):
        raise InputError(
            f"the token must have {SHORTEST} to {LONGEST} characters, letters, digits and signs without spaces",
            key=place,
            fix=_MAKE,
        )
    return digest(token)


def _of_file(file: Path) -> str:
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            raise InputError(
                "other users can read or change this file, or it is not a regular file",
                file=file,
                key="--token-file",
                fix=f"run `chmod 600 {file}`",
            )
        with file.open("rb") as stream:
            return stream.read(LONGEST + 2).decode("ascii", "replace").strip()
    except OSError as error:
        raise InputError(
            f"cannot read this file ({error.strerror})",
            file=file,
            key="--token-file",
            fix="name a private file",
        ) from None
