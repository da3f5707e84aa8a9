"""Loading of a model for training. Under ZeRO stage 3, each rank keeps only its slice of the weights."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from medray.config.model import ModelConfig
from medray.errors import InputError
from medray.models.quantized import quantization
from medray.models.weights import load_weights
from medray.plan.model_config import auto_class, model_folder, special_tokens

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def load_model(
    model: ModelConfig,
    config: dict[str, Any],
    tokenizer: Any,
    *,
    dtype: torch.dtype,
    seed: int,
    zero3: dict[str, Any] | None = None,
) -> nn.Module:
    """Load a pretrained model, or initialize a random one, with weights in `dtype`.

    zero3: DeepSpeed's config if stage 3 shards the parameters while they are loaded. Random weights depend only on
    `seed`, so every rank makes all of them and shards them afterwards: under `zero.Init`, the random numbers would
    depend on the sharding.
    """
    if model.init == "pretrained":
        four_bit = quantization(model, dtype)
        with _sharded_loading(zero3):
            folder = model_folder(model)
            assert folder is not None
            base = load_weights(auto_class(config), folder, dtype=dtype, **four_bit)
            loaded: nn.Module = with_vocabulary(base, tokenizer, seed)
            return loaded
    torch.manual_seed(seed)
    if model.preset:
        config = config | special_tokens(config, tokenizer)
    return _made(auto_class(config), config, dtype)


def skeleton(config: dict[str, Any]) -> nn.Module:
    """Build the model on torch's meta device: modules, and names and shapes of parameters, but no weights.

    Raises InputError if no model can be built from `config`: no heads, a negative size, a text instead of a number.
    """
    auto = auto_class(config)
    try:
        with torch.device("meta"):
            return _made(auto, config, torch.float32)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"no model can be built from the config.json of this model ({type(error).__name__})",
            key="model.name",
            value=config.get("model_type"),
            fix="copy or download the model's config.json again",
        ) from None


def _made(auto: Any, config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    from transformers import AutoConfig

    # The name in a config is where its weights came from; an adapter would record that as its base.
    values = {name: value for name, value in config.items() if name not in ("model_type", "_name_or_path")}
    settings = AutoConfig.for_model(config["model_type"], **values)
    made: nn.Module = auto.from_config(settings, dtype=dtype, trust_remote_code=False)
    return made


@contextmanager
def _sharded_loading(zero3: dict[str, Any] | None) -> Iterator[None]:
    """Let transformers load under `zero.Init`, as it does while a DeepSpeed config of stage 3 exists.

    It keeps a weak reference to that config, so the config is kept alive here.
    """
    if zero3 is None:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    give_back_freed_memory()
    alive = HfDeepSpeedConfig(zero3)
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del alive


def give_back_freed_memory() -> None:
    """Make this process return freed memory to the system from now on.

    glibc keeps freed blocks below a threshold, which grows with their size up to 32 MiB. When full tensors are loaded
    one by one and only slices are kept, the process would use as much memory as without sharding
    (benchmarks/sharded_loading.py).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # other C libraries keep less freed memory
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            libc.mallopt(parameter, 1 << 20)


def with_vocabulary(model: Any, tokenizer: Any, seed: int) -> Any:
    """Enlarge the embeddings and the head of a model if the tokenizer has more tokens than they have rows.

    New rows are drawn with the mean and spread of the old ones, from `seed`: the same on every rank. Many models have
    more rows than their tokenizer has tokens; those rows are kept. Returns the model.
    """
    known = 0 if tokenizer is None else len(tokenizer)
    if known <= rows(model):
        return model
    torch.manual_seed(seed)
    model.resize_token_embeddings(known)
    model.medray_resized = True
    return model


def refuse_untrained_tokens(model: Any, peft_type: str) -> None:
    """Raise InputError if new tokens have random embeddings that the adapter would not train."""
    if getattr(model, "medray_resized", False):
        raise InputError(
            f"the tokenizer has tokens without embeddings in the model, and peft.type: {peft_type} would not train new ones",
            key="peft.type",
            value=peft_type,
            fix="set peft.type: none, or enlarge and train the model's embeddings first",
        )


def rows(model: Any) -> int:
    """Return the number of rows of the input embeddings, also if ZeRO-3 has sharded them."""
    weight = model.get_input_embeddings().weight
    return int(getattr(weight, "ds_shape", weight.shape)[0])
