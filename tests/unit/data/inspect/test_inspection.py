"""An inspection's numbers equal those of the shards and of training, and flaws of rows are found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from medray.config import Config
from medray.config.method_specs import spec_of
from medray.data.encode import IGNORED
from medray.data.encode.encoder import Encoder, TaskColumns
from medray.data.inspect.checks import Check
from medray.data.inspect.decoded import Inputs, drawn_rows, find_row, samples
from medray.data.inspect.inspection import Inspection, inspect
from medray.data.inspect.padding import suggested_pack_tokens
from medray.data.records import Distill, Entity, Extraction, Origin
from medray.data.shards.preparation import REJECTS
from medray.data.shards.shard_file import write_shard
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer, train_tokenizer
from medray.methods import loss_of
from medray.train.loop.batch_reader import BatchLayout, BatchReader

HIERARCHICAL: dict[str, Any] = {
    "method": {"name": "distill", "variant": "hierarchical", "rationale": {"keys": tiny.KEYS}}
}


def config(**sections: dict[str, Any]) -> Config:
    base: dict[str, dict[str, Any]] = {
        "run": {"storage": "runs", "name": "n", "seed": 3},
        "model": {"name": None, "init": "random", "preset": "t5-tiny"},
        "data": {"train": ["x.jsonl"], "window_shards": 2},
        "method": {"name": "distill"},
        "train": {"global_batch_size": 8, "micro_batch_size": 2},
        "cluster": {"workers": 2},
    }
    return Config.model_validate({name: {**base.get(name, {}), **sections.get(name, {})} for name in base})


def inspected(folder: Path, made: Sequence[dict[str, Any]], **how: Any) -> Inspection:
    return inspect(config(), {"train": tiny.token_set(folder, made, **how)})


def check(found: Inspection, name: str) -> Check:
    (one,) = (check for check in found.checks if check.name == name)
    return one


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_lengths_are_those_of_the_examples(tmp_path: Path, architecture: str) -> None:
    tokens = tiny.token_set(tmp_path, tiny.rows(40), architecture=architecture)
    found = inspect(config(), {"train": tokens})
    store = tokens.store()
    for one in found.tasks:
        lengths, losses = [], []
        for place in tokens.rows():
            ids, labels = store.example(*place, one.task)
            lengths.append(len(ids) + (len(labels) if architecture == "seq2seq" else 0))
            losses.append(int((labels != IGNORED).sum()))
        present = [length for length in lengths if length]
        assert (one.rows, one.without) == (len(present), len(lengths) - len(present))
        assert (one.tokens, one.loss_tokens) == (sum(lengths), sum(losses))
        assert (one.p50, one.p99) == (np.percentile(present, 50), np.percentile(present, 99))
        assert one.max == max(lengths)
        shown = [
            sum(one.bin_tokens * place < length <= one.bin_tokens * (place + 1) for length in lengths)
            for place in range(len(one.histogram))
        ]
        assert list(one.histogram) == shown
        assert sum(shown) == len(present)
    assert [one.without for one in found.tasks] == [0, 8]


@pytest.mark.parametrize(
    ("architecture", "data", "layout"),
    [
        ("causal", {}, (2, 8)),
        ("seq2seq", {}, (2, 8)),
        ("seq2seq", {"length_buckets": False}, (2, 8)),
        ("causal", {"pack_tokens": 200}, (2, 8)),
        ("causal", {}, (3, 12)),
        ("causal", {"tokens": 500}, (4, None)),
        ("causal", HIERARCHICAL, (2, 8)),
        ("seq2seq", HIERARCHICAL, (2, 8)),
        ("causal", {"pack_tokens": 200} | HIERARCHICAL, (2, 8)),
        ("seq2seq", {"method": {"name": "distill", "variant": "cosine"}}, (2, 8)),
    ],
)
def test_padding_is_what_training_computes(
    tmp_path: Path, architecture: Any, data: dict[str, Any], layout: tuple[int, int | None]
) -> None:
    """Compare with the arrays of the reader that training uses, of both ranks, over an epoch."""
    method = data.get("method", {})
    rows = tiny.keyed_rows(50) if method is HIERARCHICAL["method"] else tiny.rows(50)
    train = {"micro_batch_size": layout[0], "global_batch_tokens": data.get("tokens")}
    read = {key: value for key, value in data.items() if key not in ("tokens", "method")}
    made = config(data=read, train=train, method=method)
    tokens = tiny.token_set(tmp_path, rows, architecture=architecture, tasks=spec_of(made.method).task_names)
    plan = tokens.plan(made)
    used = computed = 0
    for rank in range(2):
        reader = BatchReader(
            tokens.store(),
            plan,
            loss_of(made.method),
            BatchLayout(*layout),
            rank=rank,
            world_size=2,
            architecture=architecture,
            pad_id=0,
            packed=made.data.pack_tokens is not None,
        )
        for step in range(plan.steps(1)):
            prepared = reader.prepare(step)
            used += prepared.tokens
            for part in (part for parts in prepared.micro for part in parts):
                computed += part.input_ids.size + (part.labels.size if architecture == "seq2seq" else 0)
    found = {one.name: one for one in inspect(made, {"train": tokens}).padding}
    assert (found["plan"].tokens, found["plan"].computed) == (used // 2, computed)
    assert found["plan"].whole_epoch
    assert found["plan"].share == 1 - found["plan"].tokens / computed
    assert found["random"].tokens == found["plan"].tokens
    if not method:
        assert found["random"].computed == _in_random_order(tokens, made)
    assert ("packed" in found) == (architecture == "causal" and made.data.pack_tokens is None)


def _in_random_order(tokens: TokenSet, made: Config) -> int:
    """Return the positions of micro-batches in the order of the plan without lengths."""
    plain = config(data={"length_buckets": False}, train={"micro_batch_size": made.train.micro_batch_size})
    plan, store, computed = tokens.plan(plain), tokens.store(), 0
    for step in range(plan.steps(1)):
        batch = plan.batch(step)
        pairs = list(zip(batch.shards.tolist(), batch.rows.tolist(), strict=True))
        size = made.train.micro_batch_size or 0
        for group in (pairs[at : at + size] for at in range(0, len(pairs), size)):
            for task in spec_of(made.method).task_names:
                examples = [store.example(*pair, task) for pair in group]
                widths = [
                    max(max(len(array) for array in arrays), 1) for arrays in zip(*examples, strict=True)
                ]
                computed += len(group) * (sum(widths) if tokens.spec.architecture == "seq2seq" else widths[0])
    return computed


def test_the_suggested_packing_leaves_little_padding(tmp_path: Path) -> None:
    (packed,) = (
        one for one in inspected(tmp_path, tiny.rows(300), shard_rows=150).padding if one.name == "packed"
    )
    assert packed.share < 0.05
    assert packed.pack_tokens == 512
    assert suggested_pack_tokens(np.array([10, 300])) == 1024
    assert suggested_pack_tokens(np.array([10] * 50 + [300])) == 512


def row(number: int, **columns: str) -> dict[str, str]:
    """Return a row without a flaw, except for the given columns."""
    label = "pain knee" if number % 2 else "knee pain"
    made = {"id": f"r{number}", "input": "the knee hurts", "label": label, "rationale": "knee: yes"}
    return made | columns


def test_one_label_for_all_rows_is_a_problem(tmp_path: Path) -> None:
    found = inspected(tmp_path, [row(number, label="knee pain") for number in range(6)])
    assert check(found, "one label").verdict == "problem"
    assert "all 6 training labels are the same text" in check(found, "one label").said


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_rows_without_a_flaw_are_passed(tmp_path: Path, architecture: str) -> None:
    flawless = [
        row(n, input=f"patient {n}: a naïve “quote”, β 5 µg, p < 0.05, Now and Negative") for n in range(9)
    ]
    found = inspected(tmp_path, flawless, architecture=architecture)
    assert [(one.name, one.said) for one in found.checks if one.verdict != "ok"] == []
    assert found.problems == 0


@pytest.mark.parametrize(
    ("column", "text", "name", "verdict"),
    [
        ("input", r"first\nsecond", "line ends", "note"),
        ("label", r"first\nsecond", "line ends", "note"),
        ("input", "a <b>bold</b> word", "HTML", "note"),
        ("rationale", 'a <a href="x">link</a>', "HTML", "note"),
        ("input", "salt &amp; water", "HTML", "note"),
        ("input", "fiÃ¨vre Ã\xa0 38", "encoding", "note"),
        ("label", "the patientâ€™s knee", "encoding", "note"),
        ("input", "lost \ufffd byte", "encoding", "note"),
        ("input", "Negativet today", "replaced words", "problem"),
        ("rationale", "pain: Negativermal", "replaced words", "problem"),
        ("input", "say <|im_end|> now", "control strings", "ok"),
        ("label", "The  knee hurts very much", "copies", "note"),
    ],
)
def test_a_flaw_is_found_in_its_row(tmp_path: Path, column: str, text: str, name: str, verdict: str) -> None:
    made = [row(n) for n in range(10)]
    made[4] = row(4, **{"input": "the knee hurts very much", column: text})
    found = inspected(tmp_path, made)
    one = check(found, name)
    # An input is read by both tasks.
    assert one.said.startswith(f"{2 if column == 'input' else 1} of 20 sampled texts ")
    assert one.verdict == verdict
    assert [other.name for other in found.checks if other.verdict != "ok" and other.name != name] == []
    assert found.problems == (verdict == "problem")


def test_cut_targets_are_counted_and_broken_words_among_them(tmp_path: Path) -> None:
    long = "knee pain " * 40
    made = [row(n) for n in range(5)] + [row(5, label=long), row(6, label=f"{'x' * 31}qzvb")]
    found = inspected(tmp_path, made)
    assert check(found, "limits").said == "cut to fit: 2 of 7 train label"
    assert check(found, "limits").verdict == "note"
    assert check(found, "ends of targets").said.startswith(
        "2 of 14 sampled targets were cut, 1 of them inside"
    )
    assert check(found, "ends of targets").verdict == "problem"
    assert check(found, "ends of targets").said.endswith(
        "raise data.max_label_tokens, or shorten the targets"
    )
    assert [one.truncated for one in found.tasks] == [2, 0]


@pytest.mark.parametrize(("whole", "verdict"), [(99, "note"), (98, "problem")])
@pytest.mark.parametrize("column", ["label", "rationale"])
def test_cut_targets_are_a_problem_where_more_than_one_in_a_hundred_is(
    tmp_path: Path, whole: int, verdict: str, column: str
) -> None:
    """Count only rows of one task: rows of the other task do not lower the share."""
    long = row(100, **{column: "knee pain " * 40})
    found = inspected(tmp_path, [*(row(n) for n in range(whole)), long])
    one = check(found, "ends of targets")
    assert (one.verdict, found.problems) == (verdict, verdict == "problem")
    assert (f"data.max_{column}_tokens" in one.said) == (verdict == "problem")


def test_cut_inputs_are_allowed(tmp_path: Path) -> None:
    found = inspected(tmp_path, [row(n, input="knee pain " * 200) for n in range(5)])
    assert (check(found, "limits").verdict, check(found, "ends of targets").verdict) == ("note", "ok")


def rewritten(tokens: TokenSet, change: Any) -> TokenSet:
    """Return the token set with changed columns of the label task in its first shard."""
    store, shard = tokens.store(), tokens.index.shards[0]
    columns = {}
    for task in tokens.spec.tasks:
        ids, ends, spans, span_ends = [], [], [], []
        for number in range(shard.rows):
            sequence, labels = (array.tolist() for array in store.example(0, number, task))
            marked = np.flatnonzero(np.array(labels) != IGNORED)
            span = [int(marked[0]), int(marked[-1]) + 1]
            if task == "label":
                sequence, span = change(sequence, span)
            ids += sequence
            spans += span
            ends.append(len(ids))
            span_ends.append(len(spans))
        columns[task] = TaskColumns(
            np.array(ids, np.int32),
            np.array(ends, np.int64),
            np.array(spans, np.int32),
            np.array(span_ends, np.int64),
            np.zeros(shard.rows, bool),
        )
    names = [str(store.text(0, number, "id")) for number in range(shard.rows)]
    write_shard(Path(tokens.folder), 0, names, columns, "causal", truth=None)
    return tokens


def test_an_empty_loss_mask_is_a_problem(tmp_path: Path) -> None:
    tokens = rewritten(tiny.token_set(tmp_path, [row(n) for n in range(6)]), lambda ids, span: (ids, []))
    found = inspect(config(), {"train": tokens})
    assert check(found, "loss masks") == Check(
        "loss masks",
        "problem",
        "6 of all texts have no token with loss and train nothing; raise the limits of their lengths",
    )


def test_an_end_that_is_not_trained_is_a_problem(tmp_path: Path) -> None:
    tokens = tiny.token_set(tmp_path, [row(n) for n in range(6)])
    found = inspect(config(), {"train": rewritten(tokens, lambda ids, span: (ids, [span[0], span[1] - 1]))})
    assert check(found, "end tokens").verdict == "problem"
    assert check(found, "end tokens").said.startswith("6 of 12 ")


def test_two_begin_tokens_are_a_problem(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokens = tiny.token_set(tmp_path, [row(n) for n in range(6)])
    tokenizer = load_tokenizer(tokens.tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", begin)]
    )
    tokenizer.save_pretrained(tmp_path / "with-begin")
    assert load_tokenizer(str(tmp_path / "with-begin"))("a")["input_ids"][0] == begin
    tokens = replace(tokens, tokenizer=str(tmp_path / "with-begin"), spec=tiny.encode_spec(tasks=("label",)))
    for count, verdict in ((1, "ok"), (2, "problem")):
        made = rewritten(
            tiny.token_set(tmp_path, [row(n) for n in range(6)], tasks=("label",)),
            lambda ids, span, count=count: ([begin] * count + ids, [place + count for place in span]),
        )
        made = replace(tokens, folder=made.folder, index=made.index)
        found = inspect(config(method={"name": "sft"}), {"train": made})
        assert check(found, "begin tokens").verdict == verdict


def test_a_tokenizer_with_words_of_the_records_gives_a_note(tmp_path: Path) -> None:
    """A name in six records is an entry of the vocabulary, so the note is justified."""
    texts = [f"Hannelore Quittenbaum came {n} times" for n in range(6)]
    trained = train_tokenizer(texts, 400, tmp_path / "trained")
    assert any("Hannelore" in entry for entry in load_tokenizer(str(trained)).get_vocab())
    tokens = tiny.token_set(tmp_path, [row(n, input=text) for n, text in enumerate(texts)])
    told = inspect(config(data={"tokenizer": "train"}), {"train": tokens})
    assert check(told, "tokenizer").verdict == "note"
    assert "its vocabulary contains words of them" in check(told, "tokenizer").said
    assert told.problems == 0
    given = inspect(config(data={"tokenizer": "model"}), {"train": tokens})
    assert "tokenizer" not in {one.name for one in given.checks}


def test_rationales_are_measured(tmp_path: Path) -> None:
    made = [
        row(0, label="knee pain", rationale="the knee hurts"),
        row(1, label="Knee pain", rationale="pain in the knee"),
        row(2, rationale=""),
        row(3, rationale=""),
    ]
    (one,) = inspected(tmp_path, made).rationales
    assert (one.split, one.empty, one.sampled) == ("train", 0.5, 2)
    assert (one.words, one.overlap) == (3.5, 0.75)


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_classes_are_counted_and_named_apart(tmp_path: Path, architecture: str) -> None:
    def labelled(labels: str, of: dict[str, str]) -> list[dict[str, str]]:
        return [row(n, input=f"text {n}", label=of[letter]) for n, letter in enumerate(labels)]

    of = {"y": "yes", "n": "no", "m": "may be"}
    sets = {
        split: tiny.token_set(tmp_path, labelled(labels, of), architecture=architecture, name=split)
        for split, labels in (("train", "ynyyynyynn"), ("validation", "mynm"))
    }
    found = inspect(config(), sets)
    train, validation = found.classes
    assert (train.rows, train.majority, train.unseen) == ((6, 4), 0.6, 0)
    assert train.names == ("yes", "no")
    assert (validation.rows[0], validation.unseen, validation.names[0]) == (2, 2, "may be")
    assert "may be" not in json.dumps(found.to_json())


def test_labels_that_are_texts_are_not_classes(tmp_path: Path) -> None:
    assert inspected(tmp_path, [row(n, label=f"text of number {n}") for n in range(30)]).classes == ()
    long = [row(n, label="one two three four five six seven eight") for n in range(30)]
    assert inspected(tmp_path, long, name="long").classes == ()


def test_rejects_are_shown_with_their_positions(tmp_path: Path) -> None:
    tokens = tiny.token_set(tmp_path, [row(n) for n in range(8)])
    rejects = [{"file": "/data/a.jsonl", "line": line, "reason": "no column 'label'"} for line in range(3, 9)]
    rejects.insert(1, {"file": "/data/b.jsonl", "line": 1, "reason": "not UTF-8"})
    (Path(tokens.folder) / REJECTS).write_text("".join(json.dumps(reject) + "\n" for reject in rejects))
    index = replace(
        tokens.index,
        rejects={"not UTF-8": 1, "no column 'label'": 6},
        dropped={"duplicate": 2},
        duplicates=3,
        repeated_ids=1,
    )
    (one,) = inspect(config(), {"train": replace(tokens, index=index)}).splits
    assert [(reject.reason, reject.rows, reject.places) for reject in one.rejected] == [
        ("no column 'label'", 6, ("a.jsonl:3", "a.jsonl:4", "a.jsonl:5")),
        ("not UTF-8", 1, ("b.jsonl:1",)),
    ]
    assert (one.rows, one.dropped, one.duplicates, one.repeated_ids) == (8, {"duplicate": 2}, 3, 1)


def test_numbers_contain_no_text(tmp_path: Path) -> None:
    secret = {column: f"Zorblatt {column}" for column in ("input", "label", "rationale")}
    found = inspected(tmp_path, [row(n, **secret) for n in range(12)])
    assert found.classes
    assert "orblatt" not in json.dumps(found.to_json())


def test_the_length_of_a_run(tmp_path: Path) -> None:
    tokens = tiny.token_set(tmp_path, tiny.rows(50))
    length = inspect(config(train={"epochs": 2}), {"train": tokens}).length
    tasks = inspect(config(), {"train": tokens}).tasks
    assert (length.rows, length.steps_per_epoch, length.steps, length.epochs) == (50, 7, 14, 2.0)
    assert (length.tokens, length.loss_tokens) == (
        sum(t.tokens for t in tasks),
        sum(t.loss_tokens for t in tasks),
    )
    label_alone = inspect(config(method={"alpha": 1.0}), {"train": tokens}).length
    assert label_alone.tokens == tasks[0].tokens


def test_passes_over_corpora_that_are_mixed(tmp_path: Path) -> None:
    """Mix 14 rows and 28 of another corpus in equal shares: the first is used up when half of the second is."""
    tokens = tiny.token_set(tmp_path, tiny.rows(42))
    shards = tuple(replace(shard, source=int(shard.index > 1)) for shard in tokens.index.shards)
    tokens = replace(tokens, index=replace(tokens.index, shards=shards, corpora=(0, 1)), weights=(1.0, 1.0))
    length = inspect(config(train={"global_batch_size": 4, "epochs": 2}), {"train": tokens}).length
    assert (length.rows, length.steps_per_epoch) == (42, 7)
    assert length.passes == pytest.approx((2, 1), abs=0.1)
    plan, store = tokens.plan(config(train={"global_batch_size": 4})), tokens.store()
    walked = sum(
        int(store.sizes(shard, ("label", "rationale"))[row])
        for step in range(7)
        for shard, row in zip(plan.batch(step).shards.tolist(), plan.batch(step).rows.tolist(), strict=True)
    )
    assert length.tokens == pytest.approx(walked, rel=0.1)


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_samples_are_the_text_with_its_mask(tmp_path: Path, architecture: str) -> None:
    made = [row(0, input="fièvre 漢字 😀 knee", label="漢\nknee"), row(1, rationale="")]
    tokens = tiny.token_set(tmp_path, made, architecture=architecture)
    tokenizer = load_tokenizer(tokens.tokenizer)
    first, second = samples(tokens, "train", tokenizer, tokens.rows())
    assert (first.id, [task.task for task in second.tasks]) == ("r0", ["label"])
    ids, labels = tokens.store().example(0, 0, "label")
    parts = dict(first.tasks[0].parts)
    if architecture == "causal":
        assert [piece.number for piece in parts["sequence"]] == ids.tolist()
        assert [piece.loss for piece in parts["sequence"]] == (labels != IGNORED).tolist()
    else:
        assert [piece.number for piece in parts["source"]] == ids.tolist()
        assert [piece.number for piece in parts["target"]] == labels.tolist()
        assert {piece.loss for piece in parts["source"]} == {False}
        assert {piece.loss for piece in parts["target"]} == {True}
    text = "".join(piece.text for part in parts.values() for piece in part)
    assert "fièvre 漢字 😀 knee" in text
    assert "\ufffd" not in text
    marked = [piece.text for part in parts.values() for piece in part if piece.loss]
    assert "".join(marked).strip() == "漢\nknee</s>"
    assert [piece.special for piece in list(parts.values())[-1]][-1]


def test_rows_are_found_and_drawn(tmp_path: Path) -> None:
    tokens = tiny.token_set(tmp_path, tiny.rows(40))
    assert find_row(tokens, "row-17") == (2, 3)
    assert find_row(tokens, "row-99") is None
    drawn = drawn_rows(tokens, 12, 5)
    assert drawn == drawn_rows(tokens, 12, 5) != drawn_rows(tokens, 12, 6)
    assert len(set(drawn)) == 12
    assert set(drawn) < set(tokens.rows())
    assert set(drawn_rows(tokens, 100, 5)) == set(tokens.rows())
    assert len({shard for shard, _ in drawn_rows(tokens, 14, 5, most_shards=2)}) == 2


def test_the_input_of_a_document_is_its_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny.tokenizer(tmp_path)))
    spec = replace(tiny.encode_spec(), extraction_prompt="the knee hurts, name it")
    texts = ["Aspirin helps", "cat"]
    records = [
        Extraction(Origin(text, "s", "", ""), (text,), (Entity("1", "", ("fever",)),)) for text in texts
    ]
    found = Encoder(tokenizer, spec).encode(records)
    write_shard(tmp_path, 0, texts, found, "causal", truth=None)
    store = TokenSet(
        folder=str(tmp_path), tokenizer="", spec=spec, index=tiny.token_set(tmp_path, [row(0)]).index
    ).store()
    inputs = Inputs(tokenizer, spec)
    asked = inputs.texts([inputs.ids(store, 0, n, "label") for n in range(2)])
    assert [text.strip() for text in asked] == texts


@pytest.mark.parametrize("template", ["chat", "chatml", "alpaca"])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_an_input_is_the_text_of_the_record(tmp_path: Path, template: str, system: str | None) -> None:
    tokenizer = load_tokenizer(str(tiny.tokenizer(tmp_path)))
    by_lang = {"fr": {"label": "prédire", "rationale": "predict why"}}
    spec = replace(tiny.encode_spec(), template=template, system=system, prompts_by_lang=by_lang)
    texts = ["the knee hurts", "Dose: 5 mg", "cat", "Assistant fever, assistant"]
    langs = ["", "fr", "de", "fr"]
    records = [
        Distill(Origin(text, "s", "", lang), text, "label", "why")
        for text, lang in zip(texts, langs, strict=True)
    ]
    inputs = Inputs(tokenizer, spec)
    found = Encoder(tokenizer, spec).encode(records)
    write_shard(tmp_path, 0, texts, found, "causal", truth=None)
    store = TokenSet(
        folder=str(tmp_path), tokenizer="", spec=spec, index=tiny.token_set(tmp_path, [row(0)]).index
    ).store()
    for task in spec.tasks:
        assert [
            text.strip() for text in inputs.texts([inputs.ids(store, 0, n, task) for n in range(4)])
        ] == texts
