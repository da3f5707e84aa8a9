from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from medray.config.section import Section, key

Workers = Annotated[int, Field(ge=1)]


class ClusterConfig(Section):
    """Where a run runs. Nothing here changes what it computes."""

    workers: Workers | tuple[Workers, Workers] = key(
        1,
        "Ray Train workers: one a GPU, or one a share of the CPUs. [fewest, most]: as many as the cluster has, now and "
        "after every loss or gain of a node.",
        resumable=True,
    )
    cpus_per_worker: float | None = key(
        None,
        "CPUs a worker reserves of Ray, whatever its threads; default: all but one, shared out evenly.",
        ge=0.01,
        resumable=True,
    )
    gpus: bool | None = key(
        None, "Give each worker one GPU; default: if the cluster has them.", resumable=True
    )
    nodes: int | None = key(
        None,
        "Nodes that the cluster has when it is complete; launchers ask for so many, and the run waits for them. Default: as "
        "many as the workers need.",
        ge=1,
        le=10_000,
        resumable=True,
    )
    gpus_per_node: int | None = key(
        None, "GPUs that launchers ask of each node; default: none.", ge=0, le=64, resumable=True
    )
    address: str | None = key(
        None,
        "Ray cluster to join; default: RAY_ADDRESS (set inside a Ray job), else a local one.",
        resumable=True,
    )
    max_failures: int = key(3, "Times that a failed group of workers is started again.", ge=0, resumable=True)
    hang_seconds: int = key(
        900,
        "A step that takes longer hangs: its worker is ended and the group started again.",
        ge=1,
        resumable=True,
    )
    start_timeout_seconds: int = key(
        600,
        "How long a run waits for the nodes that it needs, and then for its workers to start.",
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
            raise ValueError("the first number is the fewest workers, the second the most")
        return value

    @property
    def fewest_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]
