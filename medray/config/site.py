"""The site file: what a cluster wants of everybody who launches there, beside the configs of single runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from medray.errors import InputError

SECTIONS = ("launch", "cluster")


def default_file() -> Path | None:
    """The site file of the user, else of the machine, where there is one."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for file in (home / "medray" / "site.yaml", Path("/etc/medray/site.yaml")):
        if file.is_file():
            return file
    return None


def check_sections(site: dict[str, Any], file: Path) -> None:
    """Raises InputError for a section that is of a single run."""
    for name in site:
        if name not in SECTIONS:
            raise InputError(
                f"a site file has the sections {' and '.join(SECTIONS)} only",
                file=file,
                key=str(name)[:80],
                fix="put it into the config of the run",
            )
