"""Wrong input: exit code 2, and a message that names file, key, value and the fix; Ray is never reached."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import medray
from medray.cli.main import main
from medray.cli.outputs import whole_file
from medray.errors import InputError

SOUND = "data: {dataset: clinic, tokenizer: train}\nmodel: {name: null, init: random, preset: llama-tiny}\n"
ROWS = "data: {train: rows.jsonl}\n"


class ReachedRayError(Exception):
    """All checks were passed: what comes next would start Ray."""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep `train` from starting: an import after its checks raises an error."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "medray.cli.cluster", None)


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def medray_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `medray train run.yaml …` with a YAML text: (exit code, standard error)."""

    def run(text: str, *overrides: str) -> tuple[int, str]:
        (tmp_path / "run.yaml").write_text(text)
        try:
            code = main(["train", str(tmp_path / "run.yaml"), *overrides])
        except ModuleNotFoundError as error:
            raise ReachedRayError from error
        out, err = capsys.readouterr()
        assert out == ""
        return code, err

    return run


def test_a_sound_config_passes_all_checks(medray_train: Run) -> None:
    """Else every other test here could pass for a wrong reason."""
    with pytest.raises(ReachedRayError):
        medray_train(SOUND)


def make_model(folder: Path, *, model_type: str = "llama", weights: str = "model.bin") -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer.json").write_text('{"model": {}}')
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (folder / weights).write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "overrides", "where", "what", "fix"),
    [
        (SOUND, ["train.epoch=3"], "command line: train.epoch = 3", "no such key", "did you mean train.epochs?"),
        (SOUND + "peft: {r: 4}", [], "{file}: peft.r = 4", "no such key", "did you mean peft.rank?"),
        (SOUND + "cluster: {workers: two}", [], "{file}: cluster.workers = 'two'", "expected a whole number", "cluster.workers: 1, its default"),
        (SOUND + "peft: {type: lora2}", [], "{file}: peft.type = 'lora2'", "'none', 'lora', 'adalora'", "did you mean lora?"),
        ("", [], "{file}: data.train", "no training data is set", "data.train: my.jsonl"),
        (ROWS, ["data.train=no.jsonl"], "command line: data.train = '{folder}/no.jsonl'", "no such file", "data.root"),
        (ROWS, ["data.train=empty.jsonl"], "command line: data.train = '{folder}/empty.jsonl'", "the file is empty", ""),
        (ROWS, ["data.validation=none"], "command line: data.validation = '{folder}/none'", "no file of a known", "endings: "),
        (ROWS, ["data.train=rows.odd"], "command line: data.train = '{folder}/rows.odd'", ".odd is not a known", ".jsonl"),
        (ROWS, ["model.name=./no"], "command line: model.name = '{folder}/no'", "no such folder", "config.json"),
        (ROWS, ["model.name=./bin"], "command line: model.name = '{folder}/bin'", "pickled weights (model.bin)", "safetens"),
        (ROWS, ["model.name=./rows.jsonl"], "command line: model.name = '{folder}/rows.jsonl'", "Not a directory", "folder"),
        (ROWS, ["model.name=gpt2"], "command line: model.name = 'gpt2'", "or a hub id", "smollm2-135m-instruct"),
        (SOUND, ["model.preset=t5-tiny", "train.precision=fp16"], "command line: train.precision = 'fp16'",
         "T5 overflows to NaN in fp16, and t5-tiny is a t5", "bf16 or fp32"),
        (ROWS, ["model.name=./t5", "train.precision=fp16"], "command line: train.precision = 'fp16'",
         "T5 overflows to NaN in fp16, and {folder}/t5 is a t5", "bf16 or fp32"),
        (ROWS, ["model.name=google/t5-v1_1-small", "train.precision=fp16"], "command line: train.precision = 'fp16'",
         "T5 overflows to NaN in fp16, and google/t5-v1_1-small is a t5", "bf16 or fp32"),
        (SOUND, ["run.storage=rows.jsonl"], "command line: run.storage = '{folder}/rows.jsonl'", "not a folder", "may write"),
        (SOUND, ["train.offload=cpu", "train.zero_stage=0"], "command line: train.offload = 'cpu'", "sharded", "zero_stage"),
        (SOUND, ["train.micro_batch_size=4", "train.gradient_accumulation_steps=4"],
         "{file}: train.global_batch_size = 8",
         "1 workers x micro_batch_size 4 x gradient_accumulation_steps 4 hold 16 rows", "remove both"),
    ],
)  # fmt: skip
def test_wrong_input_is_exit_code_2_with_one_message(
    medray_train: Run,
    tmp_path: Path,
    text: str,
    overrides: list[str],
    where: str,
    what: str,
    fix: str | None,
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"input": "a", "label": "b"}\n')
    (tmp_path / "rows.odd").write_text("<rows/>\n")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "none").mkdir()
    make_model(tmp_path / "bin")
    make_model(tmp_path / "t5", model_type="t5", weights="model.safetensors")
    code, message = medray_train(text, *overrides)
    assert code == 2
    first, *rest = message.splitlines()
    names = {"file": tmp_path / "run.yaml", "folder": tmp_path}
    assert first.startswith(f"medray: {where.format(**names)}: ")
    assert what.format(**names) in first
    assert len(rest) == (0 if fix is None else 1)
    assert fix is None or (rest[0].startswith("  Fix: ") and fix in rest[0])
    assert "Traceback" not in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("verb", [["train"], ["data", "prepare"], ["data", "inspect"]])
@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("data.train=no.jsonl", "data.train"),
        ("data.validation=no.jsonl", "data.validation"),
        ("data.train=*.jsonlines", "data.train"),
        ("data.train=rows.odd", "data.train"),
        ("data.decontaminate=no.jsonl", "data.decontaminate"),
        ("model.name=./no", "model.name"),
        ("model.name=./empty", "model.name"),
    ],
)
def test_simple_faults_are_found_before_ray(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str], change: str, key: str
) -> None:
    for name in ("rows.jsonl", "rows.odd"):
        (tmp_path / name).write_text('{"input": "a", "label": "b"}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "run.yaml").write_text(ROWS)
    assert main([*verb, str(tmp_path / "run.yaml"), change]) == 2
    assert capsys.readouterr().err.startswith(f"medray: command line: {key} = ")


@pytest.mark.parametrize(
    ("error", "begin"),
    [
        (InputError("is bad", key="data.max_rejects", value=0.1), "run.yaml: data.max_rejects = 0.1: is bad"),
        (InputError("is bad", key="data.train", file="rows.jsonl"), "rows.jsonl: data.train: is bad"),
        (InputError("is bad", key="--rows"), "--rows: is bad"),
        (InputError("is bad"), "is bad"),
    ],
)
def test_a_key_is_named_with_the_file_that_sets_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: InputError, begin: str
) -> None:
    """The key is named whether the error is found before Ray starts or after."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("medray.config.read", fails)
    assert main(["train", "run.yaml"]) == 2
    assert capsys.readouterr().err == f"medray: {begin}\n"


@pytest.mark.parametrize("cpus", [2, 8])
def test_more_workers_than_this_machine_can_give(
    medray_train: Run, monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    most = 2 * (cpus - 1)
    code, message = medray_train(SOUND, f"cluster.workers={most + 1}", "train.global_batch_size=64")
    assert code == 2
    assert (
        f"cluster.workers = {most + 1}: {most + 1} workers of 0.5 CPU need {(most + 1) / 2 + 1:g} CPUs"
        in message
    )
    assert f"this cluster has {cpus}\n  Fix: use at most {most} workers of 0.5 CPU\n" in message
    # If the batch does not fit either, the message is about the workers: fewer workers may fix both.
    assert (
        "cluster.workers = "
        in medray_train(SOUND, f"cluster.workers={most + 1}", "train.micro_batch_size=8")[1]
    )
    with pytest.raises(ReachedRayError):
        medray_train(SOUND, f"cluster.workers={most}", "train.global_batch_size=64")
    code, message = medray_train(SOUND, "cluster.workers=2", f"cluster.cpus_per_worker={cpus}")
    assert (code, "Fix: set cluster.cpus_per_worker: " in message) == (2, True)


@pytest.mark.parametrize("cpus", [1, None])
def test_a_machine_of_one_cpu_is_given_two(
    medray_train: Run, monkeypatch: pytest.MonkeyPatch, cpus: int | None
) -> None:
    """The check agrees with `medray.cli.cluster.connect`, which starts Ray with two CPUs."""
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    with pytest.raises(ReachedRayError):
        medray_train(SOUND, "cluster.workers=2")
    assert medray_train(SOUND, "cluster.workers=3")[0] == 2


def test_another_cluster_is_asked_and_not_this_machine(
    medray_train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(ReachedRayError):
        medray_train(SOUND, "cluster.workers=50", "cluster.address=head:6379")
    assert medray_train(SOUND, "cluster.workers=50", "cluster.address=local")[0] == 2
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert medray_train(SOUND, "cluster.workers=50")[0] == 2
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(ReachedRayError):
        medray_train(SOUND, "cluster.workers=50")
    assert medray_train(SOUND, "cluster.workers=50", "cluster.address=local")[0] == 2


@pytest.mark.parametrize(
    "arguments", [["--json", "train.epochs=x"], ["train.max_steps=1", "--json", "train.epochs=x"]]
)
def test_overrides_may_follow_an_option(medray_train: Run, arguments: list[str]) -> None:
    code, message = medray_train(SOUND, *arguments)
    assert (code, "command line: train.epochs = 'x'" in message) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: VERB"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "the following arguments are required: config"),
        (["train", "x.yaml", "--jsn"], "unrecognized arguments: --jsn"),
        (["train", "x.yaml", "--json", "b.yaml"], "unrecognized arguments: b.yaml"),
        (["train", "x.yaml", "--train.epochs=3"], "unrecognized arguments: --train.epochs=3"),
        (["data"], "the following arguments are required: ACTION"),
        (["data", "simulate"], "the following arguments are required: output"),
        (["data", "simulate", "x", "--rows", "many"], "argument --rows: invalid int value: 'many'"),
        (["data", "simulate", "x", "--size", "huge"], "argument --size: invalid choice: 'huge'"),
        (["data", "simulate", "x", "a=1"], "unrecognized arguments: a=1"),
        (["ui", "x", "--port", "p"], "argument --port: invalid int value: 'p'"),
    ],
)
def test_a_wrong_command_line_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["out.jsonl", "--rows", "0"],
            "--rows = 0: the number of rows must be at least 1\n  Fix: use --rows 1000",
        ),
        (["out.jsonl", "--rows", "-1"], "--rows = -1: the number of rows must be at least 1"),
        (["out.jsonl", "--seed", "-1"], "--seed = -1: the seed must not be negative"),
        (
            ["nowhere/out.jsonl", "--rows", "1"],
            "nowhere/out.jsonl: cannot write this file (No such file or directory)\n  Fix: ",
        ),
        ([".", "--rows", "1"], ".: this is a folder, not a file\n  Fix: name a file in this folder"),
    ],
)
def test_data_simulate_of_nothing_or_to_nowhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "simulate", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_data_simulate_writes_the_rows_that_were_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "simulate", str(tmp_path / "a.jsonl"), "--rows", "3"]) == 0
    written = (tmp_path / "a.jsonl").read_text()
    assert len(written.splitlines()) == 3
    assert capsys.readouterr().out == ""
    assert main(["data", "simulate", "-", "--rows", "3"]) == 0
    assert capsys.readouterr().out == written


def test_data_simulate_writes_over_nothing_without_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, link = tmp_path / "train.jsonl", tmp_path / "link.jsonl"
    mine.write_text("mine")
    mine.chmod(0o600)
    link.symlink_to(mine)
    for file in (mine, link):
        assert main(["data", "simulate", str(file), "--rows", "3"]) == 2
        assert (
            f"{file}: the file exists already\n  Fix: name another file, or add --force"
            in capsys.readouterr().err
        )
        assert mine.read_text() == "mine"
    assert main(["data", "simulate", str(link), "--rows", "3", "--force"]) == 0
    assert (len(mine.read_text().splitlines()), link.is_symlink()) == (3, True)
    assert main(["data", "simulate", "/dev/null", "--rows", "3"]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.jsonl", "train.jsonl"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("before")
    writing = whole_file(str(target), "--html")
    writing.__enter__().write("half")
    assert not writing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"page.html": "before"}


def test_a_reader_that_closes_the_pipe_gets_no_traceback() -> None:
    """The pipe `medray data simulate - | head -1` prints no traceback."""
    command = [sys.executable, "-m", "medray", "data", "simulate", "-", "--rows", "3000"]
    with subprocess.Popen(
        command, cwd=Path(medray.__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


def test_an_interrupt_before_a_run_begins(medray_train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medray.train.checks.check_config", interrupted)
    assert medray_train(SOUND) == (130, "medray: interrupted\n")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "this folder has no record of an MLflow run"),
        ("{", "this folder has no record of an MLflow run"),
        ("[]", "this folder has no record of an MLflow run"),
        ("{}", "this folder has no record of an MLflow run"),
        (
            '{"uri": "sqlite:////nowhere/mlflow.db"}',
            "the MLflow database of this run does not exist: sqlite:////nowhere/mlflow.db",
        ),
    ],
)
def test_ui_of_a_folder_without_tracking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "mlflow_run.json").write_text(content)
    assert main(["ui", str(tmp_path)]) == 2
    assert re.match(f"medray: {tmp_path}: {says}\n  Fix: ", capsys.readouterr().err)


def test_ui_refuses_an_invalid_port_and_names_a_remote_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ui", str(tmp_path), "--port", "70000"]) == 2
    assert "--port = 70000: the port must be from 1 to 65535" in capsys.readouterr().err
    (tmp_path / "mlflow_run.json").write_text('{"uri": "http://tracking:5000"}')
    assert main(["ui", str(tmp_path)]) == 0
    assert "this run is tracked at http://tracking:5000: open" in capsys.readouterr().err
    known = {"uri": "http://tracking:5000/", "run_id": "0a" * 16, "experiment_id": "7"}
    (tmp_path / "mlflow_run.json").write_text(json.dumps(known))
    assert main(["ui", str(tmp_path)]) == 0
    assert f"http://tracking:5000/#/experiments/7/runs/{'0a' * 16}: open" in capsys.readouterr().err
    (tmp_path / "mlflow_run.json").write_text(json.dumps(known | {"run_id": "\x1b[2J"}))
    assert main(["ui", str(tmp_path)]) == 0
    assert "http://tracking:5000: open" in capsys.readouterr().err


def test_ui_opens_on_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, command: served.append(command))
    (tmp_path / "mlflow.db").touch()
    known = {"uri": f"sqlite:///{tmp_path}/mlflow.db", "run_id": "0a" * 16, "experiment_id": "1"}
    (tmp_path / "mlflow_run.json").write_text(json.dumps(known))
    main(["ui", str(tmp_path), "--port", "5001"])
    assert f"http://127.0.0.1:5001/#/experiments/1/runs/{'0a' * 16} shows this run" in capsys.readouterr().err
    assert [command[1:4] for command in served] == [["-m", "mlflow", "server"]]
