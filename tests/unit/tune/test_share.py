"""The share of each trial: as many trials at once as fit while Ray Data keeps a CPU."""

from __future__ import annotations

from typing import Any

import pytest

from medray.config import Config
from medray.errors import InputError
from medray.plan.resources import NodeSupply, Supply
from medray.tune.share import Share, share

SPACE = {"space": {"train.optimizer.lr": {"loguniform": [1e-5, 1e-3]}}}


def given(
    nodes: list[tuple[float, float]], most: int = 100, concurrent: int | None = None, **cluster: Any
) -> Share:
    config = Config.model_validate({"cluster": cluster, "tune": SPACE | {"concurrent": concurrent}})
    return share(config, Supply.of(*(NodeSupply(cpus, gpus) for cpus, gpus in nodes)), most)


@pytest.mark.parametrize(
    ("nodes", "cluster", "concurrent", "cpus", "threads"),
    [
        ([(2, 0)], {}, 1, 1.0, 2),  # one CPU for data, one for the only worker
        ([(3, 0)], {}, 2, 1.0, 1),
        ([(9, 0)], {"workers": 2}, 4, 1.0, 1),
        ([(9, 0)], {"workers": 2, "cpus_per_worker": 2.0}, 2, 2.0, 2),
        ([(9, 0)], {"cpus_per_worker": 0.5}, 16, 0.5, 1),
        ([(16, 4)], {"workers": 2}, 2, 1.0, 4),  # by GPUs
        ([(3, 8)], {}, 2, 1.0, 1),  # by CPUs
        ([(16, 4)], {"gpus": False}, 15, 1.0, 1),
        (
            [(4, 0), (4, 0)],
            {"workers": 1, "cpus_per_worker": 2.0},
            3,
            2.0,
            2,
        ),  # a node keeps the CPU for data
    ],
)
def test_as_many_trials_as_the_cluster_holds(
    nodes: list[tuple[float, float]], cluster: dict[str, Any], concurrent: int, cpus: float, threads: int
) -> None:
    found = given(nodes, **cluster)
    assert (found.concurrent, found.cpus, found.threads) == (concurrent, cpus, threads)


def test_fewer_trials_than_the_user_asks_for_get_the_cpus() -> None:
    assert given([(9, 0)], concurrent=2).cpus == 4.0
    assert given([(9, 0)], concurrent=2).concurrent == 2
    assert given([(9, 0)], most=1).concurrent == 1
    assert given([(3, 0)], concurrent=8, cpus_per_worker=1.0).concurrent == 2


def test_a_cluster_that_holds_no_trial_is_refused_with_the_numbers() -> None:
    with pytest.raises(InputError, match="need 5 CPUs") as caught:
        given([(4, 0)], workers=4, cpus_per_worker=1.0)
    assert caught.value.key == "cluster.workers"


def test_the_keys_of_a_share_give_the_same_share() -> None:
    found = given([(9, 0)], workers=2)
    config = Config.model_validate({"tune": SPACE}).override(found.keys())
    assert share(config, Supply.of(NodeSupply(9)), 100) == found
