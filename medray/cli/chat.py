"""The verb `medray chat`: one conversation with a model in the terminal, or one question per line of a script."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from medray.cli.asked_model import add_decoding, add_model, decoding_of, named_model
from medray.errors import InputError, printable

if TYPE_CHECKING:
    from medray.evaluate.conversation import Conversation

COMMANDS = {"/reset": "forget the conversation", "/help": "show this list", "/quit": "end"}
LONGEST_LINE = 1 << 20  # characters


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "chat",
        help="talk with a run or a model in the terminal",
        description="Answer questions in the terminal, with the prompts of the model's training. Without a terminal, each line of "
        "the standard input is a question. Nothing of the conversation is stored. Commands: /reset, /help, /quit.",
    )
    add_model(verb)
    verb.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="values of dotted keys, such as eval.generation.num_beams=4",
    )
    add_decoding(verb)
    verb.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="longest answer; default: eval.generation.max_new_tokens",
    )
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from medray.evaluate.conversation import refuse_two_steps

    named = named_model(arguments.model, arguments.config, arguments.overrides)
    decoding = decoding_of(arguments, named.config)
    if arguments.max_new_tokens is not None:
        decoding = replace(decoding, max_new_tokens=arguments.max_new_tokens)
    refuse_two_steps(named.asked, "chat")
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        _say(f"loading {arguments.model}")
    from medray.evaluate.asking import Answerer
    from medray.evaluate.conversation import Conversation
    from medray.evaluate.room import room_of

    _quiet_libraries()
    answerer = Answerer(named.asked)
    conversation = Conversation(answerer, decoding, room_of(answerer.model))
    if not conversation.keeps_turns:
        _say("this model reads one input at a time: each question is answered without the earlier ones")
    if terminal:
        _say("commands: " + ", ".join(f"{name} ({what})" for name, what in COMMANDS.items()))
    return converse(conversation, terminal=terminal)


def converse(conversation: Conversation, *, terminal: bool) -> int:
    """Answer the questions of the standard input until it ends. Return the exit code.

    Ctrl-C during an answer ends this answer; before a question it ends the command (main prints this). In a script, a
    question that cannot be answered ends the command with exit code 2.
    """
    for line in _questions(terminal):
        question = line.strip()
        if not question:
            continue
        if question.startswith("/"):
            if question == "/quit":
                return 0
            _command(conversation, question, terminal=terminal)
            continue
        try:
            reply = conversation.ask(question, _show)
        except InputError as error:
            if not terminal:
                raise
            _say(str(error))
            continue
        except KeyboardInterrupt:
            if not terminal:
                raise
            print(flush=True)
            _say("this answer was interrupted and is forgotten")
            continue
        print(flush=True)
        if reply.cut:
            _say(
                "the conversation was longer than the prompts of training: the model did not see its beginning"
                if conversation.keeps_turns
                else "the question was longer than the inputs of training: the model saw a part of it"
            )
        if reply.finish == "length":
            _say(f"the answer was cut after {reply.tokens} tokens; --max-new-tokens allows more")
    if terminal:
        print()
    return 0


def _questions(terminal: bool) -> Iterator[str]:
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # input() then edits lines; nothing is stored
        while True:
            try:
                yield input("> ")
            except EOFError:
                return
    while line := _line():
        if len(line) > LONGEST_LINE:
            raise InputError(
                f"a line has more than {LONGEST_LINE} characters",
                key="stdin",
                fix="write one short question per line",
            )
        yield line


def _line() -> str:
    """Return the next line of the standard input, "" at its end."""
    try:
        return sys.stdin.readline(LONGEST_LINE + 1)
    except UnicodeDecodeError:
        raise InputError(
            "the standard input is not UTF-8", key="stdin", fix="convert it, for example with iconv"
        ) from None


def _command(conversation: Conversation, text: str, *, terminal: bool) -> None:
    if text == "/reset":
        conversation.reset()
        _say("the conversation begins again")
        return
    if text != "/help":
        if not terminal:
            raise InputError(
                "a line begins with /, but is not a command",
                key="stdin",
                fix=f"use {', '.join(COMMANDS)}, or begin the question differently",
            )
        _say("there is no such command; a question cannot begin with /")
    _say(", ".join(f"{name}: {what}" for name, what in COMMANDS.items()))


def _show(piece: str) -> None:
    """Print a piece of an answer. A model's text may contain characters that a terminal obeys."""
    print("".join(each if each in "\n\t" else printable(each) for each in piece), end="", flush=True)


def _say(text: str) -> None:
    print(f"medray: {text}", file=sys.stderr, flush=True)


def _quiet_libraries() -> None:
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()
    of_transformers.set_verbosity_error()
