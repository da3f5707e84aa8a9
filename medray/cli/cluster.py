"""Joins the Ray cluster that is named, or starts a private one on this machine."""

from __future__ import annotations

import logging
import os
import secrets
from typing import Any

from medray.errors import InputError

OBJECT_STORE_BYTES = 256 * 1024**2  # our objects are small: shards go through files


def before_import(address: str | None) -> None:
    """Environment that Ray reads while it is imported: call it first."""
    # Without a mode of its own Ray writes a token file, readable by all, into the home folder.
    if address in (None, "local") and os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    for name in (
        "ray",
        "ray.data",
        "ray.train",
    ):  # what a user reads is medray's; Ray's progress is in its log files
        logging.getLogger(name).setLevel(logging.ERROR)


def connect(address: str | None) -> None:
    """Connects to `address`, or starts a local cluster without a dashboard and with a token of its own.

    Raises InputError when no cluster answers.
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
                mend="start one with: ray start --head, or leave the key out",
            ) from None
        return
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        num_cpus=max(os.cpu_count() or 1, 2),
        **options,
    )


def disconnect() -> None:
    """Leaves the cluster; a private one ends."""
    import ray

    ray.shutdown()
