"""Any text in a YAML file or an override gives a config or an InputError."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

from run_configs import RUN_CONFIGS

from medray.config import Config, dump, read
from medray.config.checks import check
from medray.config.explain import keys
from medray.errors import InputError

_SCALARS = (
    *(
        "",
        "null",
        "~",
        "true",
        "no",
        "0",
        "-1",
        "1",
        "2.5",
        "1e-3",
        "1e400",
        "-.inf",
        ".nan",
        "0x1f",
        "1:30",
        "=",
        "<<",
    ),
    *(
        "2024-02-30",
        "clinic",
        "distill",
        "lora",
        "t5-tiny",
        "random",
        "fp16",
        "rouge",
        "./m",
        "~",
        "~x/y",
        "a/b",
        "/",
    ),
    *(
        "'",
        '"',
        '"\\0"',
        '"\\ud800"',
        "*a",
        "&a 1",
        "!!bool x",
        "!!set {a}",
        "!!binary x",
        "- x",
        "? x",
        "@",
        "\t",
        "é",
    ),
    *(
        "9" * 400,
        "x" * 5000,
        "[]",
        "{}",
        "[1, [2]]",
        "{a: {b: 1}}",
        "a.jsonl",
        "[a.csv, 3]",
        "%",
        "#",
        "|",
        ">-\n  x",
    ),
)


def _text(rng: random.Random, names: list[str]) -> str:
    """Return noise, a broken recipe, or existing keys with their defaults and sometimes with random values."""
    kind = rng.randrange(4)
    if kind == 0:
        return "".join(rng.choices(string.printable + "é…\x00\ufeff", k=rng.randrange(60)))
    if kind == 1:
        recipe = list(rng.choice(RUN_CONFIGS).read_text())
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(recipe))
            recipe[at : at + rng.randrange(3)] = rng.choice(
                ["", "\t", ":", "{", "]", "- ", "&a ", "*a", "\n", "9", "é"]
            )
        return "".join(recipe)
    tree: dict[str, Any] = {"data": {"dataset": "clinic"}}
    for name in rng.choices(names, k=rng.randrange(1, 6)):
        *sections, key = name.split(".")
        branch, default = tree, Config().model_dump(mode="json")
        for section in sections:
            branch, default = branch.setdefault(section, {}), default[section] or {}
        branch.setdefault(key, json.dumps(default.get(key)) if rng.random() < 0.9 else rng.choice(_SCALARS))
    return _block(tree, "")


def _block(tree: dict[str, Any], indent: str) -> str:
    lines = [
        f"{indent}{key}:\n{_block(value, indent + '  ')}"
        if isinstance(value, dict)
        else f"{indent}{key}: {value}"
        for key, value in tree.items()
    ]
    return "\n".join(lines)


def test_any_text_gives_a_config_or_an_input_error(tmp_path: Path) -> None:
    names = list(keys())
    leaves = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    outcomes = {"config": 0, "refused": 0}
    for seed in range(500):
        rng = random.Random(seed)
        file = tmp_path / "run.yaml"
        file.write_bytes(_text(rng, leaves).encode("utf-8", "replace"))
        overrides = [f"{rng.choice(names)}={rng.choice(_SCALARS)}"] * (rng.random() < 0.3)
        try:
            config = read(file, overrides)
            dump(config)
            check(config)
            outcomes["config"] += 1
        except InputError as error:
            outcomes["refused"] += bool(str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {file.read_bytes()[:300]!r} with {overrides}") from error
    assert min(outcomes.values()) > 50, outcomes
