"""The beginning of chats: opening questions from replies or files, and the situations that are drawn for them once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medray.config.synth import SynthConfig
from medray.errors import InputError
from medray.storage import StoragePath, json_files
from medray.synth import published, published_results
from medray.synth.asking.steps import Key, steps_of
from medray.synth.asking.store import OK, Record, Store
from medray.synth.chat.situations import Situation, draw
from medray.synth.chat.work import Situations
from medray.synth.draws import Draws
from medray.synth.lines import write_lines
from medray.synth.lists.read import read_lists
from medray.synth.lists.values import Lists
from medray.synth.prompts import questions, write
from medray.synth.prompts.questions import Question
from medray.synth.prompts.write import Prompts

QUESTIONS, SITUATIONS, FACTS = "questions.jsonl", "situations.jsonl", "situations.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """The situations of a synthesis. questions: number of opening questions. dropped: by reason."""

    file: StoragePath
    questions: int
    dropped: Mapping[str, int] = field(default_factory=dict)


def has_inputs(config: SynthConfig) -> bool:
    return bool(config.inputs.questions or config.inputs.situations or config.inputs.chats)


def made_before(folder: StoragePath, config: SynthConfig) -> Opening | None:
    """Return the situations of an earlier start, or None. Raises InputError if other keys decided them."""
    try:
        known = json_files.read_sealed(folder / FACTS)
    except FileNotFoundError:
        return None
    if known.get("fingerprint") != _fingerprint(config):
        raise InputError(
            f"{folder} has situations that were drawn with another seed, other questions or other keys",
            key="run.name",
            value=config.run.name,
            fix="use another run.name, or remove the folder",
        )
    with json_files.checking(folder / FACTS):
        return Opening(
            file=folder / SITUATIONS, questions=int(known["questions"]), dropped=dict(known["dropped"])
        )


def prompts(folder: StoragePath, config: SynthConfig) -> Prompts:
    """Return the requests for questions; they are written to the folder if they are not there."""
    made = write.make(config)
    write.write(folder, config, made)
    return made


def of_replies(
    folder: StoragePath, config: SynthConfig, made: Prompts, replies: Mapping[str, str]
) -> Opening:
    """Write the questions of all replies, and draw their situations."""
    parsed = questions.parse(
        made.requests,
        replies,
        made.lists.styles,
        config.run.seed,
        strip_quotes=config.prompts.strip_quotes,
        near_duplicates=config.prompts.near_duplicates,
    )
    _refuse_none(len(parsed.questions), folder, "reply to the requests")
    write_lines(folder / QUESTIONS, (each.to_json() for each in parsed.questions))
    opening = Opening(file=folder / SITUATIONS, questions=len(parsed.questions), dropped=parsed.dropped)
    _write(folder, config, opening, _drawn(parsed.questions, made.lists, config))
    return opening


def of_inputs(folder: StoragePath, config: SynthConfig) -> Opening:
    """Write the situations of the files in `inputs`: published ones as they are, and those of questions and chats drawn."""
    lists = read_lists(config.prompts.resources)
    given = [each for file in config.inputs.situations for each in published.situations(Path(file), lists)]
    have = {situation.id for situation in given}
    asked: list[Question] = []
    dropped: Counter[str] = Counter()
    for file in map(Path, config.inputs.questions):
        if published_results.is_results(file):
            strip = config.prompts.strip_quotes
            found, lost = published_results.questions(file, lists, config.run.seed, strip_quotes=strip)
            asked += found
            dropped += lost
        else:
            asked += published.questions(file, lists)
    asked += [
        published.question_of(row.id, row.messages[0][1], None, lists)
        for file in config.inputs.chats
        for row in published.chats(Path(file))
    ]
    fresh: dict[str, Question] = {}
    for question in asked:
        if question.id not in have:
            fresh.setdefault(question.id, question)
    repeated = Counter(situation.id for situation in given).most_common(1)
    if repeated and repeated[0][1] > 1:
        raise InputError(
            f"the files of situations repeat the id {repeated[0][0]!r}",
            key="inputs.situations",
            fix="remove one of the two lines",
        )
    count = len(given) + len(fresh)
    _refuse_none(count, folder, "question in the files of inputs")
    opening = Opening(file=folder / SITUATIONS, questions=count, dropped=dropped)
    _write(folder, config, opening, [*given, *_drawn(list(fresh.values()), lists, config)])
    return opening


def import_chats(config: SynthConfig, situations: Situations, store: Store) -> int:
    """Record the messages of chats in progress as accepted replies, and return how many were new.

    A last message of the user stays: it is the question of the next turn.
    """
    count = 0
    for file in config.inputs.chats:
        for row in published.chats(Path(file)):
            if row.id not in situations:
                continue
            steps = steps_of(situations.turns_of(row.id))
            for step, (_, text) in zip(steps, row.messages[1:], strict=False):
                count += store.add(Record(key=Key(row.id, step, 0), status=OK, text=text, backend="import"))
    return count


def _drawn(rows: list[Question], lists: Lists, config: SynthConfig) -> Iterator[Situation]:
    if config.chat.most is not None and config.chat.most < len(rows):
        order = {row.id: number for number, row in enumerate(rows)}
        rows = sorted(
            Draws(config.run.seed, "chats").sample(rows, config.chat.most), key=lambda row: order[row.id]
        )
    return (draw(row, lists, config.run.seed) for row in rows)


def _write(folder: StoragePath, config: SynthConfig, opening: Opening, rows: Iterable[Situation]) -> None:
    write_lines(opening.file, (each.to_json() for each in rows))
    facts = {"questions": opening.questions, "dropped": dict(opening.dropped)}
    json_files.write_sealed(folder / FACTS, {"fingerprint": _fingerprint(config), **facts})


def _refuse_none(count: int, folder: StoragePath, what: str) -> None:
    if not count:
        raise InputError(
            f"there is no usable {what}",
            file=folder,
            key="run.name",
            fix="run medray synth inspect on the folder",
        )


def _fingerprint(config: SynthConfig) -> str:
    facts = {
        "seed": config.run.seed,
        "prompts": config.prompts.model_dump(mode="json", exclude={"resources"}),
        "most": config.chat.most,
        "inputs": {
            name: [_content(Path(file)) for file in getattr(config.inputs, name)]
            for name in ("questions", "situations", "chats")
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _content(file: Path) -> str:
    digest = hashlib.sha256()
    with published.opened(file) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
