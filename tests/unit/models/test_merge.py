"""Merged shard by shard: the logits of base and adapter, the base's names, and little memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor

from medray.config.peft import PeftConfig
from medray.models.adapters import add_adapter
from medray.models.export import load_export
from medray.models.merge import Merged, merge_folder
from medray.models.presets import PRESETS
from medray.models.verify import TokenRow, compare, made_up, reference

CPU = torch.device("cpu")
VOCABULARY = 96
TYPES: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "rank": 3, "alpha": 6.0},
    "rslora": {"type": "lora", "rank": 4, "alpha": 6.0, "rslora": True},
    "dora": {"type": "lora", "rank": 3, "alpha": 6.0, "dora": True},
    "adalora": {"type": "adalora", "adalora": {"init_rank": 4, "target_rank": 2}},
    "ia3": {"type": "ia3"},
}
KINDS = ("llama", "llama-untied", "qwen2", "gpt2", "t5")


def config(kind: str) -> tuple[Any, Any]:
    """(auto class, config) of a tiny model; qwen2 has biases, gpt2 weights that lie the other way and shorter names."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    if kind == "t5":
        values = tiny.model_dict("t5-tiny") | {"decoder_start_token_id": 0}
    elif kind == "gpt2":
        values = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    else:
        values = PRESETS["llama-tiny"] | {"hidden_size": 32, "intermediate_size": 48}
        values |= {"tie_word_embeddings": kind != "llama-untied"}
        values |= {"model_type": "qwen2"} if kind == "qwen2" else {}
    values = values | {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    found = AutoConfig.for_model(values.pop("model_type"), **values)
    return (AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM), found


def make(folder: Path, kind: str, peft: str, *, shard: str = "20KB", dtype: Any = torch.float32) -> None:
    """folder/base and folder/adapter."""
    auto, settings = config(kind)
    torch.manual_seed(0)
    model = auto.from_config(settings)
    change(model.parameters(), 0.1)
    base = folder / "base"
    model.to(dtype).save_pretrained(base, max_shard_size=shard)
    again = auto.from_pretrained(base, dtype=torch.float32)
    made: Any = add_adapter(
        again, PeftConfig.model_validate(TYPES[peft]), seq2seq=kind == "t5", seed=1, total_steps=20
    )
    change((one for one in made.parameters() if one.requires_grad), 0.2)
    made.save_pretrained(folder / "adapter")


def change(parameters: Any, size: float) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for one in parameters:
            one.add_(torch.randn_like(one), alpha=size)


def merged(folder: Path, name: str = "merged", **options: Any) -> Merged:
    (folder / name).mkdir()
    options = {"dtype": None, "shard_bytes": 30_000} | options
    return merge_folder(folder / "base", folder / "adapter", folder / name, **options)


def rows(kind: str) -> list[TokenRow]:
    return made_up(VOCABULARY, kind == "t5")


def loads(folder: Path) -> Callable[[], Any]:
    return lambda: load_export(folder, CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_logits_are_those_of_base_and_adapter(kind: str, tmp_path: Path) -> None:
    for peft in TYPES:
        folder = tmp_path / peft
        folder.mkdir()
        make(folder, kind, peft)
        done = merged(folder)
        found = compare(
            reference(loads(folder / "adapter"), rows(kind)), loads(folder / "merged"), rows(kind), "", "fp32"
        )
        assert done == Merged("fp32", done.shards), "the whole model was loaded"
        assert done.shards > 2
        assert found.greatest < 1e-5, peft
        assert found.passed
        assert found.effect is not None
        assert found.effect > 1e-2, f"{peft} does nothing: the comparison is empty"
        names = [set(weights(folder / where)) for where in ("base", "merged")]
        assert names[0] == names[1]
        tied = loads(folder / "merged")()
        same = tied.get_input_embeddings().weight is tied.get_output_embeddings().weight
        assert same == (kind != "llama-untied")


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found
