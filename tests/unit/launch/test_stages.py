"""A config with stages at the launchers: every stage is checked before anything is sent, and its files travel too."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medray.cli.main import main
from medray.config import Config, read
from medray.errors import InputError
from medray.launch import job, parcel
from medray.launch.job.package import CONFIG_FILE
from medray.launch.job.server import Address

AWAY = Address("http://head:8265")
STAGES = """
run: {storage: runs, name: three}
model: {name: null, init: random, preset: llama-tiny}
data: {train: rows.jsonl, tokenizer: train}
tracking: {enabled: false}
launch: {k8s: {image: "r/medray:1"}}
stages:
  - {name: pre}
  - {name: letters, data: {train: letters.jsonl, decontaminate: [exam.jsonl]}}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))  # no site file of whoever runs the tests
    for name in ("rows", "letters", "exam"):
        (tmp_path / f"{name}.jsonl").write_text('{"input": "a", "label": "b"}\n')
    (tmp_path / "into").mkdir()
    (tmp_path / "run.yaml").write_text(STAGES)
    return tmp_path / "run.yaml"


def prepared(file: Path, *overrides: str, with_data: bool) -> tuple[Config, Path]:
    config = read(file, ["run.storage=s3://bucket/runs", *overrides])
    submission = job.prepare(config, AWAY, file.parent / "into", with_data=with_data, environ={})
    return read(submission.package.folder / CONFIG_FILE), submission.package.folder


@pytest.mark.parametrize("target", ["slurm", "k8s", "job"])
@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("stages.2.model.name=elsewhere", "stages.2.model.name"),
        ("stages.1.peft.type=prompt", "stages.1.peft.type"),
        ("stages.2.peft.type=adalora", "stages.2.train.zero_stage"),
    ],
)
def test_a_stage_that_cannot_work_is_refused(
    target: str, override: str, key: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--address", AWAY.url] if target == "job" else []
    assert main(["launch", target, str(file), override, "--dry-run", *words]) == 2
    assert key in capsys.readouterr().err.splitlines()[-2]


def test_files_of_stages_are_looked_for_where_they_can_be(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", "slurm", str(file), "--dry-run"]) == 0
    assert main(["launch", "slurm", str(file), "stages.2.data.train=gone.jsonl", "--dry-run"]) == 2
    assert "stages.2.data.train" in capsys.readouterr().err.splitlines()[-2]


def test_a_path_of_a_stage_that_the_cluster_does_not_see_is_refused(file: Path) -> None:
    with pytest.raises(InputError, match=r"letters.jsonl is a path on this machine") as caught:
        prepared(file, "data.train=s3://bucket/rows.jsonl", with_data=False)
    assert caught.value.key == "stages.2.data.train[0].path"
    assert "stages.2.data.train=s3://bucket/letters.jsonl" in str(caught.value.fix)


def test_files_of_stages_are_sent_with_the_data(file: Path) -> None:
    sent, folder = prepared(file, with_data=True)
    assert [source["path"] for source in sent.stages[1].data["train"]] == [f"{folder}/data/2/letters.jsonl"]
    assert sent.stages[1].data["decontaminate"] == [f"{folder}/data/3/exam.jsonl"]
    assert sent.data.train[0].path == f"{folder}/data/1/rows.jsonl"
    assert not sent.stages[0].data


def test_a_file_of_ids_is_sent_with_the_data(file: Path) -> None:
    (file.parent / "ids.txt").write_text("1")
    sent, folder = prepared(file, "data.split={validation_ids: ids.txt}", with_data=True)
    moved = Path(str(sent.data.split.validation_ids))
    assert moved.is_relative_to(f"{folder}/data")
    assert moved.read_text() == "1"


def test_the_folder_of_corpora_is_kept_for_the_stage_that_reads_one(file: Path) -> None:
    text = parcel.config_text(parcel.without_unused_root(read(file)))
    assert yaml.safe_load(text)["data"]["root"] is None
    corpus = read(file, ["stages.2.data={dataset: bc5cdr}"])
    text = parcel.config_text(parcel.without_unused_root(corpus))
    assert yaml.safe_load(text)["data"]["root"] == str(file.parent)
    assert ("stages.2.data.root", str(file.parent)) in parcel.paths(corpus)
