"""The configurations of a search are a function of the space, the seed and what was tried."""

from __future__ import annotations

import math
from typing import Any

from medray.config.tune import TuneConfig
from medray.tune.points import Past, grid_points, identity, random_points, tpe_point

RANGES = {
    "train.optimizer.lr": {"loguniform": [1e-6, 1e-2]},
    "peft.dropout": {"uniform": [0.0, 0.5]},
    "peft.rank": {"randint": [2, 5]},
    "peft.type": {"choice": ["lora", ["a", "list"]]},
}


def space(draws: dict[str, Any], **more: Any) -> Any:
    return TuneConfig.model_validate({"space": draws} | more).space


def test_a_grid_is_every_combination_in_order() -> None:
    found = grid_points(space({"peft.rank": {"grid": [4, 8]}, "peft.dropout": {"grid": [0.0, 0.1]}}))
    assert [tuple(point.values()) for point in found] == [(4, 0.0), (4, 0.1), (8, 0.0), (8, 0.1)]


def test_more_draws_only_add_to_the_end() -> None:
    draws = space(RANGES)
    ten, fifty = random_points(draws, 10, seed=3), random_points(draws, 50, seed=3)
    assert fifty[:10] == ten
    assert random_points(draws, 10, seed=4) != ten
    assert len({identity(point) for point in fifty}) == 50
    assert all(1e-6 <= point["train.optimizer.lr"] <= 1e-2 for point in fifty)
    assert {point["peft.rank"] for point in fifty} == {2, 3, 4, 5}
    # Each power of ten is as likely as another: half of the draws are below the geometric middle.
    below = sum(math.log10(point["train.optimizer.lr"]) < -4 for point in random_points(draws, 400, seed=0))
    assert 160 < below < 240


def test_a_small_space_is_drawn_once() -> None:
    draws = space({"peft.rank": {"choice": [4, 8]}, "peft.dora": {"choice": [True, False]}})
    assert len(random_points(draws, 10, seed=0)) == 4


def test_tpe_learns_and_never_repeats() -> None:
    draws = space(
        {"train.optimizer.lr": {"loguniform": [1e-6, 1.0]}, "peft.rank": {"choice": [4, 8]}}, searcher="tpe"
    )
    past: list[Past] = []
    for _ in range(30):
        point = tpe_point(draws, past, seed=1, lower=True)
        assert point is not None
        assert identity(point) not in {identity(each.point) for each in past}
        miss = (math.log10(point["train.optimizer.lr"]) + 3) ** 2 + (point["peft.rank"] == 4)
        state, value = ("failed", None) if len(past) == 5 else ("done", miss)
        past.append(Past(point=point, state=state, value=value))  # type: ignore[arg-type]
    late = [each.value for each in past[-10:] if each.value is not None]
    early = [each.value for each in past[:8] if each.value is not None]
    assert sum(late) / len(late) < sum(early) / len(early) / 2
    # The same history gives the same next point: a killed search needs no state of its searcher.
    assert tpe_point(draws, past, seed=1, lower=True) == tpe_point(draws, past, seed=1, lower=True)


def test_tpe_takes_all_kinds_of_past_and_ends_with_its_space() -> None:
    draws = space({"peft.rank": {"choice": [4, 8, 16]}, "peft.dora": {"choice": [True]}}, searcher="tpe")
    past = [
        Past(point={"peft.rank": 4, "peft.dora": True}, state="stopped", value=1.0, share=0.3),
        Past(point={"peft.rank": 8, "peft.dora": True}, state="running"),
    ]
    last = {"peft.rank": 16, "peft.dora": True}
    assert tpe_point(draws, past, seed=0, lower=False) == last
    assert (
        tpe_point(draws, [*past, Past(point=last, state="done", value=math.nan)], seed=0, lower=False) is None
    )
