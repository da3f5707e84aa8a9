"""The part of kustomize that k8s/ uses: a base of resources, and components that patch them (RFC 6902).

`kubectl kustomize` builds the same from these folders, which a test checks. Other features of kustomize are refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from medray.errors import InputError

Manifest = dict[str, Any]


def build(folder: Path, components: Iterable[str]) -> list[Manifest]:
    """Return the resources of `folder`/base, patched by the given components of `folder`/overlays, in order."""
    base = folder / "base"
    manifests = [
        manifest
        for name in _kustomization(base, "Kustomization", "resources").get("resources", ())
        for manifest in _documents(base / name)
    ]
    for component in components:
        overlay = folder / "overlays" / component
        for patch in _kustomization(overlay, "Component", "patches").get("patches", ()):
            file = overlay / patch["path"]
            chosen = [each for each in manifests if each["kind"] == patch["target"]["kind"]]
            if not chosen or set(patch["target"]) != {"kind"}:
                raise _wrong(
                    overlay / "kustomization.yaml",
                    f"the patch has the target {patch['target']}, which is not a kind in base/",
                )
            for manifest in chosen:
                for operation in _documents(file)[0]:
                    _apply(manifest, operation, file)
    return manifests


def _kustomization(folder: Path, kind: str, allowed: str) -> dict[str, Any]:
    file = folder / "kustomization.yaml"
    tree: dict[str, Any]
    (tree,) = _documents(file)
    if tree.get("kind") != kind or set(tree) - {"apiVersion", "kind", allowed}:
        raise _wrong(file, f"the file must be a {kind} with the keys `{allowed}` only")
    return tree


def _documents(file: Path) -> list[Any]:
    try:
        return [copy.deepcopy(each) for each in yaml.safe_load_all(file.read_text(encoding="utf-8")) if each]
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise _wrong(file, f"cannot be read ({' '.join(str(error).split())[:200]})") from None


def _apply(tree: Any, operation: dict[str, Any], file: Path) -> None:
    """Apply an operation of RFC 6902 to `tree`: add, replace, remove or test."""
    *parents, last = (word.replace("~1", "/").replace("~0", "~") for word in operation["path"].split("/")[1:])
    try:
        for word in parents:
            tree = tree[int(word) if isinstance(tree, list) else word]
        if operation["op"] == "add" and isinstance(tree, list):
            tree.insert(len(tree) if last == "-" else int(last), copy.deepcopy(operation["value"]))
            return
        key = int(last) if isinstance(tree, list) else last
        if operation["op"] == "add":
            tree[key] = copy.deepcopy(operation["value"])
            return
        old = tree[key]  # replace, remove and test require that the key exists
        if operation["op"] == "replace":
            tree[key] = copy.deepcopy(operation["value"])
        elif operation["op"] == "remove":
            del tree[key]
        elif operation["op"] != "test" or old != operation["value"]:
            raise ValueError
    except (KeyError, IndexError, TypeError, ValueError):
        raise _wrong(
            file, f"the patch {operation['op']} {operation['path']} does not fit the resources in base/"
        ) from None


def _wrong(file: Path, what: str) -> InputError:
    return InputError(
        what, file=file, fix="restore the file with `git checkout k8s`, or install the wheel again"
    )
