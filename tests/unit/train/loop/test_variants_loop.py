"""Variants through the worker loop in one process: from records to shards, steps, evaluation, and on after a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from recorder import Recorder
from torchrun import run_loops

from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError
from medray.models.load import load_model
from medray.train.driver.data_phase import Encoding, check_first_shard
from medray.train.loop import training
from medray.train.worker_plan import WorkerPlan

KEYS = tuple(f"rationale/{name}" for name in tiny.KEYS)
HIERARCHICAL: dict[str, Any] = {"variant": "hierarchical", "rationale": {"keys": tiny.KEYS}}


def plan(
    folder: Path,
    name: str,
    method: dict[str, Any],
    *,
    preset: str = "llama-tiny",
    steps: int = 3,
    **sections: Any,
) -> WorkerPlan:
    architecture = "seq2seq" if preset.startswith("t5") else "causal"
    keyed = method.get("variant") == "hierarchical"
    rows = tiny.keyed_rows(17) if keyed else tiny.rows(17)
    tasks = ("label", *KEYS) if keyed else ("label", "rationale")
    sets = {
        split: tiny.token_set(
            folder, rows, architecture=architecture, tasks=tasks, truth=split == "validation", name=split
        )
        for split in ("train", "validation")
    }
    train = {"zero_stage": 0, **sections.pop("train", {})}
    evaluation = {"at_start": True, "metrics": [], "batch_size": 3, "every_steps": 4}
    made = tiny.plan(
        folder / name,
        sets["train"],
        preset,
        workers=1,
        micro=2,
        max_steps=steps,
        validation=sets["validation"],
        train=train,
        method=method,
        eval=evaluation,
        **sections,
    )
    assert made.method.tasks == tasks
    return made


def started(made: WorkerPlan) -> Any:
    """The model as it is before the first step."""
    return load_model(
        made.config.model,
        made.model,
        load_tokenizer(made.train.tokenizer),
        dtype=torch.float32,
        seed=made.config.run.seed,
    )


@pytest.mark.parametrize(
    ("preset", "data"), [("llama-tiny", {}), ("llama-tiny", {"pack_tokens": 150}), ("t5-tiny", {})]
)
def test_keys_from_shards_to_metrics(preset: str, data: dict[str, Any], tmp_path: Path) -> None:
    made = plan(tmp_path, "run", HIERARCHICAL, preset=preset, data=data)
    recorder = Recorder()
    training.run(made, recorder)
    assert made.validation is not None
    stored = [
        row
        for file in sorted(Path(made.validation.folder).glob("shard-*.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]
    model = started(made)
    with torch.no_grad():
        wanted = {
            task: float(oracle._mean(model, stored, task, seq2seq=preset == "t5-tiny"))
            for task in ("label", *KEYS[:-1])
        }
    metrics = recorder.evaluations[0]["metrics"]
    for task, mean in wanted.items():
        assert metrics[f"loss_{task}"] == pytest.approx(mean, abs=1e-5), task
    assert f"loss_{KEYS[-1]}" not in metrics  # no row has it
    keys = sum(wanted[task] for task in KEYS[:-1]) / 3
    assert metrics["loss_rationale"] == pytest.approx(keys, abs=1e-5)
    assert metrics["loss"] == pytest.approx(0.3 * wanted["label"] + 0.7 * keys, abs=1e-5)
    assert recorder.evaluations[-1]["metrics"]["loss"] < metrics["loss"]  # it learns
    assert {f"loss/{task}" for task in wanted} < recorder.steps[0].keys()


def test_the_keys_are_a_mean_or_a_sum_as_the_config_says(tmp_path: Path) -> None:
    terms = {}
    for reduction, keys in (("mean", 3), ("sum", 1)):
        method = HIERARCHICAL | {"rationale": {"keys": tiny.KEYS, "reduction": reduction}}
        recorder = Recorder()
        training.run(plan(tmp_path, reduction, method, steps=1), recorder)
        (record,) = recorder.steps
        terms[reduction] = sum(record[f"loss/{task}"] for task in KEYS[:-1]) / keys
        assert record["loss"] == pytest.approx(0.3 * record["loss/label"] + 0.7 * terms[reduction])
    assert terms["sum"] == pytest.approx(3 * terms["mean"])


def test_a_moving_alpha_is_the_same_after_a_stop_and_in_evaluation(tmp_path: Path) -> None:
    method = {
        "variant": "dynamic_alpha",
        "alpha": 0.5,
        "alpha_schedule": {"start": 0.0, "from_epoch": 1, "slope": 0.4, "cap": 0.6},
    }
    calm, first, second, third = Recorder(), Recorder(stop_after=4), Recorder(stop_after=1), Recorder()
    for name, recorder in (("calm", calm), ("cut", first), ("cut", second), ("cut", third)):
        training.run(plan(tmp_path, name, method, steps=9), recorder)
    assert (second.resumed, third.resumed) == ([4], [5])  # the evaluation of step 4 was lost to the stop
    # 17 rows in batches of 8 are 3 steps an epoch; step s begins after (s - 1) / 3 epochs.
    alphas = [min(0.4 * max((step - 1) / 3 - 1, 0), 0.6) for step in range(1, 10)]
    cut = [*first.steps, *second.steps, *third.steps]
    for steps in (calm.steps, cut):
        assert [record["alpha"] for record in steps] == pytest.approx(alphas)
    assert [r["loss"] for r in cut] == [r["loss"] for r in calm.steps]
    for (
        record
    ) in calm.steps:  # the loss is that of the alpha beside it, and both tasks are there from the start
        parts = record["alpha"] * record["loss/label"] + (1 - record["alpha"]) * record["loss/rationale"]
        assert record["loss"] == pytest.approx(parts)
    seen = {e["step"]: e["metrics"] for e in calm.evaluations}
    assert {step: metrics["alpha"] for step, metrics in seen.items()} == pytest.approx(
        {0: 0.0, 4: alphas[3], 8: alphas[7], 9: alphas[8]}
    )
    again = {e["step"]: e["metrics"] for e in second.evaluations + third.evaluations}
    assert again.keys() == {4, 8, 9}
    assert again == {step: seen[step] for step in again}
    for metrics in seen.values():
        parts = metrics["alpha"] * metrics["loss_label"] + (1 - metrics["alpha"]) * metrics["loss_rationale"]
        assert metrics["loss"] == pytest.approx(parts)


def test_cosine_draws_the_encodings_together(tmp_path: Path) -> None:
    seen = {}
    for variant in ("cosine", None):
        recorder = Recorder()
        made = plan(tmp_path, str(variant), {"variant": variant, "alpha": 0.1}, preset="t5-tiny", steps=8)
        training.run(made, recorder)
        seen[variant] = recorder
    first, last = (seen["cosine"].evaluations[place]["metrics"] for place in (0, -1))
    assert last["loss_cosine"] < 0.5 * first["loss_cosine"]
    assert "loss_cosine" not in seen[None].evaluations[-1]["metrics"]
    term = first["loss_rationale"] + first["loss_cosine"]
    assert first["loss"] == pytest.approx(0.1 * first["loss_label"] + 0.9 * term)


@pytest.mark.long
def test_ranks_and_zero_stages_do_not_change_it(tmp_path: Path) -> None:
    """Keys and the cosine over two real ranks, in stages 2 and 3, against one process of plain torch."""
    wanted, plans = {}, {}
    for variant, preset in (
        ("hierarchical", "llama-tiny"),
        ("hierarchical", "t5-tiny"),
        ("cosine", "t5-tiny"),
    ):
        method = HIERARCHICAL if variant == "hierarchical" else {"variant": variant}
        folder = tmp_path / f"{variant}-{preset}"
        folder.mkdir()
        base = plan(folder, "alone", method, preset=preset, steps=6)
        model = tiny.saved_model(folder / "model", preset, base.train)
        recorder = Recorder()
        training.run(plan(folder, "alone", method, preset=preset, steps=6, model=model), recorder)
        for stage in (2, 3) if variant == "cosine" else (3,):
            name = f"{variant}/{preset}/{stage}"
            plans[name] = plan(
                folder,
                f"stage-{stage}",
                method,
                preset=preset,
                steps=6,
                model=model,
                train={"zero_stage": stage},
                cluster={"workers": 2},
            )
            wanted[name] = recorder
    seen = run_loops(tmp_path, plans, processes=2)
    for name, recorder in wanted.items():
        found = [record["loss"] for record in seen[name]["steps"]]
        assert found == pytest.approx([record["loss"] for record in recorder.steps], abs=1e-4), name
        for mine, alone in zip(seen[name]["evaluations"], recorder.evaluations, strict=True):
            assert mine["metrics"] == pytest.approx(alone["metrics"], abs=2e-4), name


class Watch:
    def phase(self, name: str, detail: str = "") -> None: ...
    def beat(self) -> None: ...


def test_rationales_without_the_keys_are_refused_before_workers_start(tmp_path: Path) -> None:
    made = plan(tmp_path, "run", HIERARCHICAL)
    check_first_shard(made.config, Encoding({"train": made.train}), Watch())
    text = tiny.token_set(tmp_path, tiny.rows(9), tasks=("label", *KEYS), name="text")
    with pytest.raises(InputError) as caught:
        check_first_shard(made.config, Encoding({"train": text}), Watch())
    assert caught.value.key == "method.rationale.keys"
    short = replace(made.train.spec, limits={"label": 32, "rationale": 1})
    cut = tiny.token_set(tmp_path, tiny.keyed_rows(9), tasks=("label", *KEYS), name="cut", spec=short)
    with pytest.raises(InputError) as caught:
        check_first_shard(made.config, Encoding({"train": cut}), Watch())
    assert (caught.value.key, caught.value.value) == ("data.max_rationale_tokens", 1)
