"""A local run as a teacher that is asked for its own rationale, with the prompt of its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medray.backends.function import FunctionBackend
from medray.backends.protocol import Backend, Reply, Request
from medray.config.backends import BackendConfig
from medray.errors import InputError
from medray.evaluate.annotate.items import Item
from medray.evaluate.local_backend import BATCH_SIZE, asked_locally

TASK = "rationale"


def own_rationale(section: BackendConfig, where: str, items: Sequence[Item]) -> Backend:
    """Return a backend that writes the rationale of items as a run was trained to, such as the key words of two steps.

    The weights are loaded at the first request. Raises InputError if there is no such run, or if it was not trained on
    rationales.
    """
    from medray.evaluate.asking import Answerer

    name = str(section.model)
    asked = asked_locally(name, where)
    if TASK not in asked.spec.tasks:
        raise InputError(
            "the model was not trained to write rationales",
            key=f"{where}.model",
            value=name,
            fix="name a run with method.name: distill and mode: task_prefix, or set ask: prompt",
        )
    records = {item.key: item.record for item in items}
    loaded: list[Answerer] = []

    def answer(batch: Sequence[Request]) -> list[Reply]:
        if not loaded:
            loaded.append(Answerer(asked))
        [model] = loaded
        request = batch[0]  # all requests of a round have the same limits
        decoding = replace(
            asked.decoding,
            max_new_tokens=request.max_tokens,
            temperature=request.temperature,
            num_beams=1 if request.temperature else asked.decoding.num_beams,
            top_p=request.top_p if request.top_p is not None and request.temperature else 1.0,
            seed=request.seed or 0,
        )
        found = model.prompts([records[each.key.rpartition("#")[0]] for each in batch], TASK).ids
        answers = model.answers(found, decoding, rows=[each.key for each in batch], task=TASK)
        return [
            Reply(
                key=each.key,
                text=said.text,
                finish_reason=said.finish,
                model=name,
                prompt_tokens=len(ids),
                completion_tokens=said.tokens,
            )
            for each, ids, said in zip(batch, found, answers, strict=True)
        ]

    return FunctionBackend(f"local run {name}", answer, batch_size=BATCH_SIZE, model=name)
