"""The content of a request: what `/predict` and `/v1/chat/completions` may say, checked before anything is tokenized.

A key that would change the answer and is not supported is refused by name, so no client gets an answer to another
question than its own. Keys that cannot change the answer are accepted.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import orjson

from medray.data.records import Message
from medray.evaluate.decoding import MOST_STOPS
from medray.evaluate.serve.refusal import RefusedError, shown, wrong

MOST_MESSAGES = 1000
LONGEST_STOP = 200  # characters
HIGHEST_TEMPERATURE = 2.0
_SAMPLING = frozenset(("temperature", "top_p", "seed", "stop"))
PREDICT_KEYS = _SAMPLING | {"input", "messages", "task", "max_new_tokens", "cut", "model"}
CHAT_KEYS = _SAMPLING | {
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "stream",
    "stream_options",
}
# Keys that do not change an answer here: names of users, and requests to store what is not stored.
_NO_EFFECT = frozenset(
    ("user", "safety_identifier", "metadata", "prompt_cache_key", "service_tier", "parallel_tool_calls")
)
# Key of OpenAI's API → the values that ask for nothing. Any other value is refused.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "store": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A checked request.

    messages: of which the last is the user's. model: name of the model that is asked; None: any. limit: longest answer
    in tokens that is asked for; None: the default. temperature: None: the default, which is greedy. seed: None: any.
    stream: whether the answer is sent in pieces. usage: whether a stream ends with its numbers of tokens. cut: whether
    an input that is too long may be cut as in training.
    """

    messages: tuple[Message, ...] = field(repr=False)
    model: str | None = None
    task: str = "label"
    limit: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = field(default=(), repr=False)
    stream: bool = False
    usage: bool = False
    cut: bool = False


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a request without the keys that are null. Raises RefusedError if it is not one."""
    try:
        tree = orjson.loads(body)
    except (orjson.JSONDecodeError, RecursionError):
        raise RefusedError(
            400,
            "the body is not JSON in UTF-8 (numbers such as NaN and nesting deeper than 1024 levels are not allowed)",
            code="invalid_json",
        ) from None
    if not isinstance(tree, dict):
        raise RefusedError(400, "the body must be a JSON object", code="invalid_json")
    return {str(name): value for name, value in tree.items() if value is not None}


def chat_question(tree: Mapping[str, Any]) -> Question:
    """Return the question of `/v1/chat/completions`. Raises RefusedError."""
    for name, neutral in _NEUTRAL.items():
        if name in tree and not any(_same(tree[name], each) for each in neutral):
            raise wrong(name, "not supported by this server; remove it", "unsupported_parameter")
    _known(tree, CHAT_KEYS | _NO_EFFECT | _NEUTRAL.keys(), CHAT_KEYS)
    if "max_tokens" in tree and "max_completion_tokens" in tree:
        raise wrong("max_tokens", "means the same as max_completion_tokens; use one of them")
    stream = _flag(tree, "stream")
    return Question(
        messages=_messages(tree),
        model=_text(tree, "model", needed=True),
        limit=_whole(tree, "max_completion_tokens" if "max_completion_tokens" in tree else "max_tokens", 1),
        stream=stream,
        usage=_usage(tree, stream),
        **_sampling(tree),
    )


def predict_question(tree: Mapping[str, Any]) -> Question:
    """Return the question of `/predict`. Raises RefusedError."""
    _known(tree, PREDICT_KEYS, PREDICT_KEYS)
    if ("input" in tree) == ("messages" in tree):
        raise wrong("input", "use either input (a text) or messages (a conversation)")
    text = _text(tree, "input")
    if text is not None and not text.strip():
        raise wrong("input", "is empty")
    return Question(
        messages=_messages(tree) if text is None else (Message("user", text),),
        model=_text(tree, "model"),
        task=_text(tree, "task") or "label",
        limit=_whole(tree, "max_new_tokens", 1),
        cut=_flag(tree, "cut"),
        **_sampling(tree),
    )


def _known(tree: Mapping[str, Any], known: frozenset[str], suggested: frozenset[str]) -> None:
    for name in tree:
        if name not in known:
            near = difflib.get_close_matches(shown(name), sorted(suggested), n=1)
            fix = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(suggested))}"
            raise wrong(shown(name), f"unknown key; {fix}", "unknown_parameter")


def _sampling(tree: Mapping[str, Any]) -> dict[str, Any]:
    temperature = _number(tree, "temperature", 0, HIGHEST_TEMPERATURE)
    top_p = _number(tree, "top_p", 0, 1)
    if top_p == 0:
        raise wrong("top_p", "must be above 0; for greedy answers use temperature 0")
    if top_p is not None and top_p < 1 and temperature is None:
        raise wrong(
            "top_p", "has no effect without temperature, which is 0 (greedy) here; set temperature too"
        )
    return {
        "temperature": temperature or 0.0,
        "top_p": top_p if top_p and temperature else 1.0,
        "seed": _whole(tree, "seed", -(2**63)),
        "stop": _stop(tree),
    }


def _messages(tree: Mapping[str, Any]) -> tuple[Message, ...]:
    found = tree.get("messages")
    if not isinstance(found, list) or not found:
        raise wrong("messages", "must be a list of at least one message")
    if len(found) > MOST_MESSAGES:
        raise wrong("messages", f"has {len(found)} messages, but at most {MOST_MESSAGES} are allowed")
    made = tuple(_message(each, f"messages[{at}]") for at, each in enumerate(found))
    roles = [message.role for message in made]
    turns = roles[1:] if roles[0] == "system" else roles
    if any(role != ("user", "assistant")[at % 2] for at, role in enumerate(turns)) or len(turns) % 2 == 0:
        raise wrong(
            "messages",
            "must be an optional system message, then user and assistant in alternation, with a user's message last",
        )
    return made


def _message(tree: Any, place: str) -> Message:
    if not isinstance(tree, dict):
        raise wrong(place, "must be an object with role and content")
    for name, value in tree.items():
        if name not in ("role", "content", "name", "refusal") and value not in (None, []):
            raise wrong(f"{place}.{shown(name)}", "not supported; remove it", "unsupported_parameter")
    role = tree.get("role")
    if role not in ("system", "user", "assistant"):
        raise wrong(f"{place}.role", "must be system, user or assistant")
    content = tree.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, f"{place}.content[{at}]") for at, part in enumerate(content))
    if not isinstance(content, str):
        raise wrong(f"{place}.content", "must be a text, or a list of parts of the type text")
    if not content.strip():
        raise wrong(f"{place}.content", "is empty")
    return Message(cast(Literal["system", "user", "assistant"], role), content)


def _part(tree: Any, place: str) -> str:
    if not isinstance(tree, dict) or tree.get("type") != "text" or not isinstance(tree.get("text"), str):
        raise wrong(place, "must be {type: text, text: ...}; images, audio and files are not supported")
    return str(tree["text"])


def _stop(tree: Mapping[str, Any]) -> tuple[str, ...]:
    found = tree.get("stop", [])
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise wrong("stop", "must be a text or a list of texts, none of them empty")
    if len(texts) > MOST_STOPS or any(len(text) > LONGEST_STOP for text in texts):
        raise wrong("stop", f"at most {MOST_STOPS} texts of at most {LONGEST_STOP} characters are allowed")
    return tuple(texts)


def _usage(tree: Mapping[str, Any], stream: bool) -> bool:
    found = tree.get("stream_options", {})
    if not isinstance(found, dict) or ("stream_options" in tree and not stream):
        raise wrong("stream_options", "must be an object, and needs stream: true")
    for name in found:
        if name not in ("include_usage", "include_obfuscation"):
            raise wrong(
                f"stream_options.{shown(name)}", "unknown key; known keys: include_usage", "unknown_parameter"
            )
    return _flag({name: value for name, value in found.items() if value is not None}, "include_usage")


def _flag(tree: Mapping[str, Any], name: str) -> bool:
    found = tree.get(name, False)
    if not isinstance(found, bool):
        raise wrong(name, "must be true or false")
    return found


def _text(tree: Mapping[str, Any], name: str, *, needed: bool = False) -> str | None:
    found = tree.get(name)
    if found is None and not needed:
        return None
    if not isinstance(found, str):
        raise wrong(name, "must be a text")
    return found


def _number(tree: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    found = tree.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise wrong(name, "must be a number")
    if not low <= found <= high:
        raise wrong(name, f"must be between {low:g} and {high:g}")
    return float(found)


def _whole(tree: Mapping[str, Any], name: str, low: int) -> int | None:
    found = tree.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not low <= found < 2**63:
        raise wrong(name, f"must be a whole number from {low} to 2**63 - 1")
    return found


def _same(value: Any, neutral: Any) -> bool:
    """Return whether two values are equal, without taking true for 1."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral
