"""Generation of text for a batch of prompts, greedy or with beams, during training and after it."""

from __future__ import annotations

from typing import Any

import torch

from medray.data.batching.collate import MicroBatch
from medray.models.adapters.virtual_tokens import task_inputs
from medray.models.forward import unwrap
from medray.models.generation import before_end, evaluation_settings, generating_with


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: MicroBatch,
    *,
    max_new_tokens: int,
    device: torch.device,
    num_beams: int = 1,
    base_settings: bool = False,
    synced: bool = False,
) -> list[str]:
    """Generate one text per prompt: up to the first end token, stripped and without special tokens.

    base_settings: see `eval.generation.base_settings`. synced: whether all ranks must generate together, as under ZeRO
    stage 3.
    """
    inner = getattr(model, "module", model)
    ids = torch.from_numpy(prompts.input_ids).to(device)
    mask = torch.from_numpy(prompts.attention_mask).to(device)
    settings = evaluation_settings(
        model, tokenizer, max_new_tokens=max_new_tokens, num_beams=num_beams, base_settings=base_settings
    )
    with generating_with(model, settings):
        out = inner.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings,
            synced_gpus=synced,
            **task_inputs(model, ["label"] * len(ids), device),
        )
    # The decoder's first token is an input, not generated, and may be an end token (BART).
    begin = 1 if unwrap(model).config.is_encoder_decoder else ids.shape[1]
    written = before_end(out[:, begin:], settings.eos_token_id, tokenizer.pad_token_id)
    return [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
