"""The check of a run's row lengths against the positions of its model: made when all shards are written, before a worker
starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medray.config import Config
from medray.config.method_specs import spec_of
from medray.config.peft import PROMPT_TYPES
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError
from medray.models.positions import Positions, positions
from medray.train.driver.data_phase import POLL_SECONDS, Encoding
from medray.train.driver.observer import Observer

_MARGIN = 32  # tokens that a suggested limit leaves for the template
_TEMPLATE_TOKENS = 256  # more than a template and its prompts add, for a warning that waits for no shard


@dataclass(frozen=True)
class _Side:
    """A kind of sequence that has its own positions.

    longest: tokens of the longest one, virtual tokens included. key, value: the config key that bounds it, and its value.
    answer: key and value of the bound of an answer in the same sequence.
    """

    what: str
    longest: int
    limit: int | None
    key: str
    value: int
    answer: tuple[str, int] | None = None


def check_positions(config: Config, model: dict[str, Any], encoding: Encoding, observer: Observer) -> None:
    """Refuse rows that are longer than the model's positions; only note them if the model computes positions beyond.

    model: the dict of `config.json`. Waits for all shards if the limits of the config allow longer rows than the model
    does. Raises InputError if positions are a table, because training would fail at the first such row.
    """
    have = positions(model)
    if have.source is None and have.target is None:
        return
    if not have.hard and _longest_allowed(config) <= min(
        limit for limit in (have.source, have.target) if limit is not None
    ):
        return
    while not encoding.done(POLL_SECONDS):
        observer.beat()
    if encoding.reference is not None:
        encoding.manifests(observer)  # raises if the pass has failed
    for side in _sides(config, have, encoding):
        if side.limit is None or side.longest <= side.limit:
            continue
        if have.hard:
            raise _refusal(side)
        observer.phase(
            "note",
            f"{side.what}: {side.longest} tokens, but the model was made for {side.limit} positions and may write "
            f"worse past them. To stay within: {_advice(side)}",
        )
        return


def _longest_allowed(config: Config) -> int:
    """Return an upper bound of the tokens of a row, from the config's limits alone."""
    data, prompts = config.data, config.data.prompts.model_dump_json()
    answer = max(
        [task.limit(data) for task in spec_of(config.method).encoded]
        + ([config.eval.generation.max_new_tokens] if config.eval.numbers else [])
    )
    return data.longest_input + answer + len(prompts) + _TEMPLATE_TOKENS + _virtual(config)


def _virtual(config: Config) -> int:
    return config.peft.virtual_tokens if config.peft.type in PROMPT_TYPES else 0


def _sides(config: Config, have: Positions, encoding: Encoding) -> Iterator[_Side]:
    seq2seq = encoding.sets["train"].spec.architecture == "seq2seq"
    virtual, prefix = _virtual(config), config.peft.type == "prefix"
    for split, tokens in encoding.sets.items():
        for encoded in spec_of(config.method).encoded:
            task, answer_key = encoded.name, encoded.limit_key
            source, target = _longest(tokens, task, seq2seq=seq2seq)
            answer = tokens.spec.limit(task)
            prompt_limit = config.data.max_prompt_tokens
            input_key = "data.max_input_tokens" if prompt_limit is None else "data.max_prompt_tokens"
            input_limit = config.data.longest_input
            rows = f"of the {split} rows (task {task!r})"
            if not seq2seq:
                what = f"the longest prompt and answer {rows}"
                yield _Side(what, source + virtual, have.source, input_key, input_limit, (answer_key, answer))
                continue
            # Virtual tokens come before the encoder's input; those of a prefix before the decoder's.
            before = (0, virtual) if prefix else (virtual, 0)
            yield _Side(f"the longest input {rows}", source + before[0], have.source, input_key, input_limit)
            yield _Side(f"the longest target {rows}", target + before[1], have.target, answer_key, answer)
    asked, held_out = config.eval.generation, encoding.sets.get("validation")
    if held_out is None or not config.eval.numbers:
        return
    new, new_key = asked.max_new_tokens, "eval.generation.max_new_tokens"
    if seq2seq:
        yield _Side("a generated text", new + virtual * prefix, have.target, new_key, new)
        return
    store = held_out.store()
    prompt = max(len(store.prompt(*place)) for place in held_out.rows()[: asked.rows])
    what = f"a prompt of {prompt} tokens and what is generated after it"
    yield _Side(what, prompt + new + virtual, have.source, new_key, new)


def _longest(tokens: TokenSet, task: str, *, seq2seq: bool) -> tuple[int, int]:
    """Return (tokens of the longest source or whole causal sequence, tokens of the longest target) of a split's rows."""
    store = tokens.store()
    source = target = 0
    for shard in tokens.index.shards:
        if seq2seq:
            source = max(source, int(store.source_sizes(shard.index, task).max(initial=0)))
            target = max(target, int(store.counts(shard.index, task, "loss_tokens").max(initial=0)))
        else:
            source = max(source, int(store.counts(shard.index, task, "length").max(initial=0)))
    return source, target


def _refusal(side: _Side) -> InputError:
    return InputError(
        f"{side.what}: {side.longest} tokens, but the model has {side.limit} positions",
        key=side.key,
        value=side.value,
        fix=f"use {_advice(side)}, or a model with more positions",
    )


def _advice(side: _Side) -> str:
    """Return limits with which the longest sequence fits, as `key: value`."""
    assert side.limit is not None
    fitting = side.value - (side.longest - side.limit)
    if side.answer is None:
        return f"{side.key}: {fitting}" if fitting > 0 else f"a lower {side.key} or data.max_input_tokens"
    key, answer = side.answer
    fitting = min(fitting, side.limit - answer - _MARGIN)
    if fitting > 0:
        return f"{side.key}: {fitting}"
    half = max(side.limit // 2 - _MARGIN // 2, 1)
    return f"{side.key}: {half} and {key}: {half}"
