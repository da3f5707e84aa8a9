"""Two drivers of one run folder: one continues, one is refused. The holders are separate processes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medray.errors import InputError
from medray.train.run_folder import lock

# Takes the lock, does what its second argument says, then prints a line and waits for a line or the end of its input.
HOLDER = """
import os, subprocess, sys
from pathlib import Path
from medray.train.run_folder import lock
with lock.held(Path(sys.argv[1])):
    child = 0
    if sys.argv[2] == "subprocess":
        child = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL).pid
    elif sys.argv[2] == "fork":
        up, down = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            os.close(down[1])
            os.write(up[1], b".")
            os.read(down[0], 1)  # until the holder is gone
            os._exit(0)
        os.read(up[0], 1)
    print("held", child, flush=True)
    sys.stdin.readline()
"""


class Holder:
    def __init__(self, folder: Path, does: str = "nothing") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), does],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        word, child = self.process.stdout.readline().split()
        assert word == "held"
        self.child = int(child)

    def end(self) -> None:
        self.process.communicate("\n", timeout=30)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        for pipe in (
            self.process.stdin,
            self.process.stdout,
        ):  # a child may have the pipes open too, so reading to their end would block
            assert pipe is not None
            pipe.close()


def refused(folder: Path) -> str:
    """Return the error message of a second start; its exit code is 2."""
    with pytest.raises(InputError) as caught, lock.held(folder):
        pass
    assert caught.value.exit_code == 2
    assert caught.value.fix
    return str(caught.value)


def test_the_second_start_is_refused_with_the_holder_until_the_first_ends(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    holder = Holder(folder)
    assert (folder / ".lock").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    message = refused(folder)
    for part in (
        str(folder),
        f"host {os.uname().nodename}",
        f"pid {holder.process.pid}",
        "since 20",
        "run.name",
    ):
        assert part in message
    with lock.held(tmp_path / "runs" / "two"):
        pass
    holder.end()
    with lock.held(folder):
        pass


def test_the_lock_of_a_killed_holder_is_free_although_its_file_remains(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "run")
    holder.kill()
    assert (tmp_path / "run" / ".lock").read_text()
    with lock.held(tmp_path / "run"):
        assert f'"pid": {os.getpid()}' in (tmp_path / "run" / ".lock").read_text()
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("does", ["subprocess", "fork"])
def test_a_child_that_outlives_the_holder_does_not_keep_the_lock(tmp_path: Path, does: str) -> None:
    holder = Holder(tmp_path / "run", does)
    os.kill(holder.child, signal.SIGSTOP)  # else the forked one ends with the holder
    try:
        holder.kill()
        with lock.held(tmp_path / "run"):
            os.kill(holder.child, 0)
    finally:
        os.kill(holder.child, signal.SIGKILL)


def test_a_forked_child_that_leaves_the_block_does_not_release_the_lock(tmp_path: Path) -> None:
    with lock.held(tmp_path / "run"):
        code = (
            "import os, sys; from pathlib import Path; from medray.train.run_folder import lock\n"
            f"folder = Path({str(tmp_path / 'other')!r})\n"
            "with lock.held(folder):\n"
            "    child = os.fork()\n"
            "    if child: os.waitpid(child, 0); assert (folder / '.lock').exists()\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert not (tmp_path / "other").exists()


def test_only_the_holding_thread_may_take_the_lock_again(tmp_path: Path) -> None:
    messages: list[str] = []
    with lock.held(tmp_path / "run"):
        with lock.held(tmp_path / "sub" / ".." / "run"):
            pass
        thread = threading.Thread(target=lambda: messages.append(refused(tmp_path / "run")))
        thread.start()
        thread.join()
        assert messages
        assert (tmp_path / "run" / ".lock").exists()


def test_an_empty_folder_that_the_lock_created_is_removed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wrong"), lock.held(tmp_path / "new"):
        raise InputError("wrong")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    with lock.held(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_the_lock_of_a_moved_folder_does_not_lock_the_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = Holder(folder)
    folder.rename(tmp_path / "aside")
    with lock.held(folder):
        assert (tmp_path / "aside" / ".lock").exists()
    holder.end()


def test_a_lock_file_that_was_removed_while_it_was_opened_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End the first holder between the second's open and flock, and let a third create the file again."""
    folder, real = tmp_path / "run", fcntl.flock
    others: list[Holder] = []

    def flock(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        (folder / ".lock").unlink()
        others.append(Holder(folder))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    message = refused(folder)
    assert f"pid {others[0].process.pid}" in message
    others[0].end()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_reported_once_and_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    said: list[str] = []
    with lock.held(tmp_path / "run", said.append), lock.held(tmp_path / "run", said.append):
        assert (tmp_path / "run").is_dir()
    assert len(said) == 1
    assert "does not support locks" in said[0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x"}'])
def test_a_holder_whose_lock_file_is_unreadable(tmp_path: Path, content: str) -> None:
    holder = Holder(tmp_path / "run")
    (tmp_path / "run" / ".lock").write_text(content)
    assert "in use by another start of this run\n" in refused(tmp_path / "run")
    holder.end()


def test_a_folder_that_cannot_be_created_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(tmp_path / "file" / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "elsewhere")
    assert "cannot be locked" in refused(tmp_path / "run")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_that_accepts_no_folders() -> None:
    with pytest.raises(InputError, match="cannot be created"), lock.held(Path("/proc/nope/r")):
        pass
