"""Which variables of the environment a launched run gets: those that `launch.env` allows, and secrets apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medray.config.credentials import has_credentials, is_secret_name

PYTHONS = ((3, 11), (3, 12))  # requires-python of pyproject.toml
_KEY = re.compile(r"key$", re.IGNORECASE)
_USER = re.compile(r"[^\s@]@[^\s@]")  # of a proxy without a scheme too: user:password@proxy:3128


@dataclass(frozen=True)
class Environment:
    """plain: may stand in a manifest or on a job server. secret: may not, its values go by no file and no command line."""

    plain: dict[str, str]
    secret: dict[str, str]


def allowed(names: Iterable[str], environ: Mapping[str, str]) -> Environment:
    """The variables of `environ` that `names` allows; a name that ends with * allows all that begin so."""
    exact = {name for name in names if not name.endswith("*")}
    starts = tuple(name[:-1] for name in names if name.endswith("*"))
    found = {
        name: value
        for name, value in environ.items()
        if name in exact or (starts and name.startswith(starts))
    }
    secret = {name: value for name, value in found.items() if is_secret(name, value)}
    return Environment({name: value for name, value in found.items() if name not in secret}, secret)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable may hold a password or a token: by its name, or as its value has a user or a signature in it."""
    return is_secret_name(name) or bool(_KEY.search(name) or _USER.search(value)) or has_credentials(value)
