"""Frozen 4-bit weights: NF4 with quantized scales (QLoRA, Dettmers et al. 2023), by bitsandbytes.

Every worker holds all of them: they are not sharded. Embeddings, norms and the output head are not quantized.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medray import storage
from medray.config.model import ModelConfig
from medray.errors import InputError
from medray.plan.model_config import auto_class
from medray.plan.pretrained import from_pretrained

# A file in the adapter's folder. Without it, the adapter would be applied to different weights than in training.
FILE = "quantization_config.json"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def quantization(model: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of from_pretrained that load `model` in 4 bits; empty if the config does not quantize it.

    dtype: type of the run's weights, the default of `model.compute_dtype`.
    """
    if model.quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    check_package()
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=model.double_quantization,
        bnb_4bit_compute_dtype=DTYPES.get(model.compute_dtype, dtype),
    )
    return {"quantization_config": settings, "device_map": {"": _device()}}


def keep_packed_form(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights again.

    On a CPU with AVX512-BF16, the first forward pass in evaluation mode would repack them, with scales rounded to
    bfloat16: training would continue with different weights, and widths that are not a multiple of a block would fail.
    """
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def write_quantization(model: Any, folder: Path) -> None:
    """Write the 4-bit settings of a base model to the folder of its adapter; nothing if the base is not in 4 bits."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if settings := getattr(base.config, "quantization_config", None):
        values = settings if isinstance(settings, dict) else settings.to_dict()
        (folder / FILE).write_text(json.dumps(values, indent=1, sort_keys=True))


def read_quantization(folder: Path) -> dict[str, Any]:
    """Return the arguments of from_pretrained that load the base model of the adapter in `folder` as in training."""
    file = folder / FILE
    if not file.exists():
        return {}
    from transformers import BitsAndBytesConfig

    check_package()
    try:
        settings = BitsAndBytesConfig.from_dict(storage.read_json(file))
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise InputError(
            f"the file contains no valid settings of 4-bit weights ({type(error).__name__})",
            file=file,
            fix="export the run again",
        ) from None
    return {"quantization_config": settings, "device_map": {"": _device()}}


def elements(parameter: nn.Parameter) -> int:
    """Return the number of elements that a parameter has without sharding and packing (a byte holds two 4-bit weights)."""
    sharded = getattr(parameter, "ds_numel", None)
    if sharded is not None:
        return int(sharded)
    packed = (
        parameter.__class__.__name__ == "Params4bit" and getattr(parameter, "quant_state", None) is not None
    )
    return parameter.numel() * (2 * parameter.element_size() if packed else 1)


def write_nf4(merged: Path, folder: Path, shard_bytes: int) -> None:
    """Write a 16- or 32-bit model with its linear layers in 4 bits, for transformers with bitsandbytes.

    Precision is lost.
    """
    from transformers import AutoConfig, BitsAndBytesConfig

    check_package("--format")
    config: Any = from_pretrained(AutoConfig, merged)
    auto = auto_class(config.to_dict())
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=config.dtype or torch.float32,
    )
    model = from_pretrained(
        auto, merged, dtype="auto", quantization_config=settings, device_map={"": _device()}
    )
    model.save_pretrained(str(folder), max_shard_size=shard_bytes)


def load_nf4(folder: Path) -> Any:
    """Load a model that `write_nf4` wrote, for inference, computing in float32."""
    from transformers import AutoConfig

    config: Any = from_pretrained(AutoConfig, folder)
    auto = auto_class(config.to_dict())
    return from_pretrained(auto, folder, dtype=torch.float32, device_map={"": _device()}).eval()


def check_package(key: str = "model.quantization") -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise InputError(
            "the package bitsandbytes is not installed here",
            key=key,
            value="nf4",
            fix="run pip install 'medray[quant]' on every node",
        ) from None


def _device() -> Any:
    return torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
