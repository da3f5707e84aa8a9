"""Keys of eval.generation reach both places that generate: the live model, and the job that reads the export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from recorder import Recorder

from medray.evaluate import validation
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import generate
from medray.evaluate.predict import Prediction, PredictSpec
from medray.train.export import evaluation as export_evaluation
from medray.train.loop import training
from medray.train.prepare import Resources


def test_beams_are_asked_for_during_training_and_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Decoding] = []

    def spy(*parts: Any, **options: Any) -> list[str]:
        asked.append(parts[3])
        return generate(*parts, **options)

    def answer(spec: PredictSpec) -> list[Prediction]:
        asked.append(spec.decoding)
        return [Prediction(str(number), "", "none") for number in range(spec.rows)]

    monkeypatch.setattr(validation, "generate", spy)
    monkeypatch.setattr(export_evaluation, "predict", answer)
    tokens, held_out = (
        tiny.token_set(tmp_path / split, tiny.rows(9, seed), architecture="seq2seq", name=split, truth=True)
        for seed, split in enumerate(("train", "validation"))
    )
    evaluation = {
        "every_steps": 1,
        "metrics": ["rouge"],
        "generation": {"rows": 3, "max_new_tokens": 4, "num_beams": 2, "base_settings": True},
    }
    plan = tiny.plan(
        tmp_path / "run",
        tokens,
        "t5-tiny",
        validation=held_out,
        workers=1,
        max_steps=2,
        train={"zero_stage": 0},
        eval=evaluation,
    )
    recorder = Recorder()
    training.run(plan, recorder)
    notes = [event["text"] for event in recorder.events if event["kind"] == "message"]
    assert not any("generation_config" in note for note in notes), "this base ships nothing to tell"
    metrics, samples = export_evaluation.evaluate_export(plan, Resources(1, 1.0, 0, 1), lambda: None)
    assert asked == [Decoding(max_new_tokens=4, num_beams=2, base_settings=True)] * 2
    assert len(samples) == 3
    assert "rougeL" in metrics
