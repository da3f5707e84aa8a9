"""The walks of CONTRIBUTING.md: their steps, applied to a copy of the package, give what they promise."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "CONTRIBUTING.md"
_STEP = re.compile(r"`([\w/]+\.py)`:\n\n *```(python|diff)\n(.*?)\n *```", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A code block of the page. kind: `python`, a whole new file; `diff`, changes of a file that exists."""

    file: str
    kind: str
    text: str


def steps(title: str) -> list[Step]:
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [Step(file, kind, textwrap.dedent(text)) for file, kind, text in _STEP.findall(section)]


def apply(step: Step, folder: Path) -> None:
    file = folder / step.file
    if step.kind == "python":
        assert not file.exists(), step.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(step.text + "\n", encoding="utf-8")
        return
    text = file.read_text(encoding="utf-8")
    for hunk in re.split(r"^@@.*\n", step.text, flags=re.MULTILINE):
        old, new = (
            "\n".join(line[1:] for line in hunk.splitlines() if line[:1] in kept) for kept in (" -", " +")
        )
        assert text.count(f"{old}\n") == 1, f"{step.file} has changed: correct the walk\n{hunk}"
        text = text.replace(f"{old}\n", f"{new}\n")
    file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("title", ["Add a reader", "Add a method"])
def test_a_walk_leads_to_passing_tests(title: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "medray", tmp_path / "medray", ignore=shutil.ignore_patterns("__pycache__"))
    walk = steps(title)
    for step in walk:
        apply(step, tmp_path)
    tests = [step.file for step in walk if step.file.startswith("tests/")]
    assert tests
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:kmock", *tests],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(tests)} passed" in done.stdout
