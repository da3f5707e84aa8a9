from __future__ import annotations

from medray.config.section import Section, key

TRACKING_URI = (
    "MLFLOW_TRACKING_URI"  # in the environment: in place of tracking.uri, and it may hold a password
)


class TrackingConfig(Section):
    """Where numbers go besides the run folder."""

    enabled: bool = key(True, "Log to MLflow.", resumable=True)
    uri: str | None = key(
        None,
        "MLflow server or database; default: MLFLOW_TRACKING_URI of the environment, else <storage>/mlflow.db.",
        resumable=True,
    )
    experiment: str = key("medray", "MLflow experiment.", resumable=True)
    run_name: str | None = key(None, "MLflow run name; default: run.name.", resumable=True)
    tags: dict[str, str] = key({}, "MLflow tags.", resumable=True)
    show_text: bool = key(
        False, "Show record text (predictions beside references) in the report.", resumable=True
    )
