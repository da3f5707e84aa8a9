from __future__ import annotations

from medray.config.section import Section, key


class ClusterConfig(Section):
    """Where a run runs. Nothing here changes what it computes."""

    workers: int = key(1, "Ray Train workers: one a GPU, or one a share of the CPUs.", ge=1, resumable=True)
    cpus_per_worker: float | None = key(
        None, "CPUs a worker reserves; default: all but one, shared out evenly.", ge=0.01, resumable=True
    )
    gpus: bool | None = key(
        None, "Give each worker one GPU; default: if the cluster has them.", resumable=True
    )
    address: str | None = key(
        None,
        "Ray cluster to join; default: RAY_ADDRESS (set inside a Ray job), else a local one.",
        resumable=True,
    )
    max_failures: int = key(3, "Times that a failed group of workers is started again.", ge=0, resumable=True)
    start_timeout_seconds: int = key(
        600, "How long a group of workers may take to start.", ge=1, resumable=True
    )
    threads_per_worker: int | None = key(
        None, "Compute threads of a worker; default: its CPUs, at least 1.", ge=1, resumable=True
    )
