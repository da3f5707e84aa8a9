"""The trained parameters of every adapter equal those that peft builds on torch's meta device, and published numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bitsandbytes.functional import quantize_4bit
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from medray.config.peft import PeftConfig
from medray.models.adapters import add_adapter
from medray.models.quantized import elements
from medray.plan.adapters import counters, nf4_bytes, trained
from medray.plan.parameters import from_config

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft calls it

FLAN_XL: dict[str, Any] = {
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
FLAN_XXL = FLAN_XL | {"d_model": 4096, "d_ff": 10240, "num_heads": 64}
FLAN_LARGE = FLAN_XL | {"d_model": 1024, "d_ff": 2816, "num_heads": 16}
SMALL = {
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 112,
    "vocab_size": 100,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **SMALL, "head_dim": 24},
    "mistral": {"model_type": "mistral", **SMALL},
    "qwen2": {"model_type": "qwen2", **SMALL},
    "gemma": {"model_type": "gemma", **SMALL, "head_dim": 32},
    "qwen3": {"model_type": "qwen3", **SMALL, "head_dim": 16},
    "gemma2": {"model_type": "gemma2", **SMALL, "head_dim": 32},
    "gemma3": {"model_type": "gemma3_text", **SMALL, "head_dim": 24},
    "phi3": {"model_type": "phi3", **SMALL, "pad_token_id": 0},
    # as T5 small: the heads together are narrower than the model; other depths of the stacks
    "t5": {"model_type": "t5", "d_model": 48, "d_ff": 80, "d_kv": 8, "num_heads": 5, "num_layers": 2,
           "num_decoder_layers": 3, "vocab_size": 100},
    "mt5": {"model_type": "mt5", "d_model": 48, "d_ff": 80, "d_kv": 8, "num_heads": 5, "num_layers": 2,
            "vocab_size": 100},
}  # fmt: skip
SEQ2SEQ = ("t5", "mt5")
SOME = ("llama", "t5")  # one of each kind; the others run in `make test-all`
EVERY_LINEAR = ["q", "k", "v", "o", "wi_0", "wi_1", "wo", "lm_head"]


def on_meta(config: dict[str, Any], peft: PeftConfig) -> Any:
    seq2seq = config["model_type"] in SEQ2SEQ
    auto: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(AutoConfig.for_model(**config))
        if seq2seq and config.get("tie_word_embeddings") is False:
            # transformers 5 ties what it builds at random; a checkpoint brings a head of its own
            model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))
            model.config.tie_word_embeddings = False
        return add_adapter(model, peft, seq2seq=seq2seq, seed=0, total_steps=100)


def both(model: Any) -> tuple[int, int]:
    sizes = [(elements(one), one.requires_grad) for one in model.parameters()]
    return sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)


def adalora(rank: int) -> PeftConfig:
    return PeftConfig.model_validate(
        {"type": "adalora", "targets": EVERY_LINEAR, "adalora": {"init_rank": rank, "target_rank": 2}}
    )


@pytest.mark.parametrize(
    ("config", "peft", "trainable", "total"),
    [
        (FLAN_XXL, PeftConfig(type="prefix", virtual_tokens=20), 3_932_160, 11_139_264_512),
        pytest.param(
            FLAN_LARGE,
            PeftConfig(type="prefix", virtual_tokens=30),
            1_474_560,
            784_624_640,
            marks=pytest.mark.long,
        ),
        (FLAN_XL, adalora(4), 8_985_796, 2_858_743_413),
        pytest.param(FLAN_XL, adalora(8), 17_971_592, 2_867_729_209, marks=pytest.mark.long),
        pytest.param(FLAN_XL, adalora(12), 26_957_388, 2_876_715_005, marks=pytest.mark.long),
        pytest.param(FLAN_XL, adalora(16), 35_943_184, 2_885_700_801, marks=pytest.mark.long),
        pytest.param(FLAN_XXL, adalora(12), 53_524_044, 11_188_856_829, marks=pytest.mark.long),
    ],
    ids=["prefix20-xxl", "prefix30-large", "ada4-xl", "ada8-xl", "ada12-xl", "ada16-xl", "ada12-xxl"],
)
def test_published_sizes(config: dict[str, Any], peft: PeftConfig, trainable: int, total: int) -> None:
    assert trained(config, peft) == trainable
    assert from_config(config).total + trainable + counters(config, peft) == total
    assert both(on_meta(config, peft)) == (trainable, total)


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.long) for name in MODELS]
)
def test_every_type_equals_peft(name: str) -> None:
    cases: list[dict[str, Any]] = [
        {"type": "lora", "rank": 3},
        {"type": "lora", "rank": 3, "dora": True},
        {"type": "adalora", "adalora": {"init_rank": 5}, "alpha": 4.0},
        {"type": "ia3"},
        {"type": "prefix", "virtual_tokens": 7},
        {"type": "prompt", "virtual_tokens": 7},
        {"type": "multitask_prompt", "virtual_tokens": 7, "task_rank": 2},
    ]
    for values in cases:
        if values["type"] == "adalora":
            values["adalora"] = {"init_rank": 5, "target_rank": 2}
        peft = PeftConfig.model_validate(values)
        config = MODELS[name]
        if values["type"] == "ia3" and name == "phi3":  # peft has no list of its layers
            with pytest.raises(ValueError, match="phi3"):
                trained(config, peft)
            continue
        found, total = both(on_meta(config, peft))
        assert trained(config, peft) == found > 0, values
        tied = from_config(config, tied=True if name in SEQ2SEQ else None).total
        assert total == tied + found + counters(config, peft), values


def test_nf4_takes_what_bitsandbytes_takes() -> None:
    config = {"model_type": "llama", **SMALL, "hidden_size": 1536, "intermediate_size": 1536}
    rest = from_config(config).total - sum(one.numel() for one in linear_weights(config))
    for double in (True, False):
        packed = 0
        for weight in linear_weights(config):
            values, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=double)
            scales = [state.absmax] + ([state.state2.absmax] if double else [])
            packed += sum(one.numel() * one.element_size() for one in (values, *scales))
        assert nf4_bytes(config, 2, double=double) == pytest.approx(packed + 2 * rest, rel=1e-4)


def linear_weights(config: dict[str, Any]) -> list[torch.Tensor]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return [
        torch.ones(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    ]
