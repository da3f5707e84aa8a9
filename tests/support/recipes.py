"""Facts for the tests of recipes that need no network: the published sizes of the models, and what each header says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny

from medray.config import Config, read
from medray.config.checks import check

ROOT = Path(__file__).parents[2] / "configs"

_T5 = {"model_type": "t5", "d_kv": 64, "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
       "tie_word_embeddings": False}  # fmt: skip


def _decoder(
    family: str, hidden: int, inner: int, layers: int, heads: tuple[int, int], words: int, **more: Any
) -> Any:
    return {"model_type": family, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads[0], "num_key_value_heads": heads[1], "vocab_size": words,
            "tie_word_embeddings": False} | more  # fmt: skip


# As their config.json has them, by hub id.
MODELS: dict[str, dict[str, Any]] = {
    "google/t5-v1_1-small": _T5 | {"d_model": 512, "d_ff": 1024, "num_heads": 6, "num_layers": 8},
    "google/t5-v1_1-base": _T5 | {"d_model": 768, "d_ff": 2048, "num_heads": 12, "num_layers": 12},
    "google/t5-v1_1-large": _T5 | {"d_model": 1024, "d_ff": 2816, "num_heads": 16, "num_layers": 24},
    "google/t5-v1_1-xxl": _T5 | {"d_model": 4096, "d_ff": 10240, "num_heads": 64, "num_layers": 24},
    "google/flan-t5-large": _T5 | {"d_model": 1024, "d_ff": 2816, "num_heads": 16, "num_layers": 24},
    "google/flan-t5-xl": _T5 | {"d_model": 2048, "d_ff": 5120, "num_heads": 32, "num_layers": 24},
    "Qwen/Qwen2.5-0.5B-Instruct": _decoder("qwen2", 896, 4864, 24, (14, 2), 151936, tie_word_embeddings=True),
    "mistralai/Mistral-7B-Instruct-v0.2": _decoder("mistral", 4096, 14336, 32, (32, 8), 32000),
    "google/gemma-1.1-7b-it": _decoder(
        "gemma", 3072, 24576, 28, (16, 16), 256000, head_dim=256, tie_word_embeddings=True
    ),
    "meta-llama/Llama-2-7b-chat-hf": _decoder("llama", 4096, 11008, 32, (32, 32), 32000),
    "meta-llama/Meta-Llama-3-8B-Instruct": _decoder("llama", 4096, 14336, 32, (32, 8), 128256),
    "meta-llama/Llama-3.1-70B-Instruct": _decoder("llama", 8192, 28672, 80, (64, 8), 128256),
}
_SMALL = _decoder("", 32, 64, 2, (4, 2), 0, max_position_embeddings=2048)
# The same families, tiny.
TINY: dict[str, dict[str, Any]] = {
    "t5": _T5 | {"d_kv": 8, "d_model": 32, "d_ff": 64, "num_heads": 4, "num_layers": 2},
    "qwen2": _SMALL | {"model_type": "qwen2", "tie_word_embeddings": True},
    "mistral": _SMALL | {"model_type": "mistral"},
    "gemma": _SMALL | {"model_type": "gemma", "head_dim": 8, "tie_word_embeddings": True},
    "gemma2": _SMALL | {"model_type": "gemma2", "head_dim": 8, "tie_word_embeddings": True},
    "llama": _SMALL | {"model_type": "llama"},
}


@dataclass(frozen=True)
class Recipe:
    """A file of configs/ and overrides that its header gives.

    states: what the header says of model states a GPU, in GB. trained: a published number of trained parameters.
    shrunk: further overrides of the tiny run, besides those of every recipe.
    """

    file: str
    overrides: tuple[str, ...] = ()
    states: str = ""
    trained: int | None = None
    shrunk: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return f"{self.file}:{'+'.join(each.partition('=')[2][:24] for each in self.overrides)}"

    @property
    def header(self) -> str:
        """The comment that the file begins with, without its marks."""
        lines = (ROOT / f"{self.file}.yaml").read_text(encoding="utf-8").splitlines()
        end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
        return "\n".join(line.removeprefix("#").strip() for line in lines[:end])

    def config(self, folder: Path, *more: str) -> Config:
        """Loaded and checked, with `folder` for the data and the runs."""
        here = (f"data.root={folder}", f"run.storage={folder / 'runs'}")
        config = read(ROOT / f"{self.file}.yaml", [*self.overrides, *here, *more])
        check(config)
        return config


_EVERY_LINEAR = "[q, k, v, o, wi_0, wi_1, wo, lm_head]"
ADALORA = (
    f"peft={{type: adalora, alpha: 32, dropout: 0.05, targets: {_EVERY_LINEAR}, "
    "adalora: {init_rank: 4, target_rank: 2, tinit: 20, tfinal: 1000, delta_t: 10}}",
    "train.zero_stage=0",
    "train.precision=fp32",
)
RECIPES = (
    Recipe("distill_t5", states="3.96", trained=247_577_856),
    Recipe("distill_t5", ("model.name=google/t5-v1_1-small",), "1.23", 76_961_152),
    Recipe("distill_t5", ("model.name=google/t5-v1_1-large",), "12.5", 783_150_080),
    Recipe("distill_t5_xxl", states="22.8", trained=11_135_332_352),
    Recipe("distill_t5_xxl", ("train.offload=cpu", "cluster.workers=2"), "0.526", 11_135_332_352),
    Recipe(
        "distill_t5_xxl",
        (
            "train.zero_stage=2",
            "cluster.workers=1",
            "peft={type: lora, rank: 8, alpha: 8, targets: [q, v]}",
            "train.optimizer.lr=1.0e-4",
        ),
        "22.4",
    ),
    Recipe("medistill_t5", states="1.6"),
    Recipe("medistill_t5", ADALORA, shrunk=("peft.adalora.tinit=0", "peft.adalora.tfinal=0")),
    Recipe("medistill_t5", ("peft={type: prefix, virtual_tokens: 30}",), trained=1_474_560),
    Recipe(
        "medistill_t5",
        ('peft={type: multitask_prompt, virtual_tokens: 50, init_text: "Please summarize this dialogue: "}',),
    ),
    Recipe("medistill_t5", ("peft={type: none}",)),
    Recipe(
        "medistill_t5",
        (
            "method={name: sft}",
            "peft={type: none}",
            "train.epochs=20",
            "train.global_batch_size=2",
            "train.optimizer.lr=1.0e-4",
            "train.scheduler={name: linear, warmup_ratio: 0.1}",
            "train.label_smoothing=0.1",
            "train.precision=bf16",
            "eval.every_steps=200",
            "eval.generation.num_beams=2",
        ),
    ),
    Recipe("medistill_qwen", states="7.9", trained=494_032_768),
    Recipe("qlora_7b", states="4.8", trained=41_943_040),
    Recipe("qlora_7b", ("model.name=google/gemma-1.1-7b-it",), "6.37", 50_003_968),
    Recipe("qlora_7b", ("model.name=meta-llama/Llama-2-7b-chat-hf",), "4.51", 39_976_960),
    Recipe("qlora_7b", ("model.name=meta-llama/Meta-Llama-3-8B-Instruct",), "6.37", 41_943_040),
    Recipe(
        "qlora_7b",
        (
            "data.split.validation=0",
            "eval.every_steps=null",
            "method.train_on=all",
            "data.template=legacy/mistral",
        ),
        "4.8",
        41_943_040,
    ),
    Recipe("qlora_70b", states="40.3", shrunk=("train.optimizer.name=adamw_8bit",)),
    Recipe("qlora_70b", ("cluster.workers=1",), "42.8", shrunk=("train.optimizer.name=adamw_8bit",)),
    Recipe("sft_70b", states="39.5", trained=70_553_706_496),
    Recipe(
        "sft_70b",
        ("peft={type: lora, rank: 16, alpha: 32}", "train.optimizer.lr=1.0e-4", "cluster.workers=8"),
        "22.3",
    ),
    Recipe("sft_70b", ("train.offload=cpu", "cluster.workers=16"), "4.2", 70_553_706_496),
)


def rows(config: Config) -> list[dict[str, Any]]:
    """Made-up rows of the form that the recipe reads."""
    made = tiny.rows(17)
    if config.data.dataset is not None:
        return made
    return [
        {"id": row["id"], "instruction": "Answer truthfully", "input": row["input"], "output": row["label"]}
        for row in made
    ]


def tiny_model(folder: Path, family: str, words: int) -> Path:
    """A model of the family with random weights and `words` tokens, as save_pretrained writes it."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto: Any = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    values = TINY[family] | {"vocab_size": words, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    values |= {"decoder_start_token_id": 0} if family == "t5" else {}
    kind = values.pop("model_type")
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(kind, **values))
    if family == "t5":  # as published: a head of its own, which transformers ties in what it builds at random
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.05)
        model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    return folder
