from __future__ import annotations

import re

from pydantic import field_validator

from medray.config.section import Section, key

# Characters of ASCII, so also bytes: every file system, object store and scheduler accepts such a name, and a terminal shows
# it unchanged.
LONGEST_NAME = 100
# Names in the storage that all runs share: embeddings, launch folders, token shards, tokenizers, MLflow's artifacts and database, and
# the extra files of SQLite.
RESERVED = frozenset(
    {
        "embeddings",
        "launch",
        "tokens",
        "tokenizers",
        "mlartifacts",
        "mlflow.db",
        "mlflow.db-journal",
        "mlflow.db-shm",
        "mlflow.db-wal",
    }
)


def begin_of(text: str) -> tuple[str, int | None]:
    """Return the folder and the step in `run.begin_from`; None for the newest step."""
    folder, mark, step = text.rpartition("@")
    return (folder, int(step)) if mark and re.fullmatch(r"[0-9]{1,12}", step) else (text, None)


class RunConfig(Section):
    """The folder of a run, and its seed."""

    storage: str = key(
        "runs", "Folder of all runs, relative to the config file, or s3://bucket/prefix.", resumable=True
    )
    name: str = key(
        "run", "Folder of this run inside the storage; a run with the same name resumes.", resumable=True
    )
    seed: int = key(0, "Seeds data order, weights of new modules and dropout.", ge=0, lt=2**31)
    begin_from: str | None = key(
        None,
        "Folder of another run, as RUN or RUN@STEP: begin with the weights of its newest checkpoint, or of that step, at "
        "step 0 with a fresh optimizer. Relative to the config file, or s3://bucket/prefix/name.",
    )

    @field_validator("begin_from")
    @classmethod
    def _with_folder(cls, text: str | None) -> str | None:
        if text is not None and not begin_of(text)[0]:
            raise ValueError(
                "the folder of a run is missing", "set run.begin_from: runs/first, or runs/first@200"
            )
        return text

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if len(name) > LONGEST_NAME or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name[:1000]).strip("._-")[:LONGEST_NAME]
            raise ValueError(
                f"use 1 to {LONGEST_NAME} letters, digits, '.', '_' or '-', beginning with a letter or digit",
                f"run.name: {plain or 'run'}",
            )
        if name.lower() in RESERVED:  # some file systems treat Tokens and tokens as the same name
            raise ValueError("medray keeps files of all runs under this name", f"run.name: {name}-run")
        return name
