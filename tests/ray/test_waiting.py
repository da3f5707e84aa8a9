"""A run whose nodes come after it, and one that is stopped on request: real nodes, real commands."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import Cluster, head
from commands import run, steps_of, until, write_config
from runs import checkpoints, ended, start

from medray.cli.main import main
from medray.config import Config
from medray.train.driver.nodes import awaited

REQUEST = b"autoscaler_resource_request"  # Ray's key for what `request_resources` has asked for

# Keys that the autoscaler reads whether they say anything or not.
EMPTY = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
    *("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)


@pytest.mark.long  # `make test` has a run of two nodes (tests/system/test_slurm.py) and a stop (test_launch_job.py)
def test_a_run_waits_for_its_second_node_and_stops_on_request(cluster: Any, tmp_path: Path) -> None:
    config, folder = write_config(tmp_path, "late", 1000), tmp_path / "runs" / "late"
    log = config.with_suffix(".log")
    driver = start(cluster, config, "cluster.nodes=2")
    until(
        lambda: "asked: 2 nodes and 2 workers of 0.5 CPU; there: 1 node" in log.read_text(),
        "the wait",
        driver=driver,
    )
    assert not (folder / "attempts.jsonl").exists()
    with cluster.node(tmp_path, cpus=1):
        until(lambda: bool(steps_of(folder)), "a step", driver=driver)
        assert main(["stop", str(folder)]) == 0
        ended(driver, config, code=76)
        assert checkpoints(folder)[-1] == len(steps_of(folder))
        queued = run(cluster, config, "cluster.nodes=2", "--launched-at", "0")
        assert queued.returncode == 76, "a job that was in its queue meanwhile does not begin"


@pytest.mark.long
def test_an_autoscaler_is_asked_and_the_request_is_withdrawn(tmp_path: Path) -> None:
    """Ray's own autoscaler, whose nodes are processes: a head without CPUs, and nothing else until it is asked for."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_get

    cluster_section = {"workers": 2, "nodes": 2, "cpus_per_worker": 1, "start_timeout_seconds": 120}
    said: list[str] = []
    with autoscaling(tmp_path, cpus_of_a_node=2) as cluster:
        ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
        try:
            config = Config.model_validate({"cluster": cluster_section})
            with awaited(config, None, Told(said)) as have:
                assert have.cpus == 4
                assert json.loads(_internal_kv_get(REQUEST)) != []
            assert json.loads(_internal_kv_get(REQUEST)) == []
        finally:
            ray.shutdown()
    assert "there: 0 nodes with 0 CPUs" in said[0]


class Told:
    """Keeps what it is told."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def phase(self, name: str, detail: str = "") -> None:
        self.said.append(detail)

    def beat(self) -> None:
        pass


@contextlib.contextmanager
def autoscaling(folder: Path, cpus_of_a_node: int) -> Iterator[Cluster]:
    types = {
        "node": {"resources": {"CPU": cpus_of_a_node}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    }
    described: dict[str, Any] = {
        "cluster_name": "scaled",
        "max_workers": 2,
        "idle_timeout_minutes": 60,
        "provider": {"type": "fake_multinode"},
        "auth": {"ssh_user": "nobody"},
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
    } | {key: [] for key in EMPTY}
    environment = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    (folder / "scaling.yaml").write_text(yaml.safe_dump(described))
    # Its nodes take it for granted that the head has Ray's usual port.
    options = ("--port=6379", f"--autoscaling-config={folder / 'scaling.yaml'}")
    with head(folder, 0, *options, **environment) as cluster:
        yield cluster
