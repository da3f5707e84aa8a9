from __future__ import annotations

import pytest

from medray.plan.resources import (
    NodeSupply,
    Request,
    Shortage,
    Supply,
    memory_shortage,
    resolve,
    shortage,
    threads,
)


@pytest.mark.parametrize(
    ("workers", "cpus", "each"),
    [(1, 2, 1), (2, 2, 0.5), (1, 8, 7), (2, 8, 3), (3, 8, 2), (7, 8, 1), (8, 8, 0.5), (14, 8, 0.5)],
)
def test_cpu_workers_share_all_but_one(workers: int, cpus: int, each: float) -> None:
    supply = Supply(cpus=cpus)
    assert resolve(Request(workers), supply) == Request(workers, each)
    assert cpus - workers * each >= 1
    assert shortage(Request(workers), supply) is None


def test_a_given_number_of_cpus_stays() -> None:
    assert resolve(Request(1, 2.5), Supply(cpus=8)) == Request(1, 2.5)


def test_gpu_workers_leave_the_cpus_to_data() -> None:
    assert resolve(Request(4, None, 1), Supply(cpus=64, gpus=4)).cpus_per_worker == 1
    assert resolve(Request(4, None, 1), Supply(cpus=4, gpus=4)).cpus_per_worker == 0.5


@pytest.mark.parametrize(
    ("request_", "supply", "each"),
    [
        (Request(1), Supply(cpus=1), 1),
        (Request(1), Supply(cpus=2), 2),  # one CPU is reserved, and both compute
        (Request(2), Supply(cpus=4), 2),
        (Request(4), Supply(cpus=8), 2),
        (Request(8), Supply(cpus=16), 2),
        (Request(3), Supply(cpus=8), 2),
        (Request(9), Supply(cpus=8), 1),  # more workers than CPUs
        (Request(2, 0.5), Supply(cpus=16), 8),  # a small reservation takes no threads away
        (Request(1, 1, 1), Supply(cpus=16, gpus=2), 16),
        (Request(4, None, 1), Supply(cpus=64, gpus=4), 16),
        (Request(2, 1), Supply.of(NodeSupply(4), NodeSupply(16)), 2),  # the smaller node may hold both
        (Request(2, 6), Supply.of(NodeSupply(8), NodeSupply(12)), 6),
        (Request(1, 8), Supply.of(NodeSupply(4), NodeSupply(16)), 16),  # and this one none
        (Request(2, 1, 1), Supply.of(NodeSupply(64), NodeSupply(8, 1), NodeSupply(6, 1)), 6),
    ],
)
def test_threads_are_all_cpus_of_a_node(request_: Request, supply: Supply, each: int) -> None:
    assert threads(request_, supply) == each


def test_workers_fit_the_nodes_and_not_only_the_sum() -> None:
    supply = Supply.of(*[NodeSupply(2)] * 3)
    assert supply.cpus == 6
    assert resolve(Request(1), supply).cpus_per_worker == 2
    assert resolve(Request(2), supply).cpus_per_worker == 2
    assert resolve(Request(3), supply).cpus_per_worker == 1
    assert shortage(Request(1, 4), supply) == Shortage(
        "1 worker of 4 CPUs cannot be placed on its nodes with one CPU left free for data; the nodes have "
        "2 CPUs, 2 CPUs, 2 CPUs",
        "set cluster.cpus_per_worker: 2",
    )


def test_every_cpu_reserved_is_refused_for_data_would_wait_for_ever() -> None:
    assert shortage(Request(2, 1), Supply(cpus=2)) == Shortage(
        "2 workers of 1 CPU need 3 CPUs (one stays free for data), this cluster has 2",
        "set cluster.cpus_per_worker: 0.5",
    )
    assert shortage(Request(1, 1), Supply(cpus=2)) is None


def test_too_many_workers_are_told_how_many_work() -> None:
    assert shortage(Request(8, 1), Supply(cpus=2)) == Shortage(
        "8 workers of 1 CPU need 9 CPUs (one stays free for data), this cluster has 2",
        "use at most 2 workers of 0.5 CPU",
    )
    assert shortage(Request(8), Supply(cpus=2), "its nodes would have") == Shortage(
        "8 workers of 0.5 CPU need 5 CPUs (one stays free for data), its nodes would have 2",
        "use at most 2 workers of 0.5 CPU",
    )


def test_one_cpu_cannot_train_and_tokenize() -> None:
    assert shortage(Request(1), Supply(cpus=1)) == Shortage(
        "1 worker of 0.5 CPU needs 1.5 CPUs (one stays free for data), this cluster has 1",
        "give the cluster at least 2 CPUs; on one machine, use ray start --num-cpus=2",
    )


def test_missing_gpus_are_named() -> None:
    assert shortage(Request(4, None, 1), Supply(cpus=32, gpus=2)) == Shortage(
        "4 workers of 1 CPU and 1 GPU need 4 GPUs, this cluster has 2",
        "use at most 2 workers of 1 CPU and 1 GPU",
    )
    assert shortage(Request(1, None, 1), Supply(cpus=32)) == Shortage(
        "1 worker of 1 CPU and 1 GPU needs 1 GPU, this cluster has 0",
        "set cluster.gpus: false to train on CPUs",
    )


def test_gpu_and_cpu_must_be_on_the_same_node() -> None:
    apart = Supply.of(NodeSupply(8, 0), NodeSupply(1, 2))
    assert shortage(Request(1, 1, 1), apart) is None
    assert "cannot be placed on its nodes" in str(shortage(Request(2, 1, 1), apart))
    assert shortage(Request(2, 0.5, 1), apart) is None


@pytest.mark.parametrize(
    "supply",
    [Supply(cpus=2), Supply(cpus=8), Supply(cpus=16, gpus=2), Supply.of(NodeSupply(4), NodeSupply(2, 1))],
)
@pytest.mark.parametrize("request_", [Request(9, 1), Request(20), Request(3, 6), Request(5, 1, 1)])
def test_the_fix_that_is_named_works(supply: Supply, request_: Request) -> None:
    lack = shortage(request_, supply)
    if lack is None:
        return
    if "use at most" in lack.fix:
        words = lack.fix.removeprefix("use at most ").split()
        number, each = int(words[0]), float(words[3])
        assert shortage(Request(number, each, request_.gpus_per_worker), supply) is None
        assert shortage(Request(number + 1, each, request_.gpus_per_worker), supply) is not None
    elif "cluster.cpus_per_worker: " in lack.fix:
        each = float(lack.fix.rsplit(": ", 1)[-1])
        assert shortage(Request(request_.workers, each, request_.gpus_per_worker), supply) is None
    else:
        assert shortage(Request(request_.workers, None, 0), supply) is None or supply.gpus < 1


def test_memory() -> None:
    assert memory_shortage(8 * 10**9, 2, 16 * 10**9) is None
    assert memory_shortage(8 * 10**9, 3, 16 * 10**9) == Shortage(
        "3 workers of 8 GB on one node need 24 GB of memory, but the node has 16 GB",
        "use at most 2 workers per node",
    )
    assert "use a smaller model or micro-batch" in str(memory_shortage(20 * 10**9, 1, 16 * 10**9))
    with pytest.raises(ValueError, match="are impossible numbers"):
        memory_shortage(1, 1, 0)


@pytest.mark.parametrize("request_", [Request(0), Request(1, 0), Request(1, 1, -1)])
def test_a_request_is_checked(request_: Request) -> None:
    with pytest.raises(ValueError, match="worker"):
        shortage(request_, Supply(cpus=8))


def test_the_free_cpu_is_a_whole_one_on_one_node() -> None:
    assert "cannot be placed on its nodes" in str(shortage(Request(1), Supply.of(*[NodeSupply(0.5)] * 4)))
