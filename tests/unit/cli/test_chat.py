"""Tests of `medray chat`: answers to lines of the standard input, commands, refusals, and what it leaves."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from medray.cli import chat
from medray.cli import main as command
from medray.config import Config
from medray.data.records import Message
from medray.evaluate.asking import Answerer, asked_model
from medray.evaluate.decoding import Decoding

PROMPT = "data.prompts={label: Summarise}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokens = tiny.token_set(folder, tiny.rows(3))
    tiny.saved_model(folder / "base", "llama-tiny", tokens)
    return folder / "base"


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = os.umask(0o022)
    for name in command.QUIET:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    yield
    os.umask(before)


def chat_with(monkeypatch: pytest.MonkeyPatch, lines: str, *arguments: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    return command.main(["chat", *arguments])


def test_each_line_is_a_question_and_single_inputs_know_no_history(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(model.rglob("*"))
    code = chat_with(
        monkeypatch,
        "fever since a week\n\n/reset\nmild cough\n/quit\nnever asked\n",
        str(model),
        PROMPT,
        "--max-new-tokens",
        "6",
    )
    out, err = capsys.readouterr()
    assert code == 0
    config = Config().override({"data.prompts": {"label": "Summarise"}})
    answerer = Answerer(asked_model(str(model), config))
    ids = [answerer.prompt_ids([Message("user", text)]) for text in ("fever since a week", "mild cough")]
    expected = [answerer.answers([each], Decoding(max_new_tokens=6))[0].text for each in ids]
    assert out == "".join(f"{text}\n" for text in expected)
    assert "one input at a time" in err
    assert sorted(model.rglob("*")) == before


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        ("/nothing\n", (), "not a command"),
        ("fever\n", ("--temperature", "-1"), "--temperature"),
        ("fever\n", ("--top-p", "0.5"), "--top-p"),
        ("fever\n", ("--max-new-tokens", "0"), "--max-new-tokens"),
        ("x" * (chat.LONGEST_LINE + 1), (), "more than"),
    ],
)
def test_wrong_input_ends_with_2(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lines: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert chat_with(monkeypatch, lines, str(model), PROMPT, *arguments) == 2
    assert message in capsys.readouterr().err


class _Reply:
    cut, finish, tokens = True, "length", 3


class _Interrupted:
    """A conversation whose second answer is interrupted by the keyboard."""

    keeps_turns, asked = True, 0

    def ask(self, question: str, listener: Any) -> Any:
        self.asked += 1
        listener("rash\x1b[2J")
        if self.asked == 2:
            raise KeyboardInterrupt
        return _Reply()


def test_ctrl_c_ends_an_answer_in_a_terminal_and_the_command_in_a_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["one", "two", "three"])

    def typed(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    talk: Any = _Interrupted()
    assert chat.converse(talk, terminal=True) == 0
    out, err = capsys.readouterr()
    assert (talk.asked, out.count("rash")) == (3, 3)
    assert "\x1b" not in out
    assert "interrupted" in err
    assert "did not see its beginning" in err
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\nthree\n"))
    script: Any = _Interrupted()
    with pytest.raises(KeyboardInterrupt):
        chat.converse(script, terminal=False)
    assert script.asked == 2
