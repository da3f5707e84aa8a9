from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from medray.errors import RunFailedError

if TYPE_CHECKING:
    from medray.config import Config


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this place alone."""


def run(arguments: argparse.Namespace, config: Config) -> int:
    raise RunFailedError("medray launch k8s is being built")
