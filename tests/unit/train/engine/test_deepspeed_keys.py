"""Raw overrides of DeepSpeed's config: what it reads is taken, what it would leave out or fail at is refused."""

from __future__ import annotations

import os
from typing import Any

import pytest

from medray.config.train import TrainConfig
from medray.errors import InputError
from medray.train.engine.deepspeed_keys import check_deepspeed_keys


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 500_000}},
        {"activation_checkpointing": {"partition_activations": True}},  # asked for by way of its keys()
        {
            "flops_profiler": {"enabled": True},
            "wall_clock_breakdown": True,
            "torch_autocast": {"enabled": True},
        },
    ],
)
def test_keys_of_deepspeed(overrides: dict[str, Any]) -> None:
    for stage in (0, 3):
        check_deepspeed_keys(TrainConfig(zero_stage=stage, deepspeed=overrides), "bf16")


def test_workers_choose_their_accelerator_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that is started afterwards has this environment: workers without a GPU beside one would look for it."""
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    before = dict(os.environ)
    check_deepspeed_keys(TrainConfig(deepspeed={"wall_clock_breakdown": True}), "fp32")
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"zero_optimisation": {}}, "reads no such key\n  Fix: train.deepspeed.zero_optimization"),
        (
            {"zero_optimization": {"overlap_comms": True}},
            "train.deepspeed.zero_optimization.overlap_comms: DeepSpeed does not take it (extra inputs are not permitted)"
            "\n  Fix: did you mean overlap_comm?",
        ),
        (
            {"zero_optimization": {"overlap_comm": "now"}},
            "train.deepspeed.zero_optimization.overlap_comm: DeepSpeed does not take it (input should be a valid boolean",
        ),
        ({"tensorboard": {"enabld": 1}}, "train.deepspeed.tensorboard.enabld: "),
        ({"compile": 3}, "must be a mapping"),
        ({"sparse_attention": {"mode": "fixed"}}, "has been removed"),
    ],
)
def test_what_deepspeed_does_not_take_is_refused(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        check_deepspeed_keys(TrainConfig(deepspeed=overrides), "fp32")
    assert said in str(caught.value)
    assert "train.deepspeed" in str(caught.value)


@pytest.mark.parametrize("name", ["gradient_clipping", "managed_gradient_accumulation"])
def test_what_medray_decides_is_not_overridden(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        TrainConfig(deepspeed={name: 1})


@pytest.mark.parametrize("value", [True, False, None, 3])
def test_the_section_of_zero_is_not_replaced_by_a_value(value: object) -> None:
    with pytest.raises(ValueError, match="zero_optimization takes keys"):
        TrainConfig(deepspeed={"zero_optimization": value})
