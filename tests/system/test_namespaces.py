"""Nodes that lose their network, or have a slow one: what `medray doctor` says of them, and what a run does."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import namespaces
import psutil
import pytest
from clusters import HEALTH_CHECK_MS, processes_below
from commands import WORKER, steps_of, until, write_config
from namespace_cluster import NamespaceCluster, namespace_cluster, ray_node
from namespaces import Node
from runs import attempts, checkpoints, ended, final

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(why := namespaces.missing()), reason=why or ""),
]
STEPS = 60
OPTIONS = ("cluster.cpus_per_worker=0.9", "cluster.max_failures=3")  # a worker a node
CLOSED = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's token, for all processes that a test starts."""
    for name, value in CLOSED.items():
        monkeypatch.setenv(name, value)


def examined(cluster: NamespaceCluster) -> tuple[int, dict[tuple[str, str], dict[str, str]]]:
    """The exit code of the doctor on the head, and its findings by check and node."""
    done = cluster.medray("doctor", "--json", f"--storage={cluster.folder}/runs")
    rows = json.loads(done.stdout)["findings"]
    return done.returncode, {(row["name"], row["node"]): row for row in rows}


def test_the_doctor_names_a_node_that_is_cut_off_or_slow(tmp_path: Path, closed: None) -> None:
    with namespace_cluster(tmp_path, cpus=(1, 1, 1)) as cluster:
        _, second, third = cluster.nodes
        code, found = examined(cluster)
        assert code == 0, found
        assert {found["node", node]["state"] for node in ("n1", "n2", "n3")} == {"ok"}
        with second.cut_off():
            code, found = examined(cluster)
            assert code == 1
            assert [one["node"] for one in found.values() if one["state"] == "fail"] == ["n2"]
            assert "10.77.0.12" in found["node", "n2"]["detail"]
            assert found["network", "n1"]["detail"] == found["network", "n3"]["detail"]
        with third.slow(kilobits=1000):
            code, found = examined(cluster)
            assert code == 0, found
            assert "n3 is slow from this node" in found["network", "n1"]["detail"]
            assert found["storage", "n3"]["state"] == "ok"
        code, found = examined(cluster)
        assert code == 0, found
        assert {found["network", node]["state"] for node in ("n1", "n2", "n3")} == {"ok"}


def started(cluster: NamespaceCluster, folder: Path) -> tuple[subprocess.Popen[bytes], Node]:
    """A run with a worker on each of two nodes, after its first checkpoint, and one of these that is not the head."""
    config = write_config(folder, "cut", STEPS)
    driver = cluster.start_medray(config.with_suffix(".log"), "train", str(config), *OPTIONS)
    until(lambda: 10 in checkpoints(folder / "runs" / "cut"), "checkpoint 10", driver=driver)
    with_worker = [
        node
        for node in cluster.nodes[1:]
        if processes_below(psutil.Process(cluster.processes[node.name].pid), WORKER)
    ]
    return driver, with_worker[0]


@pytest.fixture(scope="module")
def calm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calm")


def calm(cluster: NamespaceCluster, folder: Path) -> Any:
    """Return what the run computes if it is not disturbed; the first caller runs it."""
    if not (folder / "runs" / "calm").exists():
        done = cluster.medray("train", str(write_config(folder, "calm", STEPS)), *OPTIONS, seconds=300)
        assert done.returncode == 0, done.stderr
    return final(folder / "runs" / "calm")


def test_a_run_survives_a_node_that_is_cut_off_for_a_moment(
    tmp_path: Path, calm_folder: Path, closed: None
) -> None:
    """The cut is shorter than Ray's patience: the doctor names the node meanwhile, and the same workers continue."""
    patient = {"RAY_health_check_period_ms": "20000"}
    with namespace_cluster(tmp_path, (1, 1, 1), patient) as cluster:
        driver, node = started(cluster, tmp_path)
        with node.cut_off():
            code, found = examined(cluster)
            reached = len(steps_of(tmp_path / "runs" / "cut"))
        assert (code, found["node", node.name]["state"]) == (1, "fail")
        ended(driver, tmp_path / "cut.yaml")
        assert reached < STEPS, "it had ended before the cut"
        assert len(attempts(tmp_path / "runs" / "cut")) == 1
        assert final(tmp_path / "runs" / "cut") == calm(cluster, calm_folder)


def test_a_run_survives_a_node_that_is_cut_off_and_given_up(
    tmp_path: Path, calm_folder: Path, closed: None
) -> None:
    """The cut is so long that Ray gives the node up. When it ends, the raylet learns that and ends; a new one joins."""
    with namespace_cluster(tmp_path, (1, 1, 1), {"RAY_health_check_period_ms": HEALTH_CHECK_MS}) as cluster:
        driver, node = started(cluster, tmp_path)
        log = tmp_path / "cut.log"
        with node.cut_off():
            until(lambda: "note        worker " in log.read_text(), "word of the lost worker", driver=driver)
            code, found = examined(cluster)
            assert (code, found["node", node.name]["state"]) == (1, "fail")
        lost = cluster.processes[node.name]
        until(lambda: lost.poll() is not None, "the end of the raylet that was given up", driver=driver)
        with ray_node(cluster, node, 1):
            ended(driver, tmp_path / "cut.yaml")
            first, second = attempts(tmp_path / "runs" / "cut")
            assert (first["workers"], second["workers"]) == (2, 2)
            assert 10 <= second["resumed_step"] < STEPS
            assert final(tmp_path / "runs" / "cut") == calm(cluster, calm_folder)
            code, found = examined(cluster)
        assert code == 0, found
        assert found["node", node.name]["state"] == "ok"


@pytest.mark.skipif(shutil.which("fsfreeze") is None, reason="fsfreeze (util-linux) is not installed")
def test_a_disk_that_hangs_holds_up_no_doctor(tmp_path: Path) -> None:
    image, disk = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as stream:
        stream.truncate(64 << 20)
    disk.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, timeout=60)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine has no loop devices")
    try:
        subprocess.run(["fsfreeze", "-f", str(disk)], check=True, timeout=60)
        try:
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "medray",
                    "doctor",
                    "--json",
                    "--address=local",
                    f"--storage={disk}/runs",
                ],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            subprocess.run(["fsfreeze", "-u", str(disk)], check=True, timeout=60)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=60)
    assert done.returncode == 1
    found: dict[str, Any] = {row["name"]: row for row in json.loads(done.stdout)["findings"]}
    assert found["storage"]["detail"] == "the check got no answer within 10 s"
    assert found["python"]["state"] == "ok"
