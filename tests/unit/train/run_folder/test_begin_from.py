"""A run that begins with the weights of another run's checkpoint, through the worker loop in one process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from recorder import Recorder
from s3_server import s3_server

from medray import storage
from medray.config import dump, read
from medray.config.stages import stage_configs
from medray.errors import InputError
from medray.launch import parcel
from medray.models.export.usage import Base
from medray.train import checkpoint
from medray.train.checkpoint.state_files import StateReader
from medray.train.export.model_card import Made, model_card
from medray.train.loop import training
from medray.train.loop.step import Progress
from medray.train.run_folder import files
from medray.train.run_folder.begin_from import beginning, check_tokenizer
from medray.train.run_folder.claim import claim
from medray.train.run_folder.finished_run import FinishedRun
from medray.train.worker_plan import WorkerPlan

LORA = {"type": "lora", "rank": 2, "dropout": 0.0}


def made(folder: Path, name: str, *, steps: int = 4, **sections: Any) -> WorkerPlan:
    """Return the plan of a run in `folder`/`name`, and write what the driver writes before workers start."""
    tokens = tiny.token_set(folder, tiny.rows(12))
    train = {"zero_stage": 0, "save_every_steps": 2, "keep_checkpoints": 5, **sections.pop("train", {})}
    run = {"storage": str(folder), "name": name, **sections.pop("run", {})}
    plan = tiny.plan(
        folder / name,
        tokens,
        "llama-tiny",
        workers=1,
        micro=2,
        max_steps=steps,
        train=train,
        run=run,
        **sections,
    )
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "config.yaml").write_text(dump(plan.config))
    (folder / name / "data.json").write_text(json.dumps({"tokenizer": "one"}))
    return plan


def begun(plan: WorkerPlan) -> WorkerPlan:
    return replace(plan, begin_from=beginning(plan.config))


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    (found,) = [each for each in checkpoint.complete(folder / "checkpoints") if each.progress.step == step]
    with StateReader(found.state_files) as reader:
        return {name: reader.read("weight", name, 0, size) for name, size in reader.sizes("weight").items()}


@pytest.mark.parametrize("peft", [{"type": "none"}, LORA])
def test_it_begins_with_the_weights_at_step_0_with_a_fresh_optimizer(
    peft: dict[str, Any], tmp_path: Path
) -> None:
    training.run(made(tmp_path, "first", peft=peft), Recorder())
    # With a learning rate of 0 and no decay, the weights stay as they began.
    still = {"optimizer": {"lr": 1e-30, "weight_decay": 0.0}, "save_every_steps": 1}
    for text, step in (("first", 4), ("first@2", 2)):
        asked = {"begin_from": str(tmp_path / text)}
        plan = begun(made(tmp_path, f"from-{step}", steps=1, peft=peft, run=asked, train=still))
        recorder = Recorder()
        result = training.run(plan, recorder)
        assert (result.progress.step, recorder.resumed) == (1, [0])
        (saved,) = checkpoint.complete(tmp_path / f"from-{step}" / "checkpoints")
        assert saved.optimizer_step == 1
        expected = weights(tmp_path / "first", step)
        found = weights(tmp_path / f"from-{step}", 1)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_other_run_may_be_in_a_bucket(tmp_path: Path) -> None:
    training.run(made(tmp_path, "first"), Recorder())
    with s3_server(tmp_path, "bucket"):
        for file in (tmp_path / "first").rglob("*"):
            if file.is_file():
                target = storage.at("s3://bucket/runs/first") / str(file.relative_to(tmp_path / "first"))
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as stream:
                    stream.write(file.read_bytes())
        with pytest.raises(InputError, match="no checkpoint of step 3, but of 2, 4"):
            begun(made(tmp_path, "next", run={"begin_from": "s3://bucket/runs/first@3"}))
        plan = begun(made(tmp_path, "next", run={"begin_from": "s3://bucket/runs/first@2"}))
        recorder = Recorder()
        training.run(plan, recorder)
    assert recorder.resumed == [0]
    assert any("begins with the weights of first@2" in str(event) for event in recorder.events)


def test_data_json_and_the_card_keep_what_a_run_began_with(tmp_path: Path) -> None:
    plan = made(tmp_path, "next", run={"begin_from": str(tmp_path / "first")})
    tokens = plan.train.folder

    def claimed(more: dict[str, str]) -> str | None:
        claim(plan.config, tokens, "fp32", 1, lambda note: None, more=more)
        return files.read_data_notes(tmp_path / "next" / "data.json").get("begin_from")

    assert claimed({"begin_from": "first@2"}) == "first@2"
    _empty_checkpoint(tmp_path / "next" / "checkpoints", 2)
    assert claimed({}) == "first@2"
    run = FinishedRun(tmp_path / "next", plan.config, {"status": "done"}, [], None, {}, None)
    base = Base(kind="random", name="llama-tiny", revision=None, licence=None)
    card = model_card(run, base, Made(format="full", kind="float32", checked="equal", same=True))
    assert "| began with the weights of the run | first@2 |" in card


def test_a_resumed_run_does_not_look_at_the_other_run_again(tmp_path: Path) -> None:
    training.run(made(tmp_path, "first"), Recorder())
    plan = begun(made(tmp_path, "next", steps=6, run={"begin_from": str(tmp_path / "first")}))
    first = Recorder(stop_after=2)
    training.run(plan, first)
    storage.remove_tree(tmp_path / "first")
    assert beginning(plan.config) is None
    second = Recorder()
    training.run(replace(plan, begin_from=None), second)
    assert second.resumed == [2]


@pytest.mark.parametrize(
    ("sections", "text", "message"),
    [
        ({"peft": {**LORA, "rank": 4}}, "first", "peft.rank: 2, but this run has 4"),
        ({"peft": {**LORA, "alpha": 3.0}}, "first", "peft.alpha"),
        ({"peft": {"type": "none"}}, "first", "peft"),
        ({"peft": LORA, "run": {"seed": 9}}, "first", "run.seed"),
        ({"peft": LORA}, "first@3", "no checkpoint of step 3, but of 2, 4"),
        ({"peft": LORA}, "gone", "not the folder of a run"),
        ({"peft": LORA}, "empty", "no complete checkpoint"),
        ({"peft": LORA}, "next", "cannot begin from itself"),
        ({"peft": LORA, "method": {"name": "dpo"}}, "first", "reference model"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_fix(
    sections: dict[str, Any], text: str, message: str, tmp_path: Path
) -> None:
    first = made(tmp_path, "first", peft=LORA)
    for step in (2, 4):
        _empty_checkpoint(tmp_path / "first" / "checkpoints", step)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text(dump(first.config))
    asked = {**sections.pop("run", {}), "begin_from": str(tmp_path / text)}
    config = first.config.override({"run.name": "next"}).override(
        {f"run.{name}": value for name, value in asked.items()} | sections
    )
    with pytest.raises(InputError, match=message) as refused:
        beginning(config)
    assert refused.value.key == "run.begin_from"
    assert refused.value.fix


def _empty_checkpoint(root: Path, step: int) -> None:
    folder = checkpoint.folder_of(root, step, 1)
    folder.mkdir(parents=True)
    checkpoint.write_manifest(folder, Progress(step=step), 0.0, {}, [])


def test_other_weights_and_damaged_files_are_refused_by_the_workers(tmp_path: Path) -> None:
    training.run(made(tmp_path, "first", peft=LORA), Recorder())
    plan = begun(made(tmp_path, "next", peft=LORA, run={"begin_from": str(tmp_path / "first")}))
    other = replace(plan, config=plan.config.override({"peft.rank": 1}))
    with pytest.raises(InputError, match=r"does not fit the model of this run: it has \d+ values of"):
        training.run(other, Recorder())
    assert plan.begin_from is not None
    (file,) = Path(plan.begin_from.folder).glob("*.safetensors")
    whole = bytearray(file.read_bytes())
    whole[-5] ^= 7
    file.write_bytes(whole)
    with pytest.raises(InputError, match="is gone, incomplete or damaged"):
        training.run(plan, Recorder())


def test_a_tokenizer_trained_on_other_records_is_refused(tmp_path: Path) -> None:
    first = made(tmp_path, "first").config
    config = first.override(
        {"run.name": "next", "run.begin_from": str(tmp_path / "first"), "data.tokenizer": "train"}
    )
    check_tokenizer(config, "/runs/tokenizers/one")
    with pytest.raises(InputError, match="another tokenizer"):
        check_tokenizer(config, "/runs/tokenizers/two")


def test_the_folder_is_relative_to_the_config_and_stages_begin_there_once(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("run: {name: next, begin_from: runs/first@20}\ndata: {train: x.jsonl}\n")
    config = read(file)
    assert config.run.begin_from == f"{tmp_path.resolve()}/runs/first@20"
    assert read(file, ["run.begin_from=s3://bucket/runs/a@b"]).run.begin_from == "s3://bucket/runs/a@b"
    assert ("run.begin_from", f"{tmp_path.resolve()}/runs/first") in set(parcel.paths(config))
    with pytest.raises(InputError, match="the folder of a run is missing"):
        read(file, ["run.begin_from=@3"])
    file.write_text(file.read_text() + "stages: [{name: one}, {name: two}]\n")
    first, second = stage_configs(read(file))
    assert (first.run.begin_from, second.run.begin_from) == (config.run.begin_from, None)
