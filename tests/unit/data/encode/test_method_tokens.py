"""What the method says of tokens: which texts its tasks read and write, and when shards are other ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny
from encoding import ORIGIN, distill, ids_of, spec

from medray.config import Config
from medray.data.encode.render import reading, target
from medray.data.records import TwoStep
from medray.data.shards.fingerprint import token_key
from medray.data.shards.preparation import encode_spec
from medray.errors import InputError

DISTILL: dict[str, Any] = {"name": "distill"}
HIERARCHICAL = DISTILL | {"variant": "hierarchical"}
TWO_STEP = TwoStep(ORIGIN, "find key words: text", "summarize: text\nKey words:", "A note.", "fever: yes")


def made(seed: int = 0, architecture: str = "causal", **method: Any) -> Any:
    tree = {"run": {"seed": seed}, "method": method, "data": {"train": ["x.jsonl"]}}
    return encode_spec(Config.model_validate(tree), architecture)


def key(**method: Any) -> str:
    return token_key("rows", made(**method), "tokenizer")


class TestFingerprint:
    def test_shards_from_before_these_keys_are_still_those(self) -> None:
        """The hash of a spec as it was when it had fewer fields."""
        assert token_key("rows", tiny.encode_spec(), "tokenizer") == "2548a743142a324aacf2"

    @pytest.mark.parametrize(
        "method",
        [
            {"alpha": 0.8},
            {"label_weight": 2.0},
            {"loss_norm": "micro_batch"},
            {"variant": "dynamic_alpha", "alpha_schedule": {"start": 0.0, "slope": 0.3, "cap": 1.0}},
        ],
    )
    def test_weights_are_no_part_of_it(self, method: dict[str, Any]) -> None:
        assert key(**DISTILL | method) == key(**DISTILL)

    def test_nor_is_the_cosine(self) -> None:
        cosine = made(architecture="seq2seq", **DISTILL, variant="cosine")
        assert cosine == made(architecture="seq2seq", **DISTILL)

    def test_the_reduction_of_keys_is_no_part_of_it(self) -> None:
        assert key(**HIERARCHICAL, rationale={"reduction": "sum"}, alpha=0.2) == key(**HIERARCHICAL)

    def test_all_that_changes_tokens_is(self) -> None:
        ways: list[dict[str, Any]] = [
            DISTILL,
            DISTILL | {"mode": "standard"},
            DISTILL | {"train_on": "all"},
            DISTILL | {"rationale": {"several": "one"}},
            DISTILL | {"variant": "two_step"},
            DISTILL | {"variant": "two_step", "mode": "standard"},
            HIERARCHICAL,
            HIERARCHICAL | {"rationale": {"max_keys": 3}},
            HIERARCHICAL | {"rationale": {"keys": ["Age", "Sex"]}},
            HIERARCHICAL | {"rationale": {"skip_null": False}},
        ]
        assert len({key(**way) for way in ways}) == len(ways)
        assert key(seed=1, **DISTILL, rationale={"several": "one"}) != key(
            **DISTILL, rationale={"several": "one"}
        )
        assert key(seed=1, **DISTILL) == key(**DISTILL)


class TestHierarchical:
    def test_each_key_is_asked_for_by_its_name(self) -> None:
        found = made(**HIERARCHICAL)
        assert found.tasks[:3] == ("label", "rationale/Age", "rationale/Sex")
        assert found.prompt("rationale/Lab Results") == "Extract the Lab Results"
        assert found.limit("rationale/Lab Results") == 512
        tree = {"method": HIERARCHICAL, "data": {"train": ["x"], "prompts": {"rationale": "Find"}}}
        assert encode_spec(Config.model_validate(tree), "causal").prompt("rationale/Age") == "Find (Age)"

    def test_a_key_without_a_value_is_not_trained_unless_asked_for(self) -> None:
        record = distill("text", rationale={"Age": "40", "Sex": None})
        asked = made(**HIERARCHICAL)
        assert [target(record, task, asked) for task in asked.tasks[1:4]] == ["40", None, None]
        asked = made(**HIERARCHICAL, rationale={"skip_null": False})
        assert [target(record, task, asked) for task in asked.tasks[1:4]] == ["40", "None", "None"]

    def test_shards_hold_a_task_a_key(self, tmp_path: Any) -> None:
        tasks = ("label", *(f"rationale/{name}" for name in tiny.KEYS))
        rows = tiny.keyed_rows(9)
        tokens = tiny.token_set(tmp_path, rows, architecture="seq2seq", tasks=tasks)
        store = tokens.store()
        for name in tiny.KEYS:
            has = [
                bool(store.counts(shard, f"rationale/{name}", "loss_tokens")[row])
                for shard, row in tokens.rows()
            ]
            assert has == [bool(row["rationale"].get(name)) for row in rows], name


class TestTwoStep:
    ASKED = spec(appends_keys=True)

    def read(self, record: Any, task: str = "label", asked: Any = ASKED) -> str | None:
        one = reading(record, task, asked)
        return None if one is None else one.turns[-1].text

    def test_key_words_stand_in_the_place_that_the_second_input_ends_with(self) -> None:
        assert self.read(TWO_STEP) == "summarize: text\nKey words: fever: yes"
        assert self.read(TWO_STEP, "rationale") == "find key words: text"
        assert target(TWO_STEP, "label", self.ASKED) == "A note."

    def test_of_an_input_of_its_own_they_stand_before_its_end_is_cut(self) -> None:
        record = distill("a long dialogue", rationale={"Age": "40", "Sex": None})
        assert self.read(record) == "Key information: Age: 40\n\na long dialogue"
        assert self.read(record, "rationale") == "a long dialogue"

    def test_without_key_words_the_input_is_as_it_was(self) -> None:
        assert self.read(replace(TWO_STEP, rationale=None)) == TWO_STEP.second_input
        assert self.read(distill("text", rationale=None)) == "text"
        assert self.read(TWO_STEP, asked=spec()) == TWO_STEP.second_input

    def test_generated_key_words_replace_the_rationale(self) -> None:
        asked = spec(appends_keys=True, key_column="key_words")
        record = replace(TWO_STEP, key_words="cough: no")
        assert self.read(record, asked=asked) == "summarize: text\nKey words: cough: no"
        assert target(record, "rationale", asked) == TWO_STEP.rationale
        assert self.read(TWO_STEP, asked=asked) == TWO_STEP.second_input
        assert (
            self.read(replace(distill("text"), key_words="cough"), asked=asked)
            == "Key information: cough\n\ntext"
        )

    def test_it_reaches_the_encoder(self) -> None:
        assert made(**DISTILL, variant="two_step").appends_keys
        generated = made(**DISTILL, variant="two_step", key_source="generated")
        assert (generated.appends_keys, generated.key_column) == (True, "key_words")
        standard = made(**DISTILL, variant="two_step", mode="standard")
        assert (standard.tasks, standard.appends_keys) == (("label",), True)


class TestSeveral:
    RATIONALES = ("first", "second", "third")

    def drawn(self, name: str, seed: int) -> str | None:
        record = distill("text", rationale=self.RATIONALES)
        record = replace(record, origin=replace(record.origin, id=name))
        return target(record, "rationale", spec(draw_seed=seed))

    def test_all_are_one_text_or_one_is_drawn(self) -> None:
        assert (
            target(distill("text", rationale=self.RATIONALES), "rationale", spec()) == "first\nsecond\nthird"
        )
        names = [f"row-{number}" for number in range(300)]
        drawn = [self.drawn(name, 0) for name in names]
        assert [drawn.count(text) for text in self.RATIONALES] == pytest.approx([100] * 3, abs=25)
        assert drawn == [self.drawn(name, 0) for name in names]
        assert drawn != [self.drawn(name, 1) for name in names]

    def test_one_text_is_no_list(self) -> None:
        assert target(distill("text", rationale="why"), "rationale", spec(draw_seed=0)) == "why"
        assert target(distill("text", rationale=("why",)), "rationale", spec(draw_seed=5)) == "why"


def test_a_method_that_the_model_cannot_be_trained_by_is_refused() -> None:
    with pytest.raises(InputError, match="no encoder"):
        made(**DISTILL, variant="cosine")


def test_inference_reads_what_training_read(tmp_path: Any) -> None:
    """Two steps: the prompt that a prediction starts from has the key words too."""
    from medray.data.encode.encoder import Encoder
    from medray.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(tiny.tokenizer(tmp_path)))
    for architecture in ("causal", "seq2seq"):
        asked: Any = spec(appends_keys=True, architecture=architecture)
        (columns,) = [Encoder(tokenizer, asked).encode([TWO_STEP])["label"]]
        ids = ids_of(columns)
        prompt = ids if architecture == "seq2seq" else ids[: columns.targets[-2]]
        assert "Key words: fever: yes" in tokenizer.decode(prompt)
