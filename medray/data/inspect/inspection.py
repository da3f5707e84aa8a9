"""Inspection of a config's data: numbers about finished token shards, and problems in them.

Numbers that depend on lengths alone are counted over all rows, with the same shards and batch plan as in training;
checks of texts use a sample. The result contains no text of a record except the names of classes, which `to_json`
leaves out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medray import storage
from medray.config import Config
from medray.config.method_specs import spec_of
from medray.data.inspect.checks import Check, RationaleQuality, checks, rationales, sampled_rows
from medray.data.inspect.decoded import texts
from medray.data.inspect.near_duplicates import NearDuplicates
from medray.data.inspect.padding import Padding, padding
from medray.data.shards.preparation import REJECTS, prompts_said
from medray.data.shards.split_summary import SplitCounts, split_counts
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer_file import tokenizer_of
from medray.storage import StoragePath, json_files

SAMPLE_ROWS = 1000
BINS = 24  # bins of a histogram of lengths
MOST_CLASSES, MOST_CLASS_WORDS, MOST_CLASS_TOKENS = 50, 6, 24
_PLACES_SHOWN = 3  # rows that are named for each reason of rejection
_REJECTS_READ = 100_000  # largest number of lines


@dataclass(frozen=True)
class TaskLengths:
    """The lengths of one task of a split, in tokens.

    rows, without: number of rows with and without the task. truncated: number of rows that were cut. histogram: number
    of rows by length, in BINS bins of `bin_tokens` tokens from 1 on.
    """

    split: str
    task: str
    rows: int
    without: int
    tokens: int
    loss_tokens: int
    p50: float
    p90: float
    p99: float
    max: int
    truncated: int
    bin_tokens: int
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class Rejected:
    """The number of rejected rows with the same reason. `places`: "file:line" of the first of them."""

    reason: str
    rows: int
    places: tuple[str, ...]


@dataclass(frozen=True)
class SplitRows:
    """Counts of a split's rows before encoding: rejected, left out on purpose, and repeated rows."""

    split: str
    rows: int
    rejected: tuple[Rejected, ...]
    dropped: dict[str, int]
    duplicates: int
    repeated_ids: int


@dataclass(frozen=True)
class Classes:
    """The classes of a classification task: a split whose labels are a few short texts.

    rows: number of rows of each class, the most frequent first. majority: share of the most frequent class. unseen:
    rows whose class is not in the training split. names: the texts of the classes.
    """

    split: str
    rows: tuple[int, ...]
    majority: float
    unseen: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class RunLength:
    """The size of a run: its rows, steps, tokens and epochs.

    tokens, loss_tokens: tokens of an epoch over the trained tasks. If corpora are mixed by weight, these are expected
    values, because no epoch has all rows; passes then says how often the whole run passes over each corpus, in the
    order of data.train.
    """

    rows: int
    steps_per_epoch: int
    tokens: int
    loss_tokens: int
    steps: int
    epochs: float
    passes: tuple[float, ...]


@dataclass(frozen=True)
class Inspection:
    architecture: str
    tasks: tuple[TaskLengths, ...]
    splits: tuple[SplitRows, ...]
    padding: tuple[Padding, ...]
    classes: tuple[Classes, ...]
    rationales: tuple[RationaleQuality, ...]
    checks: tuple[Check, ...]
    sampled: dict[str, int]
    length: RunLength
    near_duplicates: NearDuplicates | None = None

    @property
    def problems(self) -> int:
        return sum(check.verdict == "problem" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as JSON values, without text of any record."""
        return asdict(replace(self, classes=tuple(replace(one, names=()) for one in self.classes)))


def inspect(
    config: Config, sets: Mapping[str, TokenSet], *, sample_rows: int = SAMPLE_ROWS, seed: int = 0
) -> Inspection:
    """Inspect the finished token shards of a config.

    sample_rows: number of rows per split whose texts are checked, drawn with `seed`.
    """
    tokenizer = tokenizer_of(sets["train"])
    counts = {split: split_counts(tokens) for split, tokens in sets.items()}
    rows = sampled_rows(sets, tokenizer, sample_rows, seed)
    return Inspection(
        architecture=sets["train"].spec.architecture,
        tasks=tuple(
            _lengths(split, one, place) for split, one in counts.items() for place in range(len(one.tasks))
        ),
        splits=tuple(_split(split, tokens) for split, tokens in sets.items()),
        padding=padding(config, sets["train"], counts["train"]),
        classes=_classes(sets, counts, tokenizer),
        rationales=rationales(counts, rows),
        checks=(
            *checks(spec_of(config.method), sets, counts, rows, tokenizer),
            *_vocabulary(config),
            Check("prompts", "ok", prompts_said(config)),
        ),
        sampled={split: len(rows[split, sets[split].spec.tasks[0]]) for split in sets},
        length=_length(config, sets["train"], counts["train"]),
    )


def _vocabulary(config: Config) -> tuple[Check, ...]:
    """Return a note about a trained tokenizer: a byte-level BPE has an entry for every frequent word, in a small corpus any."""
    if config.data.tokenizer != "train":
        return ()
    said = "the tokenizer was trained on the records: its vocabulary contains words of them, even names, and every export has it"
    return (Check("tokenizer", "note", said),)


def _lengths(split: str, counts: SplitCounts, place: int) -> TaskLengths:
    length = counts.length[place]
    present = length[length > 0]
    longest = int(length.max(initial=0))
    width = max(-(-longest // BINS), 1)
    bins = np.bincount((present - 1) // width, minlength=BINS)[:BINS]
    p50, p90, p99 = np.percentile(present, [50, 90, 99]).tolist() if len(present) else (0.0, 0.0, 0.0)
    return TaskLengths(
        split=split,
        task=counts.tasks[place],
        rows=len(present),
        without=counts.rows - len(present),
        tokens=int(length.sum(dtype=np.int64)),
        loss_tokens=int(counts.loss[place].sum(dtype=np.int64)),
        p50=p50,
        p90=p90,
        p99=p99,
        max=longest,
        truncated=int(counts.cut[place].sum()),
        bin_tokens=width,
        histogram=tuple(bins.tolist()),
    )


def _split(split: str, tokens: TokenSet) -> SplitRows:
    index, places = tokens.index, _places(storage.at(tokens.folder) / REJECTS)
    rejected = sorted(index.rejects.items(), key=lambda item: -item[1])
    return SplitRows(
        split=split,
        rows=index.rows,
        rejected=tuple(Rejected(why, rows, tuple(places.get(why, ()))) for why, rows in rejected),
        dropped=dict(index.dropped),
        duplicates=index.duplicates,
        repeated_ids=index.repeated_ids,
    )


def _places(file: StoragePath) -> dict[str, list[str]]:
    """Return the positions of the first rejected rows for each reason."""
    found: dict[str, list[str]] = {}
    with suppress(FileNotFoundError), json_files.checking(file):
        for reject in json_files.read_lines(file).records[:_REJECTS_READ]:
            places = found.setdefault(str(reject["reason"]), [])
            if len(places) < _PLACES_SHOWN:
                places.append(f"{Path(reject['file']).name}:{reject['line']}")
    return found


def _classes(
    sets: Mapping[str, TokenSet], counts: Mapping[str, SplitCounts], tokenizer: Any
) -> tuple[Classes, ...]:
    """Return the classes of each split whose labels are few and short. Labels are compared by their tokens."""
    found: list[Classes] = []
    trained: set[bytes] = set()
    for split, tokens in sets.items():
        targets = counts[split].loss[counts[split].tasks.index("label")]
        if tokens.spec.train_on == "completion" and targets.mean() > MOST_CLASS_TOKENS:
            continue
        labels = _label_counts(tokens)
        if labels is None:
            continue
        ordered = labels.most_common()
        ids = [np.frombuffer(label, np.int32).tolist() for label, _ in ordered]
        names = [name.strip() for name in texts(tokenizer, ids)]
        total = sum(labels.values())
        words = sum(len(name.split()) * rows for name, (_, rows) in zip(names, ordered, strict=True))
        if not total or words > MOST_CLASS_WORDS * total or len(ordered) == total > 1:
            continue
        trained = trained if split != "train" else set(labels)
        unseen = sum(rows for label, rows in ordered if label not in trained) if trained else 0
        found.append(
            Classes(split, tuple(rows for _, rows in ordered), ordered[0][1] / total, unseen, tuple(names))
        )
    return tuple(found)


def _label_counts(tokens: TokenSet) -> Counter[bytes] | None:
    """Return the number of rows of each label, by the bytes of its ids; None if there are too many labels."""
    found: Counter[bytes] = Counter()
    store, causal = tokens.store(keep=2), tokens.spec.architecture == "causal"
    for shard, row in tokens.rows():
        ids, labels = store.example(shard, row, "label")
        if len(ids):
            target = ids[len(store.prompt(shard, row)) :] if causal else labels
            found[target.tobytes()] += 1
            if len(found) > MOST_CLASSES:
                return None
    return found


def _length(config: Config, tokens: TokenSet, counts: SplitCounts) -> RunLength:
    plan, train = tokens.plan(config), config.train
    epoch = plan.steps(1)
    steps = train.max_steps or plan.steps(train.epochs)
    trained = [counts.tasks.index(task) for task in spec_of(config.method).task_names]
    length, loss = (array[trained].sum(axis=0, dtype=np.int64) for array in (counts.length, counts.loss))
    share = np.ones(counts.rows)
    if tokens.weights:
        passes = plan.repeats(epoch)
        for shard in tokens.index.shards:
            first = int(counts.starts[shard.index])
            share[first : first + shard.rows] = passes[tokens.index.corpora[shard.source]]
    return RunLength(
        rows=counts.rows,
        steps_per_epoch=epoch,
        tokens=round(float(length @ share)),
        loss_tokens=round(float(loss @ share)),
        steps=steps,
        epochs=plan.epoch(steps),
        passes=tuple(plan.repeats(steps).values()) if tokens.weights else (),
    )
