"""The command `medray predict` before it needs a cluster: its model, its data, and the facts that decide the result."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray import storage
from medray.cli.asked_model import NamedModel, decoding_of
from medray.errors import InputError
from medray.storage import StoragePath

if TYPE_CHECKING:
    from medray.config.backends import BackendConfig
    from medray.data.index.sources import Source
    from medray.evaluate.prediction.layouts import TeamName

SUMMARY = "summary.json"
STOPPING = "stopping; finished parts are kept"


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedCommand:
    """The command with everything that needs no cluster.

    sources: None for the validation shards of the run. samples: answers to each row of the sources.
    """

    named: NamedModel
    out: StoragePath
    sources: tuple[Source, ...] | None
    facts: dict[str, Any]
    samples: int = 1


def asked_command(
    arguments: argparse.Namespace,
    named: NamedModel,
    paths: Sequence[str],
    out: StoragePath,
    samples: int = 1,
) -> AskedCommand:
    """Check the command, and collect what decides its result."""
    from medray.evaluate.prediction.engines import check_engine
    from medray.evaluate.prediction.inputs import facts_of, named_sources, split_sources

    asked, config = named.asked, named.config
    asked.check_task(arguments.task)
    if arguments.rationale:
        if arguments.task != "label":
            raise InputError(
                "this option adds the rationale to the label", key="--rationale", fix="use --task label"
            )
        asked.check_task("rationale")
    decoding = decoding_of(arguments, config)
    backend = backend_of(arguments)
    check_engine(arguments.engine, asked, decoding, backend, log_probability=arguments.log_probability)
    if paths and arguments.split:
        raise InputError("files and a split exclude each other", key="--split", fix="name files, or a split")
    found: tuple[Source, ...] | None = None
    if paths:
        found = named_sources(paths, config)
    elif arguments.split or named.run is None or named.run.tokens is None or backend or arguments.rationale:
        # Token shards hold the prompts of training, from which no server and no second prompt can be asked.
        found = split_sources(config, arguments.split or "validation")
    if found is None:
        assert named.run is not None
        manifest = named.run.manifests.get("validation")
        if not manifest:
            raise InputError(
                "the run has no validation split",
                key="DATA",
                fix="name the files to predict, such as `medray predict RUN new.jsonl --to out`",
            )
        facts: dict[str, Any] = {"input, validation shards": str(named.run.tokens)}
    else:
        facts = facts_of(found)
    facts |= {
        **weights_facts(asked.weights, out / ".hashes"),
        "prompts": json.dumps(asdict(asked.spec), sort_keys=True, default=str),
        "task": arguments.task,
        "rationale": arguments.rationale,
        "engine": arguments.engine,
        "log_probability": arguments.log_probability,
        "show_prompt": arguments.show_prompt,
        "strip_section_header": arguments.strip_section_header,
        **{f"decoding.{name}": value for name, value in asdict(decoding).items()},
    }
    if backend is not None:
        facts["backend"] = f"{backend.model} at {backend.base_url}"
    facts["decoding.stop"] = list(decoding.stop)
    if samples > 1:
        facts["samples"] = samples
    return AskedCommand(
        named=named, out=out, sources=found, facts=json.loads(json.dumps(facts)), samples=samples
    )


def weights_facts(place: str, cache: StoragePath | None) -> dict[str, Any]:
    """Return facts about the weights of a model, and about the base of an adapter. cache: folder that keeps their hashes."""
    from medray.models.export import base_of
    from medray.models.weights_identity import of_folder

    folder = storage.local(place) if storage.is_remote(place) else Path(place)
    base = base_of(folder)
    facts: dict[str, Any] = {"model": of_folder(str(folder), cache)}
    return facts if base == str(folder) else facts | {"base model": of_folder(base, cache)}


def finished(out: StoragePath) -> dict[str, Any] | None:
    """Return the summary of earlier predictions that are complete; None if there are none."""
    from medray.evaluate.prediction.part_files import PREDICTIONS
    from medray.storage import json_files

    try:
        summary = json_files.read_sealed(out / SUMMARY, fix="start from the beginning with --overwrite")
    except FileNotFoundError:
        return None
    return summary if summary.get("status") == "done" and (out / PREDICTIONS).exists() else None


def check_folder(out: StoragePath) -> None:
    """Raise InputError if --to is a file, or a folder that something else has filled."""
    from medray.evaluate.prediction.manifest import MANIFEST
    from medray.report.run_log import FILE as LOG

    storage.check_reachable(out)
    if isinstance(out, Path) and out.exists() and not out.is_dir():
        raise InputError("this is a file, not a folder", file=out, key="--to", fix="name a new folder")
    others = {name for name in storage.sizes(out) if not name.startswith(".")}
    if others - {"rejects.jsonl", LOG, f"{LOG}.1"} and MANIFEST not in others:
        raise InputError(
            "this folder has files that medray predict did not write",
            file=out,
            key="--to",
            fix="name a new folder",
        )


def clear(out: StoragePath) -> None:
    """Remove earlier predictions from a folder."""
    from medray.evaluate.prediction.inputs import CONVERTED, REJECTS
    from medray.evaluate.prediction.layouts import remove_layouts
    from medray.evaluate.prediction.manifest import MANIFEST
    from medray.evaluate.prediction.part_files import PARTS, PREDICTIONS

    for name in (SUMMARY, PREDICTIONS, REJECTS, MANIFEST):
        (out / name).unlink(missing_ok=True)
    for name in (PARTS, CONVERTED):
        storage.remove_tree(out / name)
    remove_layouts(out)


def backend_of(arguments: argparse.Namespace) -> BackendConfig | None:
    """Return the server of the engine endpoint; None for other engines. Raises InputError for a wrong file."""
    if arguments.backend is None:
        return None
    from medray.config.backends import BackendConfig
    from medray.config.loading.own_file import read_own

    return read_own(BackendConfig, arguments.backend)


def team_name(arguments: argparse.Namespace) -> TeamName | None:
    """Return the name of a submission, if the command gives one. Raises InputError for a part of one."""
    from medray.evaluate.prediction.layouts import TeamName

    parts = {name: getattr(arguments, name) for name in ("team", "run_id", "subtask")}
    given = [name for name, value in parts.items() if value]
    if not given:
        return None
    if len(given) < len(parts) or arguments.layout != "sum":
        raise InputError(
            "--team, --run-id and --subtask name the folder of --layout sum together",
            key=f"--{given[0].replace('_', '-')}",
            fix="use --layout sum with all three, such as --team mine --run-id 1 --subtask en",
        )
    return TeamName(**parts)
