"""The pipeline from corpora to token shards, with Ray Data, in parallel with training.

An actor without CPUs runs two passes: first the index, over ranges of the sources, then the shards in the order in
which epoch 0 reads them, so that training can start when the first ones exist. Everything is stored under a
fingerprint of all settings and data that determine the tokens: a later run with the same fingerprint reuses the
shards, and a killed run resumes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
import ray.data

from medray import storage
from medray.config import Config
from medray.config.method_specs import spec_of
from medray.data import corpora, files, readers
from medray.data.index.membership import ShardSpec, SourceParts, SplitIndex, join
from medray.data.index.row_index import RangeIndex, check_columns, index_range
from medray.data.index.sources import Source, extraction_of
from medray.data.index.split_checks import check_reading, check_split
from medray.data.index.text_overlap import Benchmarks, texts
from medray.data.records import BadRowError
from medray.data.shards.preparation import (
    CONVERTED,
    INDEX,
    REJECTS,
    SPLITS,
    Preparation,
    long_rows,
    manifests,
    read_indexes,
)
from medray.data.shards.seal import FAILED, MANIFEST, is_sound
from medray.data.shards.shard_file import shard_path
from medray.data.shards.shard_task import encode_shard, shard_records
from medray.data.shards.split_summary import read_manifest, summarize
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import train_tokenizer
from medray.errors import InputError, MedrayError, RunFailedError
from medray.storage import StoragePath, json_files

# As many tasks as CPUs; one task still fits if a trial of a search holds a hundredth of the last CPU.
TASK_CPUS = 0.9
LEFT_SECONDS = 3600.0
HASHING_THREADS = 8  # most of their time is spent waiting for storage
PRIVATE = 0o077  # the umask: the files contain patients' text


Parts = dict[str, list[SourceParts]]  # split → one entry per source


class Pipeline:
    """The two passes over the data of one run, index and encode.

    Run it as an actor: `ray.remote(Pipeline).options(num_cpus=0)`.
    """

    def __init__(self, config: Config, architecture: str, model_folder: str | None) -> None:
        quiet_ray_data()
        os.umask(PRIVATE)
        self.config = config
        self._model = architecture, model_folder
        self.sets: dict[str, TokenSet] = {}

    def index(self) -> dict[str, TokenSet]:
        """Index the sources, check the splits, and return the token set of each split with rows.

        The shards may not exist yet.
        """
        early = self._lay_out()
        storage.make_private(self.folder)
        self.sources = self._plain_sources()
        indexes = self._indexes(early)
        for split, index in indexes.items():
            check_split(self.config, split, index, self.folder / split / REJECTS)
        self.sets = {split: self.layout.token_set(split, index) for split, index in indexes.items()}
        if self.config.data.tokenizer == "train":
            vocabulary, target = self.config.data.vocab_size, self.layout.tokenizer
            train_tokenizer(self._texts(indexes["train"]), vocabulary, target)
        return self.sets

    def _lay_out(self) -> Parts | None:
        """Compute the folder, which is named by the hash of all files.

        If no source must be converted, index the sources in parallel with an unknown hash and return their ranges.
        Otherwise return None.
        """
        early = None
        self.layout = Preparation(self.config, *self._model, compute=False)
        if not self.layout.known:
            sources = self.layout.sources
            plain = all(source.positional for group in sources.values() for source in group)
            side = ThreadPoolExecutor(1)
            hashed = side.submit(Preparation, self.config, *self._model)
            # Without `with`: if reading fails, do not wait for the hash of an endless file.
            early = self._index_ranges(sources) if plain else None
            self.layout = hashed.result()
            side.shutdown()
        self.folder = self.layout.folder
        self.converted = self.folder / CONVERTED / f"{socket.gethostname()}-{os.getpid()}"
        return early

    def encode(self, tokenizer: bytes | None = None) -> dict[str, dict[str, Any]]:
        """Write all missing shards and return the manifest of each split.

        Validation comes first: it is small and needed first.

        tokenizer: a pickled tokenizer from a process that has torch loaded, because loading one would cost each task
        seconds.
        """
        self.tokenizer = tokenizer
        try:
            if not self.sets:  # the process that made the index was killed
                self.index()
            for token_set in (
                self.sets.values()
            ):  # remove a failure of an earlier run, which workers would take for a new one
                (storage.at(token_set.folder) / FAILED).unlink(missing_ok=True)
            for split in reversed(SPLITS):
                if split in self.sets and read_manifest(self.folder / split) is None:
                    self._encode(split, self.sets[split])
        except Exception as error:
            # The message of a library's error may quote a record; it is in Ray's own log files.
            reason = str(error) if isinstance(error, MedrayError) else type(error).__name__
            for token_set in self.sets.values():
                _write_json(storage.at(token_set.folder) / FAILED, {"reason": reason})
            raise
        self._remove_converted()
        return manifests(self.sets)

    def _remove_converted(self) -> None:
        """Remove this run's plain files, and old ones of killed runs.

        A live run reads its plain files only while it indexes, which takes less time than LEFT_SECONDS.
        """
        storage.remove_tree(self.converted)
        if not isinstance(self.converted, Path):
            return  # a lifecycle rule of the bucket removes files of killed runs
        with contextlib.suppress(OSError):
            for left in self.converted.parent.iterdir():
                if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
            self.converted.parent.rmdir()

    def _plain_sources(self) -> dict[str, list[Source]]:
        """Return sources that can be read from any position. Other sources are converted, unless all shards exist."""
        plain = {split: list(group) for split, group in self.layout.sources.items()}
        folder = self.converted
        todo = [
            (split, number)
            for split, group in plain.items()
            for number, source in enumerate(group)
            if not source.positional
        ]
        if not todo or read_manifest(self.folder / "train"):
            return plain
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

        def one(item: dict[str, Any]) -> dict[str, Any]:
            target = folder / f"{item['split']}-{item['number']}.jsonl"
            plain[item["split"]][item["number"]].convert(target)
            return {}

        _run([{"split": split, "number": number} for split, number in todo], one)
        for split, number in todo:
            plain[split][number] = plain[split][number].plain_at(folder / f"{split}-{number}.jsonl")
        return plain

    def _indexes(self, early: Parts | None) -> dict[str, SplitIndex]:
        if done := read_indexes(self.folder):
            return done
        parts = early or self._index_ranges(self.sources)
        data = self.config.data
        for split, group in parts.items():
            if not group:
                continue
            # The rejects are written before any other check can fail because of missing rows.
            (self.folder / split).mkdir(exist_ok=True, mode=0o700)
            file = self.folder / split / REJECTS
            _write_rejects(file, group)
            ranges = [part for source in group for part in source.ranges]
            reasons = Counter(reject["reason"] for part in ranges for reject in part.rejects)
            good = sum(int(part.good.sum()) for part in ranges)
            check_reading(self.config, split, good, reasons, file, self.sources[split])
        held_out = corpora.presets(data.dataset).hold_out if data.dataset not in (None, "clinic") else 0.0
        indexes = join(
            parts["train"], parts["validation"], data, seed=self.config.run.seed, hold_out=held_out
        )
        for split in reversed(SPLITS):
            if split in indexes:
                folder = self.folder / split
                folder.mkdir(exist_ok=True, mode=0o700)
                if not parts[split]:  # its rows come from training, and so do its rejects
                    _write_rejects(folder / REJECTS, [])
                indexes[split].write(folder / INDEX)
        return indexes

    def _index_ranges(self, group: Mapping[str, Sequence[Source]]) -> Parts:
        shard_rows = self.config.data.shard_rows
        benchmarks, extraction = _benchmarks(self.config.data.decontaminate), extraction_of(self.config)
        method, long = spec_of(self.config.method), long_rows(self.config, *self._model)
        items = [
            {"split": split, "source": number, "range": place, "start": start, "stop": stop}
            for split, members in group.items()
            for number, source in enumerate(members)
            for place, (start, stop) in enumerate(source.ranges())
        ]

        def one(item: dict[str, Any]) -> dict[str, Any]:
            source = group[item["split"]][item["source"]]
            found = index_range(
                source,
                item["start"],
                item["stop"],
                shard_rows,
                benchmarks if item["split"] == "train" else None,
                extraction,
                method,
                long.among if long and item["split"] == "train" else None,
            )
            return {name: item[name] for name in ("split", "source", "range")} | {"part": found.to_bytes()}

        found = {
            (row["split"], row["source"], row["range"]): RangeIndex.from_bytes(row["part"])
            for row in _run(items, one, of_a_task=_items_of_a_task(len(items)))
        }
        parts: Parts = {}
        for split, members in group.items():
            parts[split] = []
            for number, source in enumerate(members):
                ranges = [found[key] for key in sorted(found) if key[:2] == (split, number)]
                check_columns(
                    source,
                    {name for part in ranges for name in part.columns_seen},
                    f"data.{split}",
                    method=spec_of(self.config.method),
                )
                parts[split].append(SourceParts(source.name, source.corpus, _lines_from_the_top(ranges)))
        return parts

    def _encode(self, split: str, token_set: TokenSet) -> None:
        folder = storage.at(token_set.folder)
        shards, origin = token_set.index.shards, self._origin(split)
        order = [int(number) for number in token_set.plan(self.config).shard_order()]
        with ThreadPoolExecutor(HASHING_THREADS) as threads:  # shards of an earlier run
            sound = threads.map(lambda number: is_sound(shard_path(folder, number)), order)
            missing = [number for number, there in zip(order, sound, strict=True) if not there]
        group, truth = self.sources[origin], split == "validation"
        target, tokenizer = (
            replace(token_set, index=SplitIndex(shards=())),
            self.tokenizer,
        )  # tasks need no list of other shards

        def one(item: dict[str, Any]) -> dict[str, Any]:
            shard = ShardSpec.of(json.loads(item["shard"]))
            if not shard_path(folder, shard.index).exists():  # another run may have been faster
                encode_shard(target, shard, group[shard.source], truth=truth, tokenizer=tokenizer)
            return {}

        items = [{"shard": json.dumps(asdict(shards[number]))} for number in missing]
        window = (
            self.config.data.window_shards
        )  # training waits for the first window, so encode as many of its shards at once as there are CPUs
        done = _run(items[:window], one)
        done += _run(items[window:], one, of_a_task=_items_of_a_task(len(items) - window))
        if len(done) != len(missing):
            raise RunFailedError(
                f"{len(missing) - len(done)} of {len(missing)} token shards were not written. Fix: check the storage and run the same command again"
            )
        json_files.write_sealed(folder / MANIFEST, summarize(token_set))

    def _origin(self, split: str) -> str:
        """Return the split whose sources a split's rows come from: validation rows may be taken from training."""
        return split if self.sources[split] else "train"

    def _texts(self, index: SplitIndex) -> Iterator[str]:
        """Yield the texts that a tokenizer is trained on: inputs and targets of the training split only."""
        for shard in index.shards:
            for record in shard_records(self.sources["train"][shard.source], shard):
                yield from texts(record)


def _benchmarks(paths: Sequence[str]) -> Benchmarks | None:
    if not paths:
        return None
    return Benchmarks.of(
        found.row
        for pattern in paths
        for path in files.expand(pattern, key="data.decontaminate")
        for found in readers.read(path, readers.format_of(path))
        if not isinstance(found.row, BadRowError)
    )


def _lines_from_the_top(ranges: list[RangeIndex]) -> list[RangeIndex]:
    """Return the ranges with the lines of rejects counted from the start of the file."""
    before = 0
    for part in ranges:
        for reject in part.rejects:
            reject["line"] += before
        before += part.lines
    return ranges


def _write_rejects(file: StoragePath, sources: Sequence[SourceParts]) -> None:
    rejects = (reject for source in sources for part in source.ranges for reject in part.rejects)
    storage.write(file, "".join(json.dumps(reject) + "\n" for reject in rejects))


def _items_of_a_task(items: int) -> int:
    """Return the number of items per task.

    Between two tasks a worker waits about 0.2 s, half the time of a shard or range. A kill loses at most one shard.
    """
    return max(1, min(8, int(items / (8 * ray.cluster_resources().get("CPU", 1.0)))))


def _run(
    items: list[dict[str, Any]], one: Callable[[dict[str, Any]], dict[str, Any]], *, of_a_task: int = 1
) -> list[dict[str, Any]]:
    """Run `one` on each item in Ray Data tasks, started in the given order. The results are in any order.

    An InputError must reach the user and not cause retries of Ray, so it is returned as a value.
    """
    if not items:
        return []

    def guarded(item: dict[str, Any]) -> dict[str, Any]:
        os.umask(PRIVATE)
        try:
            return {"input_error": "", **one(item)}
        except InputError as error:
            return {"input_error": json.dumps(error.args, default=str)}

    data = ray.data.from_items(items, override_num_blocks=-(-len(items) // of_a_task))
    answers = []
    for answer in data.map(guarded, num_cpus=TASK_CPUS).iter_rows():
        if answer["input_error"]:  # do not wait for the other tasks: a file that is not text has thousands
            what, file, key, value, fix = json.loads(answer["input_error"])
            raise InputError(what, file=file, key=key, value=value, fix=fix)
        answers.append(answer)
    return answers


def _write_json(file: StoragePath, content: dict[str, Any]) -> None:
    storage.write(file, json.dumps(content))


def quiet_ray_data() -> None:
    """Send the progress and errors of Ray Data to its log files only, so that users see medray's messages."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
