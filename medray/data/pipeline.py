"""Corpora to token shards, by Ray Data, beside training.

A 0-CPU actor runs the two passes for each split: the index first, then the shards in the order in which epoch 0 reads
them, so that training can start when the first are there. Everything is kept under a fingerprint of all that decides
the tokens: a later run with the same fingerprint reuses the shards, a killed one goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.data

from medray.config import Config
from medray.data.encode import ENCODER_VERSION, Encoder, EncodeSpec
from medray.data.index import ShardSpec, SourceIndex, SplitIndex, index_source, join, records
from medray.data.order import Order
from medray.data.records import BadRowError, Distill
from medray.data.shards import FAILED, shard_path, write_shard
from medray.data.sources import Source, columns, sources
from medray.data.tokenizer import load_tokenizer, tokenizer_hash, train_tokenizer, trained_tokenizer_key
from medray.errors import InputError, MedrayError, RunFailedError

SPLITS = ("train", "validation")
INDEX, MANIFEST, REJECTS = "index.json", "manifest.json", "rejects.jsonl"


@dataclass(frozen=True)
class TokenSet:
    """A split's shards: their folder, index and tokenizer. Equal when they are of the same folder."""

    folder: str
    tokenizer: str
    spec: EncodeSpec = field(compare=False)
    index: SplitIndex = field(compare=False)

    def rows(self) -> list[tuple[int, int]]:
        """(shard, row) of the whole split, in the order of its sources."""
        return [(shard.index, row) for shard in self.index.shards for row in range(shard.rows)]

    def order(self, config: Config) -> Order:
        return Order(
            tuple(shard.rows for shard in self.index.shards),
            config.run.seed,
            config.train.global_batch_size,
            config.data.window_shards,
        )


class Pipeline:
    """The two passes of one run. An actor: `ray.remote(Pipeline).options(num_cpus=0)`."""

    def __init__(self, config: Config, architecture: str, model_folder: str | None) -> None:
        self.config, self.model_folder = config, model_folder
        self.columns = columns(config.data)
        self.sources = {split: sources(config.data, split) for split in SPLITS}
        self.hashes = {
            split: [source.content_hash() for source in group] for split, group in self.sources.items()
        }
        self.spec = _encode_spec(config, architecture)
        quiet_ray_data()

    def index(self) -> dict[str, TokenSet]:
        """The token set of each split that has sources, indexed and checked; no shard need exist yet."""
        tokenizer = self._tokenizer()
        sets = {}
        for split in SPLITS:
            if self.sources[split]:
                folder = self._folder(split, tokenizer)
                folder.mkdir(parents=True, exist_ok=True)
                sets[split] = TokenSet(str(folder), str(tokenizer), self.spec, self._index(split, folder))
        self.sets = sets
        return sets

    def encode(self) -> dict[str, dict[str, Any]]:
        """Writes all shards, validation first (it is small and read at once), and returns each split's manifest."""
        try:
            return {
                split: self._encode(split, self.sets[split])
                for split in reversed(SPLITS)
                if split in self.sets
            }
        except Exception as error:
            # The message of a library's error may quote a record; Ray's own log files have it.
            reason = str(error) if isinstance(error, MedrayError) else type(error).__name__
            for token_set in self.sets.values():
                _write_json(Path(token_set.folder) / FAILED, {"reason": reason})
            raise

    def _index(self, split: str, folder: Path) -> SplitIndex:
        if (folder / INDEX).exists():
            index = SplitIndex.read(folder / INDEX)
        else:
            index = self._make_index(split, folder)
        _check_rejects(index, split, self.config.data.max_rejects, folder)
        if "rationale" in self.config.method.tasks and not index.with_rationale:
            raise InputError(
                f"no {split} row has a rationale, and method.mode task_prefix trains on it",
                key="data.columns.rationale",
                value=self.columns.rationale,
                mend="name the column, or set method.mode: standard",
            )
        if (
            split == "validation"
            and "entity_f1" in self.config.eval.metrics
            and index.with_entities < index.rows
        ):
            raise InputError(
                f"{index.rows - index.with_entities} of {index.rows} validation rows have no entities",
                key="eval.metrics",
                value="entity_f1",
                mend="name data.columns.entities or remove it",
            )
        return index

    def _make_index(self, split: str, folder: Path) -> SplitIndex:
        wanted, shard_rows, group = self.columns, self.config.data.shard_rows, self.sources[split]

        def one(item: dict[str, Any]) -> dict[str, Any]:
            try:
                part = asdict(index_source(group[item["number"]], wanted, shard_rows))
                return {"number": item["number"], "part": json.dumps(part), "error": ""}
            except InputError as error:  # an error of a user must reach the user, not Ray's retries
                return {"number": item["number"], "part": "", "error": json.dumps(error.args, default=str)}

        found = sorted(_map([{"number": n} for n in range(len(group))], one), key=lambda row: row["number"])
        for row in found:
            if row["error"]:
                what, file, key, value, mend = json.loads(row["error"])
                raise InputError(what, file=file, key=key, value=value, mend=mend)
        parts = [SourceIndex(**json.loads(row["part"])) for row in found]
        index = join(parts)
        with (folder / REJECTS).open("w") as stream:
            for part in parts:
                stream.writelines(json.dumps(reject) + "\n" for reject in part.rejects)
        index.write(folder / INDEX)
        return index

    def _encode(self, split: str, token_set: TokenSet) -> dict[str, Any]:
        folder = Path(token_set.folder)
        if (folder / MANIFEST).exists():
            return json.loads((folder / MANIFEST).read_text())
        (folder / FAILED).unlink(missing_ok=True)
        shards = token_set.index.shards
        missing = [
            int(number)
            for number in token_set.order(self.config).shard_order(0)
            if not shard_path(folder, int(number)).exists()
        ]
        group, wanted, truth = self.sources[split], self.columns, split == "validation"

        def one(item: dict[str, Any]) -> dict[str, Any]:
            shard = shards[item["shard"]]
            return encode_shard(token_set, shard, group[shard.source], wanted, truth=truth)

        done = _map([{"shard": number} for number in missing], one)
        if len(done) != len(missing):
            raise RunFailedError(f"{len(missing) - len(done)} of {len(missing)} shards were not written")
        manifest = _summarize(folder, token_set)
        _write_json(folder / MANIFEST, manifest)
        return manifest

    def _tokenizer(self) -> Path:
        if self.config.data.tokenizer == "model":
            assert self.model_folder is not None
            return Path(self.model_folder)
        size = self.config.data.vocab_size
        key = trained_tokenizer_key(self.hashes["train"], size)
        target = Path(self.config.run.storage) / "tokenizers" / key
        return train_tokenizer(self._texts(), size, target)

    def _texts(self) -> Any:
        """All that the tokenizer learns from: inputs and targets of the training split only."""
        for source in self.sources["train"]:
            for _, _, record in records(source, self.columns, 0, 0):
                if isinstance(record, Distill):
                    yield record.input
                    yield record.label
                    yield record.rationale or ""

    def _folder(self, split: str, tokenizer: Path) -> Path:
        decisive = {
            "sources": self.hashes[split],
            "columns": self.columns.model_dump(),
            "encode": asdict(self.spec),
            "tokenizer": tokenizer_hash(str(tokenizer)) if tokenizer.is_dir() else str(tokenizer),
            "shard_rows": self.config.data.shard_rows,
            "split": split,
            "version": ENCODER_VERSION,
        }
        fingerprint = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:20]
        return Path(self.config.run.storage) / "tokens" / fingerprint


def encode_shard(
    token_set: TokenSet, shard: ShardSpec, source: Source, wanted: Any, *, truth: bool
) -> dict[str, Any]:
    """Reads, encodes and writes one shard."""
    encoder = _encoder(token_set.tokenizer, token_set.spec)
    rows = records(source, wanted, shard.position, shard.first)
    found = [record for (_, _, record), _ in zip(rows, range(shard.raw_rows), strict=False)]
    good = [record for record in found if not isinstance(record, BadRowError)]
    if len(good) != shard.rows:
        raise RunFailedError(
            f"{source.name} changed while it was read: shard {shard.index} has {len(good)} rows, "
            f"its index says {shard.rows}"
        )
    write_shard(Path(token_set.folder), shard.index, good, encoder.encode(good), truth=truth)
    return {"shard": shard.index}


_ENCODERS: dict[str, Encoder] = {}


def _encoder(tokenizer: str, spec: EncodeSpec) -> Encoder:
    """One encoder a process: loading a tokenizer costs seconds."""
    key = f"{tokenizer} {spec}"
    if key not in _ENCODERS:
        _ENCODERS[key] = Encoder(load_tokenizer(tokenizer), spec)
    return _ENCODERS[key]


def _encode_spec(config: Config, architecture: str) -> EncodeSpec:
    data = config.data
    prompts = {"label": data.prompts.label, "rationale": data.prompts.rationale}
    limits = {"label": data.max_label_tokens, "rationale": data.max_rationale_tokens}
    tasks = config.method.tasks if "label" in config.method.tasks else ("label", *config.method.tasks)
    return EncodeSpec(
        architecture="seq2seq" if architecture == "seq2seq" else "causal",
        tasks=tasks,  # the label is always encoded: evaluation generates it
        prompts={task: prompts[task] for task in tasks},
        system=data.prompts.system,
        max_input_tokens=data.max_input_tokens,
        limits={task: limits[task] for task in tasks},
    )


def _map(items: list[dict[str, Any]], one: Any) -> list[dict[str, Any]]:
    """Runs `one` on each item in a Ray Data task of its own, beginning in the order given."""
    if not items:
        return []
    data = ray.data.from_items(items, override_num_blocks=len(items))
    return list(data.map(one, num_cpus=0.5).iter_rows())


def _write_json(file: Path, content: dict[str, Any]) -> None:
    """A reader sees the whole file or none."""
    staging = file.with_name(f".{file.name}.{os.getpid()}")
    staging.write_text(json.dumps(content))
    staging.replace(file)


def quiet_ray_data() -> None:
    """Ray Data's own progress goes to its log files: what a user reads is medray's."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _check_rejects(index: SplitIndex, split: str, limit: float, folder: Path) -> None:
    total = index.rows + index.rejected
    reasons = ", ".join(f"{reason}: {count}" for reason, count in Counter(index.rejects).most_common(3))
    if not index.rows:
        what = f"no usable row among {total}" + (f" ({reasons})" if reasons else "")
        raise InputError(f"the {split} split is empty: {what}", key=f"data.{split}")
    if index.rejected > limit * total:
        raise InputError(
            f"{index.rejected} of {total} {split} rows are bad ({reasons}), more than the share of "
            f"{limit:g} that data.max_rejects allows",
            key=f"data.{split}",
            mend=f"mend them (named in {folder / REJECTS}) or raise data.max_rejects",
        )


def _summarize(folder: Path, token_set: TokenSet) -> dict[str, Any]:
    """Rows, tokens, loss tokens and length percentiles of a finished split, a task each."""
    import numpy as np
    import pyarrow.parquet as pq

    tasks: dict[str, Any] = {}
    files = [shard_path(folder, shard.index) for shard in token_set.index.shards]
    for task in token_set.spec.tasks:
        names = [f"{task}.length", f"{task}.loss_tokens"]
        tables = [pq.read_table(file, columns=[*names, f"{task}.cut"]) for file in files]
        length, loss = (np.concatenate([table[name].to_numpy() for table in tables]) for name in names)
        present = length[length > 0]
        p50, p90, p99 = (
            (float(value) for value in np.percentile(present, [50, 90, 99])) if len(present) else (0,) * 3
        )
        tasks[task] = {
            "rows": len(present),
            "tokens": int(length.sum()),
            "loss_tokens": int(loss.sum()),
            "p50": p50,
            "p90": p90,
            "p99": p99,
            "max": int(length.max(initial=0)),
            "truncated": int(sum(table[f"{task}.cut"].to_numpy().sum() for table in tables)),
        }
    return {
        "rows": token_set.index.rows,
        "rejected": token_set.index.rejected,
        "shards": len(files),
        "tasks": tasks,
    }
