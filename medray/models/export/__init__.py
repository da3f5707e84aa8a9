"""Exports: folders that transformers and peft load without medray, and functions to write and load them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from copy import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medray import storage
from medray.config.checks.adapter_folder import WEIGHTS, read_adapter, read_settings
from medray.errors import RunFailedError
from medray.models.adapters import load_settings, no_warning_of_patterns, refuse_no_numbers
from medray.models.adapters.virtual_tokens import keep_positions
from medray.models.forward import unwrap
from medray.models.quantized import read_quantization, write_quantization
from medray.models.weights import load_weights
from medray.plan.model_config import auto_class
from medray.plan.pretrained import from_pretrained
from medray.storage import StoragePath

BASE = "base"
GENERATION = "generation_config.json"


def export(
    model: Any,
    tokenizer: Any,
    folder: StoragePath,
    *,
    write: bool,
    gathered: Callable[[nn.Parameter], AbstractContextManager[Any]],
    base: Callable[[], Any] | None = None,
) -> None:
    """Write a trained model as an export: adapter or model, config and tokenizer in `folder`, completely or not at all.

    All ranks must call this; the rank with `write` writes. gathered: a context in which every rank has one full
    parameter, so that only one is gathered at a time. base: function that makes the model under an adapter again, if
    its weights are random and no file has them; they are written to the subfolder `base`. Raises RunFailedError if a
    tensor is empty.
    """
    adapter = hasattr(model, "peft_config")
    state: dict[str, Tensor] = {}
    for name, parameter in _kept(model, adapter):
        with gathered(parameter):
            if write:
                state[name] = parameter.detach().cpu().clone()
    if not write:
        return
    if not state or any(not value.numel() for value in state.values()):
        raise RunFailedError(
            "the weights to export are empty, which is an error in medray. Fix: run the command again, and report the error if it repeats"
        )
    staging = (
        storage.temporary_folder() if not isinstance(folder, Path) else folder.with_name(f".{folder.name}")
    )
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    if not adapter:
        state |= {name: value.cpu() for name, value in model.named_buffers() if name in model.state_dict()}
    if adapter and model.peft_config["default"].is_prompt_learning:
        _save_prompt(model, state, staging)
    else:
        model.save_pretrained(str(staging), state_dict=state, safe_serialization=True)
    if adapter:
        write_quantization(model, staging)
        # peft does not write this file. Without it, a loaded adapter would not stop at the end of its answers.
        unwrap(model).generation_config.to_json_file(str(staging / GENERATION))
    if base is not None:
        base().save_pretrained(str(staging / BASE))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(staging))
    storage.put_tree(staging, folder)


def load_export(
    folder: Path,
    device: torch.device,
    *,
    quantized: bool = True,
    base: Path | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Load an exported model with its adapter, ready for inference.

    quantized: load a base in 4 bits if it was in 4 bits in training; False loads its full weights, to merge the
    adapter. base: folder of an adapter's base model, if it is not the one in the adapter's settings. dtype: type of
    the weights; default: bfloat16 on a GPU, else float32.
    """
    adapter = (folder / "adapter_config.json").exists()
    source = str(base) if adapter and base is not None else base_of(folder)
    auto, _ = class_of(source)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    four_bit = read_quantization(folder) if quantized else {}
    model = load_weights(auto, source, dtype=dtype, **four_bit)
    if adapter:
        from peft import PeftModel
        from transformers import GenerationConfig

        read_adapter(folder)
        refuse_no_numbers(load_file(folder / WEIGHTS), folder)
        with no_warning_of_patterns():
            adapted = from_pretrained(PeftModel, folder, model=model, config=load_settings(folder))
            model = keep_positions(adapted)
        if (folder / GENERATION).exists():
            unwrap(model).generation_config = from_pretrained(GenerationConfig, folder)
    ready: nn.Module = (model if four_bit else model.to(device)).eval()
    return ready


def _save_prompt(model: Any, state: dict[str, Tensor], folder: Path) -> None:
    """Save virtual tokens under peft's names.

    peft itself reads them from the live model and ignores the given state. Under ZeRO-3 that is a forward pass on one
    rank, which waits for the others forever, or an empty shard.
    """
    names = {"embedding.weight": "prompt_embeddings"}
    held = {name.removeprefix("prompt_encoder.default."): value for name, value in state.items()}
    save_file(
        {names.get(name, name): value.contiguous() for name, value in held.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    settings = copy(model.peft_config["default"])
    settings.inference_mode = True
    settings.save_pretrained(str(folder))


def base_of(folder: Path) -> str:
    """Return the folder or hub id of the base model of an exported adapter; without an adapter, the export itself."""
    adapter = folder / "adapter_config.json"
    if not adapter.exists():
        return str(folder)
    return str(read_settings(folder).get("base_model_name_or_path") or folder / BASE)


def class_of(source: str) -> tuple[Any, Any]:
    """Return transformers' auto class and config for the model at a folder or hub id."""
    from transformers import AutoConfig

    config: Any = from_pretrained(AutoConfig, source)
    return auto_class(config.to_dict()), config


def _kept(model: Any, adapter: bool) -> Iterator[tuple[str, nn.Parameter]]:
    """Return the parameters that belong to the export: all, or the trained ones of an adapter."""
    return ((name, value) for name, value in model.named_parameters() if value.requires_grad or not adapter)
