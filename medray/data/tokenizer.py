"""Tokenizers of a run: that of the model, or a byte-level BPE trained on the training split."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError
from medray.plan.pretrained import from_pretrained
from medray.storage import StoragePath

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def load_tokenizer(folder: str) -> Any:
    """Load the tokenizer of a model folder or hub id. If it has no pad token, the end token is used for padding."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers import AutoTokenizer

    place = str(storage.local(folder)) if storage.is_remote(folder) else folder
    tokenizer: Any = from_pretrained(AutoTokenizer, place)
    if tokenizer.eos_token_id is None:
        raise InputError(
            "the tokenizer of this model has no end token, so a model could not learn to stop",
            key="model.name",
            value=folder,
            fix="set eos_token in tokenizer_config.json in the model's folder, or use another model",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_hash(folder: str) -> str:
    """Return a hash of the files of a local tokenizer.

    It keeps shards of one tokenizer from being read with another.
    """
    digest = hashlib.sha256()
    for name in _FILES:
        file = Path(folder) / name
        if file.is_file():
            digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def wraps_texts(folder: str) -> bool:
    """Return whether a tokenizer may add more than an end token to a text, judging by its files alone."""
    try:
        step = json.loads(_file_text(folder, "tokenizer.json"))["post_processor"]
        parts = [part for piece in step["single"] for part in piece] if step else []
        return parts not in ([], ["Sequence"], ["Sequence", "SpecialToken"])
    except (ValueError, KeyError, TypeError):
        return True


def thinks(template: str, folder: str) -> bool:
    """Return whether `data.template` may handle reasoning, judging by its text or, for `chat`, by the tokenizer's
    files.
    """
    texts = [template]
    if template == "chat":
        texts = [_file_text(folder, name) for name in ("chat_template.jinja", "tokenizer_config.json")]
    return any(word in text.lower() for text in texts for word in ("think", "reasoning"))


def may_end_with_added(template: str, folder: str) -> bool:
    """Return whether `data.template` contains an added token that is not special and that may end a turn.

    Only files are read. Pairs such as `<tool_call>` and `</tool_call>` do not end a turn.
    """
    known = _file_text(folder, "tokenizer.json")
    start = known.find("[", known.find('"added_tokens"'))
    try:
        added = json.JSONDecoder().raw_decode(known, start)[0] if start >= 0 else []
        loose = {token["content"] for token in added if not token["special"] and token["content"].strip()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    others = {text.replace("</", "<") if text.startswith("</") else f"</{text[1:]}" for text in loose}
    shown = template
    if template == "chat":
        shown = _file_text(folder, "chat_template.jinja")
        try:  # tokenizer.json lists the added tokens
            shown += json.dumps(
                json.loads(_file_text(folder, "tokenizer_config.json") or "{}").get("chat_template")
            )
        except (ValueError, AttributeError):
            return False
    return any(text in shown for text in loose - others)


def _file_text(folder: str, name: str) -> str:
    """Return the text of a file in a local folder or in a downloaded hub model; "" if there is none."""
    file = Path(folder) / name
    if not Path(folder).is_dir():
        from huggingface_hub import try_to_load_from_cache

        try:
            found = try_to_load_from_cache(folder, name)
        except ValueError:  # a URL, not a hub id
            return ""
        if not isinstance(found, str):
            return ""
        file = Path(found)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def train_tokenizer(texts: Iterable[str], vocab_size: int, target: StoragePath) -> StoragePath:
    """Train a byte-level BPE with at most `vocab_size` entries, and write it to `target` atomically.

    Ids 0, 1 and 2 are pad, end and unknown, as in T5. No text is unknown, because every byte has an entry.
    """
    if target.exists():
        return target
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, UNK],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=EOS, unk_token=UNK)
    if not isinstance(target, Path):
        staging = storage.temporary_folder() / target.name
        tokenizer.save_pretrained(staging)
        storage.put_tree(staging, target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    tokenizer.save_pretrained(staging)
    try:
        staging.rename(target)
    except OSError:
        shutil.rmtree(staging)
        if not target.exists():
            raise
        # another process was faster; training is deterministic
    return target


def trained_tokenizer_key(corpus_hashes: Iterable[str], vocab_size: int) -> str:
    """Return the name for a trained tokenizer: a hash of its training data and size."""
    return hashlib.sha256(json.dumps([list(corpus_hashes), vocab_size]).encode()).hexdigest()[:16]
