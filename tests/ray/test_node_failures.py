"""Nodes that go, with notice or without, and memory that runs out: real nodes, and Ray's own monitor."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from clusters import head, processes_below
from commands import WORKER, run, steps_of, until, write_config
from runs import CALM_STEPS, RAYLET, attempts, checkpoints, ended, final, start, summary

pytestmark = pytest.mark.long
ONE_A_NODE = "cluster.cpus_per_worker=0.9"
SPARE_BYTES = 5_000_000_000  # what the run needs, about 3 GB, and some


def reached_before_the_second_start(folder: Path, driver: subprocess.Popen[bytes]) -> int:
    """The last step of the first start."""
    seen = [0]

    def again() -> bool:
        seen.append(len(steps_of(folder)))
        return len(attempts(folder)) == 2

    until(again, "the second start", driver=driver)
    return max(seen)


def test_a_run_that_waits_for_a_node_can_be_told_to_stop(calm: Any, tmp_path: Path) -> None:
    config, folder = write_config(tmp_path, "waiting", CALM_STEPS), tmp_path / "runs" / "waiting"
    with head(tmp_path, cpus=1) as cluster:
        with cluster.node(tmp_path, cpus=2) as node:
            driver = start(cluster, config, "cluster.max_failures=9", ONE_A_NODE)
            until(lambda: 10 in checkpoints(folder), "checkpoint 10", driver=driver)
            (raylet,) = processes_below(node, RAYLET)
            raylet.kill()
        log = config.with_suffix(".log")
        until(lambda: "note        worker " in log.read_text(), "word of the lost worker", driver=driver)
        driver.send_signal(signal.SIGTERM)
        assert "stopped while no worker was training" in ended(driver, config, code=75)
        assert len(attempts(folder)) == 1
        with cluster.node(tmp_path, cpus=2):
            assert run(cluster, config, ONE_A_NODE).returncode == 0
    assert final(folder) == calm


def test_a_node_goes_with_notice_and_fewer_workers_go_on(cluster: Any, tmp_path: Path) -> None:
    """Nothing is computed twice: training goes on until shortly before the node goes, and from there with the rest.

    The order of samples stays, and the losses within 1e-4.

    At a small learning rate: at a large one, training itself makes more of a rounding than that in 300 steps.
    """
    options = ["peft.dropout=0.0", "train.optimizer.lr=0.0001", "train.save_every_steps=1000"]
    calm = run(cluster, write_config(tmp_path, "whole", 400), *options)
    assert calm.returncode == 0, calm.stderr
    config, folder = write_config(tmp_path, "fewer", 400), tmp_path / "runs" / "fewer"
    with head(tmp_path, cpus=1) as small, small.node(tmp_path) as node:
        driver = start(small, config, *options, "cluster.workers=[1,2]", ONE_A_NODE)
        until(lambda: len(steps_of(folder)) > 3, "a few steps", driver=driver)
        noticed_at = len(steps_of(folder))
        small.give_notice(seconds=15)
        until(
            lambda: len(checkpoints(folder)) == 2,
            "the checkpoint of the notice, and that of leaving",
            driver=driver,
        )
        (raylet,) = processes_below(node, RAYLET)
        raylet.kill()
        reached = reached_before_the_second_start(folder, driver)
        ended(driver, config)
    assert [(one["workers"], one["resumed_step"]) for one in attempts(folder)] == [(2, 0), (1, reached)]
    assert reached > noticed_at
    assert summary(folder)["order_sha256"] == summary(tmp_path / "runs" / "whole")["order_sha256"]
    wanted = [record["loss"] for record in steps_of(tmp_path / "runs" / "whole")]
    assert [record["loss"] for record in steps_of(folder)] == pytest.approx(wanted, abs=1e-4)
    assert max(wanted) - min(wanted) > 1e-2, "nothing moves: nothing was compared"


def test_zero_3_on_two_nodes_of_which_one_dies(cluster: Any, tmp_path: Path) -> None:
    whole = ["peft.type=none", "peft.rank=16", "peft.dropout=0.0"]
    options = ["train.zero_stage=3", *whole, "train.optimizer.lr=0.001"]
    calm = run(cluster, write_config(tmp_path, "whole", CALM_STEPS), *options)
    assert calm.returncode == 0, calm.stderr
    config, folder = write_config(tmp_path, "sharded", CALM_STEPS), tmp_path / "runs" / "sharded"
    with head(tmp_path, cpus=1) as small, small.node(tmp_path) as one, small.node(tmp_path) as two:
        driver = start(small, config, *options, ONE_A_NODE, "cluster.max_failures=3")
        until(lambda: 10 in checkpoints(folder), "checkpoint 10", driver=driver)
        held = [len(processes_below(node, WORKER)) for node in (small.head, one, two)]
        assert sorted(held) == [0, 1, 1]
        (raylet,) = processes_below(one if held[1] else two, RAYLET)
        raylet.kill()
        with small.node(tmp_path):
            said = ended(driver, config)
    first, second = attempts(folder)
    assert (first["workers"], second["workers"]) == (2, 2)
    assert second["resumed_step"] >= 10
    assert "worker " in said
    assert final(folder) == final(tmp_path / "runs" / "whole")


def test_ray_ends_workers_as_memory_is_full(
    calm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's memory monitor ends the newest of a node's processes, those that Ray Train itself needs among them."""
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    limit, whole = get_used_memory() + SPARE_BYTES, get_system_memory()
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{limit / whole:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    config, folder = write_config(tmp_path, "full", CALM_STEPS), tmp_path / "runs" / "full"
    with head(tmp_path, cpus=4) as cluster:
        driver = start(cluster, config, "cluster.max_failures=3")
        until(lambda: 10 in checkpoints(folder), "checkpoint 10", driver=driver)
        workers, held = cluster.processes(WORKER), list[bytes]()

        def one_ended() -> bool:
            if get_used_memory() < limit + SPARE_BYTES // 10:
                held.append(b"x" * (SPARE_BYTES // 50))
            return not all(worker.is_running() for worker in workers)

        until(one_ended, "the end of a worker", driver=driver)
        held.clear()
        ended(driver, config)  # what it says of it the ledger tells, which may have been ended too
    assert len(attempts(folder)) >= 2
    assert final(folder) == calm
