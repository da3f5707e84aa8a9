"""Upload of weights to a model hub, only on request, with the token from the environment."""

from __future__ import annotations

import os
from pathlib import Path

from medray.errors import InputError, RunFailedError

TOKEN = "HF_TOKEN"


def check_push(hub_id: str) -> None:
    """Check before an upload that there is a token and that `hub_id` is organisation/name. Raises InputError if not."""
    if len([part for part in hub_id.split("/") if part]) != 2:
        raise InputError(
            "this is not a hub id", key="--push-to", value=hub_id, fix="use --push-to organisation/name"
        )
    if not os.environ.get(TOKEN):
        raise InputError(
            f"the upload needs a token, but the environment variable {TOKEN} is not set",
            key="--push-to",
            value=hub_id,
            fix=f"set {TOKEN} to a token with write access",
        )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError(
            "the environment variable HF_HUB_OFFLINE forbids uploads",
            key="--push-to",
            value=hub_id,
            fix="unset HF_HUB_OFFLINE",
        )


def push(folder: Path, hub_id: str) -> None:
    """Upload `folder` to a hub repository. A new repository is private.

    Raises RunFailedError if that fails. The message contains only the type of error, because the error of a request
    may quote the token.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=os.environ[TOKEN])
    try:
        hub.create_repo(hub_id, private=True, exist_ok=True)
        hub.upload_folder(repo_id=hub_id, folder_path=str(folder), commit_message="medray export")
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise RunFailedError(
            f"uploading to {hub_id} failed: {type(error).__name__}"
            + (f", HTTP {status}" if status else "")
            + f". The weights are in {folder}. Fix: check the token and the network, and upload that folder"
        ) from None
