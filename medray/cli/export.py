"""The verb `medray export`: write the weights of a finished run for use elsewhere."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medray import storage
from medray.errors import InputError
from medray.storage import StoragePath

FORMATS = ("adapter", "merged", "nf4", "gguf")
SHARD_MB = 200


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "export",
        help="write the weights of a finished run for use elsewhere",
        description="Write the weights of a finished run as an adapter, merged, in 4 bits or as GGUF, and measure how "
        "much of the training's gain they keep. The folder also gets a model card, the tokenizer and the run's numbers.",
    )
    verb.add_argument(
        "run_folder", metavar="RUN", help="folder of a run, <run.storage>/<run.name>, or s3://..."
    )
    verb.add_argument("--format", required=True, choices=FORMATS, help="adapter: unchanged; merged: into the base; "
                      "nf4: merged, then 4 bits for bitsandbytes; gguf: merged, then converted by llama.cpp")  # fmt: skip
    verb.add_argument("--to", help="folder to write; default: export-<format> in the run's folder")
    verb.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        help="type of merged weights; default: the type that training used",
    )
    verb.add_argument(
        "--shard-mb",
        type=int,
        default=SHARD_MB,
        help=f"maximum size of a file of weights, and of the weights in memory, in MB ({SHARD_MB})",
    )
    verb.add_argument(
        "--gguf-type", choices=("q8_0", "f16", "q4_k_m"), help="type of the GGUF weights; default: q8_0"
    )
    verb.add_argument(
        "--no-verify",
        action="store_true",
        help="do not measure the written weights; measuring loads the whole model in float32 two or three times, one after "
        "the other",
    )
    verb.add_argument(
        "--push-to",
        metavar="HUB_ID",
        help="upload the result to this private repository, with HF_TOKEN from the environment",
    )
    verb.add_argument(
        "--json", action="store_true", help="print what was written as one JSON object at the end"
    )
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    from medray.train.run_folder.finished_run import finished_run

    found = finished_run(arguments.run_folder)
    target = storage.at(arguments.to) if arguments.to else found.folder / f"export-{arguments.format}"
    if isinstance(target, Path):
        target = target.resolve()  # "." has no name for a temporary folder next to it
    if arguments.push_to:
        from medray.models.export.hub import check_push

        check_push(arguments.push_to)
    from medray.release.release import release
    from medray.release.wanted import Wanted, check_wanted
    from medray.report.console import Console

    wanted = Wanted(
        format=arguments.format,
        dtype=arguments.dtype,
        shard_bytes=arguments.shard_mb * 1_000_000,
        gguf=arguments.gguf_type,
        verify=not arguments.no_verify,
    )
    check_wanted(found, wanted, target)
    _quiet_libraries()
    console = Console(sys.stderr)
    done = release(found, wanted, target, console.phase)
    if arguments.push_to:
        _push(found, done.folder, arguments.push_to, console)
    console.table("export", [("folder", str(done.folder)), ("files", str(len(done.files)))])
    if arguments.json:
        compared = None
        if done.comparison is not None:
            compared = asdict(done.comparison) | {"kept_percent": done.comparison.kept_percent}
        print(
            json.dumps(
                {
                    "format": arguments.format,
                    "folder": str(done.folder),
                    "files": done.files,
                    "comparison": compared,
                    "notes": list(done.notes),
                    "pushed_to": arguments.push_to,
                }
            )
        )
    return 0


def _quiet_libraries() -> None:
    """Hide messages of libraries about their own code, and progress bars of files that load in a moment."""
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")


def _check(arguments: argparse.Namespace) -> None:
    """Check the options that do not depend on the run."""
    if arguments.shard_mb < 1:
        raise InputError(
            "the size of a file must be at least 1 MB",
            key="--shard-mb",
            value=arguments.shard_mb,
            fix=f"use --shard-mb {SHARD_MB}",
        )
    for name, formats in (("dtype", FORMATS[1:]), ("gguf_type", FORMATS[3:])):
        value = getattr(arguments, name)
        if value is not None and arguments.format not in formats:
            raise InputError(
                f"this option has no effect with --format {arguments.format}",
                key=f"--{name.replace('_', '-')}",
                value=value,
                fix=f"remove this option, or use --format {formats[0]}",
            )


def _push(found: Any, folder: StoragePath, hub_id: str, console: Any) -> None:
    from medray.models.export.hub import push

    if found.config.data.tokenizer == "train":
        console.phase(
            "note", "the tokenizer was trained on the records: its vocabulary contains words of the records"
        )
    console.phase("push", hub_id)
    push(storage.local(folder), hub_id)
