from __future__ import annotations

from pydantic import field_validator

from medray.config.section import Section, key

TRACKING_URI = (
    "MLFLOW_TRACKING_URI"  # environment variable that replaces tracking.uri and may contain a password
)


class TrackingConfig(Section):
    """Tracking of metrics in MLflow, in addition to the run folder."""

    enabled: bool = key(True, "Log to MLflow.", resumable=True)
    uri: str | None = key(
        None,
        "MLflow server or database; default: the environment variable MLFLOW_TRACKING_URI, else <storage>/mlflow.db.",
        resumable=True,
    )
    experiment: str = key("medray", "MLflow experiment.", resumable=True)
    run_name: str | None = key(None, "MLflow run name; default: run.name.", resumable=True)
    tags: dict[str, str] = key({}, "MLflow tags.", resumable=True)
    register_as: str | None = key(
        None,
        "Model in MLflow's registry of which the export becomes a new version, when the run is done.",
        resumable=True,
    )
    show_text: bool = key(
        False, "Show text of records (predictions and references) in the report.", resumable=True
    )

    @field_validator("register_as")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip() or set(name) & set("/:'\"")):
            raise ValueError(
                "a registered model has a name without / : and quotes", "use a name such as notes-t5"
            )
        return name
