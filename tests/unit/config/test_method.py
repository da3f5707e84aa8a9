"""The keys of `method`: which tasks they make, and that none is ignored without a word."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from medray.config import Config
from medray.config.checks.method import check_architecture, check_method, notes
from medray.config.method import RATIONALE_KEYS, MethodConfig
from medray.config.method_specs import spec_of
from medray.config.method_specs.distill import start_alpha
from medray.errors import InputError

DISTILL: dict[str, Any] = {"name": "distill"}


def config(**method: Any) -> Config:
    return Config.model_validate({"method": method})


def variant(name: str, **method: Any) -> Config:
    return config(**DISTILL | {"variant": name} | method)


def test_the_published_hierarchical_keys() -> None:
    assert len(RATIONALE_KEYS) == 13
    tasks = spec_of(variant("hierarchical").method).task_names
    assert tasks == ("label", *(f"rationale/{key}" for key in RATIONALE_KEYS))
    assert spec_of(variant("hierarchical", rationale={"max_keys": 3}).method).task_names == tasks[:4]
    chosen = variant("hierarchical", rationale={"keys": ["Ort", "Größe"]}, alpha=0.0)
    assert spec_of(chosen.method).task_names == ("rationale/Ort", "rationale/Größe")


@pytest.mark.parametrize("keys", [[], [""], ["a", "a"], ["a.b"], ["a/b"], [" a"], ["a" * 61], ["a\n"]])
def test_keys_are_names(keys: list[str]) -> None:
    with pytest.raises(ValidationError):
        variant("hierarchical", rationale={"keys": keys})


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
def test_a_moving_alpha_keeps_both_tasks(start: float) -> None:
    """What is trained, and so what is encoded, does not depend on a weight that is zero for a while."""
    made = variant("dynamic_alpha", alpha_schedule={"start": start, "cap": 1.0})
    check_method(made)
    assert spec_of(made.method).task_names == ("label", "rationale")
    assert start_alpha(made.method) == start
    assert start_alpha(variant("dynamic_alpha", alpha=start).method) == start


@pytest.mark.parametrize(
    "method",
    [
        {},
        DISTILL,
        DISTILL | {"mode": "standard", "alpha": 0.8},
        DISTILL | {"variant": "hierarchical", "rationale": {"max_keys": 3, "reduction": "sum"}},
        DISTILL | {"variant": "cosine"},
        DISTILL | {"variant": "dynamic_alpha"},
        DISTILL | {"variant": "two_step"},
        DISTILL | {"variant": "two_step", "mode": "standard"},
        DISTILL | {"loss_norm": "micro_batch"},
        DISTILL | {"rationale": {"several": "one"}},
    ],
)
def test_what_goes_together(method: dict[str, Any]) -> None:
    check_method(config(**method))


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ({"variant": "cosine"}, "variant"),
        (DISTILL | {"variant": "cosine", "mode": "standard"}, "variant"),
        (DISTILL | {"variant": "hierarchical", "mode": "standard"}, "variant"),
        (DISTILL | {"variant": "dynamic_alpha", "mode": "standard"}, "variant"),
        (DISTILL | {"variant": "hierarchical", "loss_norm": "micro_batch"}, "loss_norm"),
        (DISTILL | {"variant": "cosine", "loss_norm": "micro_batch"}, "loss_norm"),
        (DISTILL | {"variant": "hierarchical", "alpha": 1.0}, "alpha"),
        (DISTILL | {"variant": "cosine", "alpha": 1.0}, "alpha"),
        (DISTILL | {"variant": "cosine", "alpha": 0.0}, "alpha"),
        (DISTILL | {"rationale": {"keys": ["Age"]}}, "rationale.keys"),
        (DISTILL | {"rationale": {"max_keys": 3}}, "rationale.max_keys"),
        (DISTILL | {"rationale": {"reduction": "sum"}}, "rationale.reduction"),
        (DISTILL | {"variant": "cosine", "rationale": {"skip_null": False}}, "rationale.skip_null"),
        ({"rationale": {"several": "one"}}, "rationale.several"),
        (DISTILL | {"variant": "hierarchical", "rationale": {"several": "one"}}, "rationale.several"),
        (DISTILL | {"alpha_schedule": {"start": 0.2}}, "alpha_schedule.start"),
        (DISTILL | {"alpha_schedule": {"from_epoch": 1.0}}, "alpha_schedule.from_epoch"),
        (DISTILL | {"variant": "two_step", "alpha_schedule": {"slope": 0.2}}, "alpha_schedule.slope"),
        (DISTILL | {"alpha_schedule": {"cap": 0.8}}, "alpha_schedule.cap"),
        (
            DISTILL | {"variant": "dynamic_alpha", "alpha": 0.3, "alpha_schedule": {"start": 0.2}},
            "alpha_schedule.start",
        ),
        (DISTILL | {"variant": "dynamic_alpha", "alpha": 0.95}, "alpha_schedule.cap"),
        (DISTILL | {"variant": "dynamic_alpha", "alpha_schedule": {"slope": 0.0}}, "alpha_schedule.slope"),
        (DISTILL | {"key_source": "generated"}, "key_source"),
    ],
)
def test_what_would_have_no_effect_is_refused(method: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        check_method(config(**method))
    assert caught.value.key == f"method.{key}"
    assert caught.value.fix


def test_cosine_needs_an_encoder() -> None:
    check_architecture(variant("cosine"), seq2seq=True)
    check_architecture(config(**DISTILL), seq2seq=False)
    with pytest.raises(InputError, match="no encoder"):
        check_architecture(variant("cosine"), seq2seq=False)


def test_an_alpha_that_is_ignored_is_said() -> None:
    assert notes(config(**DISTILL, alpha=0.8)) == ()
    assert notes(config(**DISTILL, mode="standard")) == ()
    (note,) = notes(config(**DISTILL, mode="standard", alpha=0.8))
    assert note.startswith("method.alpha is ignored: with method.mode: standard")
    assert "told them" in notes(variant("two_step"))[0]
    (note,) = notes(config(alpha=0.8, label_weight=2.0))
    assert note.startswith("method.alpha and method.label_weight are ignored: with method.name: sft")


def test_rationales_are_needed_by_what_reads_them() -> None:
    for method, reads in (
        ({}, False),
        (DISTILL, True),
        (DISTILL | {"alpha": 1.0}, False),
        (DISTILL | {"alpha": 0.0}, True),
        (DISTILL | {"mode": "standard"}, False),
        (DISTILL | {"mode": "standard", "variant": "two_step"}, True),
        (DISTILL | {"variant": "hierarchical"}, True),
    ):
        columns = spec_of(MethodConfig.model_validate(method)).columns
        assert [column.name for column in columns] == ["rationale"] * reads, method


def test_generated_key_words_are_needed_in_every_row() -> None:
    found = spec_of(config(**DISTILL, variant="two_step", key_source="generated").method)
    assert found.needs_in_every_row("key_words")
    assert found.label_reads == "key_words"
    assert not found.notes  # its metrics are those of a model that reads a model's key words
    only = spec_of(config(**DISTILL, mode="standard", variant="two_step", key_source="generated").method)
    assert [column.name for column in only.columns] == ["key_words"]
