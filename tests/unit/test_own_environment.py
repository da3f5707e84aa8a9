"""The tests themselves: what one folder sets in the environment ends there, and xdist is a choice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from own_environment import seen_in

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_a_folders_environment_is_seen_by_its_own_tests_alone(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDRAY_OWN", "1")
    monkeypatch.setenv("MEDRAY_USERS", "the user's")
    values = {"MEDRAY_OWN": "1", "MEDRAY_USERS": "ours"}
    with seen_in(HERE, values, request.node):
        assert {name: os.environ[name] for name in values} == values
    with seen_in(HERE.parent / "ray", values, request.node):
        assert "MEDRAY_OWN" not in os.environ
        assert os.environ["MEDRAY_USERS"] == "the user's"
    assert (os.environ["MEDRAY_OWN"], os.environ["MEDRAY_USERS"]) == ("1", "the user's")


RUN = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
PROBE = """
import os

def test_it():
    seen = sorted(name for name in os.environ if name.startswith("RAY_AUTH") or name == "OMP_NUM_THREADS")
    assert seen == {wanted!r}
"""


def test_folders_keep_their_environment_to_themselves_and_run_without_xdist(tmp_path: Path) -> None:
    """The conftest files of the three folders, with a test in each, in one process."""
    folders = {
        "ray": ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN"],
        "system": [],
        "unit": ["OMP_NUM_THREADS"],
    }
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "ray/conftest.py", "unit/conftest.py"):
        (tmp_path / "tests" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "tests" / name).write_text((ROOT / "tests" / name).read_text())
    for folder, wanted in folders.items():
        file = tmp_path / "tests" / folder / "test_probe.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(PROBE.format(wanted=wanted))
    hidden = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "OMP_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-c", RUN, "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in hidden}
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "3 passed" in done.stdout
