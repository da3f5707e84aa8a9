"""Whoever is told that the input is wrong is told what would work: every InputError of config, data and readers says so."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import medray

ROOT = Path(medray.__file__).parent
FILES = [file for room in ("config", "data") for file in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_an_input_error_names_a_place_and_a_fix(file: Path) -> None:
    lacking = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
            given = {keyword.arg for keyword in node.keywords}
            if "fix" not in given or not given & {"file", "key"}:
                lacking.append(node.lineno)
    assert lacking == []
