"""Rows of one batch end by their own rules, and their pieces are their answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_answerer import tiny_answerer

from medray.data.records import Message
from medray.evaluate.asking import Answerer
from medray.evaluate.conversation import Conversation, takes_turns
from medray.evaluate.decoding import Decoding
from medray.evaluate.progress import Row, TextPieces, write
from medray.evaluate.room import Room, room_of


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    """A model with weights that are large enough for varied answers."""
    return tiny_answerer(tmp_path_factory.mktemp("model"))


def pieces_of(answerer: Answerer, decoding: Decoding, count: int = 6) -> None:
    prompts = [answerer.prompt_ids([Message("user", row["input"])]) for row in tiny.rows(count, seed=5)]
    names = [f"row-{n}" for n in range(count)]
    limits = [1, 4, 9, 9, 6, 9][:count] if decoding.num_beams == 1 else [9] * count
    alone = [
        answerer.answers([ids], replace(decoding, max_new_tokens=limit), rows=[name])[0]
        for ids, limit, name in zip(prompts, limits, names, strict=True)
    ]
    heard: list[list[str]] = [[] for _ in prompts]
    rows = [
        Row(limit=limit, stop=decoding.stop, listener=each.append)
        for limit, each in zip(limits, heard, strict=True)
    ]
    found = write(answerer, prompts, rows, decoding, names=names)
    assert found == alone
    assert ["".join(each) for each in heard] == [answer.text for answer in alone]
    assert len({answer.text for answer in alone}) > 2


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(max_new_tokens=9),
        Decoding(max_new_tokens=9, temperature=1.4, top_p=0.95, seed=2),
        Decoding(max_new_tokens=9, num_beams=2),
    ],
    ids=["greedy", "sampled", "beams"],
)
def test_a_row_of_a_batch_gets_the_answer_that_it_gets_alone(answerer: Answerer, decoding: Decoding) -> None:
    pieces_of(answerer, decoding)


def test_stop_texts_of_rows_are_their_own(answerer: Answerer) -> None:
    ids = answerer.prompt_ids([Message("user", "fever and cough")])
    whole = answerer.answers([ids], Decoding(max_new_tokens=12))[0].text
    stop = whole[len(whole) // 2 :][:3]
    assert len(stop) == 3
    heard: list[str] = []
    rows = [Row(limit=12, stop=(stop,), listener=heard.append), Row(limit=12)]
    cut, other = write(answerer, [ids, ids], rows, Decoding(max_new_tokens=12), names=["a", "b"])
    [alone] = answerer.answers([ids], Decoding(max_new_tokens=12, stop=(stop,)))
    assert (cut, other.text) == (alone, whole)
    assert cut.finish == "stop"
    assert "".join(heard) == cut.text


def test_a_cancelled_row_ends_at_once_and_its_neighbours_go_on(answerer: Answerer) -> None:
    ids = answerer.prompt_ids([Message("user", "fever and cough")])
    rows = [Row(limit=9, cancelled=True), Row(limit=9)]
    found = write(answerer, [ids, ids], rows, Decoding(), names=["a", "b"])
    assert found[0].tokens == 1
    assert found[1] == answerer.answers([ids], Decoding(max_new_tokens=9))[0]


class _Words:
    """A tokenizer whose token is a number of words; it joins "do" and "n't", as some do."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def decode(self, ids: list[int], **_: Any) -> str:
        return (
            b"".join(self._words[each].encode("latin1") for each in ids)
            .decode("utf-8", "replace")
            .replace(" n't", "n't")
        )


@pytest.mark.parametrize(
    ("words", "stop", "expected"),
    [
        ([" I", " do", " n", "'t", " know"], (), "I don't know"),
        (["caf", "\xc3", "\xa9", " \xf0", "\x9f", "\x92", "\x8a"], (), "café 💊"),
        (["\n", " a", "\n", "\n", "b"], ("\n\n",), "a"),
        (["x EN", "ter", " EN", "D", " y"], ("END",), "x ENter"),
    ],
    ids=["joined", "bytes", "blank line", "almost"],
)
def test_pieces_never_take_back_what_they_showed(
    words: list[str], stop: tuple[str, ...], expected: str
) -> None:
    heard: list[str] = []
    tokenizer = _Words(words)
    pieces = TextPieces(tokenizer, frozenset(), stop, heard.append)
    for count in range(1, len(words) + 1):
        pieces.show(list(range(count)))
        assert expected.startswith("".join(heard))
    assert heard
    pieces.finish(expected)
    assert "".join(heard) == expected


def test_a_conversation_keeps_its_turns_and_single_inputs_do_not(tmp_path: Path, answerer: Answerer) -> None:
    talking = tiny_answerer(tmp_path, prompted=False)
    told = Conversation(talking, Decoding(max_new_tokens=5), Room())
    assert told.keeps_turns
    first = told.ask("fever", _nothing())
    turns = [Message("user", "fever"), Message("assistant", first.text), Message("user", "cough")]
    [second] = talking.answers([talking.prompt_ids(turns)], Decoding(max_new_tokens=5))
    assert told.ask("cough", _nothing()).text == second.text
    told.reset()
    assert told.ask("fever", _nothing()) == first
    single = Conversation(answerer, Decoding(max_new_tokens=5), Room())
    assert not single.keeps_turns
    assert single.ask("fever", _nothing()) == single.ask("fever", _nothing())
    assert not takes_turns(replace(talking.asked, spec=replace(talking.asked.spec, architecture="seq2seq")))


def _nothing() -> Callable[[str], None]:
    return lambda _: None


def test_room_is_what_the_positions_leave(answerer: Answerer) -> None:
    have = answerer.model.config.max_position_embeddings
    assert room_of(answerer.model) == Room(prompt=have, whole=have)
    room = Room(prompt=100, whole=100)
    assert [room.limit(90, 20), room.limit(50, 20), room.limit(101, 20)] == [10, 20, 0]
    assert Room(prompt=100, answer=7).limit(100, 20) == 7
