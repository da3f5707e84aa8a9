"""The worker loop in one process, without Ray: resume, evaluation, export, and what it reports when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from recorder import Rank, Recorder

from medray.data.encode.templates import Template
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError, RunFailedError
from medray.models.export import load_export
from medray.models.load import load_model
from medray.train.loop import build, training
from medray.train.loop.step import check_finite
from medray.train.worker_plan import WorkerPlan

ALONE = {"zero_stage": 0}


def losses(recorder: Recorder) -> list[float]:
    return [record["loss"] for record in recorder.steps]


def small(
    folder: Path, name: str, preset: str = "llama-tiny", *, steps: int = 12, **sections: Any
) -> WorkerPlan:
    architecture = "seq2seq" if preset.startswith("t5") else "causal"
    tokens = tiny.token_set(folder, tiny.rows(23), architecture=architecture)
    train = {**ALONE, **sections.pop("train", {})}
    return tiny.plan(
        folder / name, tokens, preset, workers=1, micro=2, max_steps=steps, train=train, **sections
    )


@pytest.mark.parametrize(
    ("preset", "asked", "status", "step"),
    # A notice is answered by a checkpoint at once, and the run leaves in time: here, where none is known, a step later.
    [("llama-tiny", {"stop_after": 5}, "stopped", 5), ("t5-tiny", {"gone_after": 4}, "preempted", 5)],
)
def test_a_run_that_left_goes_on_bit_for_bit_dropout_included(
    preset: str, asked: dict[str, int], status: str, step: int, tmp_path: Path
) -> None:
    dropout = {"dropout_rate": 0.2, "attention_dropout": 0.2}

    def plan(name: str) -> WorkerPlan:
        made = small(tmp_path, name, preset, steps=7)
        return replace(made, model=made.model | dropout)

    calm, first, second = Recorder(), Recorder(**asked), Recorder()
    whole = training.run(plan("calm"), calm)
    stopped = training.run(plan("cut"), first)
    resumed = training.run(plan("cut"), second)
    assert (stopped.status, stopped.progress.step, second.resumed) == (status, step, [step])
    assert losses(first) + losses(second) == losses(calm)
    assert resumed.progress == whole.progress
    assert whole.progress.order != ""
    assert [record["step"] for record in first.steps + second.steps] == list(range(1, 8))


def test_without_dropout_the_generator_state_does_not_matter_but_with_it_the_seed_does(
    tmp_path: Path,
) -> None:
    plans = [
        small(tmp_path, name, "t5-tiny", steps=3, run={"seed": seed}) for name, seed in (("a", 1), ("b", 2))
    ]
    found = []
    for plan in plans:
        recorder = Recorder()
        training.run(replace(plan, model=plan.model | {"dropout_rate": 0.3}), recorder)
        found.append(losses(recorder))
    assert found[0] != found[1]


def test_evaluation_counts_every_row_once(tmp_path: Path) -> None:
    rows = tiny.rows(17, seed=5)
    validation = tiny.token_set(tmp_path, rows, truth=True, name="validation")
    plan = small(
        tmp_path,
        "run",
        steps=1,
        eval={
            "at_start": True,
            "metrics": ["rouge"],
            "batch_size": 4,
            "generation": {"rows": 7, "max_new_tokens": 5},
        },
    )
    plan = replace(plan, validation=validation)
    recorder = Recorder()
    training.run(plan, recorder)
    before = recorder.evaluations[0]
    assert before["step"] == 0
    model = load_model(
        plan.config.model,
        plan.model,
        load_tokenizer(plan.train.tokenizer),
        dtype=torch.float32,
        seed=plan.config.run.seed,
    )
    stored = [
        row
        for file in sorted(Path(validation.folder).glob("shard-*.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]
    assert len(stored) == 17
    with torch.no_grad():
        wanted = {
            task: float(oracle._mean(model, stored, task, seq2seq=False)) for task in ("label", "rationale")
        }
    assert before["metrics"]["loss_label"] == pytest.approx(wanted["label"], abs=1e-5)
    assert before["metrics"]["loss_rationale"] == pytest.approx(wanted["rationale"], abs=1e-5)
    assert before["metrics"]["loss"] == pytest.approx(
        0.3 * wanted["label"] + 0.7 * wanted["rationale"], abs=1e-5
    )
    assert "rouge1" in before["metrics"]
    assert [evaluation["step"] for evaluation in recorder.evaluations] == [0, 1]


def test_an_evaluation_is_not_smoothed_whatever_training_is(tmp_path: Path) -> None:
    """So that runs with and without smoothing compare."""
    found = []
    for smoothing in (0.0, 0.3):
        recorder, name = Recorder(), f"run-{smoothing}"
        asked = {"at_start": True, "metrics": []}
        plan = small(tmp_path, name, steps=1, train={"label_smoothing": smoothing}, eval=asked)
        training.run(replace(plan, validation=plan.train), recorder)
        found.append((recorder.evaluations[0], recorder.steps[0]["loss"]))
    assert found[0][0] == found[1][0]
    assert found[0][1] < found[1][1]


def test_an_evaluation_of_nothing_fails_instead_of_being_perfect(tmp_path: Path) -> None:
    """All rows lack the one task that is trained; of two tasks one is enough."""
    bare = [row | {"rationale": ""} for row in tiny.rows(5)]
    validation = tiny.token_set(tmp_path, bare, name="validation")

    def run(name: str, alpha: float) -> Recorder:
        recorder, method = Recorder(), {"name": "distill", "alpha": alpha}
        training.run(replace(small(tmp_path, name, steps=1, method=method), validation=validation), recorder)
        return recorder

    with pytest.raises(RunFailedError, match="none of 5 validation rows has a token with loss for rationale"):
        run("rationale", 0.0)
    (evaluation,) = run("both", 0.3).evaluations
    assert evaluation["metrics"]["loss"] > 0


def test_reports_to_the_outside_only_at_evaluations(tmp_path: Path) -> None:
    """A report waits for a poll of Ray Train's controller: no checkpoint shall."""
    recorder = Recorder()
    plan = small(
        tmp_path,
        "run",
        steps=9,
        validation=tiny.token_set(tmp_path, tiny.rows(23)),
        train={"save_every_steps": 2},
        eval={"at_start": False, "every_steps": 4, "metrics": []},
    )
    training.run(plan, recorder)
    assert [metrics["step"] for metrics in recorder.syncs] == [4, 8, 9]
    # A search may look for any metric of an evaluation.
    assert recorder.syncs == [{"step": one["step"], **one["metrics"]} for one in recorder.evaluations]
    assert {"loss", "loss_label", "loss_rationale"} <= recorder.syncs[-1].keys()
    assert len(recorder.steps) == 9


@pytest.mark.parametrize(
    ("method", "tasks"),
    [
        ({"name": "distill", "alpha": 1.0}, {"loss/label"}),
        ({"name": "distill", "alpha": 0.0}, {"loss/rationale"}),
        ({"name": "distill", "mode": "task_prefix"}, {"loss/label", "loss/rationale"}),
        ({"name": "distill", "mode": "standard"}, {"loss/label"}),
        ({"name": "sft"}, {"loss/label"}),
    ],
)
def test_a_task_without_weight_costs_no_forward(
    method: dict[str, Any], tasks: set[str], tmp_path: Path
) -> None:
    recorder = Recorder()
    training.run(small(tmp_path, "run", steps=1, method=method), recorder)
    record = recorder.steps[0]
    assert {name for name in record if name.startswith("loss/")} == tasks
    if len(tasks) == 1:
        assert record["loss"] == record[tasks.pop()]  # whatever alpha is


def test_a_task_that_a_step_has_nothing_of_is_said_once(tmp_path: Path) -> None:
    made = [row | {"rationale": "" if number else "none"} for number, row in enumerate(tiny.rows(6))]
    tokens = tiny.token_set(tmp_path, made)
    recorder = Recorder()
    plan = tiny.plan(
        tmp_path / "run",
        tokens,
        "llama-tiny",
        workers=1,
        micro=2,
        global_batch_size=2,
        max_steps=3,
        train=ALONE,
    )
    training.run(plan, recorder)
    method: Any = plan.method
    lacking = [step["step"] for step in recorder.steps if "loss/rationale" not in step]
    assert len(lacking) == 2
    for step in recorder.steps:
        if step["step"] in lacking:
            assert step["loss"] == pytest.approx(method.weights["label"] * step["loss/label"])
    said = [event["text"] for event in recorder.events if event["kind"] == "message"]
    assert said == [f"step {lacking[0]} has no rationale rows; its loss uses the other tasks only"]


@pytest.mark.parametrize("norm", ["token", "micro_batch"])
def test_the_loss_depends_on_the_split_of_a_batch_only_where_that_is_asked_for(
    norm: str, tmp_path: Path
) -> None:
    found = []
    for micro in (2, 8):
        plan, recorder = small(tmp_path, f"run-{micro}", steps=3, method={"loss_norm": norm}), Recorder()
        train = plan.config.train.model_copy(update={"micro_batch_size": micro})
        training.run(replace(plan, config=plan.config.model_copy(update={"train": train})), recorder)
        found.append(losses(recorder))
    same = found[0] == pytest.approx(found[1], rel=1e-5)
    assert same == (norm == "token")


def test_label_weight_multiplies_the_label_loss(tmp_path: Path) -> None:
    recorder = Recorder()
    training.run(
        small(tmp_path, "run", steps=1, method={"name": "distill", "alpha": 0.3, "label_weight": 4.0}),
        recorder,
    )
    record = recorder.steps[0]
    assert record["loss"] == pytest.approx(
        0.3 * 4 * record["loss/label"] + 0.7 * record["loss/rationale"], rel=1e-6
    )


@pytest.mark.parametrize("preset", ["llama-tiny", "t5-tiny"])
@pytest.mark.parametrize("peft", ["none", "lora"])
def test_the_export_is_the_trained_model(preset: str, peft: str, tmp_path: Path) -> None:
    plan = small(tmp_path, "run", preset, steps=4, peft={"type": peft, "rank": 2})
    tokens = plan.train
    section = tiny.saved_model(tmp_path / "base", preset, tokens)
    config = plan.config.model_copy(update={"model": plan.config.model.model_copy(update=section)})
    running = Rank(replace(plan, config=config), Recorder())
    running.run()
    trained = running.built.model.eval()
    reloaded = load_export(tmp_path / "run" / "export", torch.device("cpu"))
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if preset.startswith("t5") else {})
    with torch.no_grad():
        assert torch.equal(trained(**inputs).logits, reloaded(**inputs).logits)
        base = load_export(tmp_path / "base", torch.device("cpu"))
        assert not torch.equal(base(**inputs).logits, reloaded(**inputs).logits)
    exported, before = load_tokenizer(str(tmp_path / "run" / "export")), load_tokenizer(tokens.tokenizer)
    assert exported.eos_token_id == before.eos_token_id
    assert before.chat_template is None
    if preset.startswith("t5"):
        assert exported.chat_template is None
    else:  # who prompts the model later finds the template that its rows were rendered by
        messages = [("user", "fever?")]
        asked = [{"role": role, "content": text} for role, text in messages]
        rendered = Template(before, tokens.spec.template, "causal").render(messages, ask=True)
        assert exported.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == rendered


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_of_numbers_that_are_none_only_a_gradient_in_fp16_is_part_of_training(bad: float, fp16: bool) -> None:
    with pytest.raises(RunFailedError, match="the loss of step 3 is"):
        check_finite({"step": 3, "loss": bad, "grad_norm": 1.0}, fp16=fp16)
    record = {"step": 3, "loss": 1.0, "grad_norm": bad}
    if fp16:  # that step is skipped, and its norm is not known
        check_finite(record, fp16=True)
        assert record["grad_norm"] is None
    else:
        with pytest.raises(RunFailedError, match="the grad_norm of step 3 is"):
            check_finite(record, fp16=False)


def test_what_was_reported_last_is_flushed_and_a_flush_that_fails_then_ends_nothing(tmp_path: Path) -> None:
    order: list[str] = []

    class Listens(Recorder):
        def step(self, record: dict[str, Any]) -> None:
            super().step(record)
            order.append("step")

        def evaluation(self, record: dict[str, Any]) -> None:
            super().evaluation(record)
            order.append("evaluation")

        def flush(self) -> None:
            order.append("flush")
            if "evaluation" in order:  # the checkpoint of the last step came before
                raise OSError("the disk is full")

    validation = tiny.token_set(tmp_path, tiny.rows(5), name="validation")
    plan = replace(small(tmp_path, "run", steps=1), validation=validation)
    assert training.run(plan, Listens()).status == "done"
    assert order == ["step", "flush", "evaluation", "flush"]


def test_a_model_that_lets_packed_rows_see_each_other_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe's answer is heeded, whatever the model: its own tests show what it answers."""
    monkeypatch.setattr(build, "keeps_boundaries", lambda model, device: False)
    plan = small(
        tmp_path, "run", steps=1, data={"train": ["x.jsonl"], "window_shards": 2, "pack_tokens": 128}
    )
    with pytest.raises(InputError, match="see each other") as caught:
        training.run(plan, Recorder())
    assert caught.value.key == "data.pack_tokens"


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    plan = small(tmp_path, "run", steps=12, train={"optimizer": {"lr": 1e30}, "clip_grad_norm": 0})
    with pytest.raises(RunFailedError, match=r"the (loss|grad_norm) of step \d+ is (nan|inf)"):
        training.run(plan, Recorder())
