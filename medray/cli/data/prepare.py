"""The verb `medray data prepare`: write token shards without training."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from medray.cli.cluster import cluster_address


def add_to(actions: Any) -> None:
    prepare = actions.add_parser(
        "prepare",
        help="write the token shards of a config without training",
        description="Write the token shards of a config. Later runs with the same data reuse them.",
    )
    prepare.add_argument("config", help="YAML file")
    prepare.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values of dotted keys; later ones take precedence"
    )
    prepare.add_argument("--json", action="store_true", help="print what was written as one JSON object")
    prepare.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.config import read
    from medray.train import check

    config = read(arguments.config, arguments.overrides)
    address = cluster_address(config)
    check(config, elsewhere=address is not None, model=False)

    from medray.cli.cluster import before_import, connect, disconnect
    from medray.report.console import Console, duration

    console = Console(sys.stderr)
    before_import(address)

    from medray.data.shards.preparation import ready
    from medray.plan.model_config import describe
    from medray.train.driver import data_phase

    began = time.perf_counter()
    model = describe(config.model, config.data.vocab_size)
    watch = ConsoleWatch(console)
    found = ready(config, model.architecture, model.folder)
    if found is not None:
        console.phase("data", "all shards exist from an earlier run")
        encoding = data_phase.Encoding(found)
        manifests = encoding.manifests(watch)
    else:
        try:
            connect(address)
            encoding = data_phase.prepare(config, model, watch, _bar(console))
            manifests = encoding.manifests(watch)
        finally:
            disconnect()
    rows: list[tuple[str, ...]] = [("split", "task", "rows", "tokens", "loss tokens", "cut")]
    for split, manifest in manifests.items():
        rows += [
            (
                split,
                task,
                *(f"{found[name]:,}" for name in ("rows", "tokens", "loss_tokens", "truncated")),
            )
            for task, found in manifest["tasks"].items()
        ]
    console.table(f"shards, {duration(time.perf_counter() - began)}", rows)
    console.table("folders", [(split, tokens.folder) for split, tokens in encoding.sets.items()])
    if arguments.json:
        folders = {split: tokens.folder for split, tokens in encoding.sets.items()}
        print(json.dumps({"splits": manifests, "folders": folders}))
    return 0


class ConsoleWatch:
    """Passes the messages of the data preparation to the console."""

    def __init__(self, console: Any) -> None:
        self._console = console

    def phase(self, name: str, detail: str = "") -> None:
        self._console.phase(name, detail)

    def beat(self) -> None:
        self._console.heartbeat()


def _bar(console: Any) -> Any:
    """Return a progress bar: shards and rows written, and rows per second since the first call."""
    began, first = time.perf_counter(), -1

    def show(encoding: Any) -> None:
        nonlocal first
        written, every = (sum(counts) for counts in zip(*map(encoding.shards, encoding.sets), strict=True))
        total = sum(tokens.index.rows for tokens in encoding.sets.values())
        rows = round(total * written / max(every, 1))
        first = rows if first < 0 else first
        rate = (rows - first) / max(time.perf_counter() - began, 1e-3)
        console.progress(
            "encoding", written, every, f"{rows:,} rows" + (f", {rate:,.0f} a second" if rate else "")
        )

    return show
