"""The site file: settings of a cluster that apply to all its users, in addition to the configs of single runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from medray.errors import InputError

SECTIONS = ("launch", "cluster")


def default_file() -> Path | None:
    """Return the site file of the user, else of the machine, or None."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for file in (home / "medray" / "site.yaml", Path("/etc/medray/site.yaml")):
        if file.is_file():
            return file
    return None


def check_sections(site: dict[str, Any], file: Path) -> None:
    """Raise InputError for a section that belongs to a single run."""
    for name in site:
        if name not in SECTIONS:
            raise InputError(
                f"a site file may only have the sections {' and '.join(SECTIONS)}",
                file=file,
                key=str(name)[:80],
                fix="move it to the config of the run",
            )
