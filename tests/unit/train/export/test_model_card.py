"""What a card says of the training itself; the rest is shown on real exports in tests/unit/cli/test_export.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medray.config import Config
from medray.models.export.usage import Base
from medray.train.export.model_card import Made, model_card
from medray.train.run_folder.finished_run import FinishedRun


def card(method: dict[str, Any], **summary: Any) -> str:
    config = Config.model_validate({"method": method})
    run = FinishedRun(Path("runs/a"), config, summary, [], None, {}, None)
    return model_card(run, Base(name="tiny", kind="folder"), Made("merged", "fp32", "not made", same=True))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "sft"}, ["| method | sft |"]),
        ({"name": "distill", "mode": "standard"}, ["| method | distill, standard |"]),
        (
            {"name": "distill", "alpha": 0.3},
            ["| method | distill, task_prefix |", "| weight of the label (alpha) | 0.3 |"],
        ),
        ({"name": "distill", "variant": "dynamic_alpha"}, ["| variant | dynamic_alpha |"]),
        ({"name": "distill", "label_source": "llm"}, ["| labels | written by the teacher |"]),
    ],
)
def test_a_card_says_what_was_trained_on(method: dict[str, Any], said: list[str]) -> None:
    made = card(method)
    for line in said:
        assert line in made
    assert ("(alpha)" in made) == ("alpha" in method or "label_source" in method)


def test_a_card_says_whose_step_the_weights_are_and_takes_no_weight_for_a_metric() -> None:
    made = card(
        {"name": "distill"},
        steps=9,
        exported_step=4,
        eval={"before": {}, "after": {"loss": 1.5, "alpha": 0.7}},
    )
    assert "| weights of step | 4 |" in made
    assert "| loss on validation, before and after | -, 1.5 |" in made
    assert "alpha on validation" not in made
    assert "| weights of step | 9 |" in card({"name": "sft"}, steps=9)  # of a run of an earlier version
