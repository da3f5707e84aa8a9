"""Upload of weights to a model hub, only on request, with the token from the environment."""

from __future__ import annotations

import os
from pathlib import Path

from medray.errors import InputError, RunFailedError

TOKEN = "HF_TOKEN"


def check_push(hub_id: str) -> None:
    """Raise InputError without a token, or if `hub_id` is not organisation/name."""
    if len([part for part in hub_id.split("/") if part]) != 2:
        raise InputError(
            "is not a hub id", key="--push-to", value=hub_id, fix="use --push-to organisation/name"
        )
    if not os.environ.get(TOKEN):
        raise InputError(
            f"the environment has no {TOKEN}",
            key="--push-to",
            value=hub_id,
            fix=f"set {TOKEN} in the environment",
        )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError(
            "HF_HUB_OFFLINE forbids the network", key="--push-to", value=hub_id, fix="unset HF_HUB_OFFLINE"
        )


def push(folder: Path, hub_id: str) -> None:
    """Upload `folder` as a private repository, or to the existing one.

    Raises RunFailedError. Its text contains only the type of error, because the error of a request may quote the token.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=os.environ[TOKEN])
    try:
        hub.create_repo(hub_id, private=True, exist_ok=True)
        hub.upload_folder(repo_id=hub_id, folder_path=str(folder), commit_message="medray export")
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise RunFailedError(
            f"the weights are in {folder}, but pushing them to {hub_id} failed: {type(error).__name__}"
            + (f", HTTP {status}" if status else "")
        ) from None
