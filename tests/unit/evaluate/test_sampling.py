"""Sampling draws tokens with the probabilities of the formula, and stop texts end an answer wherever they begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chains
import numpy as np
import pytest
import torch

from medray.data.batching.collate import prompts
from medray.errors import InputError
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import Answer, answers
from medray.evaluate.sampling import Draw, random_numbers

CPU = torch.device("cpu")
SCORES = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -torch.inf])


def drawn(decoding: Decoding, rows: int) -> torch.Tensor:
    """Return the share of each token in the first draws of many rows."""
    draw = Draw(decoding, [f"row-{n}" for n in range(rows)], begin=3)
    found = draw(torch.zeros(rows, 3, dtype=torch.long), SCORES.repeat(rows, 1))
    assert (found == 0).sum(dim=1).eq(1).all(), "one token is left in each row"
    assert found[found != 0].isneginf().all()
    return (found == 0).double().mean(dim=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_their_probabilities(temperature: float) -> None:
    rows = 20_000
    wanted = torch.softmax(SCORES.double() / temperature, dim=-1)
    error = (drawn(Decoding(temperature=temperature), rows) - wanted).abs().max()
    assert error < 4 * (0.25 / rows) ** 0.5


@pytest.mark.parametrize("temperature", [1e-5, 1e-40, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    assert drawn(Decoding(temperature=temperature), 4)[0] == 1
    assert drawn(Decoding(temperature=temperature, top_p=0.9), 4)[0] == 1


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    """The likely tokens have 0.58, 0.21 and 0.13: two of them have 0.79, and three 0.92."""
    likely = torch.softmax(SCORES.double(), dim=-1)
    for top_p, kept in ((0.5, 1), (0.75, 2), (0.85, 3)):
        found = drawn(Decoding(temperature=1.0, top_p=top_p), 4000)
        assert (found > 0).sum() == kept
        wanted = likely[:kept] / likely[:kept].sum()
        assert torch.allclose(found[:kept], wanted, atol=0.04)


def test_the_numbers_of_a_row_depend_on_seed_and_id_alone() -> None:
    one = random_numbers(0, "a", 5)
    assert np.array_equal(one, random_numbers(0, "a", 9)[:5])
    assert not np.array_equal(one, random_numbers(1, "a", 5))
    assert not np.array_equal(one, random_numbers(0, "b", 5))
    assert ((one >= 0) & (one < 1)).all()


def test_settings_that_exclude_each_other_are_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"temperature": 1.0, "num_beams": 2},
        {"top_p": 0.5},
        {"temperature": float("nan")},
        {"top_p": 0.0, "temperature": 1.0},
        {"max_new_tokens": 0},
        {"stop": ("",)},
        {"seed": -1},
    ]
    for values in wrong:
        with pytest.raises(InputError):
            Decoding(**values)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_stop_text_ends_the_answer_also_inside_a_token(beams: int, tmp_path: Path) -> None:
    tokenizer = chains.chat_tokenizer(tmp_path)
    ids = [
        tokenizer(word, add_special_tokens=False)["input_ids"]
        for word in (" doctor", " mild fever", " severe rash")
    ]
    ask, text, rash = ids[0][0], ids[1], ids[2]
    model = chains.chain(
        len(tokenizer), {**chains.writing([ask, *text, *rash]), rash[-1]: tokenizer.eos_token_id}
    )

    def answered(*stop: str, tokens: int = 12) -> Answer:
        batch = prompts([np.array([ask], np.int32)], "causal", tokenizer.pad_token_id)
        decoding = Decoding(max_new_tokens=tokens, num_beams=beams, stop=stop)
        [found] = answers(model, tokenizer, batch, decoding, device=CPU)
        return found

    whole = answered()
    assert (whole.text, whole.finish) == ("mild fever severe rash", "stop")
    assert whole.tokens == len(text) + len(rash) + 1
    cut = answered("ver")
    assert (cut.text, cut.finish) == ("mild fe", "stop")
    assert cut.tokens == len(text)
    assert answered("nothing", "severe", "fever").text == "mild"
    short = answered(tokens=1)
    assert (short.tokens, short.finish) == (1, "length")
