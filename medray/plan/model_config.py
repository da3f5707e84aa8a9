"""The config of a model: its origin, and the class of transformers for it. Imports no torch.

docs/models.md states the rules. Nothing is guessed from a model's name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medray import storage
from medray.config.checks import model_folder as folders
from medray.config.model import PACKAGED_MODELS, ModelConfig
from medray.errors import InputError
from medray.plan.packaged import converted, ensure, packaged_config
from medray.plan.parameters import ENCODER_DECODERS
from medray.plan.pretrained import from_pretrained, refuse_code_of_config

# Language models in which every token sees all others, although transformers lists them as causal.
_BOTH_WAYS = ("flaubert", "xlm", "xlnet")


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model as its own files describe it.

    config: the dict of its `config.json`. architecture: causal or seq2seq. folder: where weights, config and tokenizer come
    from, or a hub id; None for a preset, which has none.
    """

    config: dict[str, Any]
    architecture: str
    folder: str | None

    @property
    def seq2seq(self) -> bool:
        return self.architecture == "seq2seq"


def describe(model: ModelConfig, vocab_size: int) -> ModelDescription:
    """Read what a model says of itself, once for everything that asks. Raises InputError where it cannot be used."""
    config = model_config(model, vocab_size)
    return ModelDescription(config, architecture(config), model_folder(model))


def model_folder(model: ModelConfig) -> str | None:
    """Return the folder or hub id with weights, config and tokenizer; None for a preset without one.

    A folder of a bucket is copied to this machine once per process.
    """
    if model.name in PACKAGED_MODELS:
        return str(ensure(model.name))
    if model.name and storage.is_remote(model.name):
        return str(storage.local(model.name))
    return model.name


def model_config(model: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """Return the Hugging Face config as a dict. vocab_size: for a preset, the size of the tokenizer's vocabulary."""
    if model.init == "random" and model.preset:
        return PRESETS[model.preset] | {"vocab_size": vocab_size}
    folder = model_folder(model)
    assert folder is not None
    file = Path(folder) / folders.CONFIG
    if os.path.isfile(file):
        config = folders.read_config(Path(folder))
        if config.get("auto_map"):
            refuse_code_of_config(config, file)
    else:
        from transformers import AutoConfig

        config, file = from_pretrained(AutoConfig, folder).to_dict(), Path(folder)
    folders.check_config(config, file)
    return config


def described_offline(model: ModelConfig, vocab_size: int) -> ModelDescription:
    """Return the description of a model from its config.json alone: no weights, no torch, nothing is converted.

    A hub id is looked for in the cache of this machine first, then at the hub. Raises InputError if there is no config.
    """
    if model.init == "random" and model.preset:
        config, folder = dict(PRESETS[model.preset]) | {"vocab_size": vocab_size}, None
    elif model.name in PACKAGED_MODELS:
        there = converted(model.name)
        config, folder = packaged_config(model.name), None if there is None else str(there)
    else:
        config, folder = _config_of_files(str(model.name))
    seq2seq = config.get("is_encoder_decoder") or config.get("model_type") in ENCODER_DECODERS
    return ModelDescription(config, "seq2seq" if seq2seq else "causal", folder)


def _config_of_files(name: str) -> tuple[dict[str, Any], str | None]:
    """Return the config of a local folder, a folder in a bucket or a hub id, and the folder if it is local."""
    if os.path.isdir(name):
        file = Path(name) / folders.CONFIG
        config = folders.read_config(Path(name))
        folders.check_config(config, file)
        return config, name
    if storage.is_remote(name):
        file_there = storage.at(name) / folders.CONFIG
        try:
            found = storage.read_json(file_there)
        except FileNotFoundError:
            raise InputError("the folder has no config.json", key="model.name", value=name) from None
        folders.check_config(found, Path(folders.CONFIG))
        return found, None
    if os.path.isabs(name):
        raise InputError("there is no such folder", key="model.name", value=name, fix="check the path")
    return _config_of_hub(name), None


def _config_of_hub(name: str) -> dict[str, Any]:
    import huggingface_hub as hub

    try:
        file = hub.try_to_load_from_cache(name, folders.CONFIG)
        if not isinstance(file, str):
            # Asked once: without a network, the download would try again for half a minute.
            hub.get_hf_file_metadata(hub.hf_hub_url(name, folders.CONFIG))
            file = hub.hf_hub_download(name, folders.CONFIG)
    except Exception as error:
        raise InputError(
            f"cannot get the config.json of this model ({type(error).__name__})",
            key="model.name",
            value=name,
            fix="put its config.json into a folder and set model.name to that folder; weights are not needed",
        ) from None
    config = folders.read_config(Path(file).parent)
    folders.check_config(config, Path(file))
    return config


def architecture(config: dict[str, Any]) -> str:
    """Return causal or seq2seq: by `is_encoder_decoder`, or by the default of the model_type's config if that is absent."""
    told = config.get("is_encoder_decoder")
    if told is None:
        told = getattr(_config_class(config), "is_encoder_decoder", False)
    return "seq2seq" if told else "causal"


def auto_class(config: dict[str, Any]) -> Any:
    """Return the class for the model of `config`, AutoModelForCausalLM or AutoModelForSeq2SeqLM.

    Raises InputError for a model_type without such a class, and for encoders, which would see the labels: each position
    sees the tokens after it.
    """
    from transformers.models.auto import modeling_auto as known

    kind, seq2seq = config.get("model_type"), architecture(config) == "seq2seq"
    names: Any = (
        known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        if seq2seq
        else known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )
    if kind not in names:
        raise InputError(
            f"transformers has no {'encoder-decoder' if seq2seq else 'causal language model'} that writes text for this type",
            key="model_type",
            value=kind,
            fix="use a decoder such as Llama, or an encoder-decoder such as T5 or BART",
        )
    # A model for masked words sees both sides of them, unless its config makes it a decoder.
    encoder = kind in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not (
        config.get("is_decoder") or getattr(_config_class(config), "is_encoder_decoder", False)
    )
    if not seq2seq and (encoder or kind in _BOTH_WAYS):
        raise InputError(
            "it is an encoder, in which each token sees the tokens after it: it would see the labels and not learn to write",
            key="model_type",
            value=kind,
            fix="use a decoder such as Llama, or an encoder-decoder such as T5 or BART",
        )
    return known.AutoModelForSeq2SeqLM if seq2seq else known.AutoModelForCausalLM


def _config_class(config: dict[str, Any]) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
        raise InputError(
            "the installed transformers does not know this type of model",
            key="model_type",
            value=str(kind)[:100],
            fix="use a model with a model_type that it knows, or install a newer transformers",
        )
    return CONFIG_MAPPING[kind]


PRESETS: dict[str, dict[str, Any]] = {
    # 7 M parameters with a vocabulary of 4,096: enough to classify, but not to write text.
    "t5-tiny": {
        "model_type": "t5",
        "is_encoder_decoder": True,
        "d_model": 256,
        "d_kv": 64,
        "d_ff": 512,
        "num_layers": 4,
        "num_decoder_layers": 4,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.05,
        "tie_word_embeddings": True,
    },
    "llama-tiny": {
        "model_type": "llama",
        "is_encoder_decoder": False,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
}


def special_tokens(config: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Return the settings of a preset that come from the tokenizer: size of the vocabulary and special ids."""
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if config["model_type"] == "t5":
        return ids | {"decoder_start_token_id": tokenizer.pad_token_id}
    return ids | {"bos_token_id": tokenizer.bos_token_id}
