"""Tests of `medray export` on the folder of a finished run: its files, checks and refusals, and the secrets that it never prints."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from s3_server import s3_server
from safetensors.torch import load_file, save_file
from torch import Tensor

from medray import storage
from medray.cli import main as command
from medray.config import Config
from medray.data.index.membership import SplitIndex
from medray.data.shards.shard_file import ShardStore
from medray.data.shards.split_summary import summarize
from medray.data.tokenizer import load_tokenizer
from medray.models.adapters import add_adapter, merging
from medray.models.export import export, load_export
from medray.release.release import base_folder
from medray.train.run_folder.finished_run import FinishedRun

CPU = torch.device("cpu")
SECRET = "zorblatt"  # is in every record
LORA = {"type": "lora", "rank": 2, "alpha": 4.0}


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the process's umask and environment, which the command sets."""
    before, threads = os.umask(0o022), torch.get_num_threads()
    for name in command.QUIET:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    os.umask(before)


def finished(
    folder: Path,
    peft: dict[str, Any] | None,
    preset: str = "llama-tiny",
    *,
    splits: tuple[str, ...] = ("train", "validation"),
    base_dtype: torch.dtype = torch.float32,
    precision: str = "fp32",
    learn: float = 0.0,
    scale: float = 1.0,
    form: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row,
    **sections: dict[str, Any],
) -> Path:
    """Make the folder of a finished run, with an adapter whose weights are not zero, or with none.

    learn: learning rate of a little training, so that the loss is lower than the base's; 0 moves the weights at random.
    scale: factor of the base's projections, so that they relate to an update like those of a trained model.
    form: makes another kind of record of each row.
    """
    seq2seq = preset.startswith("t5")
    made = [row | {"input": f"{SECRET} {row['input']}"} for row in tiny.rows(9)]
    tokens = folder / "runs" / "tokens" / "f1n9e7"
    sets = {}
    for split in splits:
        sets[split] = tiny.token_set(
            tokens,
            [form(row) for row in made],
            architecture="seq2seq" if seq2seq else "causal",
            truth=True,
            name=split,
        )
        Path(sets[split].folder).rename(tokens / split)
        moved = replace(sets[split], folder=str(tokens / split))
        (tokens / split / "manifest.json").write_text(json.dumps(summarize(moved)))
        moved.index.write(tokens / split / "index.json")
        sets[split] = moved
    model = tiny.saved_model(folder / "base", preset, sets["train"])
    stored = folder / "base" / "model.safetensors"
    held = {
        name: (one * scale if "proj" in name else one).to(base_dtype)
        for name, one in load_file(stored).items()
    }
    save_file(held, stored, metadata={"format": "pt"})
    tokenizer = load_tokenizer(sets["train"].tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}!"
    run = folder / "runs" / "calm"
    run.mkdir()
    loaded: Any = load_export(folder / "base", CPU)
    loaded.generation_config.eos_token_id = [1, 7]  # of an end that the base does not know
    settings: dict[str, Any] = {
        "run": {"storage": str(folder / "runs"), "name": "calm"},
        "model": model,
        "data": {"train": ["/private/place/notes.jsonl", "https://user:pw@host/x/more.jsonl?token=s3cr3t"],
                 "prompts": {"system": "Be brief."}},
        "method": {"name": "distill"},
        "peft": peft or {"type": "none"},
    }  # fmt: skip
    for section, values in sections.items():
        settings[section] = settings.get(section, {}) | values
    config = Config.model_validate(settings)
    if peft:
        loaded = add_adapter(
            loaded, config.peft, seq2seq=seq2seq, seed=0, total_steps=20, tokenizer=tokenizer
        )
    if learn:
        tune(loaded, run_rows(tokens / "train"), learn)
    torch.manual_seed(1)
    with torch.no_grad():
        for one in loaded.parameters():
            one.add_(torch.randn_like(one), alpha=0.1 * one.requires_grad * (not learn))
    export(loaded, tokenizer, run / "export", write=True, gathered=lambda one: nullcontext())
    (run / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (run / "data.json").write_text(json.dumps({"tokens": str(tokens / "train"), "precision": precision}))
    lines = [
        {"step": n, "loss": 3.0 - n, "seconds": 0.5, "data_wait_seconds": 0.5, "samples": 4 * n}
        for n in (1, 2)
    ]
    (run / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {"status": "done", "steps": 2, "samples": 8, "tokens": 99, "epochs": 0.5,
               "memory": {"device": "Card", "total_bytes": 4000, "before_bytes": 1000, "peak_bytes": 3000},
               "order_sha256": "0rder", "world_size": 2, "train_loss_first": 2.0, "train_loss_last": 1.0,
               "eval": {"before": {"loss": 4.0}, "after": {"loss": 2.5, "rouge1": 0.25}},
               "parameters": {"total": 1000, "trainable": 10}, "versions": {"torch": "2.x"}}  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def run_rows(tokens: Path) -> list[tuple[Any, Any]]:
    """Return (input ids, labels) of the label task for every row, int64 [1, tokens]."""
    store = ShardStore(tokens)
    shards = SplitIndex.read(tokens / "index.json").shards
    rows = [store.example(shard.index, row, "label") for shard in shards for row in range(shard.rows)]

    def tensor(part: np.ndarray) -> Tensor:
        return torch.tensor(part.astype("int64"))[None]

    return [(tensor(ids), tensor(labels)) for ids, labels in rows if len(ids)]


def tune(model: Any, rows: list[tuple[Any, Any]], lr: float) -> None:
    """Train a few steps with AdamW."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=lr)
    for _ in range(3):
        for ids, labels in rows:
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()


@torch.no_grad()
def plain_loss(folder: Path, rows: list[tuple[Any, Any]]) -> float:
    """Return the mean loss per token that transformers computes."""
    model: Any = load_export(folder, CPU, dtype=torch.float32)
    total = count = 0.0
    for ids, labels in rows:
        shown = labels if model.config.is_encoder_decoder else labels[:, 1:]
        tokens = int((shown != -100).sum())
        total, count = total + tokens * float(model(input_ids=ids, labels=labels).loss), count + tokens
    return total / count


def medray(*words: object) -> int:
    return command.main([str(word) for word in ("export", *words)])


@pytest.mark.parametrize("preset", ["llama-tiny", pytest.param("t5-tiny", marks=pytest.mark.long)])
def test_merged_weights_load_alone_and_come_with_card_and_numbers(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, LORA, preset, learn=3e-3)
    assert medray(run, "--format", "merged", "--shard-mb", 1, "--json") == 0
    said = capsys.readouterr()
    target = run / "export-merged"
    told = json.loads(said.out.splitlines()[-1])
    assert (told["folder"], told["format"], told["pushed_to"]) == (str(target), "merged", None)
    assert set(told["files"]) == {file.name for file in target.iterdir()}
    assert told["comparison"]["relative"] < 1e-5
    assert told["comparison"]["effect"] > 1e-3
    compared, rows = told["comparison"], run_rows(run.parent / "tokens" / "f1n9e7" / "validation")
    tokens = sum(int((labels != -100).sum()) for _, labels in rows)
    assert compared["rows"] == f"9 rows of the validation split ({tokens} tokens)"
    assert compared["loss_base"] == pytest.approx(plain_loss(tmp_path / "base", rows), rel=1e-5)
    assert compared["loss_run"] == pytest.approx(plain_loss(run / "export", rows), rel=1e-5)
    assert compared["loss_written"] == pytest.approx(plain_loss(target, rows), rel=1e-5)
    assert compared["kept_percent"] == pytest.approx(100, abs=0.1)
    assert "logits of" in said.err
    assert "of what training gained is kept" in said.err
    assert not list(run.glob(".export*"))

    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(target)
    kept = AutoTokenizer.from_pretrained(run / "export")
    assert tokenizer.chat_template == "{{ messages[0].content }}!"
    assert tokenizer("fever and cough")["input_ids"] == kept("fever and cough")["input_ids"]
    assert not (target / "adapter_config.json").exists()
    ends = json.loads((target / "generation_config.json").read_text())["eos_token_id"]
    assert (
        ends == json.loads((run / "export" / "generation_config.json").read_text())["eos_token_id"] == [1, 7]
    )

    card = (target / "README.md").read_text()
    for fact in ("notes.jsonl", "more.jsonl", "9 rows", "f1n9e7", "lora rank 2", "distill, task_prefix", "0rder",
                 f"{compared['loss_written']:.6g}", "10 of 1,000", "not known here", "Clinicians", "torch", "merged weights (fp32)"):  # fmt: skip
        assert fact in card, fact
    assert "rouge1" not in card  # measured on other weights
    everything = card + said.out + said.err
    for secret in (SECRET, "pw@", "s3cr3t", "/private/place", "denies"):
        assert secret not in everything, secret

    stats = json.loads((target / "trainer_stats.json").read_text())
    assert stats == {"train_runtime": 2.0, "train_samples_per_second": 4.0, "train_steps_per_second": 1.0,
                     "train_loss": 1.5, "steps": 2, "epoch": 0.5}  # fmt: skip
    with (target / "loss.csv").open() as stream:
        assert list(csv.reader(stream)) == [["Step", "Loss"], ["1", "2.0"], ["2", "1.0"]]
    memory = json.loads((target / "memory.json").read_text())
    assert memory.pop("of").startswith("the first worker")
    assert memory == {"device": "Card", "total_bytes": 4000, "reserved_before_bytes": 1000, "peak_bytes": 3000,
                      "peak_for_training_bytes": 2000, "peak_percent": 75.0,
                      "peak_for_training_percent": 50.0}  # fmt: skip


def test_a_random_base_is_read_from_the_export(tmp_path: Path) -> None:
    """Read it from the export, although the config has the default name of a packaged model."""
    (tmp_path / "export" / "base").mkdir(parents=True)
    (tmp_path / "export" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": null}'
    )
    config = Config.model_validate({"model": {"init": "random"}, "peft": {"type": "lora"}})
    assert config.model.name is not None
    run = FinishedRun(tmp_path, config, {}, [], None, {}, adapter={"base_model_name_or_path": None})
    assert base_folder(run, tmp_path / "export") == tmp_path / "export" / "base"


def test_an_adapter_is_copied_and_a_second_export_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, LORA)
    assert medray(run, "--format", "adapter") == 0
    target = run / "export-adapter"
    for name in ("adapter_model.safetensors", "chat_template.jinja", "tokenizer.json"):
        assert (target / name).read_bytes() == (run / "export" / name).read_bytes()
    card = (target / "README.md").read_text()
    assert "an adapter" in card
    assert "| rouge1 on validation, before and after | -, 0.25 |" in card
    assert "is a folder of the machine" in capsys.readouterr().err
    assert medray(run, "--format", "adapter") == 2
    error = capsys.readouterr().err
    assert "not an empty folder" in error
    assert "Fix: use --to" in error
    assert medray(run, "--format", "adapter", "--to", tmp_path / "other", "--no-verify") == 0
    assert "--no-verify" in (tmp_path / "other" / "README.md").read_text()


def test_a_damaged_tokenizer_is_not_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, LORA)
    file = run / "export" / "tokenizer.json"
    file.write_text(file.read_text() + "x")
    for form in ("merged", "adapter"):
        assert medray(run, "--format", form, "--no-verify", "--to", tmp_path / form) == 2
        error = capsys.readouterr().err
        assert str(file) in error
        assert "the tokenizer of the run cannot be loaded" in error
        assert not (tmp_path / form).exists()


def test_a_run_in_a_bucket_is_exported_there_and_to_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, LORA)
    weights = "adapter_model.safetensors"
    original = (run / "export" / weights).read_bytes()
    with s3_server(tmp_path, "bucket"):
        kept = storage.at("s3://bucket/runs/calm")
        for folder in ("calm", "tokens"):  # nothing of them stays in the folder
            storage.put_tree(run.parent / folder, storage.at("s3://bucket/runs") / folder)
        assert medray(kept, "--format", "merged", "--json") == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["folder"] == "s3://bucket/runs/calm/export-merged"
        assert told["comparison"]["rows"].startswith("9 rows of the validation split")
        assert storage.sizes(kept / "export-merged") == told["files"]
        assert {"model.safetensors", "tokenizer.json", "README.md", "memory.json"} <= told["files"].keys()

        assert medray(kept, "--format", "merged") == 2
        assert "not an empty folder" in capsys.readouterr().err
        assert medray(kept, "--format", "adapter", "--to", tmp_path / "adapter", "--no-verify") == 0
        assert (tmp_path / "adapter" / weights).read_bytes() == original


def test_a_format_that_a_run_does_not_support_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path, {"type": "prompt", "virtual_tokens": 3})

    def refused(*words: object) -> str:
        assert medray(*words) == 2
        error = capsys.readouterr().err
        assert "Fix:" in error
        assert "Traceback" not in error
        return error

    assert "this folder holds no run" in refused(tmp_path, "--format", "merged")
    for form in ("merged", "nf4", "gguf"):
        assert "adds virtual tokens and does not change" in refused(run, "--format", form)
    assert "no effect with --format adapter" in refused(run, "--format", "adapter", "--dtype", "bf16")
    assert "no effect with --format merged" in refused(run, "--format", "merged", "--gguf-type", "f16")
    assert "at least 1" in refused(run, "--format", "merged", "--shard-mb", 0)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert "the environment variable HF_TOKEN is not set" in refused(
        run, "--format", "adapter", "--push-to", "me/mine"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_zyx")
    assert "is not a hub id" in refused(run, "--format", "adapter", "--push-to", "mine")
    assert "forbids uploads" in refused(run, "--format", "adapter", "--push-to", "me/mine")
    assert medray(run, "--format", "adapter") == 0  # a prompt has no logits of a base alone
    capsys.readouterr()
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"status": "stopped"}))
    assert "its status is stopped" in refused(run, "--format", "adapter")
    (run / "summary.json").unlink()
    assert "no summary.json" in refused(run, "--format", "adapter")


def test_a_run_of_all_weights_can_be_written_in_a_different_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, None)
    assert medray(run, "--format", "adapter") == 2
    assert "has no adapter" in capsys.readouterr().err
    assert medray(run, "--format", "merged", "--dtype", "bf16", "--to", tmp_path / "half") == 0
    assert {one.dtype for one in load_file(tmp_path / "half" / "model.safetensors").values()} == {
        torch.bfloat16
    }


def test_the_default_type_keeps_what_training_gained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Use a float32 run on a bfloat16 base, whose precision is too low for the updates."""
    run = finished(tmp_path, LORA, base_dtype=torch.bfloat16, learn=1e-4, scale=8)

    def exported(*words: object) -> tuple[dict[str, Any], str]:
        assert medray(run, *words, "--json") == 0
        said = capsys.readouterr()
        return json.loads(said.out.splitlines()[-1])["comparison"], said.err

    found, _ = exported("--format", "merged")
    assert found["dtype"] == "fp32"
    assert found["loss_base"] - found["loss_run"] > 1e-3
    assert found["kept_percent"] == pytest.approx(100, abs=0.1)

    half, said = exported("--format", "merged", "--dtype", "bf16", "--to", tmp_path / "half")
    rows = run_rows(run.parent / "tokens" / "f1n9e7" / "validation")
    base, tuned, written = (
        plain_loss(folder, rows) for folder in (tmp_path / "base", run / "export", tmp_path / "half")
    )
    assert half["kept_percent"] == pytest.approx(100 * (base - written) / (base - tuned), abs=0.5)
    assert half["kept_percent"] < 97, "bfloat16 loses nothing here: the test shows nothing"
    assert "bf16 loses part of what training gained" in said
    assert f"{half['kept_percent']:.4g} %" in (tmp_path / "half" / "README.md").read_text()

    (run / "data.json").write_text((run / "data.json").read_text().replace("fp32", "bf16"))
    assert medray(run, "--format", "merged", "--to", tmp_path / "refused") == 2
    error = capsys.readouterr().err
    assert "at least 97 % must be kept" in error
    assert "Fix: use --dtype fp32, or --dtype bf16 to accept the loss" in error
    assert not (tmp_path / "refused").exists()
    assert not list(tmp_path.glob(".refused*"))
    assert medray(run, "--format", "merged", "--no-verify", "--to", tmp_path / "blind") == 0
    card = (tmp_path / "blind" / "README.md").read_text()
    assert "| loss of these weights | not measured: --no-verify |" in card
    assert "of what training gained" not in card


@pytest.mark.parametrize("peft", [None, pytest.param(LORA, marks=pytest.mark.long)])
def test_a_run_that_gained_nothing_is_reported(
    peft: dict[str, Any] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Use randomly changed weights, no validation split, and then no tokens at all."""
    run = finished(tmp_path, peft, splits=("train",))
    assert medray(run, "--format", "merged", "--json") == 0
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])["comparison"]
    assert found["rows"].startswith("9 rows of the training split, as the run has no validation rows")
    assert found["loss_run"] > found["loss_base"]
    assert found["kept_percent"] is None
    assert "training made the loss worse, so there is no gain to keep" in said.err
    if peft:
        return
    shutil.rmtree(run.parent / "tokens")
    assert medray(run, "--format", "merged", "--to", tmp_path / "again", "--json") == 0
    said = capsys.readouterr()
    assert "loss not measured: no rows of the run are left" in said.err
    assert json.loads(said.out.splitlines()[-1])["comparison"]["loss_written"] is None


def test_written_weights_that_differ_from_the_run_are_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path, LORA, learn=3e-3)
    monkeypatch.setattr(merging._Merging, "__call__", lambda self, name: self._files.read(name))
    assert medray(run, "--format", "merged") == 1
    assert "differ from those of the run" in capsys.readouterr().err
    assert sorted(path.name for path in run.glob("*export*")) == ["export"]
    assert not list(run.glob(".export*"))


def test_four_bits_load_with_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, LORA)
    assert medray(run, "--format", "nf4", "--json") == 0
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])["comparison"]
    assert found["relative"] > 1e-4
    assert found["loss_written"] != pytest.approx(found["loss_run"], rel=1e-6)
    target = run / "export-nf4"
    assert (
        json.loads((target / "config.json").read_text())["quantization_config"]["bnb_4bit_quant_type"]
        == "nf4"
    )
    assert any(one.dtype == torch.uint8 for one in load_file(target / "model.safetensors").values())
    assert not (target / "merged").exists()


CONVERTER = """#!{python}
import json, sys
from pathlib import Path
import numpy as np
from gguf import GGUFWriter, MODEL_ARCH, get_tensor_name_map
from safetensors.numpy import load_file
folder, file = Path(sys.argv[1]), sys.argv[sys.argv.index("--outfile") + 1]
assert sys.argv[sys.argv.index("--outtype") + 1] == "q8_0"
config = json.loads((folder / "config.json").read_text())
heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
writer = GGUFWriter(file, "{arch}")
writer.add_block_count(layers)
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(heads)
writer.add_head_count_kv(config["num_key_value_heads"])
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
writer.add_vocab_size(config["vocab_size"])
names = get_tensor_name_map(MODEL_ARCH.LLAMA, layers)
for name, tensor in sorted(load_file(folder / "model.safetensors").items())[{skip}:]:
    parts = config["num_key_value_heads"] if "k_proj" in name else heads if "q_proj" in name else 0
    if parts:  # interleave the halves of a head, as llama.cpp rotates them
        shape = tensor.shape
        tensor = tensor.reshape(parts, 2, shape[0] // parts // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
    stored = np.float32 if "norm" in name else np.float16
    writer.add_tensor(names.get_name(name, (".weight",)), tensor.astype(stored))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


def test_gguf_is_made_by_the_converter_on_path_or_the_error_says_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path, LORA, learn=3e-3)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert medray(run, "--format", "gguf") == 2
    error = capsys.readouterr().err
    target = run / "export-gguf"
    file = target / "model-q8_0.gguf"
    assert f"convert_hf_to_gguf.py {target / 'merged'} --outtype q8_0 --outfile {file}" in error
    assert (target / "merged" / "model.safetensors").exists()
    assert (target / "merged" / "tokenizer.json").exists()
    program = tmp_path / "bin" / "convert_hf_to_gguf.py"
    program.parent.mkdir()
    program.write_text(CONVERTER.format(python=sys.executable, skip=0, arch="llama"))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    capsys.readouterr()
    assert medray(run, "--format", "gguf", "--to", tmp_path / "out", "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["comparison"]
    assert found["dtype"] == "q8_0"
    assert found["loss_run"] < found["loss_base"]
    assert found["loss_written"] != found["loss_run"]
    assert found["kept_percent"] == pytest.approx(100, abs=2)  # of 16 bits, which the program here writes
    assert (tmp_path / "out" / "model-q8_0.gguf").exists()
    assert not (tmp_path / "out" / "merged").exists()
    assert "gguf_file='model-q8_0.gguf'" in (tmp_path / "out" / "README.md").read_text()

    program.write_text(
        CONVERTER.format(python=sys.executable, skip=0, arch="plamo")
    )  # transformers reads no such file
    assert medray(run, "--format", "gguf", "--to", tmp_path / "unknown") == 0
    card = (tmp_path / "unknown" / "README.md").read_text()
    assert "| loss of these weights | not measured: transformers cannot load this GGUF file (" in card
    assert "of what training gained" not in card
    program.write_text(CONVERTER.format(python=sys.executable, skip=3, arch="llama"))
    assert medray(run, "--format", "gguf", "--to", tmp_path / "short") == 1
    assert "the merged model" in capsys.readouterr().err
    program.write_text("#!/bin/false\n")
    assert medray(run, "--format", "gguf", "--to", tmp_path / "short") == 1
    assert "ended with code 1" in capsys.readouterr().err
    assert not (tmp_path / "short").exists()


def test_a_push_uses_the_hub_library_and_never_prints_the_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path, LORA)
    calls: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def __init__(self, token: str) -> None:
            calls.append(("token", {"token": token}))

        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append(("create", {"id": repo_id, **options}))

        def upload_folder(self, **options: Any) -> None:
            calls.append(("upload", options))
            if "bad" in options["repo_id"]:
                raise OSError("401 for hf_zyx")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", "hf_zyx")
    assert medray(run, "--format", "adapter", "--no-verify", "--push-to", "me/mine") == 0
    assert [name for name, _ in calls] == ["token", "create", "upload"]
    assert calls[1][1] == {"id": "me/mine", "private": True, "exist_ok": True}
    assert calls[2][1]["folder_path"] == str(run / "export-adapter")
    assert (
        medray(run, "--format", "adapter", "--no-verify", "--to", tmp_path / "x", "--push-to", "me/bad") == 1
    )
    said = capsys.readouterr()
    assert "uploading to me/bad failed: OSError" in said.err
    assert "hf_zyx" not in said.out + said.err
    assert (tmp_path / "x" / "adapter_config.json").exists()


@pytest.mark.long
def test_the_command_prints_only_its_own_lines(tmp_path: Path) -> None:
    run = finished(tmp_path, LORA)
    command = [sys.executable, "-m", "medray", "export", str(run), "--format", "merged"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert [
        line for line in done.stderr.splitlines() if not re.match(r"\[|export$|  (folder|files) ", line)
    ] == []
