"""A path names the right files, and their bytes are read on every file system."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pytest
from s3_server import s3_server

from medray import storage
from medray.data import files
from medray.data.files import content_hash, expand, open_binary, remote, shown, size, stamp
from medray.data.index.sources import FileSource, _told_apart
from medray.data.readers import format_of, ranges, read
from medray.errors import InputError

ROW = b'{"a": 1}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with data in parts, a readme, notes, hidden files and a folder of other data."""
    for name in (
        "b.jsonl",
        "a.jsonl.gz",
        "c.csv",
        "notes.txt",
        "README.md",
        "readme.json",
        "LICENSE",
        ".a.jsonl",
        ".git/x.jsonl",
        "more/d.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(ROW)
    return tmp_path


def found(path: str | Path, root: str | Path) -> list[str]:
    return [os.path.relpath(file, root) for file in expand(str(path), key="data.train")]


def refusal(path: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        expand(str(path), key="data.train")
    return str(caught.value)


class TestLocal:
    def test_a_file_is_itself_whatever_its_name(self, folder: Path) -> None:
        for name in ("b.jsonl", "notes.txt", "LICENSE", ".a.jsonl"):
            assert found(folder / name, folder) == [name]

    def test_a_relative_path_becomes_absolute(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder / "more")
        assert expand("../b.jsonl", key="x") == (str(folder / "b.jsonl"),)
        monkeypatch.setenv("HOME", str(folder))
        assert expand("~/b.jsonl", key="x") == (str(folder / "b.jsonl"),)

    def test_a_url_of_a_local_file_is_its_path(self, folder: Path) -> None:
        assert expand(f"file://{folder}/b.jsonl", key="x") == (str(folder / "b.jsonl"),)

    def test_a_folder_is_its_files_of_a_known_format(self, folder: Path) -> None:
        assert found(folder, folder) == ["a.jsonl.gz", "b.jsonl", "c.csv"]

    def test_a_folder_of_folders_is_the_files_in_them(self, tmp_path: Path) -> None:
        """MedQuAD has one folder per site, and a readme above them."""
        for name in ("readme.txt", "1_Cancer_QA/2.xml", "1_Cancer_QA/1.xml", "2_GARD_QA/1.xml", ".git/3.xml"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"<a/>")
        assert found(tmp_path, tmp_path) == ["1_Cancer_QA/1.xml", "1_Cancer_QA/2.xml", "2_GARD_QA/1.xml"]
        assert found(tmp_path / "*_QA", tmp_path) == [
            "1_Cancer_QA/1.xml",
            "1_Cancer_QA/2.xml",
            "2_GARD_QA/1.xml",
        ]

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("*.jsonl*", ["a.jsonl.gz", "b.jsonl"]),
            ("*", ["a.jsonl.gz", "b.jsonl", "c.csv", "notes.txt"]),
            ("[bc].*", ["b.jsonl", "c.csv"]),
            ("**/*.jsonl", ["b.jsonl", "more/d.jsonl"]),
            ("mor?", ["more/d.jsonl"]),
        ],
    )
    def test_a_glob(self, pattern: str, names: list[str], folder: Path) -> None:
        assert found(folder / pattern, folder) == names

    def test_a_disk_is_not_walked_in_silence(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert files.MOST_ENTRIES == 200_000
        (folder / "hollow/deep").mkdir(parents=True)
        for number in range(9):
            (folder / f"hollow/deep/{number}.txt").touch()
        (folder / "more/loop").symlink_to(folder)
        monkeypatch.setattr(files, "MOST_ENTRIES", 5)
        for path in ("**", "**/*.jsonl", "*/**/x.csv", "hollow"):
            assert "the folder contains more than 5 files and folders" in refusal(folder / path), path

    def test_a_name_that_looks_like_a_glob_is_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "a[1].jsonl").write_bytes(ROW)
        (tmp_path / "a1.jsonl").write_bytes(ROW)
        assert found(tmp_path / "a[1].jsonl", tmp_path) == ["a[1].jsonl"]

    @pytest.mark.parametrize(
        ("path", "why"),
        [
            ("nothing.jsonl", "there is no such file"),
            ("*.parquet", "no file matches"),
            ("empty.jsonl", "the file is empty"),
            ("e*.jsonl", "empty.jsonl is empty"),
            ("link.jsonl", "link.jsonl is not a regular file"),
            ("hollow", "the folder has no file of a known format"),
        ],
    )
    def test_a_missing_file_names_key_value_and_fix(self, path: str, why: str, folder: Path) -> None:
        (folder / "empty.jsonl").touch()
        (folder / "link.jsonl").symlink_to("gone")
        (folder / "hollow").mkdir()
        message = refusal(folder / path)
        assert message.startswith(f"data.train = '{folder / path}': ")
        assert why in message
        assert "Fix:" in message

    def test_not_readable(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
        assert f"this user may not read {folder / 'b.jsonl'}" in refusal(folder / "b.jsonl")
        assert f"this user may not read {folder}" in refusal(folder)

    def test_a_file_that_was_deleted_meanwhile(self, tmp_path: Path) -> None:
        for ask in (open_binary, size, stamp, content_hash, lambda path: list(read(path, "jsonl"))):
            with pytest.raises(
                InputError, match=r"gone\.jsonl: this file cannot be read \(No such file or directory\)"
            ):
                ask(str(tmp_path / "gone.jsonl"))

    def test_a_stamp_changes_with_the_file_and_a_hash_with_its_bytes(self, tmp_path: Path) -> None:
        file = tmp_path / "a.jsonl"
        file.write_bytes(ROW)
        before = stamp(str(file)), content_hash(str(file))
        assert (stamp(str(file)), content_hash(str(file))) == before
        assert before[1] == hashlib.sha256(ROW).hexdigest()
        os.utime(file, ns=(1, 1))
        assert stamp(str(file)) != before[0]
        assert content_hash(str(file)) == before[1]


@pytest.fixture
def memory() -> Iterator[str]:
    """Return the URL of an fsspec file system in memory."""
    system = fsspec.filesystem("memory")
    for name, data in {
        "b.jsonl": ROW * 3,
        "a.jsonl.gz": gzip.compress(ROW),
        "README.md": b"x",
        "sub/1.xml": b"<a/>",
    }.items():
        system.pipe(f"/data/{name}", data)
    yield "memory://data"
    system.rm("/data", recursive=True)


class TestUrls:
    def test_folder_glob_and_file(self, memory: str) -> None:
        assert expand(memory, key="x") == (f"{memory}/a.jsonl.gz", f"{memory}/b.jsonl")
        assert expand(f"{memory}/*.jsonl*", key="x") == (f"{memory}/a.jsonl.gz", f"{memory}/b.jsonl")
        assert expand(f"{memory}/sub", key="x") == (f"{memory}/sub/1.xml",)
        assert expand(f"{memory}/b.jsonl", key="x") == (f"{memory}/b.jsonl",)

    def test_rows_from_any_position(self, memory: str) -> None:
        path = f"{memory}/b.jsonl"
        assert [each.position for each in read(path, format_of(path))] == [0, 9, 18]
        assert [each.position for each in read(path, "jsonl", 9, 18)] == [9]
        assert ranges(path, "jsonl", 9) == [(0, 9), (9, 18), (18, None)]
        assert [each.row for each in read(f"{memory}/a.jsonl.gz", "jsonl")] == [{"a": 1}]

    def test_stamp_and_hash(self, memory: str) -> None:
        path = f"{memory}/b.jsonl"
        before = stamp(path)
        assert stamp(path) == before
        assert content_hash(path) == hashlib.sha256(ROW * 3).hexdigest()
        fsspec.filesystem("memory").pipe("/data/b.jsonl", ROW)
        assert stamp(path) != before

    @pytest.mark.parametrize("name", ["gone.jsonl", "*.csv"])
    def test_nothing_there(self, name: str, memory: str) -> None:
        assert f"data.train = '{memory}/{name}': no file was found" in refusal(f"{memory}/{name}")

    def test_an_empty_file(self, memory: str) -> None:
        fsspec.filesystem("memory").pipe("/data/c.csv", b"")
        assert f"{memory}/c.csv is empty" in refusal(memory)

    def test_a_saved_data_set_must_be_local(self, memory: str) -> None:
        fsspec.filesystem("memory").pipe("/data/state.json", b"{}")
        assert "copy the folder" in refusal(memory)

    def test_a_package_that_is_missing_is_named(self) -> None:
        if importlib.util.find_spec("gcsfs"):
            pytest.skip("gcsfs is installed")
        message = refusal("gs://bucket/a.jsonl")
        assert "gs:// needs the package gcsfs, which is not installed" in message
        assert "Fix: run pip install gcsfs" in message

    def test_an_unknown_protocol(self) -> None:
        assert "gopher:// is not a protocol" in refusal("gopher://host/a.jsonl")


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(403)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


class TestSecrets:
    @pytest.mark.parametrize(
        ("path", "printed"),
        [
            ("https://user:SECRET@host/a.jsonl?sig=SECRET", "https://host/a.jsonl"),
            ("s3://KEY:SECRET@bucket/a?.jsonl", "s3://bucket/a"),
            ("https://host/a.jsonl?SECRET", "https://host/a.jsonl"),
            ("HTTPS://host/a.jsonl?SECRET", "HTTPS://host/a.jsonl"),
            ("https://host/a.jsonl;token=SECRET/x?y", "https://host/a.jsonl"),
            ("abfs://c@acct.dfs.core.windows.net/a.jsonl?SECRET", "abfs://acct.dfs.core.windows.net/a.jsonl"),
            ("s3://bucket/a#1.jsonl;v=SECRET\nSECRET", "s3://bucket/a#1.jsonl"),
            ("simplecache::https://host/a.jsonl?sig=SECRET", "simplecache::https://host/a.jsonl"),
            ("s3://bucket/a@b.jsonl", "s3://bucket/a@b.jsonl"),
            ("/data/a@b?.jsonl", "/data/a@b?.jsonl"),
        ],
    )
    def test_a_path_is_printed_without_secrets(self, path: str, printed: str) -> None:
        assert shown(path) == printed

    def test_a_source_is_named_without_its_query(self) -> None:
        both = [FileSource(path=f"https://host/{folder}/a.jsonl?SECRET", format="jsonl") for folder in "xy"]
        assert both[0].name == "a.jsonl"
        assert [each.name for each in _told_apart(both)] == ["x/a.jsonl", "y/a.jsonl"]
        with pytest.raises(InputError) as caught:
            format_of("abfs://c@acct/a.text?SECRET")
        assert ".text is not a known format" in str(caught.value)
        assert "SECRET" not in str(caught.value)

    def test_keys_in_a_url_of_s3_are_refused(self) -> None:
        message = refusal("s3://KEY:SECRET@bucket/a.jsonl")
        assert "AWS_SECRET_ACCESS_KEY" in message
        assert "KEY:" not in message.replace("AWS_SECRET_ACCESS_KEY", "")
        assert "SECRET@" not in message

    @pytest.mark.parametrize(
        "url",
        [
            "s3://KEY:SECRET@bucket/a.jsonl",
            "s3a://KEY:SECRET@bucket/a.jsonl",
            "nope://me:SECRET@host/a.jsonl",
            "webhdfs+nope://me:SECRET@host/a.jsonl",
        ],
    )
    def test_a_url_that_no_file_system_accepts_is_quoted_without_secrets(self, url: str) -> None:
        with pytest.raises(InputError) as caught:
            remote.place(url)
        assert "SECRET@" not in f"{caught.value} {caught.value.file} {caught.value.fix}"
        assert "KEY:" not in f"{caught.value} {caught.value.file}"

    def test_a_server_that_refuses(self) -> None:
        server = HTTPServer(("127.0.0.1", 0), Refusing)
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://user:SECRET@127.0.0.1:{server.server_port}/a.jsonl?sig=SECRET"
            said = [refusal(url)]
            for ask in (size, stamp, content_hash, lambda path: list(read(path, "jsonl"))):
                with pytest.raises(InputError) as caught:
                    ask(url)
                said.append(str(caught.value))
        finally:
            server.shutdown()
            server.server_close()
        assert not any("SECRET" in message for message in said)
        assert all("127.0.0.1" in message for message in said)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real server with a bucket; region and keys come from the environment, as on a cluster."""
    with s3_server(tmp_path_factory.mktemp("s3"), "corpora"):
        for name, data in {
            "x/b.jsonl": ROW * 1000,
            "x/a.jsonl.gz": gzip.compress(ROW),
            "x/README.md": b"x",
            "y/1/1.xml": b"<a/>",
        }.items():
            storage.write(storage.at(f"s3://corpora/{name}"), data)
        yield "s3://corpora"


class TestS3:
    def test_file_folder_and_glob(self, s3: str) -> None:
        both = (f"{s3}/x/a.jsonl.gz", f"{s3}/x/b.jsonl")
        assert expand(f"{s3}/x/b.jsonl", key="x") == both[1:]
        assert expand(f"{s3}/x", key="x") == expand(f"{s3}/x/", key="x") == both
        assert expand(f"{s3}/x/*.jsonl*", key="x") == expand(f"{s3}/**/*.jsonl*", key="x") == both
        assert expand(f"{s3}/y", key="x") == (f"{s3}/y/1/1.xml",)

    def test_rows_in_ranges(self, s3: str) -> None:
        path = f"{s3}/x/b.jsonl"
        parts = [
            (each.position, each.row)
            for part in ranges(path, "jsonl", 4000)
            for each in read(path, "jsonl", *part)
        ]
        assert parts == [(9 * number, {"a": 1}) for number in range(1000)]
        assert [each.row for each in read(f"{s3}/x/a.jsonl.gz", "jsonl")] == [{"a": 1}]

    def test_stamp_is_the_etag_and_hash_is_of_the_bytes(self, s3: str) -> None:
        path = f"{s3}/x/b.jsonl"
        data = ROW * 1000
        assert hashlib.md5(data, usedforsecurity=False).hexdigest() in stamp(path)
        assert content_hash(path) == hashlib.sha256(data).hexdigest()
        assert size(path) == len(data)

    @pytest.mark.parametrize(
        "url", ["s3://corpora/gone.jsonl", "s3://corpora/*.csv", "s3://no-such-bucket/a.jsonl"]
    )
    def test_nothing_there(self, url: str, s3: str) -> None:
        message = refusal(url)
        assert message.startswith(f"data.train = '{url}': ")
        assert "medray-test" not in message

    def test_a_server_that_is_not_there(self, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        message = refusal(f"{s3}/x/b.jsonl")
        assert "cannot be read (NETWORK_CONNECTION)" in message
        assert "medray-test" not in message
