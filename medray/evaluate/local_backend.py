"""A local model as a backend: a run, an export, a folder, a packaged model or a hub id, in this process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from medray import storage
from medray.backends.function import FunctionBackend
from medray.backends.protocol import Backend, Reply, Request
from medray.config.backends import BackendConfig
from medray.errors import InputError

if TYPE_CHECKING:
    from medray.evaluate.asking import Answerer, AskedModel

BATCH_SIZE = 8


def local_backend(section: BackendConfig, where: str) -> Backend:
    """Return a backend that generates text with the model that the section names.

    The weights are loaded at the first request. Raises InputError if there is no such model.
    """
    name = str(section.model)
    asked = asked_locally(name, where)
    loaded: list[Answerer] = []
    lock = threading.Lock()

    def answer(batch: Sequence[Request]) -> list[Reply]:
        from medray.evaluate.asking import Answerer

        with lock:
            if not loaded:
                loaded.append(Answerer(asked))
            return _answers(loaded[0], batch, name)

    return FunctionBackend(f"local model {name}", answer, batch_size=BATCH_SIZE, model=name)


def asked_locally(name: str, where: str) -> AskedModel:
    """Return the model that a section names, without its weights. Raises InputError if there is no such model."""
    from medray.config import Config
    from medray.evaluate.asking import asked_export, asked_model

    folder = storage.at(name)
    try:
        for each in (folder, folder / "export"):
            if (each / "medray.json").exists():
                return asked_export(each)
        if folder.is_dir() and not (folder / "config.json").exists():
            raise InputError(
                "this folder holds neither a finished run nor a model",
                fix="name <run.storage>/<run.name> of a finished run, a folder that medray export wrote, or one with config.json",
            )
        return asked_model(name, Config())
    except InputError as error:
        raise InputError(error.what, key=f"{where}.model", value=name, fix=error.fix) from None


def _answers(model: Answerer, batch: Sequence[Request], name: str) -> list[Reply]:
    """Return the replies to a batch. Requests with the same decoding are generated together."""
    from medray.data.records import Message
    from medray.evaluate.decoding import Decoding

    def decoding(request: Request) -> Decoding:
        return replace(
            model.asked.decoding,
            max_new_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p if request.top_p is not None and request.temperature else 1.0,
            seed=request.seed or 0,
            stop=request.stop,
        )

    found: dict[str, Reply] = {}
    groups: dict[Decoding, list[Request]] = {}
    for request in batch:
        groups.setdefault(decoding(request), []).append(request)
    for how, requests in groups.items():
        ids = [
            model.prompt_ids([Message(one.role, one.content) for one in request.messages])  # type: ignore[arg-type]
            for request in requests
        ]
        answers = model.answers(ids, how, rows=[request.key for request in requests])
        for request, prompt, answer in zip(requests, ids, answers, strict=True):
            found[request.key] = Reply(
                key=request.key,
                text=answer.text,
                finish_reason=answer.finish,
                model=name,
                prompt_tokens=len(prompt),
                completion_tokens=answer.tokens,
            )
    return [found[request.key] for request in batch]
