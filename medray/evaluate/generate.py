"""Decoding of a batch of prompts, greedy or by beams: the same during training and after it."""

from __future__ import annotations

from typing import Any

import torch

from medray.data.batches import MicroBatch
from medray.models.forward import unwrap
from medray.models.prompts import task_inputs


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: MicroBatch,
    *,
    max_new_tokens: int,
    device: torch.device,
    num_beams: int = 1,
    synced: bool = False,
) -> list[str]:
    """One text a prompt, special tokens removed and stripped. synced: ranks go on together (ZeRO-3)."""
    inner = getattr(model, "module", model)
    ids = torch.from_numpy(prompts.input_ids).to(device)
    mask = torch.from_numpy(prompts.attention_mask).to(device)
    out = inner.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=num_beams,
        top_p=None,
        top_k=None,
        temperature=None,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        synced_gpus=synced,
        **task_inputs(model, ["label"] * len(ids), device),
    )
    config: Any = unwrap(model).config
    begin = 0 if config.is_encoder_decoder else ids.shape[1]
    return [text.strip() for text in tokenizer.batch_decode(out[:, begin:], skip_special_tokens=True)]
