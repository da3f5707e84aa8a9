"""The folder of a private cluster: short enough for sockets, for its owner alone, and gone when its driver is."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import medray
from medray.cli import session_folder
from medray.cli.session_folder import INNER, OWNER, SOCKET, SessionFolder
from medray.errors import InputError

KILLED = """
import os
from medray.cli.session_folder import SessionFolder
print(SessionFolder().ray, flush=True)
os._exit(1)
"""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is short enough: pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


def holds_sockets(folder: str) -> bool:
    """Return whether a socket with the longest name that Ray uses fits."""
    path = Path(folder + SOCKET)
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    return path.is_socket()


def test_it_is_private_and_short_and_removed_at_the_end(short: Path) -> None:
    made = SessionFolder()
    (folder,) = short.iterdir()
    assert Path(made.ray) == folder / INNER
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert holds_sockets(made.ray)
    made.remove()
    assert list(short.iterdir()) == []


def test_what_a_killed_driver_left_is_removed_and_nothing_else(short: Path) -> None:
    living = SessionFolder()
    (short / "medray-of-other-tools").mkdir(mode=0o700)
    (short / "medray-readable").mkdir()
    (short / "medray-readable").chmod(0o755)  # whatever the umask of the tests before
    (short / "medray-readable" / OWNER).touch()
    target = short / "target"
    target.mkdir(mode=0o700)
    (target / OWNER).touch()
    (short / "medray-link").symlink_to(target)
    (short / "medray-pipe").mkdir(mode=0o700)
    os.mkfifo(short / "medray-pipe" / OWNER)
    others = set(short.iterdir())
    path = {"PYTHONPATH": str(Path(medray.__file__).parents[1])}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED], env=os.environ | path, stdout=subprocess.PIPE, text=True, check=False
    )
    left = Path(killed.stdout.strip()).parent
    assert left.is_dir()
    made = SessionFolder()
    assert not left.exists()
    assert set(short.iterdir()) == others | {Path(made.ray).parent}
    made.remove()
    living.remove()


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_temporary_folder_is_passed_over(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)  # so that it is read again
    made = SessionFolder()
    assert holds_sockets(made.ray)
    assert list(long.iterdir()) == []
    made.remove()


def test_a_folder_in_which_others_may_replace_ours_is_passed_over(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short / "a").mkdir()
    (short / "a" / "b").mkdir()
    (short / "a").chmod(0o777)
    monkeypatch.setenv("RAY_TMPDIR", str(short / "a" / "b"))
    made = SessionFolder()
    assert not made.ray.startswith(str(short))
    made.remove()
    (short / "a").chmod(0o1777)
    made = SessionFolder()
    assert made.ray.startswith(str(short / "a" / "b"))
    made.remove()


def test_without_any_short_folder_the_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(session_folder, "_bases", lambda: iter([long, Path("/nowhere")]))
    with pytest.raises(InputError, match="path must have at most 25 bytes") as caught:
        SessionFolder()
    assert caught.value.key == "RAY_TMPDIR"
