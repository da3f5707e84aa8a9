"""A local model answers prompts with examples: whole prompts, in batches, and the same as one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tiny
from icl_corpus import write_corpus

from medray.config.icl import read_icl
from medray.icl.asking import LocalModel, named_model
from medray.icl.documents import Document
from medray.icl.evaluation import Evaluation
from medray.icl.prompting import Prompt, PromptTemplate, Shots, prompt
from medray.icl.workflow import Workflow

SHOTS = Shots(strategy="random", count=2, order="best_first", as_turns=False, max_tokens=None)


def prompts(count: int) -> list[Prompt]:
    example = Document(id="e", group="", text="aspirin " * 40, answer=(("aspirin",),))
    template = PromptTemplate(statement="List every drug")
    documents = [
        Document(id=f"d{at}", group="", text="heparin " * (at + 1), answer=()) for at in range(count)
    ]
    return [prompt(each, [example, example], template, SHOTS, None) for each in documents]


def test_answers_are_of_whole_prompts_and_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tokens = tiny.token_set(tmp_path, tiny.rows(3))
    tiny.saved_model(folder, "llama-tiny", tokens)
    file = read_icl(
        write_corpus(tmp_path),
        [f"model.name={folder}", "model.template=plain", "answers.max_new_tokens=4"],
    )
    asked = named_model(file)
    made = prompts(3)
    found = {
        size: {said.id: said for batch in LocalModel(asked, size).answers(made) for said in batch}
        for size in (1, 3)
    }
    assert found[1] == found[3]
    assert [said.tokens <= 4 for said in found[3].values()] == [True] * 3
    model = LocalModel(asked, 2)
    assert model.count(made[0].messages) > tokens.spec.max_input_tokens, (
        "the limits of training do not cut it"
    )
    longer = replace(asked, decoding=replace(asked.decoding, max_new_tokens=5))
    assert model.identity != LocalModel(longer, 2).identity

    evaluation = Evaluation(Workflow(file.model_copy(update={"answers": file.answers})))
    assert evaluation.asked.max_tokens == (model.context() or 0) - 4, (
        "the default budget is what the model reads"
    )
