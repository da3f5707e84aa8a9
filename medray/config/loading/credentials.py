"""The refusal of credentials in a config: a run writes its config to disk and sends it to MLflow.

The checks find a password before the host of a URL, and a query parameter with the name of a secret. The error names the key
and the fix, and never the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from medray.config.loading.dotted import under, walk
from medray.errors import InputError

# user:password@ before a host, but not host:port/path@. Passwords may contain a slash that was not encoded.
_PASSWORD = re.compile(r"//[^/\s:@?#]*:(?!\d+(?:[/?#]|$))\S*@")
# On the web, a user alone may be a token. A database needs a user: its password is in a separate file or variable.
_WEB_USER = re.compile(r"\bhttps?:/*[^/\s@?#]+@", re.IGNORECASE)
_PARAMETER = re.compile(r"[?&;#]([^=&;#?\s]{1,80})=(?=[^&;#\s])")
# Parameters without a value that are not secret, and the end of a pattern such as s3://bucket/part-?.jsonl.
_PLAIN = frozenset(("", "dl", "download", "inline", "raw"))
_PATTERN_END = re.compile(r"[?*\]]$|\.[a-z]{2,8}(\.(gz|zst|bz2|xz))?$", re.IGNORECASE)
_SECRET_NAME = re.compile(
    r"token(?!iz)|secret|passw|pwd|passphrase|signature|credential|api[-_.]?key|access[-_.]?key|auth(?!or)|jwt|odbc_connect"
    r"|^(sig|key|code|pass|sas)$",
    re.IGNORECASE,
)

_S3 = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or a profile in ~/.aws"
_WAYS = {
    "tracking.uri": "remove the password and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, or "
    "PGPASSFILE for PostgreSQL; or remove tracking.uri and set the whole URL as MLFLOW_TRACKING_URI in the environment",
    "run.storage": f"set run.storage: s3://bucket/prefix, with {_S3}",
    "cluster.address": "remove it from the URL; for a cluster that needs a token, set RAY_AUTH_TOKEN_PATH in the environment",
    "model.": "use a name on the hub and set HF_TOKEN in the environment, or download the model and use its folder",
    "data.": f"use a URL without it, with {_S3} for s3://; download a file that needs a signed URL or a password, and use the "
    "local copy; in a pattern, write * instead of ?",
}
_OTHERWISE = "remove it from the config: credentials belong in environment variables"


def refuse_credentials(
    tree: Any, file: object, overridden: tuple[str, ...] = (), given: object = None
) -> None:
    """Raise InputError if a text in a config contains credentials.

    overridden: dotted keys from the command line. given: the name of the command line in messages, instead of the file.
    """
    for key, text in _texts(tree):
        if what := _found(text):
            from_command_line = any(
                key == one or key.startswith((f"{one}.", f"{one}[")) for one in overridden
            )
            raise InputError(
                f"contains {what}; a run writes its config to disk and sends it to MLflow",
                file=given if from_command_line else file,
                key=_without_credentials(key),
                fix=next((way for start, way in _WAYS.items() if key.startswith(start)), _OTHERWISE),
            )


def has_credentials(text: str) -> bool:
    """Return whether a text contains a URL with a password, or a parameter with the name of a secret."""
    return _found(text) is not None


def is_secret_name(name: str) -> bool:
    """Return whether a variable or parameter has the name of a secret."""
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
    """Return whether a text is a URL with a parameter without a name: https://host/a.jsonl?s3cr3t or /a.jsonl;s3cr3t."""
    if not re.fullmatch(r"[a-z][\w+.-]*(::[^\s?;]*)?://\S*", text, re.IGNORECASE):
        return False
    given = re.sub(r"^[^?;]*[?;]?", "", text.partition("#")[0])
    web = re.search("https?://", text, re.IGNORECASE)
    if not web and _PATTERN_END.search(given):
        return False
    return any("=" not in part and part.lower() not in _PLAIN for part in re.split("[?&;]", given))


def _texts(tree: Any) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, text) for every text and every key."""
    for key, value in walk(tree):
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            yield from ((under(key, name), str(name)) for name in value)


def _without_credentials(key: str) -> str:
    """Return a key that is safe to show: a key of a mapping may itself contain credentials."""
    return "a key" if has_credentials(key) else key[:200]
