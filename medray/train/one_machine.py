"""The process group on a cluster of this machine alone: the ranks meet in a file, and no port is open to other machines.

torch's TCPStore, by which Ray Train makes ranks meet, listens on every interface and asks for no password.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)


def on_loopback() -> bool:
    """Whether the connected cluster is one node that only this machine can reach."""
    if not ray.is_initialized():
        return False
    return [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]] == ["127.0.0.1"]


class OneMachineConfig(TorchConfig):
    """Ray Train's TorchConfig for ranks that share a file system."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _FileBackend


class _FileBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Makes the group anew at each start of the workers: a file of an earlier one would be joined."""
        ranks = len(worker_group)
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU") else "gloo"
        meeting = Path(tempfile.mkdtemp(prefix="ranks-", dir=_session_folder())) / "store"
        worker_group.execute(_set_torch_distributed_env_vars)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend=backend,
                    world_rank=rank,
                    world_size=ranks,
                    init_method=meeting.as_uri(),
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(ranks)
            ]
        )


def _session_folder() -> str:
    """The session folder of the cluster, which is removed when the cluster ends."""
    node: Any = ray._private.worker._global_node
    return os.fspath(node.get_session_dir_path())
