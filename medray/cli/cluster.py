"""Joins the Ray cluster that is named, or starts a private one on this machine.

A private cluster listens on the loopback address alone, asks every client for a token, keeps its files in a folder of
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

OBJECT_STORE_BYTES = 256 * 1024**2  # our objects are small: shards go through files
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
# Of a private cluster. Ray's own variable for laptops makes 127.0.0.1 the address of its node, and every server of it then
# listens there alone: an address that is given as such is replaced by the machine's.
PRIVATE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_enable_metrics_collection": "0",  # its port knows no token, and nobody reads it
    "GLOO_SOCKET_IFNAME": LOOPBACK,
    "NCCL_SOCKET_IFNAME": LOOPBACK,
}
_session: SessionFolder | None = None


def cluster_address(config: Config) -> str | None:
    """The cluster to join; None for one on this machine that ends with the run."""
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    return None if address in ("", "local") else address


def before_import(address: str | None) -> None:
    """Environment that Ray reads while it is imported: call it first."""
    if address in (None, "local"):
        os.environ.update(PRIVATE)
        # Without a mode of its own Ray writes a token file, readable by all, into the home folder.
        if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # Its workers are all that this machine does for the user: Ray's 15 would put them behind everything else.
        os.environ.setdefault("RAY_worker_niceness", "0")
    for name in (
        "ray",
        "ray.data",
        "ray.train",
    ):  # what a user reads is medray's; Ray's progress is in its log files
        logging.getLogger(name).setLevel(logging.ERROR)


def connect(address: str | None) -> None:
    """Connects to `address`, or starts a local cluster without a dashboard and with a token of its own.

    Raises InputError when no cluster answers, or no folder of this machine can hold a local one's sockets.
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
                f"no Ray cluster answers there ({str(error).splitlines()[0][:200]})",
                key="cluster.address",
                value=address,
                fix="start one with: ray start --head, or leave the key out",
            ) from None
        return
    global _session
    _session = SessionFolder()
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        num_cpus=max(os.cpu_count() or 1, 2),
        _temp_dir=_session.ray,
        **options,
    )


def disconnect() -> None:
    """Leaves the cluster; a private one ends, and its files are removed."""
    import ray

    global _session
    try:
        ray.shutdown()
    finally:
        if _session is not None:
            _session.remove()
            _session = None
