"""Tests of the pages: the files, links, commands and keys that they name exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from medray.cli.main import parser
from medray.config.annotate import AnnotateConfig
from medray.config.explain import keys
from medray.config.judge import JudgeConfig
from medray.config.reference import facts_of
from medray.config.section import Section

# Files with keys of their own, by verb, or by verb and action.
OWN_FILES: dict[str, type[Section]] = {"judge": JudgeConfig, "data annotate": AnnotateConfig}
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


def commands(page: Path) -> list[list[str]]:
    """Return the words of every medray command in the code blocks of a page; patterns such as `a|b` are left out."""
    found, fenced = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced ^= line.lstrip().startswith("```")
        shown = re.match(r"( *)(?:\$ )?(?:\.venv/bin/)?(medray .*)", line)
        if shown and (fenced or len(shown[1]) >= 4):
            each = re.sub(r"\s+# .*", "", shown[2]).split(";")
            found += [shlex.split(one) for one in each if not re.search(r"[|\[…]|\.\.\.|\$\w", one)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_keys_exist(page: Path) -> None:
    for words in commands(page):
        assert words[0] == "medray", words
        own = words[1 : words.index("--")] if "--" in words else words[1:]
        arguments, rest = parser().parse_known_args(own)  # raises SystemExit for an unknown verb
        if arguments.verb == "synth":  # its config has keys of its own
            continue
        for override in [*getattr(arguments, "overrides", ()), *rest]:
            action = getattr(arguments, "action", None)
            own_file = OWN_FILES.get(arguments.verb) or OWN_FILES.get(f"{arguments.verb} {action}")
            if own_file is not None:
                assert override.partition("=")[0] in set(keys(own_file)), override
                continue
            facts_of(override.partition("=")[0])  # raises InputError for an unknown key or option


def test_the_pages_show_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 30
    assert ["medray", "export", "runs/my_run", "--format", "merged"] in commands(ROOT / "README.md")
