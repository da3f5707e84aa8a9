"""Groups, clipping, smoothing and chunks at every ZeRO stage against plain torch; bits after a resume."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from recorder import Rank, Recorder
from torch import nn
from torchrun import run_loops

from medray.config.train import OptimizerConfig, TrainConfig
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError
from medray.models.load import load_model
from medray.train import checkpoint
from medray.train.engine.optimizers import (
    learning_rate,
    make_optimizer,
    parameter_groups,
    rates_in_force,
    set_rate,
)
from medray.train.loop import training
from medray.train.worker_plan import WorkerPlan

STEPS, CUT, CLIP, SMOOTHING = 8, 4, 0.05, 0.1
GROUPS = (
    {"match": r"mlp\.", "lr": 3e-3, "weight_decay": 0.2},
    {"match": "embed_tokens|lm_head", "lr_scale": 0.25},
)
EVERYTHING: dict[str, Any] = {
    "optimizer": {"lr": 1e-2, "weight_decay": 0.01, "decay_norms_and_biases": False, "groups": GROUPS},
    "scheduler": {"name": "wsd", "warmup_steps": 2, "decay_steps": 3, "min_lr_ratio": 0.1},
    "clip_grad_norm": CLIP,
    "label_smoothing": SMOOTHING,
    "loss_chunk_tokens": 7,
    "save_every_steps": CUT,
    "keep_checkpoints": 9,
}


def make(folder: Path, name: str, stage: int, workers: int, **train: Any) -> WorkerPlan:
    tokens = tiny.token_set(folder, tiny.rows(23))
    raw = {"zero_optimization": {"stage3_param_persistence_threshold": 100}} if stage == 3 else {}
    return tiny.plan(
        folder / name.replace(" ", "-"),
        tokens,
        "llama-tiny",
        workers=workers,
        micro=2,
        max_steps=STEPS,
        model=tiny.saved_model(folder / "model", "llama-tiny", tokens),
        train={"zero_stage": stage, "deepspeed": raw, **train},
    )


def expected(plan: WorkerPlan) -> tuple[list[float], list[float]]:
    """Return (losses, norms) from plain torch: rows one by one, all logits at once, groups written by hand."""
    order, train = plan.train.plan(plan.config), plan.config.train
    tables = {
        int(file.stem.split("-")[1]): pq.read_table(file).to_pylist()
        for file in Path(plan.train.folder).glob("shard-*.parquet")
    }
    model: Any = load_model(
        plan.config.model, plan.model, load_tokenizer(plan.train.tokenizer), dtype=torch.float32, seed=3
    ).train()
    named = list(model.named_parameters())

    def group(chosen: Any, scale: float, decay: float) -> dict[str, Any]:
        return {"params": [p for name, p in named if chosen(name, p)], "scale": scale, "weight_decay": decay}

    rest = re.compile("mlp|embed|lm_head")
    optimizer = torch.optim.AdamW(
        [
            group(lambda name, p: ".mlp." in name, 0.3, 0.2),
            group(lambda name, p: "embed" in name, 0.25, 0.01),
            group(lambda name, p: not rest.search(name) and p.ndim > 1, 1.0, 0.01),
            group(lambda name, p: not rest.search(name) and p.ndim == 1, 1.0, 0.0),
        ]
    )
    assert sum(len(one["params"]) for one in optimizer.param_groups) == len(named)
    losses, norms = [], []
    method: Any = plan.method
    for step in range(STEPS):
        batch = order.batch(step)
        rows = [tables[int(s)][int(r)] for s, r in zip(batch.shards, batch.rows, strict=True)]
        loss: Any = sum(w * smoothed_mean(model, rows, task) for task, w in method.weights.items())
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        for one in optimizer.param_groups:
            one["lr"] = one["scale"] * learning_rate(step, STEPS, train.optimizer.lr, train.scheduler)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, norms


def smoothed_mean(model: Any, rows: list[dict[str, Any]], task: str) -> Any:
    total, count = torch.zeros(()), 0
    for row in rows:
        if not (ids := row[f"{task}.input_ids"]):
            continue
        labels = torch.tensor(oracle._labels(ids, row[f"{task}.spans"]))[1:]
        logs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, :-1], dim=-1)[labels != -100]
        gold = logs[torch.arange(len(logs)), labels[labels != -100]]
        total = total - ((1 - SMOOTHING) * gold + SMOOTHING * logs.mean(dim=-1)).sum()
        count += len(logs)
    return total / count


def column(seen: dict[str, Any], name: str) -> list[float]:
    return [record[name] for record in seen["steps"]]


def last(plan: WorkerPlan) -> list[str]:
    found = checkpoint.newest(Path(plan.run_folder) / "checkpoints")
    assert found is not None
    assert found.progress.step == STEPS
    return [found.files[name]["sha256"] for name in sorted(found.files)]


def cut(plan: WorkerPlan, of: WorkerPlan, name: str) -> WorkerPlan:
    """Return a run with a copy of another run's checkpoint of step CUT."""
    folder = Path(plan.run_folder).with_name(name.replace(" ", "-"))
    (source,) = (Path(of.run_folder) / "checkpoints").glob(f"step-{CUT:08d}-*")
    shutil.copytree(source, folder / "checkpoints" / source.name)
    return replace(plan, run_folder=str(folder))


@pytest.mark.long
def test_groups_clipping_smoothing_and_chunks_at_every_stage(tmp_path: Path) -> None:
    plain = make(tmp_path, "plain", 0, 1, **EVERYTHING)
    recorder = Recorder()
    training.run(plain, recorder)
    losses, norms = expected(plain)
    assert min(norms) > 2 * CLIP, "nothing is clipped: nothing is compared"
    plans = {f"stage {stage}": make(tmp_path, f"stage {stage}", stage, 2, **EVERYTHING) for stage in range(4)}
    eight = {
        f"8bit {stage}": make(tmp_path, f"8bit {stage}", stage, 2, **EIGHT_BIT, save_every_steps=CUT)
        for stage in (0, 2)
    }
    seen = run_loops(tmp_path, plans | eight, processes=2)
    for name, found in {"plain": {"steps": recorder.steps}, **{name: seen[name] for name in plans}}.items():
        assert column(found, "loss") == pytest.approx(losses, abs=1e-4), name
        assert column(found, "grad_norm") == pytest.approx(norms, rel=1e-3), name
        scheduled = [learning_rate(s, STEPS, 1e-2, plain.config.train.scheduler) for s in range(STEPS)]
        assert column(found, "lr") == scheduled, name
        assert column(found, "lr")[2] == 1e-2  # the first rate after the warm-up is the one of the config
        assert column(found, "lr/mlp") == pytest.approx([0.3 * rate for rate in scheduled])
        assert column(found, "lr/embed_tokens_lm_head") == pytest.approx([0.25 * rate for rate in scheduled])
    # Each stage resumes from its own checkpoint with the same bits, and from the next stage's with the same numbers.
    resumed = {f"own {name}": cut(plan, plan, f"own {name}") for name, plan in (plans | eight).items()}
    for stage in range(4):
        other = plans[f"stage {(stage + 1) % 4}"]
        resumed[f"other {stage}"] = cut(plans[f"stage {stage}"], other, f"other {stage}")
    again = run_loops(tmp_path, resumed, processes=2)
    for name, plan in (plans | eight).items():
        assert last(resumed[f"own {name}"]) == last(plan), f"{name}: other bits"
    for stage in range(4):
        assert column(again[f"other {stage}"], "loss") == pytest.approx(losses[CUT:], abs=1e-4), stage


# Tensors of fewer than 4,096 elements stay in 32 bits. One tensor of this model has more (the embedding), and the flat
# groups of stages 1 and 2 have more.
EIGHT_BIT: dict[str, Any] = {
    "optimizer": {"name": "adamw_8bit", "lr": 1e-2},
    "scheduler": {"name": "constant"},
}


def test_8_bit_moments_resume_bit_for_bit_and_learn(tmp_path: Path) -> None:
    plan = make(tmp_path, "whole", 0, 1, **EIGHT_BIT, save_every_steps=CUT)
    recorder = Recorder()
    running = Rank(plan, recorder)
    running.run()
    states = running.built.engine.optimizer.state.values()  # type: ignore[attr-defined]
    assert any(state["state1"].dtype == torch.uint8 for state in states)
    second = cut(plan, plan, "again")
    training.run(second, Recorder())
    assert last(second) == last(plan)
    exact = Recorder()
    training.run(
        make(tmp_path, "32 bits", 0, 1, optimizer={"lr": 1e-2}, scheduler={"name": "constant"}), exact
    )
    found, wanted = ([step["loss"] for step in one.steps] for one in (recorder, exact))
    assert wanted[-1] < wanted[0] - 0.5
    assert found == pytest.approx(wanted, abs=0.1)
    assert found != wanted


def small() -> nn.Module:
    return nn.ModuleDict(
        {"first": nn.Linear(3, 2), "norm": nn.LayerNorm(2), "frozen": nn.Linear(2, 2).requires_grad_(False)}
    )


def test_each_trained_parameter_is_in_one_group() -> None:
    options = OptimizerConfig(
        lr=1.0,
        weight_decay=0.1,
        decay_norms_and_biases=False,
        groups=[{"match": "weight", "lr_scale": 2.0}, {"match": "first", "weight_decay": 0.5}],  # type: ignore[arg-type]
    )
    model = small()
    groups = parameter_groups(model, options)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [([names[id(p)] for p in one["params"]], one["lr"], one["weight_decay"]) for one in groups]
    assert found == [
        (["first.weight"], 2.0, 0.1),
        (["norm.weight"], 2.0, 0.0),
        (["first.bias"], 1.0, 0.0),
        (["norm.bias"], 1.0, 0.0),
    ]
    set_rate(groups, 0.25)
    assert rates_in_force(groups) == {"weight": 0.5, "first": 0.25, "": 0.25}


def test_a_group_may_have_its_own_rate_and_decay() -> None:
    own = {"match": "norm", "lr": 0.5, "weight_decay": 0.3}
    for lr in (1.0, 0.01):
        options = OptimizerConfig(lr=lr, weight_decay=0.1, groups=[own])  # type: ignore[arg-type]
        groups = parameter_groups(small(), options)
        assert rates_in_force(groups) == pytest.approx({"norm": 0.5, "": lr})
        assert [one["weight_decay"] for one in groups] == [0.3, 0.1]


DEFAULTS: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


def adamw(
    gradients: list[float], *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> float:
    """Return a weight of 1 after these gradients: Loshchilov and Hutter 2019, algorithm 2, in plain numbers."""
    weight, first, second = 1.0, 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        mean, spread = first / (1 - betas[0] ** step), second / (1 - betas[1] ** step)
        weight -= lr * (mean / (spread**0.5 + eps) + weight_decay * weight)
    return weight


@pytest.mark.parametrize(
    "change",
    [{}, {"lr": 0.02}, {"betas": (0.5, 0.999)}, {"betas": (0.9, 0.5)}, {"eps": 0.3}, {"weight_decay": 0.4}],
    ids=lambda change: "".join(f"{name} {value}" for name, value in change.items()) or "base",
)
def test_each_value_of_the_optimizer_is_that_of_the_config(change: dict[str, Any]) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = make_optimizer(model, TrainConfig(optimizer=OptimizerConfig(**DEFAULTS | change)))
    gradients = [0.5, -2.0, 0.7]
    for gradient in gradients:
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimizer.step()
    assert model.weight.item() == pytest.approx(adamw(gradients, **DEFAULTS | change), rel=1e-5)
    assert not change or model.weight.item() != pytest.approx(adamw(gradients, **DEFAULTS), rel=1e-3)


@pytest.mark.parametrize("matches", [["nothing"], ["frozen"], ["first", "first.weight"]])
def test_a_group_without_parameters_is_refused(matches: list[str]) -> None:
    options = OptimizerConfig(groups=[{"match": match, "lr": 1.0} for match in matches])  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        parameter_groups(small(), options)
    assert caught.value.key == f"train.optimizer.groups[{len(matches) - 1}].match"
    assert caught.value.value == matches[-1]


def test_evaluation_is_not_smoothed_and_chunks_change_nothing(tmp_path: Path) -> None:
    validation = tiny.token_set(tmp_path, tiny.rows(9, seed=5), truth=True, name="validation")
    found = []
    for place, train in enumerate(
        ({}, {"label_smoothing": 0.3}, {"label_smoothing": 0.3, "loss_chunk_tokens": 4})
    ):
        plan = make(tmp_path, f"run {place}", 0, 1, **train)
        evaluation = plan.config.eval.model_copy(update={"at_start": True})
        config = plan.config.model_copy(update={"eval": evaluation})
        recorder = Recorder()
        training.run(replace(plan, config=config, validation=validation, total_steps=1), recorder)
        found.append((recorder.evaluations[0]["metrics"]["loss"], recorder.steps[0]["loss"], recorder.events))
    (plain, hard, _), (smoothed, soft, _), (chunked, soft_in_chunks, events) = found
    assert plain == smoothed
    assert chunked == pytest.approx(plain, rel=1e-5)
    assert abs(soft - hard) > 1e-3
    assert soft_in_chunks == pytest.approx(soft, rel=1e-5)
    assert any("is computed 4 at a time" in event.get("text", "") for event in events)
