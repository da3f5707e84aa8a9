"""The weights that a run starts from, by each key of `model`: pretrained or random, in full or in 4 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from medray.config import Config
from medray.data.tokenizer import load_tokenizer
from medray.models.load import load_model
from medray.plan.model_config import PRESETS, architecture, model_config

IDS = torch.tensor([[5, 6, 7, 8]])


def saved(folder: Path, name: str, seed: int) -> Path:
    """Return a folder with a Llama of random weights and a tokenizer."""
    known = load_tokenizer(str(tiny.tokenizer(folder)))
    model = Config.model_validate({"model": {"name": None, "init": "random", "preset": "llama-tiny"}}).model
    made: Any = load_model(model, PRESETS["llama-tiny"], known, dtype=torch.float32, seed=seed)
    for target in (made, known):
        target.save_pretrained(folder / name)
    return folder / name


def loaded(folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **model: Any) -> Any:
    """Load a model as a worker does. folder: the folder of the tokenizer."""
    config = Config.model_validate({"model": {"name": None} | model}).model
    known = load_tokenizer(str(tiny.tokenizer(folder)))
    return load_model(config, model_config(config, len(known)), known, dtype=dtype, seed=seed).eval()


def words(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.get_input_embeddings().weight.detach()
    return found


def test_pretrained_weights_come_from_the_folder_for_every_seed(tmp_path: Path) -> None:
    one, other = saved(tmp_path, "one", seed=1), saved(tmp_path, "other", seed=2)
    first = loaded(tmp_path, name=str(one))
    again = loaded(tmp_path, name=str(one), seed=9).state_dict()
    assert all(torch.equal(again[name], value) for name, value in first.state_dict().items())
    assert not torch.equal(words(first), words(loaded(tmp_path, name=str(other))))


def test_random_weights_have_the_shape_of_the_folder_and_come_from_the_seed(tmp_path: Path) -> None:
    one = saved(tmp_path, "one", seed=1)
    new = [loaded(tmp_path, name=str(one), init="random", seed=seed) for seed in (1, 2, 2)]
    assert new[0].config.hidden_size == PRESETS["llama-tiny"]["hidden_size"]
    assert torch.equal(words(new[1]), words(new[2]))
    assert not torch.equal(words(new[0]), words(new[1]))
    assert not torch.equal(words(new[1]), words(loaded(tmp_path, name=str(one))))
    told = json.loads((one / "config.json").read_text()) | {"_name_or_path": "org/elsewhere"}
    (one / "config.json").write_text(json.dumps(told))
    assert loaded(tmp_path, name=str(one), init="random").name_or_path == ""  # else an adapter's base


@pytest.mark.parametrize(("preset", "kind"), [("llama-tiny", "causal"), ("t5-tiny", "seq2seq")])
def test_a_preset_is_the_architecture(preset: str, kind: str, tmp_path: Path) -> None:
    model = loaded(tmp_path, init="random", preset=preset)
    assert architecture(model.config.to_dict()) == kind
    assert model.config.model_type == PRESETS[preset]["model_type"]
    assert len(words(model)) == len(load_tokenizer(str(tiny.tokenizer(tmp_path))))


def test_products_with_4_bit_weights_are_computed_in_compute_dtype(tmp_path: Path) -> None:
    """Compare outputs of the same 4-bit weights. In training mode, because CPUs have a special kernel for evaluation."""
    folder = str(saved(tmp_path, "base", seed=1))
    found: dict[str, torch.Tensor] = {}
    bits: dict[str, torch.Tensor] = {}
    for name in ("auto", "fp32", "bf16", "fp16"):
        model = loaded(tmp_path, name=folder, quantization="nf4", compute_dtype=name).train()
        found[name] = model(input_ids=IDS.to(model.device)).logits.detach()
        bits[name] = model.model.layers[0].mlp.up_proj.weight.data
    assert torch.equal(found["auto"], found["fp32"])  # as the run's own precision
    assert all(torch.equal(one, bits["fp32"]) for one in bits.values())
    for name, most in (("bf16", 0.05), ("fp16", 0.005)):
        difference = float((found[name] - found["fp32"]).abs().max())
        assert 0 < difference < most * float(found["fp32"].abs().max()), name
