"""The loss is the exact global token mean, whatever the ranks, accumulation or ZeRO stage: against plain torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pytest
import tiny
from recorder import Recorder
from torchrun import extensions, run_loops

from medray.data.tokenizer import load_tokenizer
from medray.models.load import load_model
from medray.train.engine.optimizers import learning_rate
from medray.train.loop import training
from medray.train.worker_plan import WorkerPlan

PRESETS = {"t5-tiny": "seq2seq", "llama-tiny": "causal"}
STAGES = {"t5-tiny": (2, 3), "llama-tiny": (0, 1, 2, 3)}
STEPS = 8


def expected(plan: WorkerPlan) -> list[float]:
    """The oracle's losses for the plan's steps."""
    import torch

    order, train = plan.train.plan(plan.config), plan.config.train
    method: Any = plan.method
    batches = []
    for step in range(plan.total_steps):
        batch = order.batch(step)
        batches.append([(int(s), int(r)) for s, r in zip(batch.shards, batch.rows, strict=True)])
    model = load_model(
        plan.config.model,
        plan.model,
        load_tokenizer(plan.train.tokenizer),
        dtype=torch.float32,
        seed=plan.config.run.seed,
    )
    lrs = [
        learning_rate(step, plan.total_steps, train.optimizer.lr, train.scheduler)
        for step in range(plan.total_steps)
    ]
    return oracle.losses(
        plan.train.folder,
        batches,
        model,
        method.weights,
        seq2seq=plan.train.spec.architecture == "seq2seq",
        lrs=lrs,
        weight_decay=train.optimizer.weight_decay,
        clip=train.clip_grad_norm,
    )


def alone(plan: WorkerPlan) -> list[dict[str, Any]]:
    recorder = Recorder()
    training.run(plan, recorder)
    return recorder.steps


def losses(steps: list[dict[str, Any]]) -> list[float]:
    return [record["loss"] for record in steps]


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=pytest.mark.long)])
def test_sixteen_bits_go_on_bit_for_bit(stage: int, tmp_path: Path) -> None:
    """Without sharding DeepSpeed steps on copies in float32, which the checkpoint has."""
    tokens = tiny.token_set(tmp_path, tiny.rows(37), architecture="causal")
    plans = {}
    for name, run, steps in (("calm", "calm", 6), ("first", "cut", 3), ("then", "cut", 6)):
        train = {"zero_stage": stage, "scheduler": {"name": "constant", "warmup_steps": 0}}
        made = tiny.plan(
            tmp_path / run, tokens, "llama-tiny", workers=2, micro=2, max_steps=steps, train=train
        )
        plans[name] = replace(made, precision="bf16")
    seen = run_loops(tmp_path, plans, processes=2)
    assert len(seen["then"]["steps"]) == 3
    assert losses(seen["first"]["steps"] + seen["then"]["steps"]) == losses(seen["calm"]["steps"])


def test_one_process_without_deepspeed_equals_the_oracle(tmp_path: Path) -> None:
    """A causal model does in the comparison of ranks below."""
    tokens = tiny.token_set(tmp_path, tiny.rows(37), architecture="seq2seq")
    plan = tiny.plan(
        tmp_path / "run", tokens, "t5-tiny", workers=1, micro=2, max_steps=STEPS, train={"zero_stage": 0}
    )
    assert plan.plain_torch(1)
    assert losses(alone(plan)) == pytest.approx(expected(plan), abs=1e-4)


def test_zero_stages_equal_plain_torch_and_stage_3_holds_parts(tmp_path: Path) -> None:
    plans = {}
    for preset, architecture in PRESETS.items():
        tokens = tiny.token_set(tmp_path, tiny.rows(37), architecture=architecture)
        for stage in STAGES[preset]:
            model = tiny.saved_model(tmp_path / preset, preset, tokens)
            raw = {"zero_optimization": {"stage3_param_persistence_threshold": 0}} if stage == 3 else {}
            plans[f"{preset}/{stage}"] = tiny.plan(
                tmp_path / f"run-{preset}-{stage}",
                tokens,
                preset,
                workers=2,
                micro=2,
                max_steps=STEPS,
                model=model,
                train={"zero_stage": stage, "deepspeed": raw},
            )
    seen = run_loops(tmp_path, plans, processes=2)
    for preset in PRESETS:
        wanted = expected(plans[f"{preset}/2"])
        assert wanted[-1] < wanted[0] - 0.5, "the oracle did not learn: the comparison would be empty"
        for stage in STAGES[preset]:
            found = seen[f"{preset}/{stage}"]
            assert losses(found["steps"]) == pytest.approx(wanted, abs=1e-4), f"{preset} stage {stage}"
            norms = [step["grad_norm"] for step in found["steps"]]
            assert norms == pytest.approx(
                [step["grad_norm"] for step in seen[f"{preset}/2"]["steps"]], rel=1e-3
            )
            assert found["sharded_while_loading"] == (stage == 3)
        held, total = seen[f"{preset}/3"]["held"], seen[f"{preset}/3"]["total"]
        assert held == [pytest.approx(total / 2, rel=0.01)] * 2
        assert seen[f"{preset}/2"]["held"] == [total, total]
    assert list(extensions().rglob("*")) == [], "a first start compiled a DeepSpeed extension"


@pytest.mark.parametrize(
    ("ranks", "accumulation"),
    [(2, 2), pytest.param(4, 1, marks=pytest.mark.long), pytest.param(3, None, marks=pytest.mark.long)],
)
def test_ranks_and_accumulation_do_not_change_the_loss(
    ranks: int, accumulation: int | None, tmp_path: Path
) -> None:
    """Against one rank that accumulates 4 times, on rows of uneven length; 3 ranks share a batch of 8."""
    tokens = tiny.token_set(tmp_path, tiny.rows(29))

    def make(name: str, workers: int, accumulation: int | None, micro: int = 2) -> WorkerPlan:
        return tiny.plan(
            tmp_path / name,
            tokens,
            "llama-tiny",
            workers=workers,
            micro=micro,
            accumulation=accumulation,
            max_steps=8,
            train={"zero_stage": 0 if workers == 1 else 2},
        )

    base = make("one", 1, 4)
    wanted = alone(base)
    assert losses(wanted) == pytest.approx(expected(base), rel=1e-5)
    plan = make("many", ranks, accumulation, micro=2 if accumulation else 1)
    found = run_loops(tmp_path, {"many": plan}, processes=ranks)["many"]
    for name in ("loss", "loss/label", "loss/rationale"):
        assert [step[name] for step in found["steps"]] == pytest.approx(
            [step[name] for step in wanted], rel=1e-5
        )
