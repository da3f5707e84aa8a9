"""The learning rate of each step against transformers' own schedulers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers.optimization as theirs

from medray.config.train import SchedulerConfig
from medray.train.engine.optimizers import learning_rate

TOTAL, WARMUP, PEAK = 23, 4, 3e-4


def rates(made: Callable[[Any], Any]) -> list[float]:
    """Return the rates of a transformers scheduler, TOTAL + 1 steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler, found = made(optimizer), []
    for _ in range(TOTAL + 1):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


CASES: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "linear": ({"name": "linear"}, lambda o: theirs.get_linear_schedule_with_warmup(o, WARMUP, TOTAL)),
    "cosine": ({"name": "cosine"}, lambda o: theirs.get_cosine_schedule_with_warmup(o, WARMUP, TOTAL)),
    "cosine to a tenth": (
        {"name": "cosine", "min_lr_ratio": 0.1},
        lambda o: theirs.get_cosine_with_min_lr_schedule_with_warmup(o, WARMUP, TOTAL, min_lr_rate=0.1),
    ),
    "constant_with_warmup": (
        {"name": "constant_with_warmup"},
        lambda o: theirs.get_constant_schedule_with_warmup(o, WARMUP),
    ),
    **{
        f"wsd {shape} {floor}": (
            {"name": "wsd", "decay_steps": 7, "decay_shape": shape, "min_lr_ratio": floor},
            lambda o, shape=shape, floor=floor: theirs.get_wsd_schedule(  # type: ignore[misc]
                o, WARMUP, 7, TOTAL, decay_type=shape, min_lr_ratio=floor
            ),
        )
        for shape in ("linear", "cosine", "1-sqrt")
        for floor in (0.0, 0.1)
    },
}


@pytest.mark.parametrize("name", CASES)
def test_each_rate_matches_the_one_of_transformers(name: str) -> None:
    """Compare shifted by one step: transformers begins warm-up at 0 (wsd: at the floor), medray one step later on that line."""
    values, made = CASES[name]
    schedule = SchedulerConfig(**values, warmup_steps=WARMUP)
    wanted = rates(made)
    found = [learning_rate(step, TOTAL, PEAK, schedule) for step in range(TOTAL)]
    assert found[WARMUP:] == pytest.approx(wanted[WARMUP:TOTAL], rel=1e-9)
    assert found[WARMUP - 1] == found[WARMUP] == PEAK
    if not ("wsd" in name and schedule.min_lr_ratio):
        assert found[:WARMUP] == pytest.approx(wanted[1 : WARMUP + 1], rel=1e-9)


def test_without_a_warm_up_the_first_step_has_the_peak() -> None:
    for name in ("linear", "cosine", "constant", "constant_with_warmup", "wsd"):
        schedule = SchedulerConfig(name=name)
        assert learning_rate(0, TOTAL, PEAK, schedule) == PEAK


def test_shares_of_all_steps_are_steps() -> None:
    by_share = SchedulerConfig(name="wsd", warmup_ratio=0.1, decay_ratio=0.3, min_lr_ratio=0.5)
    by_steps = SchedulerConfig(name="wsd", warmup_steps=2, decay_steps=6, min_lr_ratio=0.5)
    found = [[learning_rate(step, 20, PEAK, one) for step in range(20)] for one in (by_share, by_steps)]
    assert found[0] == found[1]
    assert found[0][13] == PEAK > found[0][15]


def test_linear_ends_at_its_floor() -> None:
    schedule = SchedulerConfig(name="linear", min_lr_ratio=0.1)
    assert learning_rate(TOTAL, TOTAL, PEAK, schedule) == pytest.approx(0.1 * PEAK)
    assert learning_rate(10, 20, PEAK, schedule) == pytest.approx(0.55 * PEAK)
