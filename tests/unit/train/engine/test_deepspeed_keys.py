"""Raw overrides of DeepSpeed's config: keys that it reads are accepted; keys that it ignores or fails at are refused."""

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
        {"activation_checkpointing": {"partition_activations": True}},  # DeepSpeed looks for it in keys()
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
    """Keep the environment: a cluster that starts later inherits it, and its workers may have other devices."""
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    before = dict(os.environ)
    check_deepspeed_keys(TrainConfig(deepspeed={"wall_clock_breakdown": True}), "fp32")
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"zero_optimisation": {}},
            "reads no such key\n  Fix: did you mean train.deepspeed.zero_optimization?",
        ),
        (
            {"zero_optimization": {"overlap_comms": True}},
            "train.deepspeed.zero_optimization.overlap_comms: DeepSpeed does not accept it (extra inputs are not permitted)"
            "\n  Fix: did you mean overlap_comm?",
        ),
        (
            {"zero_optimization": {"overlap_comm": "now"}},
            "train.deepspeed.zero_optimization.overlap_comm: DeepSpeed does not accept it (input should be a valid boolean",
        ),
        ({"tensorboard": {"enabld": 1}}, "train.deepspeed.tensorboard.enabld: "),
        ({"compile": 3}, "must be a mapping"),
        ({"sparse_attention": {"mode": "fixed"}}, "has been removed"),
    ],
)
def test_what_deepspeed_does_not_accept_is_refused(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        check_deepspeed_keys(TrainConfig(deepspeed=overrides), "fp32")
    assert said in str(caught.value)
    assert "train.deepspeed" in str(caught.value)


@pytest.mark.parametrize("name", ["gradient_clipping", "managed_gradient_accumulation"])
def test_keys_that_medray_sets_cannot_be_overridden(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        TrainConfig(deepspeed={name: 1})


@pytest.mark.parametrize("value", [True, False, None, 3])
def test_the_section_of_zero_cannot_be_replaced_by_a_value(value: object) -> None:
    with pytest.raises(ValueError, match="zero_optimization takes keys"):
        TrainConfig(deepspeed={"zero_optimization": value})
