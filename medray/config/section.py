"""What every section of a config has in common: no unknown keys, immutable, and fields that say what they may do."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LARGEST_INT = 2**63 - 1


class Section(BaseModel):
    """A frozen pydantic model in which an unknown key is an error, and so is `true` or "2" for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: object) -> object:
        """A section of which every key is commented out is null in YAML."""
        return {} if value is None else value

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        if isinstance(value, int) and abs(value) > LARGEST_INT:
            raise ValueError("the number is too large")
        return tuple(value) if isinstance(value, list) else value

    def gives(self, dotted: str) -> bool:
        """Whether the key `dotted`, as in section.key or section.key[0], was given and is no default."""
        name, _, rest = dotted.partition(".")
        name = name.partition("[")[0]
        if name not in self.model_fields_set:
            return False
        inner = getattr(self, name)
        return inner.gives(rest) if rest and isinstance(inner, Section) else True


def key(default: Any, description: str, *, resumable: bool = False, **constraints: Any) -> Any:
    """A field with its sentence. resumable: a run may go on from its checkpoint after this key has changed."""
    return Field(default, description=description, json_schema_extra={"resumable": resumable}, **constraints)
