"""Running of the checks on every node of a Ray cluster, in an actor that needs no CPU and is pinned to the node.

A node that hangs does not delay the others: it is given up if its raylet (Ray's process on the node) accepts no
connection, if it starts no process, or if its checks do not answer in time. The code is pickled by value, so a node
without medray can be examined too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from medray.launch.doctor import storage as shared
from medray.launch.doctor.compare import HERE, different_clocks, different_versions
from medray.launch.doctor.finding import Finding, Question, examine, fail, ok, reason
from medray.launch.doctor.machine import MACHINE, versions
from medray.launch.doctor.network import Source, connects, reach
from medray.launch.doctor.places import DRIVER, LOAD_SECONDS, ON_NODES, asked, ready
from medray.plan.resources import SAME_VERSIONS

CONNECT_SECONDS = 5.0  # limit for a connection to an open port of a node
JOIN_SECONDS = 10.0  # limit for Ray to join, once its head has answered
START_SECONDS = 30.0  # limit for a first process on a node, whose Python may be on a slow disk
MARGIN_SECONDS = 3.0  # extra time for an answer to arrive
PEERS = 8  # number of nodes that each node connects to
_PORT = re.compile(r"\[?([^\[\]/]+?)\]?:(\d{1,5})")
_HEAD = "start a head with `ray start --head`, or correct the address: HOST:PORT of the head (the default port is 6379)"
_TOKEN = "set RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH to the values of the head"
_GONE = "check the node's power, link and firewall, and its raylet.out; then run `ray start --address=…` on the node again"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the Ray cluster.

    name: its host name, followed by its address if several nodes have the same host name.
    """

    name: str
    identity: str
    address: str
    port: int
    gpus: float
    cpus: float
    folder: str


class Probe:
    """The actor that runs the checks on one node. Several of its threads run its methods at the same time."""

    def __init__(self, address: str) -> None:
        self._source = Source(address)

    def describe(self) -> dict[str, Any]:
        import platform

        return {"versions": {"python": platform.python_version(), **versions()}, "port": self._source.port}

    def now(self) -> float:
        return time.time()

    def examine(self, question: Question) -> list[dict[str, str]]:
        ready(question, LOAD_SECONDS)
        checks = {**MACHINE, **asked(question, ON_NODES)}
        if question.storage:
            checks["storage"] = shared.of_node
        return [one.as_json() for one in examine(checks, question)]

    def reach(self, peers: list[tuple[str, str, int]], seconds: float) -> list[dict[str, str]]:
        return [one.as_json() for one in reach(peers, seconds)]


def cluster(question: Question, emit: Callable[[Finding], None]) -> None:
    """Check all nodes of the cluster at question.address. Each finding is passed to `emit` as soon as it is known."""
    if problem := _join(question):
        emit(problem)
        return
    ready(replace(question, models=()), LOAD_SECONDS)
    here = threading.Thread(
        target=examine, args=(asked(question, DRIVER), question, lambda one: emit(one.on(HERE))), daemon=True
    )
    here.start()  # checks MLflow while the nodes are examined
    nodes, gone = _nodes()
    for one in gone:
        emit(one)
    nodes = _reachable(nodes, emit)
    with _by_value():
        probes = {node.name: _probe(node) for node in nodes}
        described = _answers(
            {name: probe.describe.remote() for name, probe in probes.items()},
            START_SECONDS,
            emit,
            "the node did not start a process",
        )
        nodes = [node for node in nodes if node.name in described]
        probes = {node.name: probes[node.name] for node in nodes}
        for node in nodes:
            emit(ok("node", f"Ray has {node.cpus:g} CPUs and {node.gpus:g} GPUs").on(node.name))
        _on_nodes(question, nodes, probes, described, emit)
    here.join(question.seconds + MARGIN_SECONDS)


def _join(question: Question) -> Finding | None:
    """Connect this process to the cluster."""
    address = question.address or ""
    found = _PORT.fullmatch(address)
    if found and (why := connects(found[1], int(found[2]), CONNECT_SECONDS)):
        return fail("cluster", f"there is no Ray head at this address: {why}", _HEAD).on(HERE)
    # By default, Ray waits a minute for a head that does not answer.
    os.environ.setdefault("RAY_gcs_rpc_server_connect_timeout_s", "5")
    import ray

    failed: list[BaseException] = []

    def connect() -> None:
        try:
            ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                namespace=f"doctor-{secrets.token_hex(4)}",
            )
        except BaseException as error:  # errors of Ray's C++ code too
            failed.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(JOIN_SECONDS)
    if thread.is_alive():
        # Ray keeps trying for a long time if a token is refused, too.
        why = (
            f"the address accepts a connection, but Ray did not join within {JOIN_SECONDS:g} s: it is not a Ray head, or the "
            "head has another token"
        )
        return fail(
            "cluster", why, f"{_TOKEN}, or correct the address, or look into gcs_server.out on the head"
        ).on(HERE)
    if not failed:
        return None
    text = str(failed[0])
    if "ersion mismatch" in text:
        return fail(
            "cluster",
            "the cluster's version of Ray or Python differs from that of this machine",
            "run medray doctor with the Python of the cluster, or install the same versions",
        ).on(HERE)
    if "uth" in text or "oken" in text:
        return fail(
            "cluster",
            "the cluster refuses the token of this machine, or requires one",
            _TOKEN,
        ).on(HERE)
    return fail(
        "cluster",
        f"Ray cannot join the cluster ({type(failed[0]).__name__}); this machine may not be a node of it",
        _HEAD,
    ).on(HERE)


def _nodes() -> tuple[list[Node], list[Finding]]:
    """Return the living nodes, and a finding for each node that died and has not come back."""
    import ray

    rows = ray.nodes()
    alive = [row for row in rows if row["Alive"]]
    hosts = [row["NodeManagerHostname"] for row in alive]
    nodes = []
    for row in alive:
        host, address = row["NodeManagerHostname"], row["NodeManagerAddress"]
        store = str(row.get("ObjectStoreSocketName") or "")
        nodes.append(
            Node(
                name=host if hosts.count(host) == 1 else f"{host} {address}",
                identity=row["NodeID"],
                address=address,
                port=int(row["NodeManagerPort"]),
                gpus=row["Resources"].get("GPU", 0.0),
                cpus=row["Resources"].get("CPU", 0.0),
                folder=os.path.dirname(os.path.dirname(store)) or "/tmp",
            )
        )
    living = {row["NodeManagerAddress"] for row in alive}
    dead = {
        row["NodeManagerAddress"]: row["NodeManagerHostname"]
        for row in rows
        if not row["Alive"]
        and row["NodeManagerAddress"] not in living
        and row.get("DeathReason") not in (1, 3)
    }
    return nodes, [
        replace(fail("node", f"Ray has lost this node ({address})", _GONE), node=host)
        for address, host in dead.items()
    ]


def _reachable(nodes: list[Node], emit: Callable[[Finding], None]) -> list[Node]:
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda node: connects(node.address, node.port, CONNECT_SECONDS), nodes))
    for node, why in zip(nodes, answers, strict=True):
        if why:
            emit(
                fail(
                    "node", f"the node cannot be reached at {node.address}, port {node.port}: {why}", _GONE
                ).on(node.name)
            )
    return [node for node, why in zip(nodes, answers, strict=True) if not why]


@contextlib.contextmanager
def _by_value() -> Iterator[None]:
    from ray import cloudpickle

    from medray.launch import doctor

    cloudpickle.register_pickle_by_value(doctor)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(doctor)


def _probe(node: Node) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {
        "num_cpus": 0,
        "max_concurrency": 4,
        "max_restarts": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node.identity, soft=False),
    }
    return ray.remote(Probe).options(**options).remote(node.address)


def _on_nodes(
    question: Question,
    nodes: list[Node],
    probes: dict[str, Any],
    described: dict[str, Any],
    emit: Callable[[Finding], None],
) -> None:
    """Run the checks on the nodes that have answered, and the checks between the nodes."""
    theirs = {name: told["versions"] for name, told in described.items()}
    for one in different_versions(theirs, versions(), refused=SAME_VERSIONS):
        emit(one)
    with ThreadPoolExecutor(64) as pool:
        offsets = dict(zip(probes, pool.map(_offset, probes.values()), strict=True))
    for one in different_clocks(offsets):
        emit(one)
    seconds = question.seconds + MARGIN_SECONDS
    peers = {
        node.name: [
            (peer.name, peer.address, described[peer.name]["port"])
            for peer in (nodes[number + 1 :] + nodes[:number])[:PEERS]
        ]
        for number, node in enumerate(nodes)
    }
    if len(nodes) > 1:
        calls = {name: probes[name].reach.remote(those, question.seconds) for name, those in peers.items()}
        for name, answer in _answers(
            calls, seconds, emit, "the node did not test its connections to other nodes"
        ).items():
            for row in answer:
                emit(Finding(**row).on(name))
    with contextlib.ExitStack() as stack:
        question = _begun(question, stack, emit)
        asked_of = {
            node.name: replace(question, own=f"node-{number}", ray_folder=node.folder, ray_gpus=node.gpus)
            for number, node in enumerate(nodes)
        }
        calls = {name: probes[name].examine.remote(each) for name, each in asked_of.items()}
        answers = _answers(calls, seconds + LOAD_SECONDS, emit, "the node did not answer in time")
        wrote = {}
        for name, answer in answers.items():
            for row in answer:
                emit(Finding(**row).on(name))
                if row["name"] == "storage" and row["state"] != "fail":
                    wrote[asked_of[name].own] = name
        if question.storage and wrote:
            _look_back(question, wrote, emit)


def _begun(question: Question, stack: contextlib.ExitStack, emit: Callable[[Finding], None]) -> Question:
    """Write the first file to the storage. Returns the question for the nodes, without storage if writing failed."""
    if not question.storage:
        return question
    marked = replace(question, mark=shared.new_mark(), first=HERE)
    entered: list[Any] = []

    def enter(asked: Question) -> Finding:
        try:
            context = shared.begun(asked)
            context.__enter__()
        except Exception as error:
            return shared.unusable(asked, error)
        entered.append(context)
        return ok("storage", "begun")

    (found,) = examine({"storage": enter}, marked)
    if found.state != "ok":
        emit(found.on(HERE))
        return replace(question, storage=None)
    stack.callback(lambda: examine({"storage": lambda asked: _leave(entered[0])}, marked))
    return marked


def _leave(context: Any) -> Finding:
    context.__exit__(None, None, None)
    return ok("storage", "removed")


def _look_back(question: Question, wrote: dict[str, str], emit: Callable[[Finding], None]) -> None:
    def look(asked: Question) -> list[Finding]:
        return [shared.not_seen(asked, node, HERE) for node in shared.missing_here(asked, wrote)]

    for one in examine({"storage": look}, question):
        emit(one.on(HERE))


def _offset(probe: Any) -> tuple[float, float] | None:
    """Return (seconds that the node's clock is ahead of ours, accuracy), the best of three; None without an answer."""
    import ray

    best: tuple[float, float] | None = None
    for _ in range(3):
        began = time.time()
        try:
            there = ray.get(probe.now.remote(), timeout=CONNECT_SECONDS)
        except Exception:
            return best
        ended = time.time()
        exact = (ended - began) / 2
        if best is None or exact < best[1]:
            best = (there - (began + ended) / 2, exact)
    return best


def _answers(
    calls: dict[str, Any], seconds: float, emit: Callable[[Finding], None], otherwise: str
) -> dict[str, Any]:
    """Return the answer of each node, and emit a finding for each node that has not answered in time."""
    import ray

    ray.wait(list(calls.values()), num_returns=len(calls), timeout=seconds) if calls else None
    found = {}
    for name, call in calls.items():
        try:
            found[name] = ray.get(call, timeout=0)
        except ray.exceptions.GetTimeoutError:
            emit(fail("node", f"{otherwise} within {seconds:g} s", _GONE).on(name))
        except Exception as error:
            emit(fail("node", f"{otherwise}: {reason(error)}", _GONE).on(name))
    return found
