"""The numbers of bytes equal the published table of ZeRO stages and DeepSpeed's own estimators."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from medray.plan.memory import MemoryPlan, zero_bytes

BIG, XXL = 70_000_000_000, 11_100_000_000


@pytest.mark.parametrize(("stage", "big", "xxl"), [(0, 1120, 178), (1, 385, 61), (2, 263, 42), (3, 140, 22)])
def test_the_table_of_stages_on_8_workers(stage: int, big: int, xxl: int) -> None:
    for total, gigabytes in ((BIG, big), (XXL, xxl)):
        assert zero_bytes(total, total, stage=stage, world_size=8).total / 1e9 == pytest.approx(
            gigabytes, abs=0.6
        )


def test_gradients_of_four_bytes_need_18_bytes_per_parameter() -> None:
    assert zero_bytes(100, 100, stage=0, world_size=1, gradient_bytes=4).total == 1800


@pytest.mark.parametrize(("total", "gigabytes"), [(BIG, 17.5), (XXL, 2.8)])
def test_stage_3_lora_holds_its_share_of_frozen_weights_and_the_adapters(
    total: int, gigabytes: float
) -> None:
    adapters = 8_000_000
    plan = zero_bytes(total + adapters, adapters, stage=3, world_size=8)
    assert plan.weights / 1e9 == pytest.approx(gigabytes, abs=0.06)
    assert plan.gradients + plan.optimizer == 14 * adapters // 8


@pytest.mark.parametrize(
    ("stage", "parts"),
    [(0, (400, 400, 800)), (1, (400, 400, 600)), (2, (400, 200, 600)), (3, (200, 200, 600))],
)
def test_float32_has_a_master_copy_from_stage_1_on(stage: int, parts: tuple[int, int, int]) -> None:
    plan = zero_bytes(100, 100, stage=stage, world_size=2, weight_bytes=4)
    assert (plan.weights, plan.gradients, plan.optimizer) == parts


def test_frozen_parameters_have_weights_only() -> None:
    plan = zero_bytes(100, 0, stage=3, world_size=1, weight_bytes=4, largest_layer=10)
    assert (plan.weights, plan.gradients, plan.optimizer, plan.gathered) == (400, 0, 0, 40)


def test_shares_that_do_not_divide_are_rounded_up() -> None:
    assert zero_bytes(3, 3, stage=3, world_size=2).weights == 3
    assert zero_bytes(1, 1, stage=3, world_size=4).weights == 1


@pytest.mark.parametrize("workers", [1, 4])
def test_stage_2_against_deepspeed(workers: int) -> None:
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as estimate

    plan = zero_bytes(XXL, XXL, stage=2, world_size=workers)
    # DeepSpeed adds the float32 copy of the gradients that lives during a step: 4 P / N bytes.
    assert estimate(XXL, workers, cpu_offload=False)[1] == plan.device + 4 * XXL // workers
    plan = zero_bytes(XXL, XXL, stage=2, world_size=workers, offload="cpu")
    assert estimate(XXL, workers, additional_buffer_factor=1) == (plan.host * workers, plan.device)


@pytest.mark.parametrize("workers", [1, 4])
def test_stage_3_against_deepspeed(workers: int) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as estimate

    layer = 134_217_728
    run: dict[str, Any] = {"stage": 3, "world_size": workers, "largest_layer": layer, "gradient_bytes": 4}
    # DeepSpeed counts gradients of 4 bytes at stage 3.
    assert estimate(XXL, layer, workers, cpu_offload=False)[1] == zero_bytes(XXL, XXL, **run).device
    plan = zero_bytes(XXL, XXL, **run, offload="optimizer")
    host, device, _ = estimate(XXL, layer, workers, cpu_offload_params=False, additional_buffer_factor=1)
    assert (host, device) == (plan.host * workers, plan.device)
    plan = zero_bytes(XXL, XXL, **run, offload="cpu")
    host, device, _ = estimate(XXL, layer, workers, additional_buffer_factor=1)
    assert (host, device) == (plan.host * workers, plan.device)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_moves_the_optimizer_and_loses_nothing(stage: int) -> None:
    stay = zero_bytes(1000, 1000, stage=stage, world_size=2)
    moved = zero_bytes(1000, 1000, stage=stage, world_size=2, offload="cpu")
    assert moved.device < stay.device
    assert moved.optimizer == 0
    assert moved.total >= stay.total
    assert moved.weights == (0 if stage == 3 else stay.weights)


@pytest.mark.parametrize(
    ("kwargs", "complaint"),
    [
        ({"stage": 4}, "ZeRO stage 4"),
        ({"world_size": 0}, "0 workers"),
        ({"weight_bytes": 1}, "1 bytes per weight"),
        ({"trainable": 11}, "11 of 10 parameters"),
        ({"stage": 0, "offload": "cpu"}, "offload needs ZeRO stage"),
        ({"offload": "nvme"}, "offload 'nvme'"),
    ],
)
def test_impossible_numbers_are_refused(kwargs: dict[str, Any], complaint: str) -> None:
    run = {"total": 10, "trainable": 10, "stage": 2, "world_size": 1} | kwargs
    with pytest.raises(ValueError, match=complaint):
        zero_bytes(**run)


def test_describe_names_each_part_that_there_is() -> None:
    plan = MemoryPlan(
        weights=22_200_000_000, gradients=0, optimizer=1_500_000, logits=6_291_456_000, host=133_200_000_000
    )
    assert plan.total == plan.device + 133_200_000_000
    assert plan.describe() == (
        "28.5 GB per worker: weights 22.2 + optimizer 0.0015 + logits 6.29; 133 GB of host memory"
    )
    assert (
        zero_bytes(BIG, BIG, stage=0, world_size=8)
        .describe()
        .startswith("1,120 GB per worker: weights 140 +")
    )


def test_planning_loads_nothing_heavy() -> None:
    modules = "activations, adapters, cost, gpus, memory, parameters, phases, resources, steps"
    code = (
        f"import sys; from medray.plan import {modules}; "
        "print({'torch', 'ray', 'pydantic', 'transformers', 'safetensors'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
