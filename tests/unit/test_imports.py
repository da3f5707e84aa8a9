"""The rooms of DESIGN.md: who may import whom, read from the source with `ast` (nothing is imported here)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import medray

# Arrows run down: a room imports rooms on lower steps only, and none on its own step but itself.
STEPS = (
    ("cli",),
    ("launch", "tune", "synth", "icl", "pairs"),
    ("stages",),
    ("release",),
    ("train",),
    ("evaluate",),
    ("models", "methods"),
    ("data",),
    ("clinic",),
    ("report",),
    ("tracking",),
    ("backends",),
    ("plan",),
    ("config",),
    ("storage",),
    ("errors",),
)
STEP_OF = {room: step for step, rooms in enumerate(STEPS) for room in rooms}

# Libraries that live in named rooms alone.
OWNERS = {
    "ray.train": {"train"},
    "ray.tune": {"tune"},
    "ray.serve": {"evaluate"},
    "deepspeed": {"models", "train"},
    "mlflow": {"tracking"},
    "ray.job_submission": {"launch"},
    "ray.dashboard": {"launch"},
    "kubernetes": {"launch"},
    "ray.autoscaler": {"train"},
}


def violations(package: Path) -> list[str]:
    """What breaks the rule in the package folder, as 'file:line: what', in order of files.

    Counts imports anywhere in a file (in functions, under TYPE_CHECKING), `import_module` of a literal name, and
    `ray.train` reached as an attribute of an imported `ray`.
    """
    found = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        room = _room_of_file(relative)
        if room is not None and room not in STEP_OF:
            found.append(f"{relative}:1: {room} is no room of the design")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for line, module in sorted(set(_imported(tree, package.name, relative))):
            wrong = _wrong(room, module, package.name)
            if wrong is not None:
                found.append(f"{relative}:{line}: {wrong}")
    return found


def _room_of_file(relative: Path) -> str | None:
    """The room a file belongs to; None for the package's own `__init__`, which may import no room."""
    if relative.parts == ("__init__.py",):
        return None
    if relative.parts == ("__main__.py",):
        return "cli"
    return relative.parts[0].removesuffix(".py")


def _wrong(room: str | None, module: str, package: str) -> str | None:
    for library, rooms in OWNERS.items():
        if (module == library or module.startswith(f"{library}.")) and room not in rooms:
            return f"{room or package} imports {library}, which is for {' and '.join(sorted(rooms))}"
    parts = module.split(".")
    if parts[0] != package or len(parts) == 1 or parts[1] not in STEP_OF or parts[1] == room:
        return None
    if room is None:
        return f"{package}/__init__.py imports {parts[1]}: every room would import it too"
    if STEP_OF[parts[1]] <= STEP_OF[room]:
        where = "on the same step" if STEP_OF[parts[1]] == STEP_OF[room] else "above it"
        return f"{room} imports {parts[1]}, {where}"
    return None


def _imported(tree: ast.AST, package: str, relative: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything a file imports; `from a import b` gives a.b."""
    aliases_of_ray = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
            aliases_of_ray |= {alias.asname or "ray" for alias in node.names if alias.name == "ray"}
        elif isinstance(node, ast.ImportFrom):
            prefix = [node.module] if node.module else []
            if node.level:
                above = [package, *relative.parent.parts]
                prefix = above[: len(above) - node.level + 1] + prefix
            yield from ((node.lineno, ".".join([*prefix, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in aliases_of_ray
        ):
            yield node.lineno, f"ray.{node.attr}"


def test_rooms_import_downwards_only() -> None:
    package = Path(medray.__file__).parent
    assert len(list(package.rglob("*.py"))) > 2
    assert violations(package) == []


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("plan/bytes.py", "from medray.config.loading import load", []),
        ("cli/train.py", "import medray.errors\nfrom medray import __version__, train", []),
        ("data/shards/shard_file.py", "from . import records\nfrom .records import Record", []),
        ("train/driver/run.py", "import ray.train\nfrom ray.train import torch\nimport deepspeed", []),
        ("tune/search.py", "from ray.tune import Tuner", []),
        ("models/adapters/merging.py", "import deepspeed.zero", []),
        ("tracking/runs.py", "import mlflow", []),
        ("__main__.py", "from medray.cli import main", []),
        (
            "config/loading/load.py",
            "import medray.plan.bytes",
            ["config/loading/load.py:1: config imports plan, above it"],
        ),
        ("errors.py", "from . import config", ["errors.py:1: errors imports config, above it"]),
        (
            "methods/sft.py",
            "def f():\n    from ..models import merge",
            ["methods/sft.py:2: methods imports models, on the same step"],
        ),
        ("tune/a.py", "from medray import icl", ["tune/a.py:1: tune imports icl, on the same step"]),
        (
            "data/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from medray.train import driver",
            ["data/a.py:3: data imports train, above it"],
        ),
        (
            "data/b.py",
            "import importlib\nimportlib.import_module('medray.train.driver.run')",
            ["data/b.py:2: data imports train, above it"],
        ),
        ("data/c.py", "from ray import train", ["data/c.py:1: data imports ray.train, which is for train"]),
        (
            "data/d.py",
            "import ray as r\nr.get(1)\nr.tune.report({})",
            ["data/d.py:3: data imports ray.tune, which is for tune"],
        ),
        (
            "evaluate/a.py",
            "import deepspeed.comm",
            ["evaluate/a.py:1: evaluate imports deepspeed, which is for models and train"],
        ),
        ("cli/ui.py", "import mlflow.server", ["cli/ui.py:1: cli imports mlflow, which is for tracking"]),
        (
            "__init__.py",
            "from medray.train import run",
            ["__init__.py:1: medray/__init__.py imports train: every room would import it too"],
        ),
        ("utils/a.py", "", ["utils/a.py:1: utils is no room of the design"]),
        ("helpers.py", "", ["helpers.py:1: helpers is no room of the design"]),
    ],
)
def test_rule_sees_a_made_up_tree(tmp_path: Path, file: str, source: str, expected: list[str]) -> None:
    path = tmp_path / "medray" / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    assert violations(tmp_path / "medray") == expected
