"""Optimizers and schedules that cannot work are refused before a run starts, with a fix."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from pydantic import ValidationError

from medray.config import Config
from medray.config.checks.train import check_train, learning_rate_notes
from medray.config.eval import NUMBERS
from medray.errors import InputError
from medray.evaluate.metrics import Entity, Reference, score
from medray.train.prepare import check_optimizer


def config(train: dict[str, Any], **sections: Any) -> Config:
    return Config.model_validate({"train": train, **sections})


def refused(train: dict[str, Any], **sections: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        check_train(config(train, **sections))
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    ("scheduler", "key"),
    [
        ({"name": "constant", "warmup_steps": 3}, "name"),
        ({"name": "constant", "warmup_ratio": 0.1}, "name"),
        ({"name": "constant", "min_lr_ratio": 0.1}, "min_lr_ratio"),
        ({"name": "constant_with_warmup", "min_lr_ratio": 0.1}, "min_lr_ratio"),
        ({"name": "cosine", "decay_steps": 3}, "decay_steps"),
        ({"name": "linear", "decay_ratio": 0.2}, "decay_ratio"),
        ({"name": "linear", "decay_shape": "linear"}, "decay_shape"),
        ({"name": "wsd", "warmup_ratio": 0.6, "decay_ratio": 0.5}, "decay_ratio"),
        ({"name": "wsd", "warmup_steps": 6, "decay_steps": 5}, "decay_steps"),
        ({"name": "wsd", "warmup_steps": 6, "decay_ratio": 0.5}, "decay_ratio"),
    ],
)
def test_schedules(scheduler: dict[str, Any], key: str) -> None:
    assert refused({"scheduler": scheduler, "max_steps": 10}).key == f"train.scheduler.{key}"


@pytest.mark.parametrize(
    "scheduler",
    [
        {"name": "constant"},
        {"name": "constant", "warmup_steps": 0, "warmup_ratio": 0.1},
        {"name": "constant_with_warmup", "warmup_ratio": 0.1},
        {"name": "linear", "min_lr_ratio": 0.1},
        {"name": "wsd", "warmup_steps": 5, "decay_steps": 5, "decay_shape": "linear"},
        {"name": "wsd", "warmup_ratio": 0.5, "decay_ratio": 0.5},
    ],
)
def test_schedules_that_work(scheduler: dict[str, Any]) -> None:
    check_train(config({"scheduler": scheduler, "max_steps": 10}))


def test_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert "medray[quant]" in str(refused({"optimizer": {"name": "adamw_8bit"}}).fix)
        check_train(config({"zero_stage": 3}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for name in ("adamw_8bit", "paged_adamw", "paged_adamw_8bit"):
        train: dict[str, Any] = {"optimizer": {"name": name}}
        check_train(config(train))
        assert "stage 3" in str(refused(train | {"zero_stage": 3}))
        assert refused(train | {"offload": "cpu"}).key == "train.offload"
        check_optimizer(config(train), "cuda")
    check_train(config({"optimizer": {"name": "adamw_8bit"}}, cluster={"gpus": False}))
    paged: dict[str, Any] = {"optimizer": {"name": "paged_adamw"}}
    assert "no GPU" in str(refused(paged, cluster={"gpus": False}))
    with pytest.raises(InputError, match="this machine has no GPU"):
        check_optimizer(config(paged), "cpu")


@pytest.mark.parametrize(
    "group", [{}, {"match": "x"}, {"match": "x", "lr": 1.0, "lr_scale": 2.0}, {"match": "(", "lr": 1.0}]
)
def test_groups_that_set_nothing_or_too_much(group: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config({"optimizer": {"groups": [group]}})


def test_a_learning_rate_that_destroys_a_model_gives_a_warning() -> None:
    assert learning_rate_notes(config({"optimizer": {"lr": 0.1}})) == ()
    [said] = learning_rate_notes(config({"optimizer": {"lr": 100.0}}))
    assert said.startswith("train.optimizer.lr: a learning rate of 100 is far above")
    assert "1e-6 to 1e-2, and destroys the model. Fix: use a value such as 1e-4" in said
    assert "probably destroys" in learning_rate_notes(config({"optimizer": {"lr": 0.5}}))[0]
    groups = [{"match": "lora_A", "lr": 1e-3}, {"match": "lora_B", "lr_scale": 1600.0}]
    [said] = learning_rate_notes(config({"optimizer": {"lr": 1e-3, "groups": groups}}))
    assert said.startswith("train.optimizer.groups[1]: a learning rate of 1.6 is far above")


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_label_smoothing_is_a_share(value: float) -> None:
    with pytest.raises(ValidationError):
        config({"label_smoothing": value})


EVALUATED = {"every_steps": 5, "metrics": ["accuracy"]}


@pytest.mark.parametrize(
    ("best", "sections", "says"),
    [
        ("loss", {}, "chosen by evaluations during training"),
        ("rougel", {"eval": EVALUATED}, "one of loss, loss_label, accuracy"),
        ("rougeL", {"eval": EVALUATED}, "eval.metrics adds others"),
        ("accuracy", {"eval": {**EVALUATED, "generation": {"rows": 0}}}, "one of loss, loss_label;"),
        ("loss_rationale", {"eval": EVALUATED}, "loss_label"),
        (
            "loss",
            {"eval": EVALUATED, "method": {"name": "distill", "variant": "dynamic_alpha"}},
            "alpha changes",
        ),
    ],
)
def test_a_best_checkpoint_needs_a_metric_of_evaluations(
    best: str, sections: dict[str, Any], says: str
) -> None:
    assert says in str(refused({"keep_best": best}, **sections))


def test_the_metrics_of_evaluations() -> None:
    for best, sections in (
        ("loss", {"eval": EVALUATED}),
        ("accuracy", {"eval": EVALUATED}),
        ("loss_rationale", {"eval": EVALUATED, "method": {"name": "distill"}}),
        ("loss_cosine", {"eval": EVALUATED, "method": {"name": "distill", "variant": "cosine"}}),
    ):
        check_train(config({"keep_best": best}, **sections))
    answers = {"ner_f1": '["fever"]', "re_f1": '[["fever", "flu"]]'}
    for metric, numbers in NUMBERS.items():
        truth = Reference(answers.get(metric, "fever"), (Entity("fever", "present"),))
        assert tuple(score([metric], ["fever"], [truth])) == numbers


def test_fp16_needs_a_stage_that_scales_its_loss() -> None:
    found = refused({"precision": "fp16", "zero_stage": 0})
    assert (found.key, found.value) == ("train.zero_stage", 0)
    check_train(config({"precision": "fp16", "zero_stage": 1}))
