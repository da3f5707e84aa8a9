"""Credentials in a config: refused wherever they stand, since a run writes its config down and sends it to MLflow.

Looked for are a password in front of the host of a URL, and a parameter of its query that is named like a secret. The
refusal tells the key and the way out, and never the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from medray.config.dotted import under, walk
from medray.errors import InputError

# user:password@ in front of a host; host:port/path@ is none. Passwords may hold a slash that was not encoded.
_PASSWORD = re.compile(r"//[^/\s:@?#]*:(?!\d+(?:[/?#]|$))\S*@")
# A user alone may be a token on the web. A database wants one: its password has a file or a variable of its own.
_WEB_USER = re.compile(r"\bhttps?:/*[^/\s@?#]+@", re.IGNORECASE)
_PARAMETER = re.compile(r"[?&;#]([^=&;#?\s]{1,80})=(?=[^&;#\s])")
# Parameters without a value that are no secret; and what ends a pattern, as s3://bucket/part-?.jsonl.
_PLAIN = frozenset(("", "dl", "download", "inline", "raw"))
_PATTERN_END = re.compile(r"[?*\]]$|\.[a-z]{2,8}(\.(gz|zst|bz2|xz))?$", re.IGNORECASE)
_SECRET_NAME = re.compile(
    r"token(?!iz)|secret|passw|pwd|passphrase|signature|credential|api[-_.]?key|access[-_.]?key|auth(?!or)|jwt|odbc_connect"
    r"|^(sig|key|code|pass|sas)$",
    re.IGNORECASE,
)

_S3 = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or a profile in ~/.aws"
_WAYS = {
    "tracking.uri": "leave the password out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, or "
    "PGPASSFILE for PostgreSQL; or leave tracking.uri out and set the whole URL as MLFLOW_TRACKING_URI in the environment",
    "run.storage": f"run.storage: s3://bucket/prefix, with {_S3}",
    "cluster.address": "leave it out of the URL; a cluster that asks for a token reads RAY_AUTH_TOKEN_PATH from the environment",
    "model.": "a name on the hub with HF_TOKEN in the environment, or download the model first and name its folder",
    "data.": f"a URL without it, with {_S3} for s3://; download a file that needs a signed URL or a password first, and "
    "name the local copy; in a pattern write * in place of ?",
}
_OTHERWISE = "leave it out of the config: credentials belong in environment variables"


def refuse_credentials(
    tree: Any, file: object, overridden: tuple[str, ...] = (), given: object = None
) -> None:
    """Raises InputError where a text in a tree of a config holds credentials.

    overridden: dotted keys that the command line gave; given: what names it in place of the file.
    """
    for key, text in _texts(tree):
        if what := _found(text):
            from_command_line = any(
                key == one or key.startswith((f"{one}.", f"{one}[")) for one in overridden
            )
            raise InputError(
                f"holds {what}; a run writes its config down, and sends it to MLflow",
                file=given if from_command_line else file,
                key=_without_credentials(key),
                fix=next((way for start, way in _WAYS.items() if key.startswith(start)), _OTHERWISE),
            )


def has_credentials(text: str) -> bool:
    """Whether a text holds a URL with a password, or a parameter named like a secret."""
    return _found(text) is not None


def is_secret_name(name: str) -> bool:
    """Whether a variable or a parameter is named like a secret."""
    return bool(_SECRET_NAME.search(name))


def _found(text: str) -> str | None:
    plain = unquote(text)
    if any(_PASSWORD.search(each) or _WEB_USER.search(each) for each in (text, plain)):
        return "a user or a password in a URL"
    for each in (text, plain):
        for match in _PARAMETER.finditer(each):
            if _SECRET_NAME.search(match[1]):
                return "a token, a key or a signature in the query of a URL"
    if _bare_parameter(text):
        return "a parameter without a name in a URL, which may be a token"
    return None


def _bare_parameter(text: str) -> bool:
    """Whether a text is a URL with a parameter that has no name: https://host/a.jsonl?s3cr3t or /a.jsonl;s3cr3t."""
    if not re.fullmatch(r"[a-z][\w+.-]*(::[^\s?;]*)?://\S*", text, re.IGNORECASE):
        return False
    given = re.sub(r"^[^?;]*[?;]?", "", text.partition("#")[0])
    web = re.search("https?://", text, re.IGNORECASE)
    if not web and _PATTERN_END.search(given):
        return False
    return any("=" not in part and part.lower() not in _PLAIN for part in re.split("[?&;]", given))


def _texts(tree: Any) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, text) of every text, keys of mappings too."""
    for key, value in walk(tree):
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            yield from ((under(key, name), str(name)) for name in value)


def _without_credentials(key: str) -> str:
    """A key of a mapping may be the text that holds them."""
    return "a key" if has_credentials(key) else key[:200]
