"""What users rely on is frozen in surface.txt: verbs, arguments, config keys, their defaults, what may change on resume.

A change that is wanted is written there by the command in its first line, and is seen in review.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, WithJsonSchema

from medray.cli.main import parser
from medray.config.reference import FILES

GOLDEN = Path(__file__).with_name("surface.txt")
HEADER = "# Written by: .venv/bin/python -m tests.unit.cli.test_surface > tests/unit/cli/surface.txt\n"


def surface() -> str:
    """Return the whole surface as text."""
    lines = [
        line for words, verb in verbs(parser(), "medray") for line in (words, *map(argument, arguments(verb)))
    ]
    for file, schema in FILES.items():
        title = "config" if file == "run" else f"{file} config"
        lines += ["", title, *map(config_key, config_keys(schema, ""))]
    return HEADER + "\n".join(["", *lines, ""])


def verbs(command: argparse.ArgumentParser, words: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield words, command
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from verbs(inner, f"{words} {name}")


def arguments(command: argparse.ArgumentParser) -> list[argparse.Action]:
    plain = (argparse._HelpAction, argparse._SubParsersAction)
    return [action for action in command._actions if not isinstance(action, plain)]


def argument(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    facts = [name]
    if action.nargs is not None:
        facts.append(f"nargs {action.nargs}")
    if action.choices:
        facts.append(" | ".join(map(str, action.choices)))
    elif isinstance(action.type, type):
        facts.append(action.type.__name__)
    if action.option_strings and action.default is not argparse.SUPPRESS:
        facts.append(f"default {json.dumps(action.default)}")
    return "    " + "; ".join(facts)


def config_keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, its field, its default) for every key that is not a section."""
    for name, field in model.model_fields.items():
        section = next(filter(_is_section, (field.annotation, *_options(field.annotation))), None)
        if not _is_section(field.annotation):
            yield f"{prefix}{name}", field, field.get_default(call_default_factory=True)
        if section is not None:
            yield from config_keys(section, f"{prefix}{name}.")


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _options(annotation: Any) -> tuple[Any, ...]:
    """Return the kinds of an optional section: a key that is null, or has keys of its own."""
    return get_args(annotation) if type(None) in get_args(annotation) else ()


def config_key(entry: tuple[str, Any, Any]) -> str:
    key, field, default = entry
    facts = [f"{key}: {'required' if field.is_required() else json.dumps(default)}"]
    if allowed := [*words(field.annotation), *registered(field.metadata)]:
        facts.append(" | ".join(allowed))
    if field.json_schema_extra["resumable"]:
        facts.append("resumable")
    return "    " + "; ".join(facts)


def words(annotation: Any) -> Iterator[str]:
    """Return the words that a Literal allows, anywhere in the annotation."""
    for inner in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield str(inner)
        else:
            yield from words(inner)


def registered(metadata: list[Any]) -> Iterator[str]:
    """Yield the names of a registry that a field allows: it gives them as its JSON schema."""
    for one in metadata:
        if isinstance(one, WithJsonSchema) and one.json_schema:
            yield from one.json_schema.get("enum", ())


def test_the_surface_is_the_frozen_one() -> None:
    assert surface() == GOLDEN.read_text(encoding="utf-8"), GOLDEN.read_text(encoding="utf-8").splitlines()[0]


def test_names_that_the_design_fixes_are_there() -> None:
    frozen = GOLDEN.read_text(encoding="utf-8")
    for key in ("run.storage", "run.name", "run.seed", "cluster.workers", "train.zero_stage", "train.offload",
                "train.deepspeed", "train.global_batch_size", "train.micro_batch_size",
                "train.gradient_accumulation_steps", "model.name", "model.init", "model.preset", "data.tokenizer",
                "peft.type", "peft.rank", "peft.alpha", "peft.dropout", "method.name", "method.alpha"):  # fmt: skip
        assert f"\n    {key}: " in frozen


def test_everything_says_what_it_is() -> None:
    for words_, verb in verbs(parser(), "medray"):
        assert verb.description, words_
        for action in arguments(verb):
            assert action.help, f"{words_} {action.dest}"
        for action in verb._actions:
            if isinstance(action, argparse._SubParsersAction):
                assert {choice.dest for choice in action._choices_actions if choice.help} == set(
                    action.choices
                )
    for schema in FILES.values():
        for key, field, _ in config_keys(schema, ""):
            assert field.description, key
            assert field.description.endswith("."), key


def test_help_states_the_defaults_of_options() -> None:
    for words_, verb in verbs(parser(), "medray"):
        for action in arguments(verb):
            if action.option_strings and action.default not in (None, False, argparse.SUPPRESS):
                assert f"({action.default})" in str(action.help), f"{words_} {action.option_strings}"


if __name__ == "__main__":
    print(surface(), end="")
