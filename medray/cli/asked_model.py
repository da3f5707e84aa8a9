"""The RUN|MODEL argument of `predict`, `chat`, `serve` and others: a run, an export, or an untuned model."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.cli.run_argument import refuse_credentials
from medray.errors import InputError

if TYPE_CHECKING:
    from medray.config import Config
    from medray.evaluate.asking import AskedModel
    from medray.evaluate.decoding import Decoding
    from medray.train.run_folder.finished_run import FinishedRun

# Keys that have an effect on predictions of a tuned model: its prompts and limits are those of its training.
KEYS = (
    "data.columns",
    "data.max_rejects",
    "data.root",
    "data.dataset",
    "data.clinic",
    "eval.generation",
    "eval.batch_size",
    "cluster",
)
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z0-9_]+(\[\d+\])?)+=")


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedModel:
    """The model that a command names. run: its run, if it names one. config: of the run, of --config, or defaults."""

    asked: AskedModel
    config: Config
    run: FinishedRun | None


def add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "model",
        metavar="RUN|MODEL",
        help="folder of a finished run or of an export; or an untuned model: a folder, a packaged model, a hub id",
    )
    verb.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file with eval, cluster and data.columns; default: the run's config. For an untuned model, also with the prompts",
    )


def add_decoding(verb: argparse.ArgumentParser) -> None:
    """Add the options that decide how answers are written. The rest is in `eval.generation`."""
    verb.add_argument(
        "--temperature", type=float, default=0.0, help="sample at this temperature; 0 is greedy (0)"
    )
    verb.add_argument(
        "--top-p", type=float, default=1.0, help="sample from the most probable tokens of this share (1.0)"
    )
    verb.add_argument(
        "--seed", type=int, default=0, help="seed of sampling; a row's text depends on it and its id (0)"
    )
    verb.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="text that ends an answer; may be repeated",
    )


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (paths of data, key=value overrides) among the words of a command. A file that exists is data."""
    overrides = [word for word in words if _OVERRIDE.match(word) and not Path(word).exists()]
    return [word for word in words if word not in overrides], overrides


def named_model(name: str, config_file: str | None, overrides: Sequence[str]) -> NamedModel:
    """Return the model that the user names. Raises InputError if there is none, or if it has no export."""
    from medray.evaluate.asking import asked_export, asked_model
    from medray.models.export.usage import FILE
    from medray.train.run_folder.files import CONFIG
    from medray.train.run_folder.finished_run import finished_run

    refuse_credentials(name, "RUN|MODEL")
    if name.endswith((".yaml", ".yml")):
        from medray.config import read
        from medray.train.run_folder.files import folder_of

        config_of_run, name = name, str(folder_of(read(name)))
        if not (storage.at(name) / CONFIG).exists():
            raise InputError(
                f"the run of this config was not started: there is no run in {name}",
                file=config_of_run,
                key="RUN|MODEL",
                fix=f"train it first with `medray train {config_of_run}`, or name the folder of a run or a model",
            )
    folder = storage.at(name)
    storage.check_reachable(folder)
    if (folder / CONFIG).exists():
        run = finished_run(name)
        config = _config(config_file, overrides, run.config, tuned=True)
        return NamedModel(asked=asked_export(run.export, run.config), config=config, run=run)
    if (folder / FILE).exists():
        found = asked_export(folder)
        config = _config(config_file, overrides, _with_decoding(found.decoding), tuned=True)
        return NamedModel(asked=found, config=config, run=None)
    if folder.is_dir() and not (folder / "config.json").exists():
        raise InputError(
            "this folder holds neither a finished run nor a model",
            file=folder,
            fix="name <run.storage>/<run.name>, a folder that medray export wrote, or a folder with config.json",
        )
    from medray.config import Config
    from medray.plan.model_name import check_exists

    check_exists(name, "RUN|MODEL")
    config = _config(config_file, overrides, Config(), tuned=False)
    return NamedModel(asked=asked_model(name, config), config=config, run=None)


def decoding_of(arguments: argparse.Namespace, config: Config) -> Decoding:
    """Return the decoding that a command asks for. Raises InputError for values that do not fit together."""
    from medray.evaluate.decoding import Decoding

    return Decoding.of(
        config.eval.generation,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
        stop=tuple(arguments.stop or ()),
    )


def _config(file: str | None, overrides: Sequence[str], default: Config, *, tuned: bool) -> Config:
    keys = [override.partition("=")[0] for override in overrides]
    for key in keys:
        if tuned and not any(key == each or key.startswith(f"{each}.") for each in KEYS):
            raise InputError(
                "this key has no effect here: a tuned model is asked with the prompts and limits of its training",
                key=key,
                fix=f"remove it; these keys have an effect: {', '.join(KEYS)}",
            )
    if file is not None:
        from medray.config import read

        return read(file, overrides)
    if not overrides:
        return default
    return default.override({key: _value(override) for key, override in zip(keys, overrides, strict=True)})


def _value(override: str) -> Any:
    from medray.config.loading.yaml_text import NotYamlError, parse

    text = override.partition("=")[2]
    try:
        return parse(text)
    except NotYamlError:
        return text


def _with_decoding(decoding: Decoding) -> Config:
    """Return a config of defaults, with the decoding of an export."""
    from medray.config import Config

    generation = {"max_new_tokens": decoding.max_new_tokens, "num_beams": decoding.num_beams}
    return Config.model_validate({"eval": {"generation": generation}})
