"""Generation of text for a batch of prompts: greedy, with beams or sampled, during training and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medray.data.batching.collate import MicroBatch, collate
from medray.data.encode import IGNORED
from medray.evaluate.decoding import Decoding
from medray.evaluate.sampling import Draw, StopAt, Watch, Watched
from medray.models.adapters.virtual_tokens import task_inputs
from medray.models.forward import loss_logits, unwrap
from medray.models.generation import before_end, evaluation_settings, generating_with

LARGEST_LOGITS = 1 << 26  # elements that `log_probabilities` computes at once, 256 MiB in float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One generated answer.

    text: up to the first end token or stop text, stripped and without special tokens. tokens: number of generated
    tokens, with the end token. finish: `stop` if the model ended the answer or wrote a stop text, `length` if the limit
    ended it, `refused` if a server declined to answer. log_probability: natural logarithm of the probability of these
    tokens under the model, without temperature or penalties; None if it was not asked for.
    """

    text: str
    tokens: int
    finish: Literal["stop", "length", "refused"]
    log_probability: float | None = None


def generate(
    model: Any,
    tokenizer: Any,
    prompts: MicroBatch,
    decoding: Decoding,
    *,
    device: torch.device,
    rows: Sequence[str] | None = None,
    synced: bool = False,
) -> list[str]:
    """Generate one text per prompt: up to the first end token, stripped and without special tokens.

    rows: id of each row, which sampling needs. synced: whether all ranks must generate together, as under ZeRO stage 3.
    """
    found = answers(model, tokenizer, prompts, decoding, device=device, rows=rows, synced=synced)
    return [answer.text for answer in found]


@torch.no_grad()
def answers(
    model: Any,
    tokenizer: Any,
    prompts: MicroBatch,
    decoding: Decoding,
    *,
    device: torch.device,
    rows: Sequence[str] | None = None,
    synced: bool = False,
    log_probability: bool = False,
    task: str = "label",
    watch: Watch | None = None,
) -> list[Answer]:
    """Generate one answer per prompt.

    rows, synced: as in `generate`. log_probability: also compute it for each answer, which takes one more forward pass.
    task: the task that the prompts ask for; an adapter may distinguish tasks. watch: sees every new token and may end
    rows; not with beams, which change earlier tokens.
    """
    inner = getattr(model, "module", model)
    ids = torch.from_numpy(prompts.input_ids).to(device)
    mask = torch.from_numpy(prompts.attention_mask).to(device)
    settings = evaluation_settings(
        model,
        tokenizer,
        max_new_tokens=decoding.max_new_tokens,
        num_beams=decoding.num_beams,
        base_settings=decoding.base_settings,
    )
    # The decoder's first token is an input, not generated, and may be an end token (BART).
    begin = 1 if unwrap(model).config.is_encoder_decoder else ids.shape[1]
    with generating_with(model, settings):
        out = inner.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings,
            synced_gpus=synced,
            **_callbacks(tokenizer, decoding, rows, begin, watch),
            **task_inputs(model, [task] * len(ids), device),
        )
    found = _read(tokenizer, out[:, begin:], settings.eos_token_id, decoding.stop)
    if not log_probability:
        return [answer for answer, _ in found]
    asked = [row[taken == 1] for row, taken in zip(prompts.input_ids, prompts.attention_mask, strict=True)]
    sums = log_probabilities(
        model, asked, [kept for _, kept in found], pad_id=tokenizer.pad_token_id, device=device, task=task
    )
    return [
        Answer(text=answer.text, tokens=answer.tokens, finish=answer.finish, log_probability=value)
        for (answer, _), value in zip(found, sums, strict=True)
    ]


@torch.no_grad()
def log_probabilities(
    model: Any,
    prompts: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    *,
    pad_id: int,
    device: torch.device,
    task: str = "label",
) -> list[float]:
    """Return the natural logarithm of the probability of each target after its prompt: a sum over the target's tokens.

    prompts, targets: token ids of each row; a target contains its end token if that counts.
    """
    seq2seq = bool(unwrap(model).config.is_encoder_decoder)
    vocabulary = int(unwrap(model).config.get_text_config(decoder=True).vocab_size)
    longest = max((len(target) for target in targets), default=1) or 1
    at_once = max(LARGEST_LOGITS // (vocabulary * longest), 1)
    found: list[float] = []
    for start in range(0, len(prompts), at_once):
        pairs = list(zip(prompts[start : start + at_once], targets[start : start + at_once], strict=True))
        examples = [
            (np.asarray(prompt), np.asarray(target))
            if seq2seq
            else (np.concatenate([prompt, target]), np.concatenate([np.full(len(prompt), IGNORED), target]))
            for prompt, target in pairs
        ]
        micro = collate(task, examples, "seq2seq" if seq2seq else "causal", pad_id)
        tensors = [
            torch.from_numpy(array).to(device)
            for array in (micro.input_ids, micro.attention_mask, micro.labels)
        ]
        logits, labels = loss_logits(model, *tensors, seq2seq=seq2seq, tasks=[task] * len(pairs))
        losses = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        found += (-losses.view(labels.shape).double().sum(dim=1)).tolist()
    return found


def read_answer(tokenizer: Any, ids: Sequence[int], ends: Sequence[int], stop: Sequence[str]) -> Answer:
    """Return the answer in the generated ids of one row, as `answers` reads it. ends: ids that end an answer."""
    [(answer, _)] = _read(tokenizer, torch.tensor([list(ids)], dtype=torch.long), ends, stop)
    return answer


def _callbacks(
    tokenizer: Any, decoding: Decoding, rows: Sequence[str] | None, begin: int, watch: Watch | None
) -> dict[str, Any]:
    """Return the arguments of generate() for sampling, stop texts and a watch; none for plain greedy or beam search."""
    made: dict[str, Any] = {}
    criteria: list[Any] = []
    if decoding.samples:
        from transformers import LogitsProcessorList

        if rows is None:
            raise ValueError("sampling needs the ids of the rows")
        made["logits_processor"] = LogitsProcessorList([Draw(decoding, rows, begin)])
    if decoding.stop:
        criteria.append(StopAt(tokenizer, decoding.stop, begin))
    if watch is not None:
        criteria.append(Watched(watch, begin))
    if criteria:
        from transformers import StoppingCriteriaList

        made["stopping_criteria"] = StoppingCriteriaList(criteria)
    return made


def _read(
    tokenizer: Any, written: Tensor, ends: Sequence[int], stop: Sequence[str]
) -> list[tuple[Answer, np.ndarray]]:
    """Return the answer in each row of generated ids [rows, tokens], and the ids that belong to it."""
    cut = before_end(written, ends, tokenizer.pad_token_id)
    ended = torch.isin(written, torch.tensor(list(ends), device=written.device)).cpu().numpy()
    found = []
    for row, text, is_end in zip(
        written.cpu().numpy(), tokenizer.batch_decode(cut, skip_special_tokens=True), ended, strict=True
    ):
        kept = row[: int(is_end.argmax()) + 1] if is_end.any() else row
        finish: Literal["stop", "length"] = "stop" if is_end.any() else "length"
        at = min((place for text_ in stop if (place := text.find(text_)) >= 0), default=None)
        if at is not None:
            text, finish = text[:at], "stop"
            kept = kept[: _tokens_with(tokenizer, kept, stop)]
        found.append((Answer(text=text.strip(), tokens=len(kept), finish=finish), kept))
    return found


def _tokens_with(tokenizer: Any, ids: np.ndarray, stop: Sequence[str]) -> int:
    """Return the length of the shortest beginning of `ids` whose text contains a stop text."""
    for count in range(1, len(ids)):
        text = tokenizer.decode(ids[:count], skip_special_tokens=True)
        if any(each in text for each in stop):
            return count
    return len(ids)
