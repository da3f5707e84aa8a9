"""The lengths of a run's rows for a plan: from the manifest of its token shards, or from a sample of its sources.

Neither writes anything, and neither loads torch. Only numbers leave this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

from medray import storage
from medray.config import Config
from medray.config.method_specs import spec_of
from medray.data.encode.encoder import EncodeSpec
from medray.data.encode.render import PromptAndAnswer, reading
from medray.data.index.id_file import read_ids
from medray.data.index.row_index import records
from medray.data.index.sources import ClinicSource, FileSource, Source, sources
from medray.data.records import BadRowError
from medray.data.shards.preparation import Preparation, encode_spec
from medray.data.shards.split_summary import read_manifest
from medray.errors import MedrayError
from medray.plan.jobs import Lengths, TaskLengths

SAMPLE_ROWS = 200  # of each source
CHARACTERS_PER_TOKEN = 4  # of English, for a tokenizer that is not on this machine
_FRAME_TOKENS = 16  # tokens that a template adds to a row, roughly
_TOKENIZER = "tokenizer.json"


def manifest_lengths(config: Config, architecture: str, folder: str | None) -> Lengths | None:
    """Return the lengths in the manifest of the run's training shards; None if they are not written yet."""
    try:
        layout = Preparation(config, architecture, folder, compute=False)
    except MedrayError:
        return None
    found = read_manifest(layout.folder / "train") if layout.known else None
    if found is None:
        return None
    tasks, limits = {}, {task.name: task.limit(config.data) for task in spec_of(config.method).tasks}
    for name, limit in limits.items():
        counts = found["tasks"].get(name)
        if not counts or not counts["rows"]:
            continue
        targets = counts["loss_tokens"] if architecture == "seq2seq" else 0
        tasks[name] = TaskLengths(
            length=(counts["tokens"] - targets) / counts["rows"],
            longest=min(counts["max"], config.data.max_input_tokens)
            if architecture == "seq2seq"
            else counts["max"],
            target=counts["loss_tokens"] / counts["rows"],
            longest_target=min(limit, counts["max"]),
            share=counts["rows"] / max(found["rows"], 1),
        )
    if not tasks:
        return None
    return Lengths(
        tasks=tasks,
        rows=found["rows"],
        origin=f"the manifest of {found['rows']:,} rows, which are tokenized already",
    )


def sampled_lengths(config: Config, architecture: str, folder: str | None) -> Lengths | None:
    """Return the lengths of the first rows of each source; None if the sources cannot be read here."""
    try:
        found = sources(config, "train")
        spec = encode_spec(config, architecture)
        rows, read, exact = _sample(found, spec, [task.name for task in spec_of(config.method).tasks])
    except (MedrayError, OSError):
        return None
    count, how = _counter(folder)
    tasks = {}
    for task in spec_of(config.method).tasks:
        texts = [text for one in rows if (text := one.get(task.name)) is not None]
        if not texts:
            continue
        limit = task.limit(config.data)
        inputs = [min(count(_input_of(text)) + _FRAME_TOKENS, config.data.max_input_tokens) for text in texts]
        answers = [min(count(text.answer) + 1, limit) for text in texts]
        whole = (
            inputs if architecture == "seq2seq" else [sum(pair) for pair in zip(inputs, answers, strict=True)]
        )
        tasks[task.name] = TaskLengths(
            length=sum(whole) / len(whole),
            longest=max(whole),
            target=sum(answers) / len(answers),
            longest_target=max(answers),
            share=len(texts) / len(rows),
        )
    if not tasks:
        return None
    split = config.data.split
    trained = read - (0 if split.validation_ids is None else min(read, len(read_ids(split.validation_ids))))
    kept = round(trained * config.data.subsample * (1 - split.validation * (not config.data.validation)))
    about = "" if exact else "about "
    return Lengths(
        tasks=tasks,
        rows=max(kept, 1),
        origin=f"a sample of {len(rows):,} of {about}{read:,} rows, {how}; longer rows than these are possible",
    )


def _sample(
    found: Sequence[Source], spec: EncodeSpec, tasks: Sequence[str]
) -> tuple[list[dict[str, PromptAndAnswer | None]], int, bool]:
    """Return the tasks of the first rows of each source, the number of rows of all sources, and whether it is exact."""
    rows: list[dict[str, PromptAndAnswer | None]] = []
    total, exact = 0, True
    for source in found:
        seen, last = 0, 0
        reading_rows = records(source)
        try:
            for position, _, _, record in islice(reading_rows, SAMPLE_ROWS + 1):
                seen, last = seen + 1, position
                if seen <= SAMPLE_ROWS and not isinstance(record, BadRowError):
                    rows.append({task: reading(record, task, spec) for task in tasks})
        finally:
            reading_rows.close()
        counted, known = _rows_of(source, seen, last)
        total, exact = total + counted, exact and known
    return rows, total, exact


def _rows_of(source: Source, seen: int, last: int) -> tuple[int, bool]:
    """Return the rows of a source and whether the number is exact. seen: rows read so far, the last at position `last`."""
    if isinstance(source, ClinicSource):
        return source.count, True
    if seen <= SAMPLE_ROWS:
        return seen, True
    if isinstance(source, FileSource) and source.format in ("jsonl", "csv", "tsv", "tsv_quoted") and last:
        try:
            size = Path(source.path).stat().st_size
        except OSError:
            size = 0
        if size > last:
            return ceil(size * (seen - 1) / last), False
    return sum(1 for _ in source.read()), True


def _input_of(text: PromptAndAnswer) -> str:
    return "\n".join(f"{turn.lead}{turn.text or ''}" for turn in text.turns)


def _counter(folder: str | None) -> tuple[Callable[[str], int], str]:
    """Return a function that counts tokens, and words about it."""
    file = None if folder is None or storage.is_remote(folder) else Path(folder) / _TOKENIZER
    if file is not None and file.is_file():
        tokenizer = _tokenizer(file)
        if tokenizer is not None:
            return (lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)), "tokenized"
    return (
        lambda text: ceil(len(text) / CHARACTERS_PER_TOKEN)
    ), f"at {CHARACTERS_PER_TOKEN} characters a token"


def _tokenizer(file: Path) -> Any:
    from medray.config.checks.model_folder import check_tokenizer_file

    try:
        check_tokenizer_file(file.parent)
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(file))
    except Exception:  # whatever the file is, the estimate by characters remains
        return None
