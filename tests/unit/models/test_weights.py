"""Weights that do not fit the model: missing, unknown, or of a different shape. Before a run starts, and in a load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_decoders import DECODERS, VOCABULARY
from torch import Tensor

from medray.config.model import ModelConfig
from medray.errors import InputError
from medray.models import weights
from medray.models.export import load_export
from medray.models.load import skeleton
from medray.models.weights import check_weights, load_weights
from medray.plan.model_config import auto_class, model_config

TYPES: dict[str, dict[str, Any]] = {name: DECODERS[name] for name in ("llama-tiny", "gpt2")} | {
    "untied": DECODERS["qwen2"] | {"tie_word_embeddings": False},
    # one tensor an expert in files, one for all experts in the model
    "experts": DECODERS["qwen2"] | {"model_type": "mixtral", "num_local_experts": 2},
    "bart": {
        "model_type": "bart",
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
    },
}
T5: dict[str, Any] = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 16,
    "num_heads": 2,
    "num_layers": 1,
    "decoder_start_token_id": 0,
}
TYPES["many-parts"] = {
    "model_type": "gemma3",
    "text_config": DECODERS["qwen2"] | {"model_type": "gemma3_text", "head_dim": 8, "vocab_size": VOCABULARY},
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "mm_tokens_per_image": 4,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives a folder with a tiny model of a kind, made once."""
    root, made = tmp_path_factory.mktemp("models"), set()

    def of(kind: str) -> Path:
        if kind not in made:
            made.add(kind)
            model(TYPES[kind]).save_pretrained(root / kind)
        return root / kind

    return of


def model(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    values = {"vocab_size": VOCABULARY, "pad_token_id": 0} | config
    kind = values.pop("model_type")
    if kind == "gemma3":
        values.pop("vocab_size")
    torch.manual_seed(1)
    return auto_class(config).from_config(AutoConfig.for_model(kind, **values))


def spoiled(folder: Path, target: Path, spoil: Callable[[dict[str, Tensor]], object]) -> Path:
    shutil.copytree(folder, target)
    held = load_file(target / "model.safetensors")
    spoil(held)
    save_file(held, target / "model.safetensors", metadata={"format": "pt"})
    return target


def check(folder: Path) -> None:
    settings = ModelConfig(name=str(folder))
    check_weights(settings, model_config(settings, 0))


def load(folder: Path) -> Any:
    config = json.loads((folder / "config.json").read_text())
    return load_weights(auto_class(config), folder, dtype=torch.float32)


def refused(folder: Path, says: str) -> None:
    for way in (check, load):
        with pytest.raises(InputError) as caught:
            way(folder)
        if way is check or "cannot load" not in str(caught.value):
            assert says in str(caught.value), way
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize("kind", TYPES)
def test_complete_weights_are_loaded_as_they_were_saved(kind: str, saved: Callable[[str], Path]) -> None:
    check(saved(kind))
    whole = model(TYPES[kind]).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in load(saved(kind)).state_dict().items())


@pytest.mark.parametrize("kind", TYPES)
def test_a_missing_tensor_is_never_initialized_at_random(
    kind: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    def lose(weights: dict[str, Tensor]) -> None:
        weights.pop(
            next(name for name in sorted(weights) if "mlp" in name or "fc1" in name or "experts" in name)
        )

    folder = spoiled(saved(kind), tmp_path / kind, lose)
    with pytest.raises(InputError):
        check(folder)
    with pytest.raises(InputError):
        load(folder)


def test_the_messages_about_missing_unknown_and_differently_shaped_tensors(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    folder = saved("llama-tiny")
    refused(
        spoiled(folder, tmp_path / "missing", lambda weights: weights.pop(name)),
        f"1 of 21 tensors of the model are missing from its files and would be random: {name}",
    )
    refused(spoiled(folder, tmp_path / "none", dict.clear), "missing from its files and would be random")
    refused(
        spoiled(folder, tmp_path / "surplus", lambda weights: weights.update(own=torch.ones(3))),
        "1 tensors in the files do not belong to LlamaForCausalLM",
    )
    refused(
        spoiled(folder, tmp_path / "shape", lambda weights: weights.update({name: torch.ones(3, 5)})),
        f"{name} is (3, 5) and should be (64, 64)",
    )
    with pytest.raises(InputError, match="1 of the model's tensors are I8"):
        check(
            spoiled(
                folder,
                tmp_path / "packed",
                lambda weights: weights.update({name: weights[name].to(torch.int8)}),
            )
        )


def test_a_wrong_model_type_leaves_unknown_tensors(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "qwen2"
    shutil.copytree(saved("untied"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    refused(folder, "k_proj.bias")  # a Llama has none
    shutil.copytree(saved("gpt2"), tmp_path / "gpt2")
    config = json.loads((tmp_path / "gpt2" / "config.json").read_text()) | {"n_layer": 1}
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(config))
    refused(tmp_path / "gpt2", "h.1.")


def test_a_head_may_be_missing_only_if_it_is_tied(saved: Callable[[str], Path], tmp_path: Path) -> None:
    assert "lm_head.weight" not in load_file(saved("llama-tiny") / "model.safetensors")
    without_head = spoiled(saved("untied"), tmp_path / "base", lambda weights: weights.pop("lm_head.weight"))
    refused(without_head, "lm_head.weight")


def test_names_without_the_prefix_and_buffers_of_earlier_versions(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    def rename(weights: dict[str, Tensor]) -> None:
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)
        weights["h.0.attn.bias"] = torch.ones(1, 1, 160, 160)
        weights["h.0.attn.masked_bias"] = torch.tensor(-1e4)

    folder = spoiled(saved("gpt2"), tmp_path / "gpt2", rename)
    check(folder)
    assert torch.equal(load(folder).transformer.wte.weight, load(saved("gpt2")).transformer.wte.weight)
    rotary = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    check(spoiled(saved("llama-tiny"), tmp_path / "llama", lambda weights: weights.update(rotary)))


def test_an_export_that_lost_a_tensor_is_not_evaluated(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = spoiled(
        saved("llama-tiny"), tmp_path / "export", lambda weights: weights.pop("model.norm.weight")
    )
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        load_export(folder, torch.device("cpu"))


def with_config(folder: Path, target: Path, **changed: Any) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | changed
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("kind", "key"),
    [("llama-tiny", "num_hidden_layers"), ("gpt2", "n_layer"), ("bart", "decoder_layers")],
)
def test_more_layers_than_the_files_have_are_refused_before_they_are_built(
    kind: str, key: str, saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_config(saved(kind), tmp_path / "deep", **{key: 1000})
    monkeypatch.setattr(weights, "_on_meta", lambda *given: pytest.fail("built"))
    with pytest.raises(
        InputError, match=r"the model's config\.json has 1,000 layers \(.*\), but its files have [12]\.?"
    ):
        check(folder)


def test_the_modules_are_listed_once_however_many_tensors_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = skeleton(TYPES["llama-tiny"] | {"vocab_size": VOCABULARY})
    listed, list_modules = list[int](), type(bare).named_modules

    def counted(*given: Any, **named: Any) -> Any:
        listed.append(1)
        return list_modules(*given, **named)

    monkeypatch.setattr(type(bare), "named_modules", counted)
    with pytest.raises(InputError, match="21 of 21 tensors"):
        weights.refuse_unfit(bare, {"missing_keys": list(bare.state_dict())[:21]}, "folder")
    assert len(listed) <= 2


@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_a_separate_head_that_no_file_has_is_refused(kind: str, tmp_path: Path) -> None:
    model(T5 | {"model_type": kind}).save_pretrained(tmp_path / "tied")
    check(tmp_path / "tied")
    load(tmp_path / "tied")
    folder = with_config(tmp_path / "tied", tmp_path / "apart", tie_word_embeddings=False)
    refused(folder, "lm_head.weight is missing, but config.json says that it is separate from the embeddings")
    head = torch.ones(VOCABULARY, 16)
    whole = spoiled(folder, tmp_path / "whole", lambda held: held.update({"lm_head.weight": head}))
    check(whole)
    assert torch.equal(load(whole).lm_head.weight, head)


def test_only_a_bias_of_zeros_may_be_missing(saved: Callable[[str], Path], tmp_path: Path) -> None:
    without = spoiled(saved("bart"), tmp_path / "bart", lambda held: held.pop("final_logits_bias"))
    check(without)
    load(without)
    model(TYPES["bart"] | {"model_type": "marian"}).save_pretrained(tmp_path / "saved")
    check(tmp_path / "saved")
    marian = spoiled(tmp_path / "saved", tmp_path / "marian", lambda held: held.pop("final_logits_bias"))
    refused(marian, "final_logits_bias is missing, which belongs to a trained model of type marian")


def test_an_expert_that_does_not_fit_is_named(saved: Callable[[str], Path], tmp_path: Path) -> None:
    name = "model.layers.1.block_sparse_moe.experts.1.w1.weight"
    lost = spoiled(saved("experts"), tmp_path / "lost", lambda held: held.pop(name))
    refused(lost, f"a tensor of the model is missing: {name}")
    other = spoiled(saved("experts"), tmp_path / "other", lambda held: held.update({name: torch.ones(3, 5)}))
    refused(other, f"the shape of {name} is (3, 5), but that of the other experts is (64, 32)")


@pytest.mark.parametrize(
    "changed",
    [{"num_attention_heads": 0}, {"hidden_size": -8}, {"num_hidden_layers": "two"}, {"rope_parameters": 5}],
)
def test_a_config_from_which_no_model_can_be_built(
    changed: dict[str, Any], saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved("llama-tiny"), folder)
    config = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError):
        check(folder)
    with pytest.raises(InputError):
        skeleton(config)
