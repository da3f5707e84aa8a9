"""Records to preference pairs: rows with prompt, chosen, rejected, and where each rejected answer comes from.

Documents with entities get rejected answers by rule (corruptions.py); consultations of the simulated clinic bring a
note with one named error; published pairs are kept as they are. The prompt is that of training: the text that
supervised fine-tuning on the same config reads, so that stages on both data see one form.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from medray.data.encode.render import EncodeSpec, extraction_answer, reading
from medray.data.index.row_index import records
from medray.data.index.sources import ClinicSource, Source
from medray.data.records import BadRowError, Extraction, Preference, Record
from medray.pairs.corruptions import CORRUPTIONS, Task

PUBLISHED = "published"


@dataclass(frozen=True, kw_only=True, slots=True)
class PairOptions:
    """The settings of `pairs`. strategies: names of CORRUPTIONS. per_record: the most rejected answers of one prompt."""

    strategies: tuple[str, ...] = tuple(CORRUPTIONS)
    per_record: int = 1
    seed: int = 0


@dataclass
class PairCounts:
    """Counts of the records that were read. length_ratios: sum over the pairs of len(rejected) / len(chosen), in characters."""

    records: int = 0
    bad_rows: int = 0
    without_pair: int = 0
    by_strategy: Counter[str] = field(default_factory=Counter)
    length_ratios: float = 0.0

    @property
    def pairs(self) -> int:
        return self.by_strategy.total()

    def to_json(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "bad_rows": self.bad_rows,
            "without_pair": self.without_pair,
            "pairs": self.pairs,
            "by_strategy": dict(self.by_strategy),
            "mean_length_ratio": self.length_ratios / self.pairs if self.pairs else None,
        }


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, and the rule that made the rejected one."""

    chosen: str
    rejected: str
    strategy: str


def pairs(
    sources: Sequence[Source], spec: EncodeSpec, options: PairOptions, counts: PairCounts
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a pairs file, in the order of the sources; updates `counts`.

    A row: id, group, lang, prompt (text, or messages), chosen, rejected, strategy, seed, source. A record that gives
    no pair is counted.
    """
    for source in sources:
        rejected_notes = source.read() if isinstance(source, ClinicSource) else None
        for _, _, _, record in records(source):
            note = next(rejected_notes).row if rejected_notes is not None else None
            if isinstance(record, BadRowError):
                counts.bad_rows += 1
                continue
            counts.records += 1
            made = [_of_clinic(note)] if isinstance(note, dict) else list(_of_record(record, spec, options))
            counts.without_pair += not made
            for pair in made:
                counts.by_strategy[pair.strategy] += 1
                counts.length_ratios += len(pair.rejected) / len(pair.chosen)
                yield pair_row(record, pair, spec) | {"seed": options.seed, "source": source.name}


def _of_clinic(row: dict[str, Any]) -> Pair:
    return Pair(row["chosen"], row["rejected"], f"clinic/{row['error']['kind']}")


def _of_record(record: Record, spec: EncodeSpec, options: PairOptions) -> Iterator[Pair]:
    if isinstance(record, Preference):
        chosen, rejected = record.chosen, record.rejected
        if chosen.strip() and rejected.strip() and same_text(chosen) != same_text(rejected):
            yield Pair(chosen, rejected, PUBLISHED)
    elif isinstance(record, Extraction):
        yield from _corrupted(record, spec, options)


def _corrupted(record: Extraction, spec: EncodeSpec, options: PairOptions) -> Iterator[Pair]:
    """Yield up to `per_record` pairs, each of another strategy and with another rejected answer."""
    chosen = extraction_answer(record, spec.extraction_answer, spec.extraction_types)
    items = tuple((each,) if isinstance(each, str) else tuple(each) for each in json.loads(chosen))
    task = Task(document=record, answer=spec.extraction_answer, types=spec.extraction_types, items=items)
    draw = random.Random(_seed(options.seed, record.origin.id))
    seen = {same_text(chosen)}
    for strategy in draw.sample(options.strategies, len(options.strategies)):
        wrong = CORRUPTIONS[strategy](task, draw)
        if not wrong:
            continue
        plain = [item[0] if spec.extraction_answer == "entities" else list(item) for item in wrong]
        rejected = json.dumps(plain, ensure_ascii=False)
        if same_text(rejected) not in seen:
            seen.add(same_text(rejected))
            yield Pair(chosen, rejected, strategy)
        if len(seen) > options.per_record:
            return


def pair_row(record: Record, pair: Pair, spec: EncodeSpec) -> dict[str, Any]:
    """Return the row of a pair: id, group, lang, prompt, chosen, rejected and strategy."""
    origin = record.origin
    row = {"id": f"{origin.id}#{pair.strategy}", "group": origin.group or origin.id}
    row |= {"lang": origin.lang} if origin.lang else {}
    return row | {
        "prompt": _prompt(record, spec),
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "strategy": pair.strategy,
    }


def _prompt(record: Record, spec: EncodeSpec) -> str | list[dict[str, str]]:
    """Return the prompt of the label task: a text if it is one turn of the user, else a list of messages.

    The config's own system message is left out, as training on the pairs adds it again.
    """
    asked = reading(record, "label", spec)
    assert asked is not None  # a record with a chosen answer has a prompt
    turns = [
        turn for turn in asked.turns if (turn.role, turn.lead, turn.text) != ("system", spec.system, None)
    ]
    texts = [{"role": turn.role, "content": turn.lead + (turn.text or "")} for turn in turns]
    return texts[0]["content"] if [each["role"] for each in texts] == ["user"] else texts


def same_text(text: str) -> str:
    """Return a text by which answers are compared: without case and surplus blanks."""
    return " ".join(text.split()).casefold()


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest())
