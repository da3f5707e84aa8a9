"""Near-duplicate inputs are found, across splits by their ids, and other inputs are not."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

import tiny

from medray.data.inspect.near_duplicates import SHOWN_PAIRS, compare, near_duplicates
from medray.data.tokenizer import load_tokenizer


def words(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(5000)}" for _ in range(count)]


def changed(text: list[str], seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    places = set(rng.sample(range(len(text)), count))
    return [f"x{seed}-{at}" if at in places else word for at, word in enumerate(text)]


def similarity(one: list[str], other: list[str]) -> float:
    """Compute the Jaccard similarity of sequences of five words."""
    left, right = ({tuple(text[at : at + 5]) for at in range(len(text) - 4)} for text in (one, other))
    return len(left & right) / len(left | right)


def test_most_similar_inputs_are_found_and_no_others() -> None:
    """Pairs clearly above the threshold are found, and pairs clearly below are not."""
    pairs = [(words(n, 150), changed(words(n, 150), n, n % 13)) for n in range(400)]
    train = [(f"t{n}", " ".join(one)) for n, (one, _) in enumerate(pairs)]
    validation = [(f"v{n}", " ".join(other)) for n, (_, other) in enumerate(pairs)]
    alike = {n for n, pair in enumerate(pairs) if similarity(*pair) >= 0.9}
    unlike = {n for n, pair in enumerate(pairs) if similarity(*pair) < 0.66}
    assert min(len(alike), len(unlike)) > 50

    found: set[int] = set()
    for begin in range(0, 400, SHOWN_PAIRS):  # no more pairs are named at once
        some = iter(validation[begin : begin + SHOWN_PAIRS])
        pairs_found = compare({"train": iter(train), "validation": some}, 0.8).pairs
        assert all(pair.train[1:] == pair.validation[1:] for pair in pairs_found)
        found |= {int(pair.validation[1:]) for pair in pairs_found}
    assert alike <= found
    assert not unlike & found

    whole = compare({"train": iter(train), "validation": iter(validation)}, 0.8)
    assert whole.across == len(found)
    assert len(whole.pairs) == SHOWN_PAIRS
    assert whole.repeated == {"train": 0, "validation": 0}
    assert whole.compared == {"train": 400, "validation": 400}


def test_the_similarity_that_is_shown_is_about_right() -> None:
    one, other = words(1, 300), changed(words(1, 300), 1, 5)
    found = compare(
        {"train": iter([("a", " ".join(one))]), "validation": iter([("b", " ".join(other))])}, 0.7
    )
    (pair,) = found.pairs
    assert (pair.train, pair.validation) == ("a", "b")
    assert abs(pair.similarity - similarity(one, other)) < 0.12  # three standard errors


def test_repeats_within_a_split_count_once_each() -> None:
    text = " ".join(words(3, 60))
    rows = [
        ("a", text),
        ("b", "  " + text.upper().replace(" ", "\n")),
        ("c", " ".join(words(4, 60))),
        ("d", text),
    ]
    assert compare({"train": iter(rows)}, 0.8).repeated == {"train": 2}


def test_a_short_text_is_compared_as_a_whole() -> None:
    rows = [
        ("a", "knee pain"),
        ("b", "knee  Pain"),
        ("c", "knee pains"),
        ("d", "pain knee"),
        ("e", ""),
        ("f", " "),
    ]
    found = compare({"train": iter(rows)}, 0.8)
    assert (found.compared, found.repeated) == ({"train": 6}, {"train": 1})


def test_the_threshold_decides() -> None:
    one, other = words(5, 200), changed(words(5, 200), 5, 6)
    assert 0.65 < similarity(one, other) < 0.8
    rows = [("a", " ".join(one)), ("b", " ".join(other))]
    assert compare({"train": iter(rows)}, 0.5).repeated == {"train": 1}
    assert compare({"train": iter(rows)}, 0.95).repeated == {"train": 0}
    assert compare({"train": iter([rows[0], rows[0]])}, 1.0).repeated == {"train": 1}


def test_rows_of_token_shards_are_compared_without_their_prompts(tmp_path: Path) -> None:
    """The prompt is most of these rows; if it counted, all of them would be near-duplicates."""
    made = [
        {"id": f"r{n}", "input": " ".join(words(n, 18)), "label": "knee", "rationale": "why"}
        for n in range(30)
    ]
    held = [dict(made[7], id="again", label="rash"), dict(made[8], id="new", input=" ".join(words(99, 18)))]
    for architecture in ("causal", "seq2seq"):
        sets = {
            "train": tiny.token_set(tmp_path, made, architecture=architecture),
            "validation": tiny.token_set(tmp_path, held, architecture=architecture, name="validation"),
        }
        tokenizer = load_tokenizer(sets["train"].tokenizer)
        found = near_duplicates(sets, tokenizer)
        assert [(pair.train, pair.validation) for pair in found.pairs] == [("r7", "again")]
        assert (found.across, found.repeated) == (1, {"train": 0, "validation": 0})
        assert made[7]["input"] not in json.dumps(asdict(found))
        few = near_duplicates(sets, tokenizer, most_rows=7)
        assert (few.compared, few.across) == ({"train": 7, "validation": 2}, 0)
