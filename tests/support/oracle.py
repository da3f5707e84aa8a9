"""An independent calculation of what training should do: plain torch, one process, every token, no medray code.

It reads the token shards with pyarrow, forms each global batch row by row, computes full logits for one row at a time
and takes the mean over all loss tokens of the batch, one per task.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch


def losses(
    folder: str,
    batches: list[list[tuple[int, int]]],
    model: Any,
    weights: Mapping[str, float],
    *,
    seq2seq: bool,
    lrs: list[float],
    weight_decay: float,
    clip: float,
) -> list[float]:
    """The loss before each update; batches: (shard, row) of each global batch."""
    tables = {
        int(file.stem.split("-")[1]): pq.read_table(file).to_pylist()
        for file in Path(folder).glob("shard-*.parquet")
    }
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay
    )
    found: list[float] = []
    model.train()
    for batch, lr in zip(batches, lrs, strict=True):
        rows = [tables[shard][row] for shard, row in batch]
        loss = sum(weight * _mean(model, rows, task, seq2seq=seq2seq) for task, weight in weights.items())
        optimizer.zero_grad()
        (loss + _penalty(model)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        if _kind(model) == "ADALORA":
            # peft's own: after the weights are new, while their gradients are there
            model.base_model.update_and_allocate(len(found) + 1)
        found.append(float(loss.detach()))
    return found


def _mean(model: Any, rows: list[dict[str, Any]], task: str, *, seq2seq: bool) -> Any:
    total, count = torch.zeros(()), 0
    for row in rows:
        ids = row[f"{task}.input_ids"]
        if not ids:
            continue
        labels = row[name] if (name := f"{task}.labels") in row else _labels(ids, row[f"{task}.spans"])
        inputs = {"input_ids": torch.tensor([ids])} | _task(model, task)
        if seq2seq:
            logits = model(**inputs, labels=torch.tensor([labels])).logits[0]
            wanted = labels
        else:
            logits = model(**inputs).logits[0, -len(ids) : -1]  # virtual tokens come first
            wanted = labels[1:]
        logs = torch.log_softmax(logits.float(), dim=-1)
        for place, token in enumerate(wanted):
            if token != -100:
                total = total - logs[place, token]
                count += 1
    return total / count


def _task(model: Any, task: str) -> dict[str, torch.Tensor]:
    """Return the task ids that a multitask prompt of peft needs."""
    multitask = _kind(model) == "MULTITASK_PROMPT_TUNING"
    return {"task_ids": torch.tensor([0 if task == "label" else 1])} if multitask else {}


def _penalty(model: Any) -> Any:
    """Return AdaLoRA's penalty (Zhang et al. 2023, equation 4), added to the loss: how far P and Q are from orthogonal."""
    if _kind(model) != "ADALORA":
        return 0.0
    distances = []
    for name, factor in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            short = factor if factor.shape[0] < factor.shape[1] else factor.T  # [rank, width]
            distances.append((short @ short.T - torch.eye(short.shape[0])).square().sum().sqrt())
    return model.peft_config["default"].orth_reg_weight * sum(distances) / len(distances)


def _kind(model: Any) -> str:
    settings = getattr(model, "peft_config", {}).get("default")
    return settings.peft_type.value if settings is not None else ""


def _labels(ids: list[int], spans: list[int]) -> list[int]:
    """The ids inside [start, end) pairs, -100 elsewhere."""
    inside = {
        place for start, end in zip(spans[::2], spans[1::2], strict=True) for place in range(start, end)
    }
    return [token if place in inside else -100 for place, token in enumerate(ids)]
