"""The counts equal models on torch's meta device, adapters of peft, and published totals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from medray.errors import InputError
from medray.plan.parameters import ParameterCount, from_config, from_safetensors, lora, shape

SMOLLM2: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
SMALL = {
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 112,
    "vocab_size": 100,
}
SMALL_T5 = {"d_model": 48, "d_ff": 80, "d_kv": 16, "num_heads": 5, "num_layers": 2, "vocab_size": 100}
DECODERS: dict[str, dict[str, Any]] = {
    "smollm2": SMOLLM2,
    "llama-untied": {"model_type": "llama", **SMALL},
    "llama-biases": {
        "model_type": "llama",
        **SMALL,
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 24,
    },
    "llama-no-groups": {"model_type": "llama", **SMALL, "num_key_value_heads": None},
    "mistral": {"model_type": "mistral", **SMALL},
    "mistral-head-dim": {"model_type": "mistral", **SMALL, "head_dim": 20, "tie_word_embeddings": True},
    "mistral-groups-absent": {
        "model_type": "mistral",
        **{k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
        "num_attention_heads": 16,
    },
    "qwen2": {"model_type": "qwen2", **SMALL},
    "qwen2-tied": {"model_type": "qwen2", **SMALL, "tie_word_embeddings": True},
    "gemma": {"model_type": "gemma", **SMALL, "head_dim": 32, "num_key_value_heads": 1},
    "gemma-defaults": {"model_type": "gemma", **SMALL, "attention_bias": True},
    "gemma2": {"model_type": "gemma2", **SMALL, "head_dim": 32},
    "gemma2-defaults": {
        "model_type": "gemma2",
        **SMALL,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "gemma3": {"model_type": "gemma3_text", **SMALL, "head_dim": 24},
    "gemma3-defaults": {
        "model_type": "gemma3_text",
        **{k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
        "num_attention_heads": 8,
    },
    "qwen3": {"model_type": "qwen3", **SMALL, "head_dim": 16},
    "qwen3-defaults": {"model_type": "qwen3", **SMALL, "attention_bias": True, "tie_word_embeddings": True},
    "phi3": {"model_type": "phi3", **SMALL, "pad_token_id": 0},
    "phi3-no-groups": {
        "model_type": "phi3",
        **{k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
        "pad_token_id": 0,
    },
}
T5S: dict[str, dict[str, Any]] = {
    "t5": {"model_type": "t5", **SMALL_T5},
    "t5-gated": {"model_type": "t5", **SMALL_T5, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 3},
    "t5-buckets": {"model_type": "t5", **SMALL_T5, "relative_attention_num_buckets": 16},
    "mt5": {"model_type": "mt5", **SMALL_T5},
}
ALL = DECODERS | T5S
FLAN_T5_XL: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 2048,
    "d_ff": 5120,
    "d_kv": 64,
    "num_heads": 32,
    "num_layers": 24,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
FLAN_T5_XXL = FLAN_T5_XL | {"d_model": 4096, "d_ff": 10240, "num_heads": 64}
FLAN_T5_LARGE = FLAN_T5_XL | {"d_model": 1024, "d_ff": 2816, "num_heads": 16}


def on_meta(config: dict[str, Any]) -> Any:
    auto: Any = AutoModelForSeq2SeqLM if config["model_type"] in ("t5", "mt5") else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(AutoConfig.for_model(**config))


@pytest.mark.parametrize("name", ALL)
def test_counts_equal_the_built_model(name: str) -> None:
    model = on_meta(ALL[name])
    count = from_config(ALL[name])
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert count == ParameterCount(
        total=sum(parameter.numel() for parameter in model.parameters()),
        embedding=embedding.numel(),
        head=0 if head is embedding else head.numel(),
        # As DeepSpeed's model_to_params counts the largest layer.
        largest_layer=max(sum(p.numel() for p in m.parameters(recurse=False)) for m in model.modules()),
    )


def test_smollm2_has_its_published_size() -> None:
    assert from_config(SMOLLM2).total == 134_515_008


@pytest.mark.parametrize(
    ("config", "trainable", "total"),
    [(FLAN_T5_XXL, 3_932_160, 11_139_264_512), (FLAN_T5_LARGE, 1_474_560, 784_624_640)],
)
def test_published_totals_of_prefix_tuned_flan_t5(config: dict[str, Any], trainable: int, total: int) -> None:
    assert from_config(config).total + trainable == total


@pytest.mark.parametrize(
    ("config", "rank", "trainable", "total"),
    [(FLAN_T5_XL, 4, 8_985_796, 2_858_743_413), (FLAN_T5_XXL, 12, 53_524_044, 11_188_856_829)],
)
def test_published_sizes_of_adalora_on_flan_t5(
    config: dict[str, Any], rank: int, trainable: int, total: int
) -> None:
    # AdaLoRA has a third factor of `rank` numbers a layer, adapts the head too, and keeps a counter a layer.
    matrices, layers = lora(config, 1) + lora(config, 1, ["lm_head"]), 433
    assert rank * (matrices + layers) == trainable
    assert from_config(config).total + trainable + layers == total


def test_an_untied_t5_is_the_tied_one_and_a_head() -> None:
    untied = T5S["t5-gated"] | {"tie_word_embeddings": False}
    tied = from_config(T5S["t5-gated"])
    assert from_config(untied).total == tied.total + 100 * 48
    assert from_config(untied, tied=True) == tied
    assert on_meta(untied).num_parameters() == tied.total  # transformers 5 ties what it builds at random
    saved_by_transformers_5 = T5S["t5-gated"] | {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    assert from_config(saved_by_transformers_5) == from_config(untied)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft calls it
@pytest.mark.parametrize("targets", ["all-linear", ("o_proj", "down_proj"), ("q", "wo")])
@pytest.mark.parametrize("name", ["llama-biases", "qwen2-tied", "gemma3", "phi3", "t5", "t5-gated"])
def test_lora_equals_peft(name: str, targets: str | tuple[str, ...]) -> None:
    from peft import LoraConfig, get_peft_model

    if targets != "all-linear" and ("q" in targets) != (name in T5S):
        with pytest.raises(ValueError, match="no linear layer is named"):
            lora(ALL[name], 3, targets)
        return
    wanted = targets if isinstance(targets, str) else list(targets)
    model = get_peft_model(on_meta(ALL[name]), LoraConfig(r=3, target_modules=wanted))
    assert lora(ALL[name], 3, targets) == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0


def test_a_config_that_cannot_be_counted_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match="model_type 'gpt2' cannot be counted"):
        from_config({"model_type": "gpt2"})
    with pytest.raises(ValueError, match="needs intermediate_size as a whole number above 0, but has None"):
        from_config({k: v for k, v in SMOLLM2.items() if k != "intermediate_size"})
    with pytest.raises(ValueError, match="rank of 0"):
        lora(SMOLLM2, 0)


def test_shape_counts_the_layers_of_both_stacks() -> None:
    assert (shape(SMOLLM2).layers, shape(SMOLLM2).heads) == (30, 9)
    assert (shape(T5S["t5-gated"]).layers, shape(T5S["t5-gated"]).vocab_size) == (5, 100)


@pytest.mark.parametrize("name", ["qwen2", "llama-biases", "qwen2-tied", "t5-gated"])
def test_saved_weights_count_as_their_config(name: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(**ALL[name])
    auto: Any = AutoModelForSeq2SeqLM if name in T5S else AutoModelForCausalLM
    auto.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    counted, expected = from_safetensors(tmp_path), from_config(ALL[name])
    assert counted.stored_bytes == 2 * expected.total
    assert (counted.total, counted.embedding, counted.head, counted.largest_layer) == (
        expected.total,
        expected.embedding,
        expected.head,
        expected.largest_layer,
    )


def test_buffers_and_second_copies_are_not_counted(tmp_path: Path) -> None:
    weights = {
        "model.embed_tokens.weight": torch.zeros(5, 4),
        "model.norm.weight": torch.zeros(4, dtype=torch.float16),
    }
    buffers = {"model.rotary_emb.inv_freq": torch.zeros(7), "position_ids": torch.zeros(9, dtype=torch.int64)}
    save_file(weights | buffers, tmp_path / "model.safetensors")
    save_file(weights, tmp_path / "consolidated.safetensors")
    assert from_safetensors(tmp_path) == ParameterCount(
        total=24, embedding=20, head=0, largest_layer=20, stored_bytes=88
    )


def test_the_copies_of_t5s_embedding_count_once(tmp_path: Path) -> None:
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    save_file({name: torch.zeros(5, 4) for name in names}, tmp_path / "model.safetensors")
    assert from_safetensors(tmp_path).total == from_safetensors(tmp_path).embedding == 20


def test_files_that_cannot_be_counted_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no \*.safetensors file"):
        from_safetensors(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({"layer.weight": torch.zeros(64)}, file)
    whole = file.read_bytes()
    for content, complaint in [
        (whole[:-1], "is incomplete"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "not a safetensors file"),
        (b'\x04\0\0\0\0\0\0\0["a]', "header is not JSON"),
        (b"", "not a safetensors file"),
    ]:
        file.write_bytes(content)
        with pytest.raises(
            InputError, match=rf"model\.safetensors: .*{complaint}.*\n  Fix: copy or download"
        ):
            from_safetensors(tmp_path)
    save_file({"layer.weight": torch.zeros(64, dtype=torch.uint8)}, file)
    with pytest.raises(ValueError, match=r"layer\.weight is U8: packed weights"):
        from_safetensors(tmp_path)
    file.unlink()
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-1.safetensors"}})
    )
    with pytest.raises(
        InputError, match=r"lists 1 files, of which 1 are missing, such as model-1\.safetensors"
    ):
        from_safetensors(tmp_path)
