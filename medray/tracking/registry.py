"""The registration of an export in MLflow's model registry, on request. Only its folder or URL is sent, no file."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def register(client: MlflowClient, name: str, run_id: str, export: str) -> None:
    """Register the export of a run as a new version of a model, once per run. May raise any error of MLflow.

    export: folder or URL of the export.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    with suppress(MlflowException):  # a server without this search gets a second version after a retry
        if any(each.run_id == run_id for each in client.search_model_versions(f"name='{name}'")):
            return
    source = export if "://" in export else f"file://{export}"
    client.create_model_version(name, source=source, run_id=run_id)
