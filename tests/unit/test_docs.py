"""Tests of the pages: what they link to and name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name / "README.md" for name in ("configs", "tests")),
)
ROOMS = "|".join(sorted(path.name for path in (ROOT / "medray").iterdir() if path.is_dir()))
# A path of the repository, or below medray/ for a room, in backticks.
NAMED = re.compile(
    rf"`((?:medray|tests|scripts|configs|docs|slurm|k8s|benchmarks|requirements|{ROOMS})/[\w./-]*)`"
)
# Files that the walks of CONTRIBUTING.md make; tests/unit/test_walks.py follows them.
MADE = re.compile(r"medline|row_mean")


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in headings(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    for name in NAMED.findall(page.read_text(encoding="utf-8")):
        if not MADE.search(name):
            assert (ROOT / name).exists() or (ROOT / "medray" / name).exists(), name


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name
