"""Connection to a named Ray cluster, or start of a private cluster on this machine.

A private cluster listens on the loopback address only, asks every client for a token, keeps its files in a folder of
mode 0700 and ends with the command.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from typing import TYPE_CHECKING, Any

from medray.cli.session_folder import SessionFolder
from medray.errors import InputError

if TYPE_CHECKING:
    from medray.config import Config

OBJECT_STORE_BYTES = 256 * 1024**2  # medray's objects are small: shards are passed as files
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
# Settings of a private cluster. The first is Ray's variable for laptops: it makes 127.0.0.1 the address of the node, so
# that every server of the node listens there only. Passing 127.0.0.1 to Ray does not help: Ray replaces it by the
# machine's address.
PRIVATE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_enable_metrics_collection": "0",  # the metrics port does not check the token, and nobody reads it
    "GLOO_SOCKET_IFNAME": LOOPBACK,
    "NCCL_SOCKET_IFNAME": LOOPBACK,
}
_session: SessionFolder | None = None
_starting = False  # whether a private cluster is being started


def _leave_group() -> None:
    """Put a process of a private cluster into a group of its own.

    A signal for medray's group, as the shell's `timeout` sends it, would end the cluster before the run is saved. Ray's
    processes end with the driver all the same: the kernel kills them when it dies.
    """
    if _starting:
        os.setpgid(0, 0)


os.register_at_fork(after_in_child=_leave_group)


def cluster_address(config: Config) -> str | None:
    """Return the address of the cluster that the run should join, or None for a private cluster on this machine."""
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    return None if address in ("", "local") else address


def before_import(address: str | None) -> None:
    """Set the environment variables that Ray reads when it is imported.

    Call this function before the first import of Ray.
    """
    if address in (None, "local"):
        os.environ.update(PRIVATE)
        # If no mode is set, Ray writes a token file that all users can read into the home folder.
        if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # The workers are the main work of this machine: Ray's default niceness of 15 gives every other process priority.
        os.environ.setdefault("RAY_worker_niceness", "0")
    for name in (
        "ray",
        "ray.data",
        "ray.train",
    ):  # the user reads medray's messages; Ray's progress is in its log files
        logging.getLogger(name).setLevel(logging.ERROR)


def connect(address: str | None) -> None:
    """Connect to `address`, or start a local cluster that has its own token and no dashboard.

    Raises InputError when no cluster answers, or when this machine has no folder for the sockets of a local cluster.
    """
    import ray

    options: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "configure_logging": True,
    }
    if address and address != "local":
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"no Ray cluster answers at this address ({str(error).splitlines()[0][:200]})",
                key="cluster.address",
                value=address,
                fix="start a cluster with `ray start --head`, or remove cluster.address to use this machine",
            ) from None
        return
    global _session, _starting
    _session, _starting = SessionFolder(), True
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            num_cpus=max(os.cpu_count() or 1, 2),
            _temp_dir=_session.ray,
            **options,
        )
    finally:
        _starting = False


def disconnect() -> None:
    """Leave the cluster. A private cluster ends, and its files are removed."""
    import ray

    global _session
    try:
        ray.shutdown()
    finally:
        if _session is not None:
            _session.remove()
            _session = None
