"""Adapters: small trained modules on a frozen model, made and loaded by peft.

| peft.type | trained | source |
|---|---|---|
| lora | two factors of a low-rank update of each linear layer; dora: the norms of its columns too | Hu et al. 2021; Liu et al. 2024 |
| adalora | three factors, whose ranks shrink: see models/adapters/adalora.py | Zhang et al. 2023 |
| ia3 | a factor for each key, value and inner feed-forward activation | Liu et al. 2022 |
| prefix | keys and values of virtual tokens in every layer (of the decoder) | Li and Liang 2021 |
| prompt | embeddings of virtual tokens before the input | Lester et al. 2021 |
| multitask_prompt | the same, times one low-rank factor per task | Wang et al. 2023 |
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medray.config.checks.adapter_folder import WEIGHTS, read_adapter, read_tensors
from medray.config.peft import LOW_RANK_TYPES, PROMPT_TYPES, PeftConfig
from medray.errors import InputError
from medray.models.adapters.adalora import adalora_config
from medray.models.adapters.virtual_tokens import keep_positions
from medray.models.load import refuse_untrained_tokens
from medray.models.weights import some_names
from medray.plan.pretrained import from_pretrained

TASKS = 2  # tasks of a multitask prompt: the label, and any other task


def add_adapter(
    model: nn.Module,
    peft: PeftConfig,
    *,
    seq2seq: bool,
    seed: int,
    total_steps: int = 0,
    tokenizer: Any = None,
    start: str | None = None,
) -> nn.Module:
    """Add an adapter to a model: return the model with a trainable adapter and all other weights frozen.

    With peft.type none, the model is returned unchanged. total_steps: steps of the run, needed by adalora. tokenizer:
    needed for peft.init_text. start: a folder with an adapter of the same type, whose settings and weights are used.
    """
    if peft.type == "none":
        return model
    import peft as library

    refuse_untrained_tokens(model, peft.type)
    torch.manual_seed(seed)  # the adapter's first weights are the same on every rank
    task = library.TaskType.SEQ_2_SEQ_LM if seq2seq else library.TaskType.CAUSAL_LM
    if start is not None:
        continued: nn.Module = _continued(model, start, task)
        return continued
    linear = _linear_layers(model)  # before peft wraps them
    _refuse_unknown_targets(model, peft, linear)
    try:
        settings = _settings(model, peft, task, total_steps)
        with no_warning_of_patterns():
            adapted: Any = library.get_peft_model(model, settings)
    except ValueError as error:
        raise _refusal(peft, error, linear) from None
    if peft.type in ("prompt", "multitask_prompt"):
        _begin_with_words(adapted, peft.init_text, tokenizer)
    trained: nn.Module = keep_positions(adapted)
    return trained


@contextmanager
def no_warning_of_patterns() -> Iterator[None]:
    """Silence a wrong warning of peft 0.21, which says that it ignores patterns of ranks and scales although it applies
    them.

    This concerns the patterns of AdaLoRA's layers, and peft's own patterns for the experts of a Mixtral.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        yield


def _settings(model: Any, peft: PeftConfig, task: Any, total_steps: int) -> Any:
    import peft as library

    targets: Any = peft.targets if isinstance(peft.targets, str) else list(peft.targets)
    scale: Any = peft.alpha  # peft's annotation says int, its arithmetic takes any number
    if peft.type == "lora":
        return library.LoraConfig(
            r=peft.rank,
            lora_alpha=scale,
            lora_dropout=peft.dropout,
            target_modules=targets,
            task_type=task,
            use_rslora=peft.rslora,
            use_dora=peft.dora,
        )
    if peft.type == "adalora":
        return adalora_config(peft, targets, task, total_steps)
    if peft.type == "ia3":
        return library.IA3Config(task_type=task)
    # In an encoder-decoder, virtual tokens precede the encoder's input only; a prefix goes to the decoder.
    length: dict[str, Any] = {"num_virtual_tokens": peft.virtual_tokens, "task_type": task}
    if peft.type == "prefix":
        return library.PrefixTuningConfig(**length, **_cache_shape(model.config))
    if peft.type == "prompt":
        return library.PromptTuningConfig(**length, num_transformer_submodules=1)
    return library.MultitaskPromptTuningConfig(
        **length, num_transformer_submodules=1, num_tasks=TASKS, num_ranks=peft.task_rank
    )


def _cache_shape(config: Any) -> dict[str, Any]:
    """Return the layers, heads and width of the keys of a prefix.

    peft would use the hidden size as the width, and the encoder's layers as the decoder's. This is wrong for T5 small,
    and for models whose heads are wider than hidden size / heads.
    """
    layers = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "d_kv", None) or getattr(config, "head_dim", None)
    width = width or config.hidden_size // config.num_attention_heads
    return {"num_layers": layers, "num_attention_heads": heads, "token_dim": heads * width}


def _linear_layers(model: nn.Module) -> str:
    """Return the names of the linear layers for a message: `q_proj, v_proj`."""
    return ", ".join(
        sorted({name.rpartition(".")[2] for name, one in model.named_modules() if isinstance(one, nn.Linear)})
    )


def _refuse_unknown_targets(model: nn.Module, peft: PeftConfig, linear: str) -> None:
    """Raise InputError if a target is not a module. peft silently ignores unknown names if one name is known."""
    if peft.type not in LOW_RANK_TYPES or isinstance(peft.targets, str):
        return
    names = [f".{name}" for name, _ in model.named_modules()]
    for target in peft.targets:
        if not any(name.endswith(f".{target}") for name in names):
            raise _wrong_targets("the model has no module of this name", target, linear)


def _wrong_targets(what: str, value: Any, linear: str) -> InputError:
    return InputError(
        what, key="peft.targets", value=value, fix=f"set peft.targets: all-linear, or to some of {linear}"
    )


def _refusal(peft: PeftConfig, error: ValueError, linear: str) -> InputError:
    if isinstance(error, InputError):
        return error
    if peft.type in LOW_RANK_TYPES:
        return _wrong_targets(
            f"peft.type: {peft.type} does not support all of these modules", peft.targets, linear
        )
    return InputError(
        f"this model does not support this type of adapter: {str(error).splitlines()[0] if str(error) else 'peft gives no reason'}",
        key="peft.type",
        value=peft.type,
        fix="use peft.type: lora",
    )


def _begin_with_words(adapted: Any, text: str | None, tokenizer: Any) -> None:
    """Set the prompt's embeddings to those of `text`, repeated to the prompt's length; without a text, to random tokens'."""
    prompt: Tensor = adapted.prompt_encoder["default"].embedding.weight
    words: Any = adapted.get_base_model().get_input_embeddings().weight
    if text is None:
        shape = getattr(words, "ds_shape", words.shape)
        ids = torch.randint(shape[0], (len(prompt),), device="cpu").tolist()
    else:
        known = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not known:
            raise InputError(
                "this text has no tokens to start the adapter from",
                key="peft.init_text",
                value=text,
                fix="set peft.init_text to some words, or to null",
            )
        ids = (known * -(-len(prompt) // len(known)))[: len(prompt)]
    with _whole(words), torch.no_grad():
        if not words.is_meta:
            prompt.copy_(words[ids].to(prompt.dtype))


def _whole(parameter: Any) -> Any:
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])


def load_settings(folder: str | Path) -> Any:
    """Return peft's checked settings of the adapter in `folder`, without the settings that initialize a new adapter.

    Those could make peft load a tokenizer from a folder that the adapter names, or unpickle a file.
    """
    import peft as library

    read_adapter(Path(folder))
    settings: Any = from_pretrained(library.PeftConfig, folder)
    if hasattr(settings, "prompt_tuning_init"):
        settings.prompt_tuning_init = type(settings.prompt_tuning_init)("RANDOM")
        settings.prompt_tuning_init_text = settings.tokenizer_name_or_path = settings.tokenizer_kwargs = None
    if hasattr(settings, "prompt_tuning_init_state_dict_path"):
        settings.prompt_tuning_init_state_dict_path = None
    return settings


def _continued(model: Any, folder: str, task: Any) -> Any:
    """Return the model with the adapter in `folder`. On the meta device, only names and shapes are loaded."""
    import peft as library
    from safetensors.torch import load_file

    settings = load_settings(folder)
    settings.inference_mode = False
    if settings.task_type != task:
        raise _misfit(folder, f"it was trained for the task {settings.task_type}")
    if model.device.type == "meta":
        weights = {name: torch.empty(one.shape) for name, one in read_tensors(Path(folder)).items()}
    else:
        weights = load_file(str(Path(folder) / WEIGHTS))
        refuse_no_numbers(weights, Path(folder))
    try:
        with no_warning_of_patterns():
            adapted: Any = library.get_peft_model(model, settings)
        found: Any = library.set_peft_model_state_dict(adapted, weights)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise _misfit(folder, type(error).__name__) from None
    trained = {name for name, one in adapted.named_parameters() if one.requires_grad}
    # peft loads virtual tokens separately, and still lists them as missing or unexpected keys.
    missing = trained & set(found.missing_keys)
    if not settings.is_prompt_learning:
        if missing:
            raise _misfit(
                folder, f"{len(missing)} of {len(trained)} tensors are missing: {some_names(missing)}"
            )
        if surplus := found.unexpected_keys:
            raise _misfit(
                folder,
                f"{len(surplus)} of {len(weights)} tensors belong to no module of the model: {some_names(surplus)}",
            )
    return keep_positions(adapted)


def refuse_no_numbers(weights: dict[str, Tensor], folder: Path) -> None:
    """Raise InputError if an adapter contains NaN or infinity, for example after a failed training."""
    if bad := [name for name, one in weights.items() if not torch.isfinite(one).all()]:
        raise InputError(
            f"{len(bad)} of the adapter's {len(weights)} tensors contain NaN or infinity: {some_names(bad)}",
            file=folder / WEIGHTS,
            fix="use an adapter from an earlier checkpoint, or copy the file again",
        )


def _misfit(folder: str, reason: str) -> InputError:
    return InputError(
        f"the adapter does not fit the model ({reason})",
        key="model.adapter",
        value=folder,
        fix="use an adapter that was trained on the model in model.name",
    )


def merge(model: Any) -> nn.Module:
    """Merge an adapter into its model: lora (also with dora), adalora and ia3.

    The plain model then gives the same outputs.

    Raises InputError for virtual tokens, which do not change weights, and for 4-bit weights, which would be rounded
    again: load the base in 16 or 32 bits first.
    """
    refuse_unmergeable(model)
    merged: nn.Module = model.merge_and_unload(safe_merge=True)
    return merged


def refuse_unmergeable(model: Any) -> None:
    """Raise InputError if `merge` cannot merge the adapter of this model."""
    kind = str(model.peft_config["default"].peft_type.value).lower().replace("_tuning", "")
    if kind in PROMPT_TYPES:
        raise InputError(
            f"a {kind} adapter adds virtual tokens and does not change the model's weights, so it cannot be merged",
            key="peft.type",
            value=kind,
            fix="export it with --format adapter; peft loads it together with the model",
        )
    if getattr(model.get_base_model(), "is_loaded_in_4bit", False):
        raise InputError(
            "merging an adapter into 4-bit weights would round them again",
            key="model.quantization",
            value="nf4",
            fix="load the base in 16 or 32 bits, and merge the adapter into that",
        )
    head, words = model.get_base_model().get_output_embeddings(), model.get_input_embeddings()
    adapted = [one for one in (head, words) if hasattr(one, "get_base_layer")]
    if adapted and len({id(getattr(one, "base_layer", one).weight) for one in (head, words)}) == 1:
        raise InputError(
            "the adapter changes lm_head, which shares its weights with the embeddings: merging would change both"
            if adapted[0] is head
            else "the adapter changes the embeddings, which share their weights with lm_head: merging would change both",
            key="peft.targets",
            value="lm_head" if adapted[0] is head else "embed_tokens",
            fix="export it with --format adapter",
        )
