"""A server, or a file of recorded replies, that answers instead of a model on this machine."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from medray.backends.build import build
from medray.backends.protocol import Failure, Message, Request
from medray.backends.wall import check_kinds
from medray.config.icl import IclFile
from medray.errors import RunFailedError
from medray.icl.asking import Said
from medray.icl.prompting import Count, Prompt

WHERE = "backend"
REVISION = 1


class RemoteModel:
    """The backend of the section `backend`. It has the interface of `LocalModel`.

    count: the length of a prompt in tokens, for a token budget; None if nothing counts. Raises InputError if the backend
    cannot be used, or if it may not receive text of records.
    """

    def __init__(self, file: IclFile, documents: int, count: Count | None) -> None:
        assert file.backend is not None
        self._section, self._answers = file.backend, file.answers
        self.count = count
        check_kinds(file.backend, {"records": documents}, WHERE)
        self._backend = build(file.backend, WHERE, seed=file.run.seed)

    @cached_property
    def identity(self) -> str:
        """Return a hash of everything that decides the answers to a prompt, as far as it can be known."""
        section = self._section
        recorded = Path(section.file).read_bytes().hex() if section.file else ""
        values = [REVISION, section.type, section.base_url, section.model, section.body, recorded]
        text = json.dumps([*values, self._answers.max_new_tokens], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def context(self) -> int | None:
        """Return None: a server does not say how much its model reads."""
        return None

    def answers(
        self, prompts: Sequence[Prompt], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[list[Said]]:
        """Yield the answers in the order in which they arrive.

        Raises RunFailedError at the end if requests failed; the answers that arrived are kept.
        """
        requests = (
            Request(
                key=prompt.id,
                messages=tuple(Message(role=each.role, content=each.content) for each in prompt.messages),
                holds="records",
                max_tokens=self._answers.max_new_tokens,
            )
            for prompt in prompts
        )
        failures: Counter[str] = Counter()
        for number, answer in enumerate(self._backend.answers(requests), 1):
            if isinstance(answer, Failure):
                failures[answer.message] += 1
            else:
                yield [
                    Said(
                        id=answer.key,
                        text=answer.text,
                        tokens=answer.completion_tokens or 0,
                        finish=answer.finish_reason,
                    )
                ]
            progress(number, len(prompts))
        if failures:
            reason, count = failures.most_common(1)[0]
            raise RunFailedError(
                f"{failures.total()} of {len(prompts)} requests failed, {count} of them: {reason}. The other answers are kept. "
                "Fix: start the command again to ask for the rest"
            )
