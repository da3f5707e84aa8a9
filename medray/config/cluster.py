from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from medray.config.section import Section, key

Workers = Annotated[int, Field(ge=1)]


class ClusterConfig(Section):
    """The cluster on which a run is computed. No key here changes the results."""

    workers: Workers | tuple[Workers, Workers] = key(
        1,
        "Number of Ray Train workers, one per GPU or per share of the CPUs. [fewest, most]: as many as the cluster allows, "
        "also after it loses or gains a node.",
        resumable=True,
    )
    cpus_per_worker: float | None = key(
        None,
        "CPUs that a worker reserves in Ray, independent of its threads; default: an even share of all CPUs except one.",
        ge=0.01,
        resumable=True,
    )
    gpus: bool | None = key(
        None, "Give each worker one GPU; default: true if the cluster has GPUs.", resumable=True
    )
    nodes: int | None = key(
        None,
        "Number of nodes of the complete cluster; launchers ask for this many, and the run waits for them. Default: as many "
        "as the workers need.",
        ge=1,
        le=10_000,
        resumable=True,
    )
    gpus_per_node: int | None = key(
        None, "GPUs per node that launchers ask for; default: none.", ge=0, le=64, resumable=True
    )
    address: str | None = key(
        None,
        "Address of the Ray cluster to join; default: RAY_ADDRESS (set inside a Ray job), else a local cluster.",
        resumable=True,
    )
    max_failures: int = key(3, "How often a failed group of workers is restarted.", ge=0, resumable=True)
    hang_seconds: int = key(
        900,
        "Time-out of a step: a worker that takes longer is ended, and the group is restarted.",
        ge=1,
        resumable=True,
    )
    start_timeout_seconds: int = key(
        600,
        "Time-out for the nodes that a run needs, and then for the start of its workers.",
        ge=1,
        resumable=True,
    )
    threads_per_worker: int | None = key(
        None,
        "Compute threads of a worker; default: the CPUs of its node, shared by the workers on it. A resumed run keeps its "
        "number.",
        ge=1,
        resumable=True,
    )

    @field_validator("workers")
    @classmethod
    def _in_order(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError("the first number must be the fewest workers, the second the most")
        return value

    @property
    def fewest_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]
