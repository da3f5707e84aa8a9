"""`medray plan`: text, JSON, where lengths come from, and what it refuses. Nothing heavy is imported."""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from recipes import MODELS

from medray.cli.main import main
from medray.cli.plan import gpus_of_nodes
from medray.config import read
from medray.data.shards.preparation import Preparation
from medray.errors import InputError
from medray.plan.model_config import described_offline
from medray.plan.packaged import converted, packaged_config
from medray.storage import json_files

MODEL = MODELS["meta-llama/Meta-Llama-3-8B-Instruct"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model's config.json, rows, and a config."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(MODEL))
    tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.rows(30))
    write(tmp_path, {})
    return tmp_path


def write(folder: Path, sections: dict[str, Any]) -> None:
    tree: dict[str, Any] = {
        "run": {"name": "planned", "storage": str(folder / "runs")},
        "model": {"name": str(folder / "model")},
        "data": {"train": ["rows.jsonl"]},
        "train": {"epochs": 2, "global_batch_size": 8},
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    (folder / "run.yaml").write_text(yaml.safe_dump(tree))


def planned(folder: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """Return the JSON and the text of a plan."""
    assert main(["plan", str(folder / "run.yaml"), "--json", *words]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_a_plan_from_a_config_json_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, text = planned(folder, "--gpus", "2x8xH100-80GB", "--price", "2", capsys=capsys)
    assert tree["gpus"] == {"name": "2x8xH100-80GB", "memory": 81_559 << 20}
    assert tree["workers"] == 16
    assert tree["model"]["parameters"] == 8_030_261_248
    assert tree["cost"]["steps"] == 2 * 4
    assert tree["cost"]["price"] == pytest.approx(2 * tree["cost"]["gpu_hours"])
    assert "16 x H100-80GB on 2 nodes" in text
    assert "fever" not in text  # a word of the rows


def test_lengths_are_of_a_sample_then_of_the_manifest_and_else_of_the_limits(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree, text = planned(folder, "--gpus", "8xH100", capsys=capsys)
    assert tree["rows"] == 30
    assert tree["lengths"].startswith("a sample of 30 of 30 rows, at 4 characters a token")
    assert tree["lengths"] in text
    config = read(folder / "run.yaml", [])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / name).write_bytes((tiny.tokenizer(folder) / name).read_bytes())
    tree, _ = planned(folder, "--gpus", "8xH100", capsys=capsys)
    assert "30 rows, tokenized" in tree["lengths"]
    layout = Preparation(config, "causal", str(folder / "model"))  # it hashes the rows
    counts = {"rows": 30, "tokens": 3000, "loss_tokens": 600, "p50": 90, "p90": 110, "p99": 120, "max": 130}
    summary = {"rows": 30, "rejected": 0, "dropped": {}, "duplicates": 0, "repeated_ids": 0, "shards": 1}
    made = layout.folder / "train"
    made.mkdir(parents=True)
    json_files.write_sealed(made / "manifest.json", summary | {"tasks": {"label": counts | {"truncated": 0}}})
    tree, text = planned(folder, "--gpus", "8xH100", capsys=capsys)
    assert tree["lengths"].startswith("the manifest of 30 rows")
    assert tree["cost"]["tokens"] == 2 * 3000
    assert "of 130 tokens" in text
    (folder / "rows.jsonl").unlink()
    tree, _ = planned(folder, "--gpus", "8xH100", "train.max_steps=10", capsys=capsys)
    assert tree["lengths"].startswith("the limits of the config")


def test_a_range_of_workers_is_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, text = planned(folder, "cluster.workers=[2,4]", "cluster.gpus=true", capsys=capsys)
    assert [one["workers"] for one in tree["range"]] == [2, 3, 4]
    assert text.splitlines()[0].split()[:2] == ["workers", "cheapest"]
    assert tree["gpus"] is None
    assert tree["asked"]["fits"] is None
    assert tree["asked"]["smallest_gpu"]


def test_each_stage_has_a_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, {})
    tree = yaml.safe_load((folder / "run.yaml").read_text())
    stages = [{"name": "first"}, {"name": "second", "peft": {"type": "lora", "rank": 4}}]
    (folder / "run.yaml").write_text(yaml.safe_dump(tree | {"stages": stages}))
    found, text = planned(folder, "--gpus", "8xH100", capsys=capsys)
    first, second = found["stages"]
    assert second["asked"]["device"] < first["asked"]["device"]
    assert "stage 2, second" in text


def test_without_gpus_this_machine_is_planned_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, text = planned(folder, "train.zero_stage=0", capsys=capsys)
    assert tree["precision"] == "fp32"
    assert "on a node of" in text
    assert tree["asked"]["fits"] is not None


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--gpus", "8xK80"], "--gpus"),
        (["--price", "-1"], "--price"),
        (["--efficiency", "0"], "--efficiency"),
        (["--gpus", "8xH100", "--cluster"], "--cluster"),
        (["--cluster"], "--cluster"),
        (["model.name=/nowhere/model"], "model.name"),
        (["train.zero_stag=3"], "train.zero_stag"),
        (["--price", "inf"], "--price"),
        (["model.name=null"], "no model is set"),
        (["peft.type=adalora"], "train.zero_stage"),  # as medray train says
        (["method={name: distill, variant: cosine}"], "the model is causal"),
        (["peft={type: lora, targets: [nope]}"], "peft.targets"),
    ],
)
def test_bad_input_is_refused_with_its_fix(
    folder: Path,
    words: list[str],
    key: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["plan", str(folder / "run.yaml"), *words]) == 2
    err = capsys.readouterr().err
    assert key in err
    assert "Fix:" in err


def test_a_family_that_cannot_be_counted_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model" / "config.json").write_text(json.dumps(MODEL | {"model_type": "mamba"}))
    assert main(["plan", str(folder / "run.yaml"), "--gpus", "8xH100"]) == 2
    err = capsys.readouterr().err
    assert "does not know the layers of a model of the type 'mamba'" in err
    assert "gemma3_text" in err


def test_what_this_machine_lacks_does_not_keep_from_planning(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name)
    )
    lacking = ("run.storage=/nowhere/runs", "data.train=[gone.jsonl]", "train.max_steps=10")
    small = ("model.quantization=nf4", "peft={type: lora}", "model.adapter=/nowhere/adapter")
    tree, text = planned(folder, "--gpus", "1xA100", *lacking, *small, capsys=capsys)
    assert tree["cost"]["steps"] == 10
    assert "the rows of data.train cannot be read here" in text


def test_a_plan_has_the_notes_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = "tune={space: {peft.rank: {choice: [4, 8]}}}"
    words = ("--gpus", "2x8xL4", "method.alpha=0.4", "train.optimizer.lr=2.0", search)
    _, text = planned(folder, *words, capsys=capsys)
    assert "note     method.alpha is ignored" in text
    assert "WARNING  train.optimizer.lr" in text
    assert "the plan of one trial" in text
    assert "8 of them have nothing to do" in text


def test_it_loads_nothing_heavy_and_takes_less_than_a_second(folder: Path) -> None:
    code = (
        "import sys; from medray.cli.main import main; "
        f"main(['plan', {str(folder / 'run.yaml')!r}, '--gpus', '8xH100-80GB']); "
        "print({'torch', 'ray', 'transformers', 'datasets'} & set(sys.modules))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert out.splitlines()[-1] == "set()"
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 1.5  # 0.7 on a machine with nothing else to do


def test_the_sizes_of_packaged_models_are_those_of_their_files() -> None:
    there = converted("smollm2-135m-instruct")
    if there is not None:
        stored = json.loads((there / "config.json").read_text())
        assert packaged_config("smollm2-135m-instruct").items() <= stored.items()


def test_a_preset_is_described_offline(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "model: {name: null, init: random, preset: t5-tiny}\ndata: {tokenizer: train}\n"
    )
    config = read(tmp_path / "run.yaml", [])
    found = described_offline(config.model, 4096)
    assert (found.architecture, found.folder, found.config["vocab_size"]) == ("seq2seq", None, 4096)


def test_the_gpus_of_a_cluster() -> None:
    a100 = {"CPU": 64.0, "GPU": 8.0, "memory": 5e11, "accelerator_type:A100": 1.0}
    head = {"CPU": 8.0, "memory": 3e10}
    gpus, memory, per_node = gpus_of_nodes([head, a100, a100], wanted=None, workers=16)
    assert gpus is not None
    assert (gpus.described, memory, per_node) == ("2x8xA100-80GB", int(5e11), 8)
    gpus, memory, per_node = gpus_of_nodes([head, a100], wanted=False, workers=4)
    assert (gpus, memory, per_node) == (None, int(3e10), 2)
    with pytest.raises(InputError, match="not in the table"):
        gpus_of_nodes([{"CPU": 4.0, "GPU": 1.0, "memory": 1e9}], wanted=None, workers=1)
