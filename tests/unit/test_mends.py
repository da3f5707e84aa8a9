"""Whoever is told that the input is wrong is told what would work: every InputError of config, data and readers says so."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import medray

ROOT = Path(medray.__file__).parent
ELSEWHERE = {ROOT / "data" / "splits.py"}  # arithmetic, which knows of no file and no key
FILES = [
    file
    for pattern in ("config/*.py", "data/*.py", "data/readers/*.py", "data/corpora/*.py")
    for file in sorted(ROOT.glob(pattern))
    if file not in ELSEWHERE
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_an_input_error_names_a_place_and_a_mend(file: Path) -> None:
    lacking = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
            given = {keyword.arg for keyword in node.keywords}
            if "mend" not in given or not given & {"file", "key"}:
                lacking.append(node.lineno)
    assert lacking == []
