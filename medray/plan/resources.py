"""Checks whether workers fit on a cluster, and what would fit. Pure functions of counts.

Ray Data runs in parallel with training, and its tasks need one CPU each. If training has reserved all CPUs, they wait
forever without a message. So one whole CPU always stays free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor

from medray.plan.memory import gigabytes

DATA_CPUS = 1
# Packages whose versions must be the same on all nodes: a run is refused if they differ.
SAME_VERSIONS = ("medray", "ray", "torch", "transformers", "deepspeed", "peft", "pyarrow")
SMALLEST_SHARE = 0.5  # CPUs per worker if there is less than one for each


@dataclass(frozen=True)
class Request:
    """The workers of one run, and the resources that each reserves. `resolve` replaces a cpus_per_worker of None."""

    workers: int
    cpus_per_worker: float | None = None
    gpus_per_worker: float = 0


@dataclass(frozen=True)
class NodeSupply:
    """The resources of one node. memory_bytes: 0 if unknown. gpu_name: as Ray names the kind of GPU; "" if unknown."""

    cpus: float
    gpus: float = 0
    memory_bytes: int = 0
    gpu_name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Supply:
    """The resources of a cluster. Without `nodes`, it is treated as one machine that has all of them."""

    cpus: float
    gpus: float = 0
    memory_bytes: int = 0
    nodes: tuple[NodeSupply, ...] = ()

    @classmethod
    def of(cls, *nodes: NodeSupply) -> Supply:
        """Return the sum of `nodes`."""
        return cls(
            cpus=sum(n.cpus for n in nodes),
            gpus=sum(n.gpus for n in nodes),
            memory_bytes=sum(n.memory_bytes for n in nodes),
            nodes=tuple(nodes),
        )


@dataclass(frozen=True)
class Shortage:
    """The parts of an error. what: what was asked for and what there is. fix: an instruction that says what would fit."""

    what: str
    fix: str


def resolve(request: Request, supply: Supply) -> Request:
    """Return `request` with cpus_per_worker filled in.

    Workers on CPUs share all CPUs except one: each gets the largest whole number that can be placed on the nodes, or half
    a CPU if that is less than one. A worker with a GPU computes on it and takes one CPU, so that the others tokenize. A
    given number is kept. The result may not fit: see `shortage`.
    """
    _check(request)
    if request.cpus_per_worker is not None:
        return request
    most = 1 if request.gpus_per_worker else floor((supply.cpus - DATA_CPUS) / request.workers)
    # If GPUs are missing, fewer CPUs would not help.
    gpus = request.gpus_per_worker if request.workers * request.gpus_per_worker <= supply.gpus else 0
    for cpus in range(most, 0, -1):
        if _capacity(supply, cpus, gpus) >= request.workers:
            return replace(request, cpus_per_worker=float(cpus))
    return replace(request, cpus_per_worker=SMALLEST_SHARE)


def threads(request: Request, supply: Supply) -> int:
    """Return the compute threads of each worker: the CPUs of its node, shared by the workers on it, at least 1.

    The CPUs that a worker reserves in Ray do not limit its threads: the CPU that stays free for data is busy only for
    seconds. It is unknown in advance which node gets which worker, so every node counts with as many workers as it can
    hold, and the smallest share is used for all: equal threads give equal numbers wherever a worker is placed.
    """
    request = resolve(request, supply)
    cpus, gpus = request.cpus_per_worker or SMALLEST_SHARE, request.gpus_per_worker
    shares = [
        node.cpus / min(held, request.workers)
        for node in _nodes(supply)
        if (held := _holds(node.cpus, node.gpus, cpus, gpus))
    ]
    return max(1, floor(min(shares, default=1)))


def shortage(request: Request, supply: Supply, owner: str = "this cluster has") -> Shortage | None:
    """Return None if the workers fit while one CPU stays free, else what is missing. owner: subject of the message."""
    request = resolve(request, supply)
    cpus, gpus = request.cpus_per_worker or 0.0, request.gpus_per_worker
    if _capacity(supply, cpus, gpus) >= request.workers:
        return None
    asked = _workers(request.workers, cpus, gpus)
    needs = "needs" if request.workers == 1 else "need"
    if request.workers * gpus > supply.gpus:
        lack = f"{needs} {_count(request.workers * gpus, 'GPU')}, {owner} {supply.gpus:g}"
    elif request.workers * cpus + DATA_CPUS > supply.cpus:
        need = _count(request.workers * cpus + DATA_CPUS, "CPU")
        lack = f"{needs} {need} (one stays free for data), {owner} {supply.cpus:g}"
    else:
        each = ", ".join(_has(node, gpus) for node in _nodes(supply))
        lack = f"cannot be placed on its nodes with one CPU left free for data; the nodes have {each}"
    return Shortage(f"{asked} {lack}", _fix(request, supply, cpus))


def asked(request: Request) -> str:
    """Return the workers that a run asks for, as in `2 workers of 4 CPUs`; without CPUs if the cluster decides their number."""
    workers = plural(request.workers, "worker")
    parts = [_count(request.cpus_per_worker, "CPU")] if request.cpus_per_worker else []
    parts += [_count(request.gpus_per_worker, "GPU")] if request.gpus_per_worker else []
    return f"{workers} of {' and '.join(parts)}" if parts else workers


def memory_shortage(
    plan_bytes_per_worker: int, workers_per_node: int, node_memory_bytes: int
) -> Shortage | None:
    """Return None if `workers_per_node` workers of `plan_bytes_per_worker` bytes fit, else what is missing.

    plan_bytes_per_worker: `MemoryPlan.total` of a worker on CPU, `MemoryPlan.host` of one with a GPU.
    """
    if plan_bytes_per_worker < 0 or workers_per_node < 1 or node_memory_bytes < 1:
        raise ValueError(
            f"{workers_per_node} workers of {plan_bytes_per_worker} bytes on a node of {node_memory_bytes} bytes "
            "are impossible numbers"
        )
    needed = plan_bytes_per_worker * workers_per_node
    if needed <= node_memory_bytes:
        return None
    most = node_memory_bytes // plan_bytes_per_worker
    fix = (
        f"use at most {plural(most, 'worker')} per node"
        if most
        else "use a smaller model or micro-batch, peft.type: lora, or train.zero_stage: 3 on more nodes"
    )
    workers = plural(workers_per_node, "worker")
    return Shortage(
        f"{workers} of {gigabytes(plan_bytes_per_worker)} GB on one node need {gigabytes(needed)} GB of memory, "
        f"but the node has {gigabytes(node_memory_bytes)} GB",
        fix,
    )


def _capacity(supply: Supply, cpus: float, gpus: float) -> int:
    """Return how many equal workers can be placed while some node keeps a whole CPU free for data."""
    nodes = _nodes(supply)
    everywhere = [_holds(node.cpus, node.gpus, cpus, gpus) for node in nodes]
    beside_data = [
        sum(everywhere) - held + _holds(node.cpus - DATA_CPUS, node.gpus, cpus, gpus)
        for node, held in zip(nodes, everywhere, strict=True)
        if node.cpus >= DATA_CPUS
    ]
    return max(beside_data, default=0)


def _holds(node_cpus: float, node_gpus: float, cpus: float, gpus: float) -> int:
    by_cpus = node_cpus / cpus
    return floor(min(by_cpus, node_gpus / gpus if gpus else by_cpus) + 1e-9)  # 0.9 CPUs hold 3 workers of 0.3


def _fix(request: Request, supply: Supply, cpus: float) -> str:
    gpus = request.gpus_per_worker
    if gpus and supply.gpus < gpus:
        return "set cluster.gpus: false to train on CPUs"
    share = resolve(replace(request, cpus_per_worker=None), supply).cpus_per_worker or SMALLEST_SHARE
    if share < cpus and _capacity(supply, share, gpus) >= request.workers:
        return f"set cluster.cpus_per_worker: {share:g}"
    # With the requested CPUs if GPUs are missing; else with the smallest share, which allows the most workers.
    sizes = [size for size in ((cpus, 1.0, SMALLEST_SHARE) if gpus else (SMALLEST_SHARE,)) if size <= cpus]
    size = max(sizes, key=lambda each: _capacity(supply, each, gpus), default=cpus)
    if most := _capacity(supply, size, gpus):
        return f"use at most {_workers(most, size, gpus)}"
    return f"give the cluster at least {DATA_CPUS + 1} CPUs; on one machine, use ray start --num-cpus={DATA_CPUS + 1}"


def _nodes(supply: Supply) -> tuple[NodeSupply, ...]:
    return supply.nodes or (NodeSupply(supply.cpus, supply.gpus, supply.memory_bytes),)


def _workers(number: int, cpus: float, gpus: float) -> str:
    each = _count(cpus, "CPU") + (f" and {_count(gpus, 'GPU')}" if gpus else "")
    return f"{plural(number, 'worker')} of {each}"


def _has(node: NodeSupply, gpus: float) -> str:
    return _count(node.cpus, "CPU") + (f" and {_count(node.gpus, 'GPU')}" if gpus else "")


def _count(number: float, unit: str) -> str:
    return f"{number:g} {unit}" + ("s" if number > 1 else "")


def plural(number: int | None, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _check(request: Request) -> None:
    if request.workers < 1:
        raise ValueError(f"cluster.workers: {request.workers} workers, but there must be at least 1")
    if request.cpus_per_worker is not None and request.cpus_per_worker <= 0:
        raise ValueError(f"cluster.cpus_per_worker: {request.cpus_per_worker:g}, but it must be above 0")
    if request.gpus_per_worker < 0:
        raise ValueError(f"{request.gpus_per_worker:g} GPUs per worker: must not be negative")
