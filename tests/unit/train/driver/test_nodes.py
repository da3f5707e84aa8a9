"""Whether a run waits for nodes, and for how long. Real clusters of several nodes: tests/ray/test_waiting.py."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from medray.config import Config
from medray.errors import InputError, RunFailedError, StoppedError
from medray.plan.resources import NodeSupply, Supply
from medray.train.driver import nodes
from medray.train.driver.nodes import awaited, check_versions, missing, versions

HEAD = NodeSupply(0)
NODE = NodeSupply(2)
GPU_NODE = NodeSupply(8, 4)


class Watch:
    def __init__(self, stop_after: int | None = None) -> None:
        self.said: list[str] = []
        self.beats, self.stop_after = 0, stop_after

    def phase(self, name: str, detail: str = "") -> None:
        self.said.append(detail)

    def beat(self) -> None:
        self.beats += 1
        if self.beats == self.stop_after:
            raise StoppedError("stopped")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What an autoscaler was asked for; None withdraws."""
    found: list[Any] = []
    monkeypatch.setattr(nodes, "_request_nodes", found.append)
    monkeypatch.setattr(nodes, "LOOK_SECONDS", 0)
    return found


def config(**cluster: Any) -> Config:
    return Config.model_validate({"cluster": cluster})


@pytest.mark.parametrize(
    ("cluster", "gpus", "there", "waits_for"),
    [
        ({"workers": 2, "nodes": 2}, None, (NODE,), "asked: 2 nodes and 2 workers; there: 1 node with 2 CPUs"),
        ({"workers": 2, "nodes": 2}, None, (HEAD, NODE), "there: 1 node"),  # a head that does no work
        ({"workers": 2, "nodes": 2}, None, (HEAD, NODE, NODE), None),
        ({"workers": 2, "nodes": 1}, None, (NODE,), None),
        ({"workers": 9, "cpus_per_worker": 1, "nodes": 1}, None, (NODE,), None),  # complete, and too small
        ({"workers": 4, "cpus_per_worker": 1}, None, (NODE,), "asked: 4 workers of 1 CPU; there: 1 node with 2 CPUs"),
        ({"workers": 1}, None, (HEAD,), "asked: 1 worker; there: 0 nodes with 0 CPUs and 0 GPUs"),
        ({"workers": 4, "gpus": True}, None, (NODE,), "asked: 4 workers of 1 GPU; there: 1 node with 2 CPUs and 0 GPUs"),
        ({"workers": 4, "gpus_per_node": 4}, None, (NODE,), "of 1 GPU"),
        ({"workers": 4, "gpus_per_node": 4}, None, (NODE, GPU_NODE), None),
        ({"workers": 1}, 1, (NODE,), "1 worker of 1 GPU"),  # a resumed run that computed on GPUs
        ({"workers": (1, 8), "nodes": 8}, None, (NODE,), None),  # a range starts with its minimum
        ({"workers": (4, 8), "cpus_per_worker": 1, "nodes": 8}, None, (NODE,), "asked: 8 nodes and 4 workers of 1 CPU"),
    ],
)  # fmt: skip
def test_what_is_waited_for(
    cluster: dict[str, Any], gpus: int | None, there: tuple[NodeSupply, ...], waits_for: str | None
) -> None:
    section = config(**cluster).cluster
    said = missing(section, nodes._request(section, gpus), Supply.of(*there), private=False)
    assert said is None if waits_for is None else waits_for in str(said)
    assert missing(section, nodes._request(section, gpus), Supply.of(*there), private=True) is None


def test_the_run_begins_when_the_last_node_has_come(requests: list[Any]) -> None:
    looks = iter([(HEAD,), (HEAD, NODE), (HEAD, NODE), (HEAD, NODE, NODE)])
    watch = Watch()
    with awaited(config(workers=2, nodes=2), None, watch, lambda: Supply.of(*next(looks))) as have:
        assert have.cpus == 4
        assert [request is None for request in requests] == [False]
    assert [said.split(";")[1] for said in watch.said] == [
        " there: 0 nodes with 0 CPUs and 0 GPUs",
        " there: 1 node with 2 CPUs and 0 GPUs",
    ], "said once for each change"
    assert requests[-1] is None, "what was asked of an autoscaler is withdrawn"


def test_nodes_that_never_come_are_a_failure_and_a_stop_is_heard(requests: list[Any]) -> None:
    few = config(workers=2, nodes=2, start_timeout_seconds=1)
    with (
        pytest.raises(RunFailedError, match=r"after 1\.0 s the cluster still has too little: asked: 2 nodes"),
        awaited(few, None, Watch(), lambda: Supply.of(NODE)),
    ):
        raise AssertionError
    with (
        pytest.raises(StoppedError),
        awaited(few, None, Watch(stop_after=3), lambda: Supply.of(NODE)),
    ):
        raise AssertionError
    assert [request is None for request in requests] == [False, True] * 2


def test_what_is_asked_is_withdrawn_where_the_run_fails_later(requests: list[Any]) -> None:
    looks = iter([(), (NODE,)])
    with (
        pytest.raises(RunFailedError),
        awaited(config(workers=1), None, Watch(), lambda: Supply.of(*next(looks))),
    ):
        raise RunFailedError("later")
    assert requests[-1] is None


def test_other_versions_on_a_node_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    here = versions()
    assert here["medray"]
    assert "missing" not in here.values()
    assert "+" not in "".join(here.values()), "a head may have torch for CPUs"
    answers = {"n1 (10.0.0.1)": here, "n2 (10.0.0.2)": {**here, "ray": "2.1.0"}}
    monkeypatch.setattr(ray, "wait", lambda *args, **kwargs: None)
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)
    with pytest.raises(InputError, match=rf"n2 \(10.0.0.2\): ray 2.1.0, here {here['ray']}"):
        check_versions(answers)
    check_versions({"n1 (10.0.0.1)": here})
