"""What every section of a config has in common: no unknown keys, immutable, and fields that say what they may do."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen pydantic model in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def key(default: Any, description: str, *, resumable: bool = False, **constraints: Any) -> Any:
    """A field with its sentence. resumable: a run may go on from its checkpoint after this key has changed."""
    return Field(default, description=description, json_schema_extra={"resumable": resumable}, **constraints)
