"""Prompts of a named model are those of its training, and its answers do not depend on the batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from exports import exported

from medray.config import Config
from medray.data.records import Distill, Instruction, Message, Origin, Record
from medray.data.schemas import parse
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError
from medray.evaluate.asking import Answerer, AskedModel, Prompter, asked_export, asked_model
from medray.evaluate.decoding import Decoding
from medray.models.export.usage import FILE

CPU = torch.device("cpu")


def records(rows: list[dict[str, Any]]) -> list[Record]:
    return [
        parse(row, Config().data.columns, source="rows.jsonl", number=number)
        for number, row in enumerate(rows)
    ]


def asked(tokens: TokenSet, folder: Path) -> AskedModel:
    return AskedModel(
        weights=str(folder),
        tokenizer=tokens.tokenizer,
        spec=tokens.spec,
        prompted=True,
        decoding=Decoding(),
        tuned=True,
    )


def conversation(row: dict[str, Any]) -> dict[str, Any]:
    turns = [("user", row["input"]), ("assistant", row["label"]), ("user", "dose"), ("assistant", "daily")]
    return {"id": row["id"], "messages": [{"role": role, "content": text} for role, text in turns]}


def unanswered(record: Record) -> Record:
    """Return the record without its answer, as new data has it."""
    if isinstance(record, Distill):
        return replace(record, label="", rationale=None)
    assert isinstance(record, Instruction)
    return Instruction(record.origin, (*record.messages[:-1], Message("assistant", "?")))


CASES: dict[str, dict[str, Any]] = {
    "input cut": {"max_input_tokens": 12},
    "system and chatml": {"system": "You are a doctor.", "template": "chatml"},
    "alpaca": {"template": "alpaca"},
    "cut from the left": {"max_prompt_tokens": 24},
    "all tokens trained": {"train_on": "all", "template": "plain"},
    "conversations": {"talks": True, "max_input_tokens": 40},
    "encoder-decoder": {"architecture": "seq2seq", "max_input_tokens": 20},
    "one key": {"tasks": ("label", "rationale/Age", "rationale"), "keyed": True},
}


@pytest.mark.parametrize("case", CASES)
def test_prompts_equal_those_of_the_token_shards_with_and_without_an_answer(
    case: str, tmp_path: Path
) -> None:
    changes = dict(CASES[case])
    rows = tiny.keyed_rows(12) if changes.pop("keyed", False) else tiny.rows(12)
    if changes.pop("talks", False):
        rows = [conversation(row) for row in rows]
    architecture = changes.pop("architecture", "causal")
    spec = replace(tiny.encode_spec(architecture), **changes)
    tokens = tiny.token_set(tmp_path, rows, architecture=architecture, spec=spec)
    store, prompter = tokens.store(), Prompter(asked(tokens, tmp_path))
    found = records(rows)
    for task in spec.tasks:
        trained = [store.prompt(*place, task) for place in tokens.rows()]
        for made in (found, [unanswered(record) for record in found]):
            prompts = prompter.prompts(made, task)
            for record, wanted, ids in zip(made, trained, prompts.ids, strict=True):
                if len(wanted):
                    assert ids.tolist() == wanted.tolist()
                else:
                    assert len(ids) > 0 or not isinstance(record, Distill), "new data has no rationale yet"
    cut = [any(prompter.prompts([record]).cut) for record in found]
    assert any(cut) == ("cut" in case or case in ("conversations", "encoder-decoder"))


def test_a_single_question_is_the_input_of_a_record_and_more_turns_are_a_conversation(tmp_path: Path) -> None:
    rows = tiny.rows(3)
    tokens = tiny.token_set(tmp_path, rows)
    prompter = Prompter(asked(tokens, tmp_path))
    question = Message("user", rows[0]["input"])
    assert prompter.prompt_ids([question]).tolist() == tokens.store().prompt(0, 0).tolist()
    turns = [question, Message("assistant", "rash"), Message("user", "dose")]
    assert "predict" not in prompter.text(prompter.prompt_ids(turns))
    talks = Prompter(replace(prompter.asked, prompted=False))
    assert "predict" not in talks.text(talks.prompt_ids([question]))
    for wrong in ([], [Message("assistant", "rash")]):
        with pytest.raises(InputError, match="not a question"):
            prompter.prompt_ids(wrong)


def test_an_export_says_itself_how_it_is_asked(tmp_path: Path) -> None:
    tokens = tiny.token_set(tmp_path, tiny.rows(5))
    folder = exported(tmp_path, tokens)
    found = asked_export(folder)
    assert found.spec == tokens.spec
    assert found.prompted
    assert found.decoding == Decoding(max_new_tokens=7, num_beams=2)
    older = json.loads((folder / FILE).read_text()) | {"encoding": None}
    (folder / FILE).write_text(json.dumps(older))
    with pytest.raises(InputError, match="older version"):
        asked_export(folder)
    config = Config.model_validate({"method": {"name": "sft"}, "data": {"max_input_tokens": 99}})
    assert asked_export(folder, config).spec.max_input_tokens == 99


def test_sampled_answers_depend_on_seed_and_row_and_not_on_the_batch(tmp_path: Path) -> None:
    tokens = tiny.token_set(tmp_path, tiny.rows(9))
    answerer = Answerer(asked_export(exported(tmp_path, tokens)), CPU)
    store, places = tokens.store(), tokens.rows()
    ids, names = [store.prompt(*place) for place in places], [f"row-{n}" for n in range(len(places))]
    drawn = Decoding(max_new_tokens=6, temperature=1.5, top_p=0.9, seed=3)
    whole = [answer.text for answer in answerer.answers(ids, drawn, rows=names)]
    alone = [
        answerer.answers([prompt], drawn, rows=[name])[0].text
        for prompt, name in zip(ids, names, strict=True)
    ]
    assert whole == alone
    assert len(set(whole)) > 5
    other = answerer.answers(ids, replace(drawn, seed=4), rows=names)
    assert [answer.text for answer in other] != whole
    assert [answer.text for answer in answerer.answers(ids, drawn, rows=names[::-1])] != whole
    with pytest.raises(ValueError, match="ids of the rows"):
        answerer.answers(ids, drawn)


@pytest.mark.parametrize("beams", [1, 2])
def test_log_probabilities_are_those_of_the_tokens_written(beams: int, tmp_path: Path) -> None:
    """Compare with a forward pass of each row alone, without padding."""
    tokens = tiny.token_set(tmp_path, tiny.rows(4))
    answerer = Answerer(asked_export(exported(tmp_path, tokens)), CPU)
    ids = [tokens.store().prompt(*place) for place in tokens.rows()]
    found = answerer.answers(ids, Decoding(max_new_tokens=5, num_beams=beams), log_probability=True)
    for prompt, answer in zip(ids, found, strict=True):
        row = torch.tensor(prompt.tolist())[None]
        written = answerer.model.generate(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=5,
            num_beams=beams,
            do_sample=False,
        )
        with torch.no_grad():
            logs = torch.log_softmax(answerer.model(written).logits[0], -1)
        total = sum(
            float(logs[at - 1, written[0, at]]) for at in range(len(prompt), len(prompt) + answer.tokens)
        )
        assert answer.log_probability == pytest.approx(total, rel=1e-4)
        assert answer.tokens == written.shape[1] - len(prompt)


def test_the_likelihood_of_given_answers_is_that_of_their_training_loss(tmp_path: Path) -> None:
    rows = tiny.rows(3)
    tokens = tiny.token_set(tmp_path, rows)
    answerer = Answerer(asked_export(exported(tmp_path, tokens)), CPU)
    [record, *_] = records(rows)
    [(prompt, target), (_, other)] = answerer.with_answers(record, [rows[0]["label"], "rash"])
    ids, labels = tokens.store().example(0, 0, "label")
    assert np.concatenate([prompt, target]).tolist() == ids.tolist()
    assert target.tolist() == labels[labels >= 0].tolist()
    values = answerer.log_probabilities([prompt, prompt], [target, other])
    with torch.no_grad():
        logs = torch.log_softmax(answerer.model(torch.tensor(ids.tolist())[None]).logits[0], -1)
    total = sum(float(logs[at - 1, ids[at]]) for at in range(len(prompt), len(ids)))
    assert values[0] == pytest.approx(total, rel=1e-4)
    assert values[1] != values[0]


def test_an_untuned_model_is_asked_as_the_config_says(tmp_path: Path) -> None:
    tokens = tiny.token_set(tmp_path, tiny.rows(3))
    tiny.saved_model(tmp_path / "base", "llama-tiny", tokens)
    tokens.load_tokenizer().save_pretrained(tmp_path / "base")
    config = Config.model_validate(
        {"data": {"prompts": {"label": "Summarise"}}, "eval": {"generation": {"max_new_tokens": 5}}}
    )
    found = asked_model(str(tmp_path / "base"), config)
    assert not found.tuned
    assert found.prompted
    answerer = Answerer(found, CPU)
    ids = answerer.prompt_ids(Distill(Origin("", "", "", ""), "fever", ""))
    assert answerer.text(ids).strip().startswith("Summarise:\nfever")
    [answer] = answerer.answers([ids])
    assert 1 <= answer.tokens <= 5
    with pytest.raises(InputError, match="not trained for this task"):
        found.check_task("rationale/Sex")
