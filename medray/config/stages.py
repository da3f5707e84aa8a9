"""Stages: several runs in one YAML, each on the weights of the one before.

A stage has a name and any sections except `run`, `cluster`, `launch` and `stages`, which take precedence over the top
level. Stage n is a whole run, in the folder `<run.name>.<n>-<stage>` of the same storage, with a config of its own that
`stage_configs` makes. From the second stage on, the model is the folder with the weights of the previous stage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from medray.config.loading.dotted import merged
from medray.config.section import Section, key

if TYPE_CHECKING:
    from medray.config.schema import Config

SECTIONS = ("model", "data", "method", "peft", "train", "tracking", "eval")
MERGED = "merged"  # folder in a stage's run folder with the weights that the next stage begins from
_LONGEST_NAME = 40
# Keys of `model` that still apply if the weights are those of the previous stage.
_KEPT_OF_MODEL = ("quantization", "double_quantization", "compute_dtype")


class StageConfig(Section):
    """One stage: its name, and the sections that differ from the top level."""

    name: str = key(..., "Part of the name of the stage's run folder, `<run.name>.<n>-<name>`.")
    model: dict[str, Any] = key(
        {},
        "Model of the stage. From the second stage on only quantization: the weights are those of the stage before.",
    )
    data: dict[str, Any] = key({}, "Data of the stage.")
    method: dict[str, Any] = key({}, "Method of the stage, which defines its loss.")
    peft: dict[str, Any] = key({}, "Adapter of the stage.")
    train: dict[str, Any] = key({}, "Steps, batch and optimizer of the stage.")
    tracking: dict[str, Any] = key({}, "Logging of the stage.")
    eval: dict[str, Any] = key({}, "Evaluation of the stage.")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{_LONGEST_NAME - 1}}}", name):
            raise ValueError(
                f"a name has 1 to {_LONGEST_NAME} letters, digits, '_' or '-', and begins with a letter or digit",
                "use a name such as pre-ft",
            )
        return name

    def tree(self) -> dict[str, Any]:
        """Return the sections that the stage sets."""
        return {name: getattr(self, name) for name in SECTIONS if name in self.model_fields_set}


def ignored_keys(stage: StageConfig) -> tuple[str, ...]:
    """Return the keys of a later stage that would have no effect, because the stage before decides them."""
    model = tuple(f"model.{name}" for name in stage.model if name not in _KEPT_OF_MODEL)
    return (*model, *(f"data.{name}" for name in ("tokenizer", "vocab_size") if name in stage.data))


def stage_tree(top: Mapping[str, Any], sections: Mapping[str, Any], number: int, name: str) -> dict[str, Any]:
    """Return the tree of one stage's config: the top level with the stage's sections merged over it, key by key.

    number, name: those of the stage; numbers begin at 1. Lists and single values of the stage replace those of the top level,
    but a name of the whole gets the number and name of the stage.
    """
    tree = merged({section: value for section, value in top.items() if section != "stages"}, sections)
    run, tracking, end = dict(tree.get("run") or {}), tree.get("tracking"), f".{number}-{name}"
    whole = top.get("tracking")
    shown = whole.get("run_name") if isinstance(whole, Mapping) else None
    if isinstance(shown, str) and isinstance(tracking, Mapping) and tracking.get("run_name") == shown:
        tree["tracking"] = {**tracking, "run_name": shown + end}
    return tree | {"run": run | {"name": f"{run.get('name', 'run')}{end}"}}


def stage_configs(config: Config) -> tuple[Config, ...]:
    """Return the configs of all stages, each for a whole run; () for a config without stages.

    Stage 2 and later begin from the weights of the previous stage and keep the tokenizer of the first. No stage trains on
    rows of a benchmark of any stage, because the last model has learned from all of them. Paths are not resolved, as `read`
    has made them absolute. Raises InputError.
    """
    from medray.config.loading.load import validated

    top = config.model_dump(exclude_unset=True)
    trees = [
        stage_tree(top, stage.tree(), number, stage.name) for number, stage in enumerate(config.stages, 1)
    ]
    benchmarks = _benchmarks(trees)
    found: list[Config] = []
    for tree in trees:
        if benchmarks:
            tree["data"] = dict(tree.get("data", {})) | {"decontaminate": benchmarks}
        if found:
            before = found[-1]
            model = {name: value for name, value in tree.get("model", {}).items() if name in _KEPT_OF_MODEL}
            tree["model"] = model | {"name": weights_folder(before), "init": "pretrained"}
            tree["data"] = dict(tree.get("data", {})) | {"tokenizer": _tokenizer(found[0])}
            tree["run"] = {name: value for name, value in tree["run"].items() if name != "begin_from"}
        found.append(validated(tree))
    return tuple(found)


def _benchmarks(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the benchmark files of all stages, each once and in the same order for each stage, which keeps shards shared."""
    given = [tree.get("data", {}).get("decontaminate") or () for tree in trees]
    return list(
        dict.fromkeys(file for files in given for file in ((files,) if isinstance(files, str) else files))
    )


def weights_folder(config: Config) -> str:
    """Return the folder with the weights of a finished stage: its export, or the merged model if it trained an adapter."""
    folder = "export" if config.peft.type == "none" else MERGED
    run = config.run
    return f"{run.storage.rstrip('/')}/{run.name}/{folder}"


def checkable(configs: tuple[Config, ...]) -> tuple[Config, ...]:
    """Return the configs of stages with the model of the first in all of them, as later models are not written yet."""
    first = configs[0].model
    base = {
        name: getattr(first, name) for name in ("name", "init", "preset") if name in first.model_fields_set
    }
    made = [configs[0]]
    for config in configs[1:]:
        own = {
            name: getattr(config.model, name)
            for name in _KEPT_OF_MODEL
            if name in config.model.model_fields_set
        }
        made.append(config.override({"model": own | base, "data.tokenizer": configs[0].data.tokenizer}))
    return tuple(made)


def _tokenizer(first: Config) -> str:
    """Return the tokenizer of the first stage by its own name, so that stages on the same data share token shards.

    A tokenizer that the first stage trains has no name yet; later stages read it from the weights.
    """
    named = str(first.model.name) if first.data.tokenizer == "model" else first.data.tokenizer
    return "model" if named == "train" else named
