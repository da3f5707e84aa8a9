"""Reading a run folder with any content ends soon: with usable values, or with an error that names the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grids
import pytest

from medray import storage
from medray.cli import ui
from medray.config import Config, dump
from medray.errors import InputError, MedrayError
from medray.models.export.usage import Base
from medray.storage import json_files
from medray.tracking import Ledger, TrackingSpec
from medray.train.export.model_card import Made, model_card
from medray.train.run_folder.claim import claim
from medray.train.run_folder.earlier_run import finished_result
from medray.train.run_folder.files import attempts
from medray.train.run_folder.finished_run import finished_run
from medray.train.run_folder.results import write_failure, write_records

SUMMARY: dict[str, Any] = {
    "status": "done",
    "steps": 2,
    "eval": {"before": {"loss": 2.0}, "after": {"loss": 1.0}},
    "samples": 8,
    "tokens": 80,
    "memory": {"device": "cpu", "total_bytes": 9, "before_bytes": 1, "peak_bytes": 3},
    "parameters": {"total": 10, "trainable": 1},
    "versions": {"torch": "2"},
    "seconds": {"total": 1.0},
    "train_loss_first": 2.0,
}
STEPS = [{"step": step, "loss": 2.0, "seconds": 0.1, "tokens": 40, "computed_tokens": 50} for step in (1, 2)]
DATA = {"tokens": "/gone/tokens/abc/train", "precision": "fp32"}


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    tree: dict[str, Any] = {"run": {"storage": str(tmp_path), "name": "r"}, "train": {"max_steps": 2}}
    return Config.model_validate(tree | {"data": {"train": ["/gone/notes.jsonl"]}})


@pytest.fixture
def folder(config: Config, tmp_path: Path) -> Path:
    """Write the files of a finished run, without the weights."""
    made = tmp_path / "r"
    (made / "export").mkdir(parents=True)
    for name, text in {
        "config.yaml": dump(config),
        "data.json": json.dumps(DATA),
        "summary.json": json.dumps(SUMMARY),
        "steps.jsonl": lines(*STEPS),
        "evals.jsonl": lines({"step": 0, "metrics": {"loss": 2.0}}),
        "attempts.jsonl": lines({"time": 1.0, "resumed_step": 0, "workers": 1}),
        "mlflow_run.json": json.dumps({"run_id": "1", "uri": "http://host", "experiment": "e"}),
        "export/adapter_config.json": json.dumps({"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}),
        "export/adapter_model.safetensors": "",
    }.items():
        (made / name).write_text(text)
    return made


def _ui(folder: Path, config: Config) -> None:
    class Arguments:
        run_folder, port = str(folder), 5000

    ui.run(Arguments())  # type: ignore[arg-type]


def _export(folder: Path, config: Config) -> None:
    found = finished_run(str(folder))
    target = folder.parent / "target"
    target.mkdir(exist_ok=True)
    write_records(found, target)
    model_card(found, Base(name="base", kind="folder"), Made("adapter", "", ""))


def _ledger(folder: Path, config: Config) -> None:
    ledger = Ledger(str(folder), TrackingSpec(False, "", "", "", {}, {}, False))
    ledger.open(resumed_step=1)
    ledger.step({"step": 2, "loss": 1.0})
    ledger.close({}, [])
    attempts(folder)


def _claim(folder: Path, config: Config) -> None:
    claim(config, DATA["tokens"], "fp32", 1, lambda note: None)


RECORDS = ("steps.jsonl", "evals.jsonl", "attempts.jsonl")
READERS: dict[str, tuple[Callable[[Path, Config], object], tuple[str, ...]]] = {
    "finished": (
        lambda folder, config: finished_result(config),
        ("summary.json", "config.yaml", "data.json"),
    ),
    "claim": (_claim, ("config.yaml", "data.json", "attempts.jsonl")),
    "ledger": (_ledger, RECORDS),
    "failure": (lambda folder, config: write_failure(config, "reason"), ("summary.json", *RECORDS)),
    "export": (
        _export,
        ("summary.json", "config.yaml", "data.json", "steps.jsonl", "export/adapter_config.json"),
    ),
    "ui": (_ui, ("mlflow_run.json",)),
}


def _text(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": _text(""),
    "null": _text("null\n"),
    "list": _text("[]\n"),
    "object": _text("{}\n"),
    "text": _text('"text"\n'),
    "nulls": _text(json.dumps(dict.fromkeys([*SUMMARY, *STEPS[0], *DATA, "metrics", "r", "uri"])) + "\n"),
    "lists": _text(json.dumps({name: ["x"] for name in [*SUMMARY, *STEPS[0], *DATA, "metrics", "r", "uri"]}) + "\n"),
    "status alone": _text('{"status": "done"}\n'),
    "deep": _text('{"a": ' * 100_000),
    "brackets": _text("[" * 100_000),
    "large": _text(b'{"status": "' + b"x" * 10_000_000 + b'"}\n'),
    "number": _text('{"step": ' + "9" * 5000 + "}\n"),
    "huge step": _text('{"step": 1e400, "steps": -1}\n'),
    "no UTF-8": _text(b'{"status": "\xff\xfe"}\n'),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-9] if path.exists() else b'{"a'),
    "torn in the middle": lambda path: path.write_bytes(b'{"step": 1, "lo\n' + (path.read_bytes() if path.exists() else b"")),
    "pipe": lambda path: os.mkfifo(path),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "link to itself": lambda path: path.symlink_to(path.name),
}  # fmt: skip


FIRST = ("empty", "lists", "deep", "large", "no UTF-8", "torn", "pipe", "zeros")  # in `make test`


@pytest.mark.parametrize(
    "damage", grids.first(len(FIRST), [*FIRST, *(one for one in DAMAGE if one not in FIRST)])
)
def test_each_reader_returns_values_or_names_the_file(damage: str, folder: Path, config: Config) -> None:
    whole = folder.with_name("whole")
    shutil.copytree(folder, whole)
    for reader, (read, names) in READERS.items():
        for name in names:
            shutil.rmtree(folder)
            shutil.copytree(whole, folder)
            if not damage.startswith("torn"):
                (folder / name).unlink(missing_ok=True)
            DAMAGE[damage](folder / name)
            try:
                read(folder, config)
            except MedrayError as error:
                said = str(error)
                assert Path(name).name in said or str(folder) in said, (reader, name, said)
                assert len(said) < 1000, (reader, name)
            except OSError:  # `medray` turns it into a message with the folder's name
                if damage not in ("folder", "link to itself", "pipe", "zeros"):
                    raise


def test_a_complete_folder_is_read(folder: Path, config: Config) -> None:
    assert finished_result(config)
    _export(folder, config)
    assert (folder.parent / "target" / "loss.csv").read_text() == "Step,Loss\n1,2.0\n2,2.0\n"
    _ui(folder, config)


def test_torn_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    long = b'{"step": 3, "x": "' + b"x" * (3 << 20) + b'"}\n'
    file.write_bytes(b'{"step": 1}\n{"st\n\n' + long + b'[1]\n{"step": 2}\n{"step": 4}')
    found = json_files.read_lines(file)
    assert [record["step"] for record in found.records] == [1, 2]
    assert found.unreadable == 4


def test_the_error_about_a_summary_names_the_wrong_key(folder: Path) -> None:
    (folder / "summary.json").write_text(json.dumps(SUMMARY | {"parameters": {"total": "many"}}))
    with pytest.raises(InputError, match=r"summary\.json: parameters\.total is missing or of the wrong type"):
        finished_run(str(folder))


def test_reading_a_growing_file_is_bounded(tmp_path: Path) -> None:
    with (tmp_path / "sparse.json").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputError, match=r"sparse\.json: is larger than"):
        storage.read_json(tmp_path / "sparse.json")
    with pytest.raises(InputError, match=r"sparse\.json: is larger than"):
        json_files.read_lines(tmp_path / "sparse.json")
