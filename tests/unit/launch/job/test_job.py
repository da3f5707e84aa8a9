"""Tests of what `medray launch job` sends, and of what it refuses before it sends anything."""

from __future__ import annotations

import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

import medray
from medray.cli.main import main
from medray.config import Config, read
from medray.errors import InputError
from medray.launch import job
from medray.launch.job.follow import exit_code
from medray.launch.job.package import CONFIG_FILE, MB
from medray.launch.job.server import Address, Job, address_of

HERE = Address("http://127.0.0.1:8265")
AWAY = Address("http://head:8265")
CONFIG = """
run: {storage: s3://bucket/runs, name: a.run}
model: {name: null, init: random, preset: llama-tiny}
data: {train: rows.jsonl, tokenizer: train}
tracking: {enabled: false}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"input": "a", "label": "b"}\n')
    (tmp_path / "run.yaml").write_text(CONFIG)
    return tmp_path


def config_of(folder: Path, *overrides: str) -> Config:
    return read(folder / "run.yaml", overrides)


def prepare(folder: Path, *overrides: str, address: Address = AWAY, **options: Any) -> job.Submission:
    options.setdefault("environ", {})
    return job.prepare(config_of(folder, *overrides), address, folder / "into", **options)


def own(**changes: Any) -> Job:
    facts: dict[str, Any] = {
        "id": "medray-a-1",
        "run": "a",
        "storage": "/runs",
        "verb": "train",
        "status": "SUCCEEDED",
        "exit_code": 0,
        "message": "",
        "started": 1.0,
        "ended": 2.0,
    }
    return Job(**{**facts, **changes})


def sent(submission: job.Submission) -> set[str]:
    """Files that travel, without medray's own."""
    return {name for name in submission.package.sizes if not name.startswith("medray/")}


def test_the_config_and_medray_are_sent_and_nothing_else(folder: Path) -> None:
    (folder / "notes.txt").write_text("not for the cluster")
    submission = prepare(folder, address=HERE, now=0.0, words=["--overwrite"])
    assert sent(submission) == {CONFIG_FILE}
    assert submission.job_id == "medray-a.run-19700101-000000"
    assert submission.entrypoint == "python -m medray train config.yaml --launched-at 0 --overwrite"
    assert submission.metadata["medray_storage"] == "s3://bucket/runs"
    there = config_of(folder)
    again = read(submission.package.folder / CONFIG_FILE)
    assert again.data.train == there.data.train
    assert again.run == there.run

    modules = submission.package.modules
    assert modules is not None
    assert (modules / "__init__.py").read_text() == Path(str(medray.__file__)).read_text()
    assert (modules / "report" / "report_template.html").is_file()
    assert not [name for name in submission.package.sizes if "__pycache__" in name or name.endswith(".pyc")]
    assert submission.package.bytes < 5 * MB
    for made in (submission.package.folder, modules.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_medray_is_not_sent_if_the_cluster_has_it(folder: Path) -> None:
    submission = prepare(folder, "launch.job.send_package=false", address=HERE)
    assert set(submission.package.sizes) == {CONFIG_FILE}
    assert "py_modules" not in submission.runtime_env


def test_a_package_above_the_limit_names_its_largest_files(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("x" * (2 * MB))
    with pytest.raises(InputError, match=r"data/1/rows.jsonl \(2.0 MB\)") as caught:
        prepare(folder, "launch.job.max_package_mb=1", "launch.job.send_package=false", with_data=True)
    assert caught.value.key == "launch.job.max_package_mb"
    assert not list((folder / "into").iterdir())


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("run.storage=runs",), "run.storage"),
        ((), r"data.train[0].path"),
        (
            ("data.train=s3://b/rows.jsonl", "data.validation=[s3://b/v.jsonl, v.jsonl]"),
            "data.validation[1].path",
        ),
        (("data.train=s3://b/rows.jsonl", "model={name: ./model}"), "model.name"),
    ],
)
def test_a_path_of_this_machine_is_refused(folder: Path, overrides: tuple[str, ...], key: str) -> None:
    with pytest.raises(InputError, match="which the cluster at http://head:8265 cannot read") as caught:
        prepare(folder, *overrides)
    assert caught.value.key == key
    assert "s3://bucket/" in str(caught.value.fix)


def test_what_the_cluster_sees(folder: Path) -> None:
    """A shared folder; and all of this machine where its nodes are here, which a forwarded port does not say."""
    config = config_of(folder, f"launch.job.shared_folders=[{folder}/shared]")
    away = job.seen_by(config, AWAY, frozenset())
    assert away(f"{folder}/shared/runs")
    assert away(f"{folder}/shared")
    for path in (f"{folder}/shared-not", f"{folder}/shared/../private", str(folder), "shared/runs"):
        assert not away(path)
    assert job.seen_by(config, HERE, frozenset({socket.gethostname()}))("/anything")
    assert not job.seen_by(config, HERE, frozenset({"another"}))("/anything")
    assert not job.seen_by(config, AWAY, frozenset({socket.gethostname()}))("/anything")


def test_data_files_keep_their_names_in_the_package(folder: Path) -> None:
    for name in ("set/a.jsonl", "set/b.jsonl", "set/private.jsonl", "set/notes.md", "seen.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "set" / ".gitignore").write_text("private.jsonl\n")
    overrides = ("data.train=[set, 'set/[ab].jsonl', rows.jsonl]", f"data.validation=[{folder}/seen.csv]")
    submission = prepare(folder, *overrides, f"launch.job.shared_folders=[{folder}/seen.csv]", with_data=True)
    assert sent(submission) == {
        CONFIG_FILE,
        *("data/1/a.jsonl", "data/1/b.jsonl"),
        *("data/2/a.jsonl", "data/2/b.jsonl"),
        "data/3/rows.jsonl",
    }
    there = submission.package.folder
    again = read(there / CONFIG_FILE).data
    assert [source.path for source in again.train] == [
        f"{there}/data/1",
        f"{there}/data/2/[ab].jsonl",
        f"{there}/data/3/rows.jsonl",
    ]
    assert [source.path for source in again.validation] == [f"{folder}/seen.csv"]
    assert (there / "data/1/b.jsonl").read_text() == "set/b.jsonl"


def test_a_file_that_the_config_names_is_sent_even_if_git_ignores_it(folder: Path) -> None:
    (folder / ".gitignore").write_text("*.jsonl\n")
    assert "data/1/rows.jsonl" in sent(prepare(folder, with_data=True))


@pytest.mark.parametrize(("ignore", "exclude"), [("*.jsonl", ()), ("", ("s*/",)), ("", ("*.jsonl",))])
def test_a_folder_with_all_files_excluded_is_refused(
    folder: Path, ignore: str, exclude: tuple[str, ...]
) -> None:
    (folder / "set" / "sub").mkdir(parents=True)
    (folder / "set" / "sub" / "a.jsonl").write_text("a")
    (folder / "set" / ".rayignore").write_text(ignore)
    with pytest.raises(InputError, match="exclude every file") as caught:
        prepare(folder, "data.train=set", with_data=True, exclude=exclude)
    assert caught.value.key == "data.train[0].path"


def test_ray_s_variable_sends_files_that_git_ignores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "a.jsonl").write_text("a")
    (folder / "set" / ".gitignore").write_text("*")
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    assert "data/1/a.jsonl" in sent(prepare(folder, "data.train=set", with_data=True))


def test_no_secret_is_sent_and_each_is_named(folder: Path) -> None:
    environ = {
        "HF_TOKEN": "hf_abc",
        "AWS_SECRET_ACCESS_KEY": "abc",
        "MLFLOW_TRACKING_URI": "http://me:abc@host",
        "AWS_REGION": "eu",
        "HF_HOME": "/home/me/hf",
        "PATH": "/bin",
    }
    submission = prepare(folder, "data.train=s3://b/rows.jsonl", environ=environ)
    # A step, 900 s, and 30 minutes of patience with storage have to fit between TERM and KILL.
    ray = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_JOB_STOP_WAIT_TIME_S": "3000"}
    assert submission.variables == {"AWS_REGION": "eu", **ray}
    assert set(submission.withheld) == {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_URI", "HF_HOME"}
    assert "abc" not in repr(submission.runtime_env) + repr(submission.withheld)


def test_the_address_is_the_option_s_then_the_config_s_then_ray_s() -> None:
    environ = {"RAY_API_SERVER_ADDRESS": "http://c:1"}
    assert address_of("a:1", "http://b:1", environ).url == "http://a:1"
    assert address_of(None, "https://b:1/", environ).url == "https://b:1"
    assert address_of(None, None, environ).url == "http://c:1"
    with pytest.raises(InputError, match="no address of a job server is given"):
        address_of(None, None, {})


@pytest.mark.parametrize("text", ["ray://h:10001", "anyscale://x", "http://", "http://h:99999", "os://h"])
def test_an_address_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not the address of a job server"):
        address_of(text, None, {})


def test_an_address_with_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(InputError, match="contains a user name or a password") as caught:
        address_of(None, None, {"RAY_API_SERVER_ADDRESS": "http://me:hidden@h:8265"})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        *((("SUCCEEDED" if code == 0 else "FAILED"), code, code) for code in (0, 1, 2, 75, 76, 127, 130)),
        ("FAILED", None, 1),  # the runtime environment could not be made, or the node died
        ("FAILED", -9, 1),
        ("FAILED", 137, 1),
        ("STOPPED", None, 75),
    ],
)
def test_the_exit_code_is_the_driver_s(status: str, driver: int | None, code: int) -> None:
    assert exit_code(own(status=status, exit_code=driver)) == code


def test_a_second_job_of_a_run_is_refused_while_the_first_is_active(folder: Path) -> None:
    config = config_of(folder)
    same = {"run": "a.run", "storage": "s3://bucket/runs", "id": "medray-a.run-1"}
    for status in ("PENDING", "RUNNING"):
        with pytest.raises(InputError, match=r"medray-a\.run-1") as caught:
            job.refuse_second([own(**same, status=status)], config)
        assert "--attach a.run" in str(caught.value.fix)
    for other in ({"status": "STOPPED"}, {"status": "RUNNING", "storage": "s3://other"}):
        job.refuse_second([own(**{**same, **other})], config)


def test_a_job_is_found_by_its_run() -> None:
    jobs = [
        own(id="1", status="RUNNING"),
        own(id="2", status="FAILED"),
        own(id="3", run="b", status="FAILED"),
        own(id="4", run="b", status="STOPPED"),
        own(id="5", run="c", storage="s3://x"),
        own(id="6", run="c", storage="s3://y"),
    ]
    wanted = {"a": "1", "b": "4", "2": "2", "s3://x/c": "5"}
    assert {name: job.find(jobs, name, "--attach").id for name in wanted} == wanted
    for name, what in (("d", "no job of this run"), ("c", "2 runs with this name")):
        with pytest.raises(InputError, match=what):
            job.find(jobs, name, "--attach")


def test_versions_on_which_the_sent_medray_would_not_run(folder: Path) -> None:
    import ray

    config = config_of(folder)
    assert job.check_versions(config, "", "") is None
    assert "runs on both" in str(
        job.check_versions(config, "3.12.1" if sys.version_info[1] == 11 else "3.11.1", ray.__version__)
    )
    for python, version in (("3.10.2", ray.__version__), ("3.11.2", "2.9.0")):
        with pytest.raises(InputError, match="the cluster has"):
            job.check_versions(config, python, version)
        job.check_versions(config_of(folder, "launch.job.send_package=false"), python, version)


def test_a_dry_run_prints_what_would_be_sent_and_asks_nobody(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    words = ["launch", "job", str(folder / "run.yaml"), "--dry-run", "--with-data", "--address", AWAY.url]
    assert main([*words, "--", "--overwrite"]) == 0
    out = capsys.readouterr().out
    for text in (
        "python -m medray train config.yaml --launched-at ",
        " --overwrite\n",
        "data/1/rows.jsonl",
        "HF_TOKEN is not sent",
    ):
        assert text in out
    assert "hf_abc" not in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["launch", "job", "--address", "h:1"], "needs a config to launch"),
        (["launch", "job", "--list"], "no address of a job server is given"),
        (["launch", "job", "--list", "--dry-run", "--address", "h:1"], "only with a config to launch"),
        (["launch", "job", "CONFIG", "--address", "h:1", "--exclude", "*.csv"], "add --with-data"),
        (["launch", "job", "--list", "--address", "http://127.0.0.1:9"], "no job server answers"),
        (
            ["launch", "job", "CONFIG", "--address", "h:1", "--", "run.storage=/home/me"],
            "must come before --",
        ),
        (
            ["launch", "job", "CONFIG", "--dry-run", "--address", "localhost:1", "data.train=no.jsonl"],
            "no.jsonl",
        ),
    ],
)
def test_wrong_words_are_wrong_input(
    folder: Path,
    words: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(
        "RAY_AUTH_TOKEN", "0" * 64
    )  # where an earlier test of this process has let Ray ask for one
    assert main([str(folder / "run.yaml") if word == "CONFIG" else word for word in words]) == 2
    assert says in capsys.readouterr().err
