"""Checks of a template together with its tokenizer, which find problems before a run spends time on them."""

from __future__ import annotations

from typing import Any

from medray.data.encode.encoder import Encoder, EncodeSpec
from medray.data.encode.render import reading
from medray.data.encode.templates import Template
from medray.data.encode.text_ids import TextIds
from medray.data.records import Distill, Instruction, Message, Origin
from medray.errors import InputError

PROBE_ORIGIN = Origin("probe", "probe", "probe", "")
_QUESTION, _ANSWER = "What helps?", "Rest."


def template_problems(tokenizer: Any, spec: EncodeSpec) -> list[str]:
    """Encode artificial records as a run would, and return one sentence for each problem; [] if there is none.

    Problems are: not exactly one begin token; an end that is not an end token or carries no loss; a backslash and an n
    instead of a line end; a prompt in training that differs from the one at inference; no loss at all.
    """
    try:
        encoder = Encoder(tokenizer, spec)
    except InputError as error:
        return [error.what]
    records: list[Distill | Instruction] = [
        Distill(PROBE_ORIGIN, _QUESTION, _ANSWER, _ANSWER),
        Instruction(PROBE_ORIGIN, (Message("user", _QUESTION), Message("assistant", _ANSWER))),
    ]
    task = next((task for task in spec.tasks if task == "label"), None)
    if task is None:
        return []
    columns = encoder.encode(records)[task]
    problems: list[str] = []
    begin = end = 0
    for record, stop, until in zip(records, columns.input_ends, columns.target_ends, strict=True):
        ids, targets = columns.input_ids[begin:stop].tolist(), columns.targets[end:until].tolist()
        begin, end = stop, until
        if not targets:
            problems.append(
                "no token carries loss: the template shows no answer, or max_label_tokens is too small"
            )
            continue
        problems += _of_row(TextIds(tokenizer), ids, targets, causal=spec.architecture == "causal")
        if spec.architecture == "causal":
            problems += _of_prompt(tokenizer, spec, record, ids[: targets[-2]])
    return list(dict.fromkeys(problems))


def _of_row(found: TextIds, ids: list[int], targets: list[int], *, causal: bool) -> list[str]:
    problems = []
    if found.begin is not None and (ids[0] != found.begin or ids.count(found.begin) != 1):
        problems.append(
            f"the rendered text has {ids.count(found.begin)} begin tokens, but it needs exactly one, at its start"
        )
    last, trained = (ids[-1], targets[-1] == len(ids)) if causal else (targets[-1], True)
    if last not in found.control.values():
        problems.append(
            "the rendered text does not end with an end token, so a model would not learn to stop"
        )
    elif not trained:
        problems.append("the end token carries no loss, so a model would not learn to stop")
    return problems


def _of_prompt(
    tokenizer: Any, spec: EncodeSpec, record: Distill | Instruction, prompt: list[int]
) -> list[str]:
    problems = []
    one = reading(record, "label", spec)
    assert one is not None
    template = Template(tokenizer, spec.template, spec.architecture)
    asked = [(turn.role, turn.lead + (turn.text or "")) for turn in one.turns]
    text = template.render(asked, ask=True)
    if "\\n" in text:
        problems.append("the template contains a backslash and the letter n where a line end (\\n) is meant")
    wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
    begin = TextIds(tokenizer).begin
    if prompt not in (wanted, [begin, *wanted]):
        problems.append(
            "the prompt before an answer in training differs from the template's own prompt for generation, which other "
            "programs that serve the model would use"
        )
    return problems
