"""Storage of runs: the same calls on a folder and on a bucket of a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server, s3_server

from medray import storage
from medray.errors import InputError
from medray.storage import S3Path, StoragePath, bucket


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3"), "bucket") as started:
        yield started


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, server: S3Server, tmp_path: Path) -> StoragePath:
    return tmp_path / "runs" if request.param == "folder" else storage.at(f"s3://bucket/{tmp_path.name}")


def names(folder: StoragePath) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_url_is_of_a_bucket_and_anything_else_a_path() -> None:
    assert storage.at("s3://bucket/a/b/") == S3Path("bucket/a/b")
    assert str(storage.at("s3://bucket/a") / "b.json") == "s3://bucket/a/b.json"
    assert storage.at("runs") == Path("runs")
    with pytest.raises(TypeError):
        os.fspath(storage.at("s3://bucket"))  # type: ignore[arg-type]


def test_what_is_written_is_read_and_found(place: StoragePath) -> None:
    storage.make_private(place)
    assert storage.sizes(place / "none") == {}
    assert not (place / "a.json").exists()
    with pytest.raises(FileNotFoundError):
        (place / "a.json").read_text()
    storage.write(place / "a.json", "æ")
    storage.write(place / "a.json", "new", durable=True)
    assert (place / "a.json").read_text() == "new"
    assert (place / "a.json").is_file()
    assert not (place / "a.json").is_dir()
    assert storage.sizes(place) == {"a.json": 3}
    storage.append(place / "lines", "1\n")
    storage.append(place / "lines", "2\n")
    assert (place / "lines").read_text() == "1\n2\n"
    assert names(place) == ["a.json", "lines"]
    (place / "lines").unlink()
    (place / "lines").unlink(missing_ok=True)
    assert names(place) == ["a.json"]


def test_folders_are_moved_listed_and_removed(place: StoragePath) -> None:
    for name in ("step-1", "step-2", "other"):
        (place / "run" / name).mkdir(parents=True, exist_ok=True)
        storage.write(place / "run" / name / "m.json", name)
    assert sorted(path.name for path in (place / "run").glob("step-*")) == ["step-1", "step-2"]
    storage.move(place / "run", place / "old")
    assert not (place / "run").exists()
    assert (place / "old" / "step-2" / "m.json").read_text() == "step-2"
    storage.move(place / "old" / "other" / "m.json", place / "old" / "other" / "n.json")
    assert storage.sizes(place / "old" / "other") == {"n.json": 5}
    storage.remove_tree(place / "old" / "step-1")
    storage.remove_tree(place / "old" / "step-1")
    assert names(place / "old") == ["other", "step-2"]


class Watched:
    """A file system that tells of each copy that it makes."""

    def __init__(self, real: Any, copied: Callable[[str], None]) -> None:
        self._real, self._copied = real, copied

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def copy_file(self, source: str, target: str) -> None:
        self._real.copy_file(source, target)
        self._copied(source)


def watch_copies(monkeypatch: pytest.MonkeyPatch, copied: Callable[[str], None]) -> None:
    real = storage.s3_filesystem
    monkeypatch.setattr(bucket, "s3_filesystem", lambda bucket: Watched(real(bucket), copied))


def test_what_another_writes_while_a_folder_is_moved_stays(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = S3Path(f"bucket/{tmp_path.name}")
    storage.write(place / "run" / "config.yaml", "x")
    late = place / "run" / "checkpoints" / "manifest.json"
    watch_copies(monkeypatch, lambda source: storage.write(late, "late"))
    storage.move(place / "run", place / "old")
    assert late.read_text() == "late"
    assert names(place / "run") == ["checkpoints"]
    assert names(place / "old") == ["config.yaml"]


def test_an_object_too_large_for_the_servers_copy_is_moved_as_a_stream(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "LARGEST_COPY", 1000)
    place, copies = S3Path(f"bucket/{tmp_path.name}"), list[str]()
    large = bytes(range(256)) * 80_000  # more than one part of an upload
    for name, data in (("small", b"x" * 1000), ("large", large)):
        storage.write(place / "run" / name, data)
    watch_copies(monkeypatch, copies.append)
    storage.move(place / "run", place / "old")
    assert copies == [(place / "run" / "small").key]
    assert (place / "old" / "large").read_bytes() == large
    assert not (place / "run").exists()


def test_a_tree_goes_there_and_comes_back(place: StoragePath, tmp_path: Path) -> None:
    source = tmp_path / "made"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "x.bin").write_bytes(b"\0" * 20_000_000)  # more than one part of an upload
    (source / "y.txt").write_text("y")
    (place / "export").mkdir(parents=True, exist_ok=True)
    storage.write(place / "export" / "of-before.txt", "")
    storage.put_tree(source, place / "export")
    assert not source.exists()
    found = storage.local(place / "export")
    assert sorted(path.name for path in found.rglob("*")) == ["deep", "x.bin", "y.txt"]
    assert (found / "deep" / "x.bin").stat().st_size == 20_000_000
    assert storage.local(place / "export") == found  # fetched once


def test_an_answer_that_does_not_come_is_not_absence(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run must not begin anew because a server was away."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    run = storage.at("s3://bucket/run")
    asks: list[Callable[[], object]] = [
        run.exists,
        lambda: list(run.iterdir()),
        lambda: storage.sizes(run),
        run.read_bytes,
        lambda: storage.write(run, "x"),
    ]
    for ask in asks:
        with pytest.raises(OSError, match="NETWORK_CONNECTION") as caught:
            ask()
        assert not isinstance(caught.value, FileNotFoundError)
    with pytest.raises(InputError, match=r"run\.storage.*NETWORK_CONNECTION"):
        storage.check_reachable(run)


def test_no_error_is_told_in_words_of_others(server: S3Server) -> None:
    with pytest.raises(OSError, match="medray-none") as caught:
        storage.write(storage.at("s3://medray-none/x"), "x")
    assert storage.summary(caught.value) == "NO_SUCH_BUCKET"


def test_a_line_that_was_cut_off_stays_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "attempts.jsonl"
    for text in ("one\n", '{"a', "two\n", "three\n"):
        storage.append(file, text)
    assert file.read_text() == 'one\n{"a\ntwo\nthree\n'
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"[" * 100_000, "not readable JSON"),
        (b'{"a": ' * 65 + b"1" + b"}" * 65, "deeper than 64"),
        (b'{"a": ' * 20_000 + b"1" + b"}" * 20_000, "JSON"),
        (b'{"a": "' + b"x" * (4 << 20) + b'"}', "larger than the allowed 4,194,304 bytes"),
        (b"[1]", "not a JSON object"),
        (b'{"a": ', "not readable JSON"),
        (b"\xff\xfe\x00", "not readable JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not readable JSON"),
    ],
    ids=["brackets", "levels", "recursion", "bytes", "list", "cut", "binary", "number"],
)
def test_json_from_anywhere_is_refused_with_the_name_of_its_file(
    content: bytes, what: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"config\.json: .*{what}"):
        storage.read_json(file)


def test_json_within_its_bounds_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b'{"a": ' * 64 + b"Infinity" + b"}" * 64)
    found: Any = storage.read_json(file)
    for _ in range(64):
        found = found["a"]
    assert found == float("inf")
    with pytest.raises(FileNotFoundError):
        storage.read_json(tmp_path / "absent.json")


def test_a_pipe_or_a_device_is_no_json_and_nothing_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zeros.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zeros.json"):
        with pytest.raises(InputError, match="not a regular file"):
            storage.read_json(tmp_path / name)
