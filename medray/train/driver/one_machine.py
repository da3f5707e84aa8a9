"""The process group of a cluster on this machine alone: ranks meet through a file, so no port is open to other machines.

Ray Train lets ranks meet through torch's TCPStore, which listens on every interface without a password.
"""

from __future__ import annotations

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
    """Return whether the connected cluster is one node that only this machine can reach."""
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
        """Make the group at each start of the workers, with a new file: ranks would join the group of an existing one."""
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
    """Return the session folder of the cluster, which is removed when the cluster ends."""
    node: Any = ray._private.worker._global_node
    return str(node.get_session_dir_path())
