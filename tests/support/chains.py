"""A real decoder whose next token depends on the current one alone, as a table says: what it writes is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import tiny
import torch

from medray.data.tokenizer import load_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chat_tokenizer(folder: Path, *, special: bool = True, template: str = CHATML) -> Any:
    """The tokenizer of `tiny` with ChatML's tokens, as base models ship it: `</s>` is still its end token."""
    made = load_tokenizer(str(tiny.tokenizer(folder)))
    if special:
        made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    else:
        from tokenizers import AddedToken

        made.add_tokens([AddedToken(text, special=False) for text in ("<|im_start|>", "<|im_end|>")])
    made.chat_template = template
    return made


def chain(size: int, following: Mapping[int, int]) -> Any:
    """A Llama whose layer adds nothing, in evaluation mode: after token t it writes `following[t]`, or t again.

    size: of the vocabulary.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size + size % 2,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=False,
    )
    model: Any = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size, config.hidden_size))
        model.lm_head.weight.zero_()
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        for token in range(size):
            model.lm_head.weight[following.get(token, token), token] = 1.0
    return model


def writing(tokens: Sequence[int]) -> dict[int, int]:
    """The table of a text: each token is followed by the next; the last by itself."""
    return dict(pairwise(tokens))
