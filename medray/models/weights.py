"""Checks that weight files fit their model: no tensor is missing, unknown, or of another shape.

transformers initializes missing tensors at random and ignores unknown ones, and only logs it. Its report of a load is
checked here, in two cases: after a load, and before a run starts. In the second case, the model is loaded on torch's
meta device from the headers of the files only, so that renamed and converted tensors are treated as in a real load.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medray.config.checks.model_folder import read_config
from medray.config.checks.safetensors_header import BITS, HeaderError, Tensor, index_files, read_header
from medray.config.model import ModelConfig
from medray.errors import InputError
from medray.models.quantized import keep_packed_form
from medray.plan.model_config import auto_class, model_folder
from medray.plan.pretrained import from_pretrained

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Buffers that earlier versions of transformers saved, although every version computes them: masks, positions, frequencies.
_LEFT_OVER = re.compile(
    r"(^|\.)(position_ids|inv_freq|masked_bias|(attn|attention)\.bias|(encoder|decoder)\.version|final_logits_bias"
    r"|embed_positions\.weights?|num_batches_tracked)$"
)
# Model types whose final_logits_bias is all zeros, so that some published files do not contain it. Marian trains it.
_ZERO_BIAS = (
    "bart",
    "bigbird_pegasus",
    "blenderbot",
    "blenderbot-small",
    "led",
    "mbart",
    "mvp",
    "pegasus",
    "plbart",
)
_LAYERS = ("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers", "num_layers")
_EXPERT = re.compile(r"(.*experts\.)(\d+)(\..*)")
_SENSES = re.compile(r"vision|visual|image|audio|speech|multi_?modal|(^|\.)mm_")
_SHOWN, _LONGEST_NAME = 3, 100  # limits for names in a message


def load_weights(auto: Any, source: str | Path, **settings: Any) -> Any:
    """Load a model from a folder or hub id with all its weights.

    Raises InputError if the weights do not fit the model.
    """
    stored = _tensors(Path(source)) if _is_folder(source) else {}
    try:
        model, found = from_pretrained(auto, source, output_loading_info=True, **settings)
    except InputError:
        if what := _odd_expert(stored):
            raise _unfit(what, str(source)) from None
        raise
    refuse_unfit(model, found, str(source))
    _refuse_no_start(model.config, str(source))
    _refuse_silent_tie(model, _stored_config(model, str(source)), stored, str(source))
    if stored:
        _refuse_no_bias(model, stored, str(source))
    keep_packed_form(model)
    return model


def check_weights(model: ModelConfig, config: dict[str, Any]) -> None:
    """Check that the weights in a local folder fit its config.json. Only the headers of the files are read.

    Raises InputError if the weights do not fit. Files of a hub are not on this machine yet; `load_weights` checks them
    in the worker.
    """
    folder = model_folder(model)
    if model.init != "pretrained" or folder is None or not os.path.isdir(folder):
        return
    from transformers import AutoConfig

    tensors = _tensors(Path(folder))
    _refuse_packed(tensors, folder)
    auto, settings = auto_class(config), from_pretrained(AutoConfig, folder)
    _refuse_no_start(settings, folder)
    _refuse_more_layers(settings, tensors, folder)
    state = {name: torch.empty(one.shape, device="meta") for name, one in tensors.items()}
    with _quiet():
        try:
            made, found = _on_meta(auto, settings, state)
        except Exception as error:
            raise _unfit(
                _odd_expert(tensors)
                or f"no model can be built from this model's config.json and weights ({type(error).__name__})",
                folder,
            ) from None
    refuse_unfit(made, found, folder)
    _refuse_silent_tie(made, read_config(Path(folder)), tensors, folder)
    _refuse_no_bias(made, tensors, folder)


def refuse_unfit(model: nn.Module, found: Mapping[str, Any], source: str) -> None:
    """Raise InputError if transformers' report of a load shows missing, unknown or differently shaped tensors.

    found: the report.
    """
    shapes = sorted(found.get("mismatched_keys") or (), key=lambda each: str(each[0]))
    if shapes:
        name, has, wants = shapes[0]
        raise _unfit(
            f"the shape of {len(shapes)} of the model's tensors differs from config.json: {str(name)[:_LONGEST_NAME]} "
            f"is {tuple(has)} and should be {tuple(wants)}",
            source,
        )
    modules = dict(model.named_modules())
    missing = [name for name in found.get("missing_keys") or () if not _computed(model, modules, name)]
    if missing:
        raise _unfit(
            f"{len(missing):,} of {len(model.state_dict()):,} tensors of the model are missing from its files and would be random: "
            f"{some_names(missing)}",
            source,
        )
    surplus = [
        name
        for name in found.get("unexpected_keys") or ()
        if not _LEFT_OVER.search(name) and not _other_part(model, name)
    ]
    if surplus:
        raise _unfit(
            f"{len(surplus)} tensors in the files do not belong to {type(model).__name__}, the model of config.json: "
            f"{some_names(surplus)}",
            source,
        )


def _refuse_no_start(settings: Any, source: str) -> None:
    """Raise InputError for an encoder-decoder whose decoder has no token to start from, such as mBART without a language."""
    for key in ("decoder_start_token_id", "pad_token_id"):
        if getattr(settings, "is_encoder_decoder", False) and getattr(settings, key, None) is None:
            raise InputError(
                f"the model's config.json has no {key}, which its decoder needs",
                key="model.name",
                value=source,
                fix=f"add {key} to its config.json; decoder_start_token_id of mBART is the token id of the output language",
            )


def _unfit(what: str, source: str) -> InputError:
    return InputError(
        what,
        key="model.name",
        value=source,
        fix="copy or download the model again, or correct model_type and sizes in its config.json",
    )


def some_names(names: Collection[str]) -> str:
    """Return the first of some names as text for a message, and how many others there are."""
    shown = ", ".join(name[:_LONGEST_NAME] for name in sorted(names)[:_SHOWN])
    return shown + (", …" if len(names) > _SHOWN else "")


def _computed(model: Any, modules: Mapping[str, nn.Module], name: str) -> bool:
    """Return whether a missing tensor has a known value: a bias of zeros, or sines of positions."""
    if name.endswith("final_logits_bias"):
        bias = model.get_buffer(name)
        return model.config.model_type in _ZERO_BIAS and (bias.is_meta or not bias.any())
    module = modules.get(name.rpartition(".")[0])
    return module is not None and "Sinusoidal" in type(module).__name__


def _refuse_more_layers(settings: Any, names: Collection[str], folder: str) -> None:
    """Raise InputError if config.json has more layers than the files, before a model with all of them is built."""
    if getattr(settings, "is_encoder_decoder", False):
        layers = {key: getattr(settings, key, None) for key in _LAYERS}
    else:  # a decoder of BART alone has the number of encoder layers too
        text = settings.get_text_config(decoder=True)
        key = "decoder_layers" if hasattr(text, "decoder_layers") else "num_hidden_layers"
        layers = {key: getattr(text, key, None)}
    numbers = [
        int(part)
        for name in names
        for part in re.sub(r"experts\.\d+", "", name).split(".")
        if part.isdecimal() and len(part) < 10
    ]
    for key, count in layers.items():
        if numbers and isinstance(count, int) and count > max(numbers) + 1:
            raise _unfit(
                f"the model's config.json has {count:,} layers ({key}), but its files have {max(numbers) + 1:,}",
                folder,
            )


def _refuse_silent_tie(model: Any, raw: Mapping[str, Any], names: Collection[str], source: str) -> None:
    """Raise InputError if transformers would use the embeddings as the head, although config.json says that it is separate.

    The head is then missing from the files. transformers does so for every T5.
    """
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    if raw.get("tie_word_embeddings") is not False or head is None or head.weight is not words.weight:
        return
    own = next(f"{name}.weight" for name, module in model.named_modules() if module is head)
    if own not in names:
        raise _unfit(
            f"the tensor {own} is missing, but config.json says that it is separate from the embeddings "
            "(tie_word_embeddings: false)",
            source,
        )


def _refuse_no_bias(model: Any, names: Collection[str], source: str) -> None:
    """Raise InputError if the trained final_logits_bias of a Marian is missing, for which transformers would use zeros."""
    kind = model.config.model_type
    wanted = [name for name, _ in model.named_buffers() if name.endswith("final_logits_bias")]
    if kind not in _ZERO_BIAS and (lost := [name for name in wanted if name not in names]):
        raise _unfit(
            f"the tensor {some_names(lost)} is missing, which belongs to a trained model of type {kind}",
            source,
        )


def _is_folder(source: str | Path) -> bool:
    """Return whether `source` is a local folder with files that `_tensors` reads. transformers reports errors of others."""
    return any(os.path.isfile(os.path.join(source, name)) for name in (WEIGHTS, INDEX))


def _stored_config(model: Any, source: str) -> dict[str, Any]:
    """Return the content of config.json, which the config class may change: that of T5 always ties the head."""
    if os.path.isdir(source):
        return read_config(Path(source))
    stored, _ = type(model.config).get_config_dict(source)
    return dict(stored)


def _odd_expert(tensors: Mapping[str, Tensor]) -> str | None:
    """Return a sentence about the first expert that lacks a tensor, or has one of a different shape than most experts.

    transformers stacks the experts of a layer and does not say which one does not fit.
    """
    found = [
        (*match.groups(), one.shape) for name, one in tensors.items() if (match := _EXPERT.fullmatch(name))
    ]
    shapes = {end: Counter(shape for _, _, other, shape in found if other == end) for _, _, end, _ in found}
    there = {(begin, number, end) for begin, number, end, _ in found}
    for begin, number in sorted({(begin, number) for begin, number, _ in there}):
        for end in sorted(shapes):
            if (begin, number, end) not in there:
                return f"a tensor of the model is missing: {begin}{number}{end}"[: 4 * _LONGEST_NAME]
    for begin, number, end, shape in found:
        usual = shapes[end].most_common(1)[0][0]
        if shape != usual:
            return f"the shape of {begin}{number}{end} is {shape}, but that of the other experts is {usual}"
    return None


def _other_part(model: Any, name: str) -> bool:
    """Return whether `model` is the text part of a multimodal model, and the tensor belongs to a different part of it."""
    return str(getattr(model.config, "model_type", "")).endswith("_text") and bool(_SENSES.search(name))


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the files that transformers reads, by name."""
    try:
        if (folder / WEIGHTS).is_file():
            return read_header(folder / WEIGHTS)
        if not (folder / INDEX).is_file():
            raise InputError(
                f"the folder has neither {WEIGHTS} nor {INDEX}",
                file=folder,
                fix="use a folder that save_pretrained wrote",
            )
        return {
            name: tensor
            for file in index_files(folder / INDEX)
            for name, tensor in read_header(folder / file).items()
        }
    except HeaderError as error:
        raise InputError(
            f"the weights in this folder are damaged: a file {error}",
            file=folder,
            fix="copy or download the folder again",
        ) from None


def _refuse_packed(tensors: Mapping[str, Tensor], folder: str) -> None:
    packed = [
        name
        for name, one in tensors.items()
        if (BITS[one.dtype] < 16 or one.dtype.startswith(("I", "U", "C"))) and not _LEFT_OVER.search(name)
    ]
    if packed:
        raise _unfit(
            f"{len(packed)} of the model's tensors are {tensors[packed[0]].dtype}, which cannot be trained: {some_names(packed)}",
            folder,
        )


def _on_meta(auto: Any, settings: Any, state: dict[str, torch.Tensor]) -> tuple[Any, dict[str, Any]]:
    with torch.device("meta"):
        bare = auto.from_config(settings, trust_remote_code=False)
    made, found = from_pretrained(
        type(bare),
        None,
        config=bare.config,
        state_dict=state,
        device_map={"": "meta"},
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # meta tensors have no values, so all mismatches can be reported
    )
    return made, found


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bar and the report of transformers, which would describe a load that loads nothing."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
