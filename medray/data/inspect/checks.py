"""Checks of rows as a model will read them, on the texts of a bounded, seeded sample.

The results contain counts only: no check quotes a row. Checks that need only lengths cover all rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medray.config.method_specs import MethodSpec
from medray.data.corpora.step_by_step import corruption_warning
from medray.data.encode.render import EncodeSpec
from medray.data.encode.template_checks import template_problems
from medray.data.encode.templates import Template
from medray.data.encode.text_ids import TextIds
from medray.data.index.split_checks import missing_ids, one_label
from medray.data.index.text_overlap import normalised
from medray.data.inspect.decoded import Inputs, drawn_rows, texts
from medray.data.reasoning import CLOSE, Reasoning, knows_reasoning
from medray.data.shards.split_summary import SplitCounts
from medray.data.shards.token_split import TokenSet

MOST_SHARDS = 32  # largest number of shards from which the sample is drawn
MANY_CUT = 0.01  # share of rows of a task that may be cut without a problem

# UTF-8 that was read as Latin-1 or Windows-1252, and the replacement character for lost bytes.
_MOJIBAKE = re.compile(r"[ÃÂ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€|ï»¿|Î[±²³´µ¼½]|\ufffd")
_TAGS = "p|br|hr|div|span|a|b|i|u|em|strong|sup|sub|ul|ol|li|table|tr|td|th|h[1-6]|img|font|script|style|html|body"
_HTML = re.compile(
    rf"</?(?:{_TAGS})(?:\s[^<>]{{0,300}})?/?>|&(?:nbsp|amp|lt|gt|quot|#\d{{2,5}});", re.IGNORECASE
)
_CONTROL = re.compile(r"<\|[a-z_]{2,30}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")
_WORDS = re.compile(r"\w+")


Verdict = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """The result of one check of the rows, as `medray data inspect` shows it.

    verdict: problem (training would go wrong), note (worth a look) or ok. said: a sentence without text of a record.
    """

    name: str
    verdict: Verdict
    said: str


@dataclass(frozen=True)
class RationaleQuality:
    """Numbers about the quality of a split's rationales.

    empty: share of all rows without a rationale. words: mean length of a rationale. overlap: mean share of a label's
    words that are also in its rationale. Words and overlap are measured on sampled rows that were not cut.
    """

    split: str
    empty: float
    words: float
    overlap: float
    sampled: int


@dataclass(frozen=True)
class SampledRow:
    """One task of a sampled row, decoded to text.

    target_cut: whether the target is at its limit and a part of the row was cut.

    begins: number of begin tokens. ends: whether the last token is a control token with loss. unknown: number of
    unknown tokens.
    """

    input: str
    target: str
    target_cut: bool
    begins: int
    ends: bool
    unknown: int


Rows = dict[tuple[str, str], list[SampledRow | None]]  # by (split, task); None: the row lacks the task


def sampled_rows(sets: Mapping[str, TokenSet], tokenizer: Any, count: int, seed: int) -> Rows:
    """Draw at most `count` rows of each split, the same rows for every task, and return them decoded."""
    known = TextIds(tokenizer)
    found: Rows = {}
    for split, tokens in sets.items():
        inputs, store = Inputs(tokenizer, tokens.spec), tokens.store(keep=2)
        ids: dict[str, list[_Ids]] = {task: [] for task in tokens.spec.tasks}
        for shard, row in drawn_rows(tokens, count, seed, MOST_SHARDS):
            for task, rows in ids.items():
                sequence, labels = (array.tolist() for array in store.example(shard, row, task))
                causal = tokens.spec.architecture == "causal"
                target = sequence[len(store.prompt(shard, row, task)) :] if causal else labels
                cut = bool(store.counts(shard, task, "cut")[row])
                rows.append(
                    _Ids(
                        inputs.ids(store, shard, row, task),
                        sequence if causal else sequence + labels,
                        target,
                        target_cut=cut and len(target) >= tokens.spec.limit(task),
                        ends=bool(labels) and labels[-1] in known.control.values(),
                    )
                )
        for task, rows in ids.items():
            asked = texts(tokenizer, [row.input for row in rows])
            answers = texts(tokenizer, [row.target for row in rows])
            found[split, task] = [
                _decoded(question, answer, row, known, tokenizer.unk_token_id) if row.whole else None
                for question, answer, row in zip(asked, answers, rows, strict=True)
            ]
    return found


@dataclass(frozen=True)
class _Ids:
    """A task of a row as ids. whole: all ids of a forward pass."""

    input: list[int]
    whole: list[int]
    target: list[int]
    target_cut: bool
    ends: bool


def _decoded(question: str, answer: str, row: _Ids, known: TextIds, unknown: int | None) -> SampledRow:
    begins = 0 if known.begin is None else row.whole.count(known.begin)
    unseen = 0 if unknown is None else row.whole.count(unknown)
    return SampledRow(question, answer, row.target_cut, begins, row.ends, unseen)


def checks(
    method: MethodSpec,
    sets: Mapping[str, TokenSet],
    counts: Mapping[str, SplitCounts],
    rows: Rows,
    tokenizer: Any,
) -> tuple[Check, ...]:
    """Run all checks and return their results."""
    spec = next(iter(sets.values())).spec
    present = [row for group in rows.values() for row in group if row is not None]
    problems = template_problems(tokenizer, spec)
    found = [
        Check("template", "problem", "; ".join(problems))
        if problems
        else Check("template", "ok", "the end of an answer is trained, and prompts equal the template's own")
    ]
    if TextIds(tokenizer).begin is not None and spec.architecture == "causal":
        found.append(
            _sampled(
                "begin tokens",
                "problem",
                present,
                lambda row: row.begins != 1,
                "have no begin token or several; check data.template",
                "one per text",
            )
        )
    found += [
        _sampled(
            "end tokens",
            "problem",
            present,
            lambda row: not row.ends,
            "have no end token with loss, so the model would not learn to stop; check data.template",
            "trained",
        ),
        *_loss_masks(method, counts),
        _one_label(sets["train"]),
        *_missing_ids(sets),
        _truncation(counts),
        _cut_words(method, rows),
        *(_pattern(present, *pattern) for pattern in _PATTERNS),
        _sampled(
            "copies",
            "note",
            present,
            _copies,
            "have a target that equals the input; check data.columns",
            "none",
        ),
    ]
    if tokenizer.unk_token_id is not None:
        found.append(
            _sampled(
                "unknown tokens",
                "note",
                present,
                lambda row: row.unknown > 0,
                f"contain {sum(row.unknown for row in present):,} tokens for text that the tokenizer does not know",
                "none",
            )
        )
    if (reasoning := _reasoning(spec, present, tokenizer)) is not None:
        found.append(reasoning)
    return tuple(found)


def _reasoning(spec: EncodeSpec, rows: Sequence[SampledRow], tokenizer: Any) -> Check | None:
    """Return the mode in which rows are rendered, for a template that handles reasoning."""
    if spec.architecture != "causal":
        return None
    template = Template(tokenizer, spec.template, spec.architecture)
    if not knows_reasoning(template):
        return None
    reasoning = Reasoning.of(template)
    close = reasoning.marks[1].strip() if reasoning else CLOSE
    thinking = sum((close or CLOSE) in row.target for row in rows)
    return Check(
        "reasoning",
        "ok" if thinking in (0, len(rows)) else "note",
        f"{thinking:,} of {len(rows):,} sampled answers have reasoning and are rendered in the template's thinking mode, "
        "the others without it",
    )


def rationales(counts: Mapping[str, SplitCounts], rows: Rows) -> tuple[RationaleQuality, ...]:
    """Return numbers about the quality of the rationales, for each split that has a rationale task."""
    found = []
    for split, counted in counts.items():
        if "rationale" not in counted.tasks or not counted.rows:
            continue
        empty = float((counted.length[counted.tasks.index("rationale")] == 0).mean())
        pairs = zip(rows[split, "label"], rows[split, "rationale"], strict=True)
        both = [(label.target, why.target) for label, why in pairs if label is not None and why is not None]
        words = [len(why.split()) for _, why in both]
        shares = [len(said & _words(why)) / len(said) for label, why in both if (said := _words(label))]
        found.append(RationaleQuality(split, empty, _mean(words), _mean(shares), len(both)))
    return tuple(found)


def _pattern(
    rows: list[SampledRow], name: str, verdict: Verdict, what: str, test: Callable[[str], bool]
) -> Check:
    return _sampled(name, verdict, rows, lambda row: test(row.input) or test(row.target), what, "none")


def _sampled(
    name: str,
    verdict: Verdict,
    rows: list[SampledRow],
    wrong: Callable[[SampledRow], bool],
    what: str,
    fine: str,
) -> Check:
    """Return the verdict if any row is wrong. what: the words for wrong rows. fine: the words if there are none."""
    count = sum(map(wrong, rows))
    if count:
        return Check(name, verdict, f"{count:,} of {len(rows):,} sampled texts {what}")
    return Check(name, "ok", f"{fine}, in {len(rows):,} sampled texts")


def _loss_masks(method: MethodSpec, counts: Mapping[str, SplitCounts]) -> list[Check]:
    empty = sum(int(((one.length > 0) & (one.loss == 0)).sum()) for one in counts.values())
    found = [
        Check(
            "loss masks",
            "problem",
            f"{empty:,} of all texts have no token with loss and train nothing; raise the limits of their lengths",
        )
        if empty
        else Check("loss masks", "ok", "every text has tokens with loss")
    ]
    required = [task.name for task in method.encoded if task.required]
    for split, one in counts.items():
        for task in required:
            missing = int((one.length[one.tasks.index(task)] == 0).sum())
            if missing:
                verdict: Verdict = "problem" if missing == one.rows else "note"
                said = f"{missing:,} of {one.rows:,} {split} rows have no {task} to learn; check the columns in data.columns"
                found.append(Check("labels", verdict, said))
    return found


def _one_label(train: TokenSet) -> Check:
    warning = one_label(train.index)
    return Check("one label", "problem", warning) if warning else Check("one label", "ok", "labels differ")


def _missing_ids(sets: Mapping[str, TokenSet]) -> list[Check]:
    warning = missing_ids({split: tokens.index for split, tokens in sets.items()})
    return [Check("ids of validation", "note", warning)] if warning else []


def _truncation(counts: Mapping[str, SplitCounts]) -> Check:
    most, said = 0.0, []
    for split, one in counts.items():
        for task, cut in zip(one.tasks, one.cut, strict=True):
            if cut.any():
                most = max(most, float(cut.mean()))
                said.append(f"{int(cut.sum()):,} of {one.rows:,} {split} {task}")
    verdict: Verdict = "note" if most > MANY_CUT else "ok"
    return Check(
        "limits", verdict, f"cut to fit: {', '.join(said)}" if said else "no row is longer than the limits"
    )


def _cut_words(method: MethodSpec, groups: Rows) -> Check:
    """Check cut targets: they teach a model to stop too early. Known words are taken from texts that were not cut."""
    shares = {
        place: _mean(row.target_cut for row in group if row is not None) for place, group in groups.items()
    }
    rows = [row for group in groups.values() for row in group if row is not None]
    cut = [row.target.rstrip("\ufffd") for row in rows if row.target_cut]
    if not cut:
        return Check("ends of targets", "ok", "no sampled target was cut")
    whole = {word for row in rows for word in _WORDS.findall(row.input)}
    whole |= {word for row in rows if not row.target_cut for word in _WORDS.findall(row.target)}
    for text in cut:
        whole.update(_WORDS.findall(text)[:-1])
    broken = sum(text[-1:].isalnum() and _WORDS.findall(text)[-1] not in whole for text in cut)
    said = f"{len(cut):,} of {len(rows):,} sampled targets were cut, {broken:,} of them inside a word"
    limits = sorted({method.task(task).limit_key for (_, task), share in shares.items() if share > MANY_CUT})
    if not limits:
        return Check("ends of targets", "note", said)
    return Check(
        "ends of targets", "problem", f"{said}: raise {' and '.join(limits)}, or shorten the targets"
    )


def _copies(row: SampledRow) -> bool:
    return len(row.target.split()) > 3 and normalised(row.target) == normalised(row.input)


def _words(text: str) -> set[str]:
    return set(_WORDS.findall(normalised(text)))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else 0.0


_PATTERNS: tuple[tuple[str, Verdict, str, Callable[[str], bool]], ...] = (
    (
        "line ends",
        "note",
        "contain a backslash and the letter n instead of a line end; write real line ends",
        lambda text: "\\n" in text,
    ),
    (
        "HTML",
        "note",
        "contain HTML tags or entities; remove them if a model should not write them",
        lambda text: bool(_HTML.search(text)),
    ),
    (
        "encoding",
        "note",
        "contain characters that were decoded with a wrong encoding; read the source as UTF-8",
        lambda text: bool(_MOJIBAKE.search(text.rstrip("\ufffd"))),
    ),
    (
        "replaced words",
        "problem",
        'contain broken words such as "Negativet", because every "No" was replaced by "Negative"; use undamaged files',
        lambda text: "Negative" in text and corruption_warning([{"input": text}]) is not None,
    ),
    (
        "control strings",
        "ok",
        "contain text that looks like control tokens but is read as plain text",
        lambda text: bool(_CONTROL.search(text)),
    ),
)
