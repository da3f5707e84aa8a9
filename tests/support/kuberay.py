"""The checks that a real API server makes of a RayJob, from the CRD only: closed schema, defaults and CEL rules."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cel
import jsonschema
import pytest
import yaml


class RayJobSchema:
    """The schema of RayJob v1 in the CRD of KubeRay 1.7.0, with unknown fields forbidden."""

    def __init__(self, folder: Path) -> None:
        text = (folder / "ray.io_rayjobs.yaml").read_text(encoding="utf-8")
        versions = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"]
        self.open = next(each for each in versions if each["name"] == "v1")["schema"]["openAPIV3Schema"]
        self.closed = _closed(self.open)
        self.closed["properties"]["metadata"] = {"type": "object"}
        self._validator = jsonschema.Draft7Validator(self.closed)

    def errors(self, job: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
        """Return what is wrong with a job. old: the job that it replaces, for rules about updates."""
        job = _with_defaults(self.closed, copy.deepcopy(job))
        found = [
            f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
            for error in self._validator.iter_errors(job)
        ]
        return found + [message for _, message, holds in self.cel(job, old) if not holds]

    def cel(self, job: dict[str, Any], old: dict[str, Any] | None = None) -> Iterator[tuple[str, str, bool]]:
        """Yield (rule, its message, whether it holds) for every CEL rule whose path in the job has a value."""
        yield from _cel(self.open, job, old)


def crds() -> Path:
    """The folder of CRDs that MEDRAY_KUBERAY_CRDS names; the test skips where it is absent."""
    folder = os.environ.get("MEDRAY_KUBERAY_CRDS")
    if not folder:
        pytest.skip("MEDRAY_KUBERAY_CRDS is not set: KubeRay's schemas are absent")
    return Path(folder)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {
            "type": ["integer", "string"],
            **{k: v for k, v in schema.items() if k in ("default", "pattern")},
        }
    closed = {key: _closed(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        closed["properties"] = {name: _closed(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    if closed.pop("nullable", False) and isinstance(closed.get("type"), str):
        closed["type"] = [closed["type"], "null"]
    return closed


def _with_defaults(schema: dict[str, Any], value: Any) -> Any:
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                value[name] = _with_defaults(inner, value[name])
    elif isinstance(value, list) and "items" in schema:
        return [_with_defaults(schema["items"], each) for each in value]
    return value


def _cel(schema: dict[str, Any], value: Any, old: Any) -> Iterator[tuple[str, str, bool]]:
    for each in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in each["rule"]:
            yield each["rule"], each["message"], bool(cel.evaluate(each["rule"], {"self": value}))
        elif old is not None:  # a transition rule: it looks at updates only
            holds = cel.evaluate(each["rule"], {"self": value, "oldSelf": old})
            yield each["rule"], each["message"], bool(holds)
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if value.get(name) is not None:
                yield from _cel(inner, value[name], old.get(name) if isinstance(old, dict) else None)
    elif isinstance(value, list) and "items" in schema:
        for each in value:
            yield from _cel(schema["items"], each, None)
