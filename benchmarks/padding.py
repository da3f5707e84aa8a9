"""What padding costs, exact, from lengths alone: medray's batch plans, TRL's packing, Hugging Face's grouping by length.

    .venv/bin/python benchmarks/padding.py [ROWS]

A share is that of places which hold no token. Lengths go through the batch plan of a run, with the default shards and
windows, and its steps are laid out as `medray/train/loop/batch_reader.py` does it for one worker: sorted within a step, cut into
micro-batches, each as wide as its longest. In every setting the first steps and the last go through the real
BatchReader too, and both must count the same places.

Decoders, packed: ROWS (100,000) log-normal lengths with a mean near 500, at most 2,048. "room" takes every sequence as
full, however short its micro-batch is; "computed" is what micro-batches of 1 and 8 compute, the empty slots of the last
step included. TRL: `pack_dataset` of the
same lengths, shuffled, in its own batches of 1,000 rows and in batches as large as medray's window. Its share is that
of room: its collator flattens what "bfd" made, where flash attention runs, and then computes no padding; "bfd" cuts
rows that are longer than a sequence, "wrapped" cuts rows wherever a sequence ends.

Encoder-decoders: ROWS / 5 rows like MedQuAD's, short questions of up to 64 tokens and log-normal answers of up to 512,
and the reverse. Places of source and target are counted. "shuffled": rows as they come; "unbucketed": medray's plan
without buckets; "bucketed": with them; Hugging Face: the order of `group_by_length`, by the source's length (its
default) and by that of both.

With MEDRAY_CORPORA the 2,000 rows of its medquad/medquad_2000.jsonl are measured too, tokenized with SmolLM2. TRL is
compared where it can be imported, for example from a folder of its own:

    pip install --no-deps --target FOLDER trl==1.16.0; PYTHONPATH=FOLDER .venv/bin/python benchmarks/padding.py
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from medray.config import Config
from medray.config.data import DataConfig
from medray.data.batching.batch_plan import BatchPlan, Corpus, PlanSpec
from medray.data.batching.order import by_length
from medray.plan.steps import split_batch

PACKED_TARGET, BUCKETED_TARGET = 0.01, 0.05
PACKS, PACKED_BATCH, PACKED_MICRO = (2048, 4096), 8, (1, 8)
BATCHES, MICRO = (8, 16, 32), (2, 4, 8)
CHECKED = 20  # steps that go through the real reader
TRL_BATCH = 1000  # rows that `datasets.map` hands over at once
SHARD_ROWS, WINDOW_SHARDS = DataConfig().shard_rows, DataConfig().window_shards


def log_normal(rows: int, median: float, sigma: float, least: int, most: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed).lognormal(np.log(median), sigma, rows)
    return np.clip(draw, least, most).astype(np.int64)


def decoder_lengths(rows: int) -> np.ndarray:
    return log_normal(rows, 500 * np.exp(-0.245), 0.7, 1, 2048, 0)[None]


def question_lengths(rows: int) -> np.ndarray:
    """[2, rows]: of questions and of their answers."""
    return np.stack([log_normal(rows, 18, 0.4, 4, 64, 1), log_normal(rows, 250, 0.8, 1, 512, 2)])


def medquad_lengths(file: Path, architecture: str) -> np.ndarray:
    """[1, rows] of a decoder's rows in the chat template, or [2, rows] of sources and targets."""
    from medray.data.encode.encoder import Encoder
    from medray.data.index.row_index import records
    from medray.data.index.sources import sources
    from medray.data.records import BadRowError
    from medray.data.shards.preparation import encode_spec
    from medray.data.tokenizer import load_tokenizer
    from medray.plan.packaged import ensure

    seq2seq = architecture == "seq2seq"
    data: dict[str, Any] = {"train": str(file), "columns": {"input": "question", "label": "answer"}}
    data |= {"prompts": {"label": "Answer the question"}}
    data |= {"max_input_tokens": 64, "max_label_tokens": 512} if seq2seq else {"max_label_tokens": 1024}
    config = Config.model_validate({"data": data})
    found = [record for *_, record in records(sources(config, "train")[0])]
    kept = [record for record in found if not isinstance(record, BadRowError)]
    encoder = Encoder(load_tokenizer(str(ensure("smollm2-135m-instruct"))), encode_spec(config, architecture))
    columns = encoder.encode(kept)["label"]
    ends = [columns.input_ends, columns.target_ends] if seq2seq else [columns.input_ends]
    return np.stack([np.diff(end, prepend=0) for end in ends])


def _shard(rows: np.ndarray, shard: int) -> np.ndarray:
    found: np.ndarray = rows[shard * SHARD_ROWS : (shard + 1) * SHARD_ROWS]
    return found


class Lengths:
    """Lengths in the place of a shard store: rows hold zeros. parts: [1 or 2, rows], as above."""

    def __init__(self, parts: np.ndarray) -> None:
        self.parts, self.totals = parts, parts.sum(axis=0)

    def spec(self, **batches: Any) -> PlanSpec:
        rows = len(self.totals)
        shards = range(-(-rows // SHARD_ROWS))
        held = tuple(min(SHARD_ROWS, rows - shard * SHARD_ROWS) for shard in shards)
        return PlanSpec(
            corpora=(Corpus(tuple(shards), held),), seed=0, window_shards=WINDOW_SHARDS, **batches
        )

    def sizes(self, shard: int) -> np.ndarray:
        return _shard(self.totals, shard)

    def sources(self, shard: int) -> np.ndarray:
        return _shard(self.parts[0], shard)

    def counts(self, shard: int, task: str, name: str) -> np.ndarray:
        return _shard(self.totals if name == "length" else self.parts[-1], shard)

    def example(self, shard: int, row: int, task: str) -> tuple[np.ndarray, np.ndarray]:
        one = self.parts[:, shard * SHARD_ROWS + row]
        return np.zeros(one[0], np.int32), np.zeros(one[-1], np.int32)

    def text(self, shard: int, row: int, name: str) -> str:
        return ""

    def wait(self, shard: int) -> None: ...
    def prefetch(self, shards: Sequence[int]) -> None: ...


def width_sum(parts: np.ndarray, slots: int, micro: int) -> int:
    """Places of one step whose sequences lie as they come. parts: [arrays of a forward, sequences]."""
    filled = np.ones((len(parts), slots), np.int64)  # a slot without a row is one place of padding
    filled[:, : parts.shape[1]] = parts
    return int(filled.reshape(len(parts), -1, micro).max(axis=2).sum()) * micro


def of_plan(lengths: Lengths, batch_size: int, micro: int, *, packed: bool = False, **plan: Any) -> Any:
    """Tokens, computed places, sequences and steps of one epoch of a plan, on one worker."""
    sources = lengths.sources if len(lengths.parts) == 2 else None
    made = BatchPlan(lengths.spec(global_batch_size=batch_size, **plan), lengths.sizes, sources=sources)
    slots = split_batch(batch_size, 1, micro).slots
    steps, tokens, sequences = made.steps(1), 0, 0
    places = np.zeros(steps, np.int64)
    for step in range(steps):
        batch = made.batch(step)
        parts = lengths.parts[:, batch.shards * SHARD_ROWS + batch.rows]
        tokens += int(parts.sum())
        sequences += batch.sequences
        if packed:
            parts = np.add.reduceat(parts.sum(axis=0), np.concatenate([[0], batch.ends[:-1]]))[None]
        parts = parts[:, by_length(parts.sum(axis=0), parts[0] if len(parts) == 2 else None)]
        places[step] = width_sum(parts, slots, micro)
    assert tokens == lengths.totals.sum(), "an epoch has every row once"
    for step in {*range(min(CHECKED, steps)), steps - 1}:
        assert places[step] == by_reader(lengths, made, slots, micro, packed, step), f"step {step}"
    return {"tokens": tokens, "places": int(places.sum()), "sequences": sequences, "steps": steps}


def by_reader(lengths: Any, plan: BatchPlan, slots: int, micro: int, packed: bool, step: int) -> int:
    """Places that the arrays of a step have, as `train_step` counts them."""
    from medray.config.method import MethodConfig
    from medray.methods import loss_of
    from medray.train.loop.batch_reader import BatchLayout, BatchReader

    seq2seq = len(lengths.parts) == 2
    reader = BatchReader(
        lengths,
        plan,
        loss_of(MethodConfig()),
        BatchLayout(micro, slots),
        rank=0,
        world_size=1,
        architecture="seq2seq" if seq2seq else "causal",
        pad_id=0,
        packed=packed,
    )
    parts = [part for parts in reader.prepare(step).micro for part in parts]
    return sum(part.input_ids.size + (part.labels.size if seq2seq else 0) for part in parts)


def share(tokens: int, places: int) -> float:
    return 1 - tokens / places


def packed(lengths: Lengths, pack_tokens: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for micro in PACKED_MICRO:
        made = of_plan(lengths, PACKED_BATCH, micro, packed=True, pack_tokens=pack_tokens)
        found[f"computed_{micro}"] = share(made["tokens"], made["places"])
    room = made["sequences"] * pack_tokens
    longer = (
        lengths.totals[lengths.totals > pack_tokens] - pack_tokens
    )  # stand alone in a sequence of their own
    return found | {"room": share(made["tokens"], room + int(longer.sum())), "sequences": made["sequences"]}


def by_trl(lengths: Lengths, pack_tokens: int) -> dict[str, Any]:
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc
    from trl import pack_dataset

    datasets.disable_progress_bars()
    totals = np.random.default_rng(0).permutation(lengths.totals)
    offsets = np.concatenate([[0], np.cumsum(totals)]).astype(np.int32)
    ids = pa.ListArray.from_arrays(offsets, pa.array(np.zeros(offsets[-1], np.int8)))
    rows = datasets.Dataset(pa.table({"input_ids": ids}))
    found = {}
    for strategy in ("bfd", "wrapped"):
        for batch in (TRL_BATCH, SHARD_ROWS * WINDOW_SHARDS):
            made = pack_dataset(rows, pack_tokens, strategy, {"batch_size": batch, "keep_in_memory": True})
            sizes = pc.list_value_length(made.data.column("input_ids")).to_numpy()
            cut = int((totals > pack_tokens).sum())
            if strategy == "wrapped":
                cut = sum(
                    _ends_inside(totals[at : at + batch], pack_tokens) for at in range(0, len(totals), batch)
                )
            found[f"{strategy}, batches of {batch:,} rows"] = {
                "room": share(int(sizes.sum()), len(sizes) * pack_tokens),
                "sequences": len(sizes),
                "lost": int(totals.sum() - sizes.sum()),
                "cut": cut,
            }
    return found


def _ends_inside(totals: np.ndarray, pack_tokens: int) -> int:
    """Rows in which a sequence ends, when all are laid one behind the other."""
    ends = np.cumsum(totals)
    return int(((ends - 1) // pack_tokens > (ends - totals) // pack_tokens).sum())


def bucketed(lengths: Lengths) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rows = np.random.default_rng(0).permutation(len(lengths.totals))
    for batch, micro in ((batch, micro) for batch in BATCHES for micro in MICRO):
        found[f"{batch} {micro}"] = one = {"shuffled": in_order(lengths, rows, batch, micro)}
        for name, buckets in (("unbucketed", False), ("bucketed", True)):
            made = of_plan(lengths, batch, micro, length_buckets=buckets)
            one[name] = share(made["tokens"], made["places"])
    return found


def by_hugging_face(lengths: Lengths) -> dict[str, Any]:
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    found: dict[str, Any] = {}
    for batch, micro in ((batch, micro) for batch in BATCHES for micro in MICRO):
        found[f"{batch} {micro}"] = one = {}
        for name, by in (("HF by source", lengths.parts[0]), ("HF by both", lengths.totals)):
            draw = torch.Generator().manual_seed(0)
            # Trainer gives it the rows of a step, micro-batches times accumulation.
            order = list(LengthGroupedSampler(batch, lengths=by.tolist(), generator=draw))
            one[name] = in_order(lengths, np.array(order), batch, micro)
    return found


def in_order(lengths: Lengths, rows: np.ndarray, batch: int, micro: int) -> float:
    """Share in micro-batches of rows as they come; the last ones may hold fewer."""
    parts, places = lengths.parts[:, rows], 0
    for first in range(0, len(rows), micro):
        one = parts[:, first : first + micro]
        places += int(one.max(axis=1).sum()) * one.shape[1]
    return share(int(parts.sum()), places)


def fresh(phase: str, file: Path, *arguments: object) -> Any:
    """A phase in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, phase, str(file), *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(file.parent / "cache")},
    )
    return json.loads(done.stdout.splitlines()[-1])


def phase(name: str, file: Path, *arguments: str) -> Any:
    if name == "lengths":
        np.save(file, medquad_lengths(Path(arguments[0]), arguments[1]))
        return {}
    lengths = Lengths(np.load(file))
    if name in ("packed", "trl"):
        return (packed if name == "packed" else by_trl)(lengths, int(arguments[0]))
    return (bucketed if name == "bucketed" else by_hugging_face)(lengths)


def show_packed(name: str, file: Path) -> None:
    totals = np.load(file)[0]
    print(f"decoders, {name}: {len(totals):,} rows, mean {totals.mean():.0f}, largest {totals.max():,}")
    for pack_tokens in PACKS:
        ours = fresh("packed", file, pack_tokens)
        computed = ", ".join(f"{ours[f'computed_{micro}']:.2%} of {micro}" for micro in PACKED_MICRO)
        print(
            f"  packed into {pack_tokens:,}: medray {ours['room']:.2%} of the room (target {PACKED_TARGET:.0%}), computed "
            f"in micro-batches {computed}; {ours['sequences']:,} sequences, no row cut",
            flush=True,
        )
        if importlib.util.find_spec("trl") is None:
            print("    TRL is not installed: nothing to compare with")
            continue
        for strategy, row in fresh("trl", file, pack_tokens).items():
            print(
                f"    TRL {strategy}: {row['room']:.2%} of the room; {row['sequences']:,} sequences, "
                f"{row['cut']:,} rows cut, {row['lost']:,} tokens lost",
                flush=True,
            )


def show_bucketed(name: str, file: Path) -> None:
    parts = np.load(file)
    print(
        f"encoder-decoders, {name}: {parts.shape[1]:,} rows, sources mean {parts[0].mean():.0f}, largest "
        f"{parts[0].max()}; targets mean {parts[1].mean():.0f}, largest {parts[1].max()}"
    )
    ours, theirs = fresh("bucketed", file), {}
    if importlib.util.find_spec("transformers") is None:
        print("  transformers is not installed: no grouping by length to compare with")
    else:
        theirs = fresh("hugging_face", file)
    columns = ["shuffled", "unbucketed", "bucketed", *(next(iter(theirs.values())) if theirs else ())]
    print("  batch micro " + " ".join(f"{column:>12}" for column in columns))
    for key, row in ours.items():
        batch, micro = map(int, key.split())
        row |= theirs.get(key, {})
        print(f"  {batch:5} {micro:5} " + " ".join(f"{row[column]:>12.2%}" for column in columns))
    worst = max(row["bucketed"] for row in ours.values())
    print(f"  bucketed, the worst of them: {worst:.2%} (target {BUCKETED_TARGET:.0%})", flush=True)


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    corpus = Path(os.environ.get("MEDRAY_CORPORA", "")) / "medquad/medquad_2000.jsonl"
    real = "MEDRAY_CORPORA" in os.environ and corpus.is_file()
    print(
        f"windows of {WINDOW_SHARDS} shards of {SHARD_ROWS:,} rows"
        + ("" if real else "; MEDRAY_CORPORA has no medquad/medquad_2000.jsonl: simulated lengths alone")
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {"decoders": decoder_lengths(rows), "questions": question_lengths(rows // 5)}
        made["reverse"] = made["questions"][::-1]
        for label, parts in made.items():
            np.save(folder / f"{label}.npy", parts)
        if real:
            fresh("lengths", folder / "medquad.npy", corpus, "causal")
            fresh("lengths", folder / "medquad-seq2seq.npy", corpus, "seq2seq")
        show_packed("log-normal", folder / "decoders.npy")
        if real:
            show_packed("MedQuAD", folder / "medquad.npy")
        show_bucketed("short questions, long answers", folder / "questions.npy")
        show_bucketed("the reverse", folder / "reverse.npy")
        if real:
            show_bucketed("MedQuAD", folder / "medquad-seq2seq.npy")
    packages = ("medray", "numpy", "transformers", "datasets", "trl")
    there = [name for name in packages if importlib.util.find_spec(name) is not None]
    print(
        f"{platform.platform()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in there)
    )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(phase(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])))
    else:
        main()
