"""The bodies of responses, in the forms of OpenAI's API and of `/predict`."""

from __future__ import annotations

import secrets
import time
from typing import Any

import orjson

from medray.evaluate.generate import Answer
from medray.evaluate.serve.model import Prompt

DONE = b"data: [DONE]\n\n"


def event(tree: Any) -> bytes:
    """Return one event of a stream."""
    return b"data: " + orjson.dumps(tree) + b"\n\n"


class Completion:
    """The response to one request of `/v1/chat/completions`."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(16)}"
        self._model, self._created = model, int(time.time())

    def whole(self, prompt: Prompt, answer: Answer) -> dict[str, Any]:
        """Return the response with the whole answer."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
        return self._tree("chat.completion", [choice]) | {"usage": usage(prompt, answer)}

    def piece(self, text: str, *, first: bool = False, finish: str | None = None) -> bytes:
        """Return the event with a piece of the answer. finish: why the answer ended, in the last piece."""
        delta = ({"role": "assistant"} if first else {}) | ({} if finish else {"content": text})
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(self._tree("chat.completion.chunk", [choice]))

    def usage(self, prompt: Prompt, answer: Answer) -> bytes:
        """Return the event with the numbers of tokens."""
        return event(self._tree("chat.completion.chunk", []) | {"usage": usage(prompt, answer)})

    def _tree(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }


def usage(prompt: Prompt, answer: Answer) -> dict[str, int]:
    """Return the numbers of tokens of a prompt and its answer."""
    asked = len(prompt.ids)
    return {
        "prompt_tokens": asked,
        "completion_tokens": answer.tokens,
        "total_tokens": asked + answer.tokens,
    }


def prediction(prompt: Prompt, answer: Answer) -> dict[str, Any]:
    """Return the response of `/predict`."""
    return {
        "id": f"predict-{secrets.token_hex(16)}",
        "prediction": answer.text,
        "finish": answer.finish,
        "cut": prompt.cut,
        "usage": usage(prompt, answer),
    }
