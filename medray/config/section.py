"""The base of all sections of a config: no unknown keys, immutable, and fields with a description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LARGEST_INT = 2**63 - 1


class Section(BaseModel):
    """A frozen pydantic model that refuses unknown keys, and `true` or "2" for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: object) -> object:
        """Accept null, which YAML gives for a section whose keys are all commented out."""
        return {} if value is None else value

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        if isinstance(value, int) and abs(value) > LARGEST_INT:
            raise ValueError("the number is too large")
        return tuple(value) if isinstance(value, list) else value

    def gives(self, dotted: str) -> bool:
        """Return whether the key `dotted`, such as section.key or section.key[0], was given by the user."""
        name, _, rest = dotted.partition(".")
        name = name.partition("[")[0]
        if name not in self.model_fields_set:
            return False
        inner = getattr(self, name)
        return inner.gives(rest) if rest and isinstance(inner, Section) else True


def key(default: Any, description: str, *, resumable: bool = False, **constraints: Any) -> Any:
    """Return a field with its description. resumable: a run may resume from its checkpoint after this key has changed."""
    return Field(default, description=description, json_schema_extra={"resumable": resumable}, **constraints)
