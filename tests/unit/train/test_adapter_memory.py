"""What a run says that it will train and hold, for every adapter and for a base of 4 bits."""

from __future__ import annotations

import re
from typing import Any

import pytest

from medray.config import Config
from medray.plan.adapters import trained
from medray.plan.model_config import PRESETS, ModelDescription
from medray.plan.parameters import from_config
from medray.plan.resources import NodeSupply, Supply
from medray.train.prepare import Resources, check_memory

HAVE = Supply.of(NodeSupply(4.0, 0.0, 10**12))
GRANTED = Resources(1, 1.0, 0, 1)
LLAMA = PRESETS["llama-tiny"] | {"vocab_size": 500, "hidden_size": 1024, "intermediate_size": 4096}


def said(**sections: Any) -> tuple[int, int, float]:
    """(parameters, trained, GB) of the line."""
    config = Config.model_validate({"train": {"zero_stage": 0}} | sections)
    line = check_memory(config, ModelDescription(LLAMA, "causal", None), HAVE, GRANTED, "fp32")
    found = re.fullmatch(r"([\d,]+) parameters, ([\d,]+) trained, ([\d.]+) GB .*", line)
    assert found, line
    total, learns, size = (each.replace(",", "") for each in found.groups())
    return int(total), int(learns), float(size)


@pytest.mark.parametrize("kind", ["none", "lora", "adalora", "ia3", "prefix", "prompt", "multitask_prompt"])
def test_every_type_is_counted(kind: str) -> None:
    config = Config.model_validate({"peft": {"type": kind}})
    total, learns, size = said(peft={"type": kind})
    assert total == from_config(LLAMA).total
    assert learns == trained(LLAMA, config.peft)
    held = 16 * total if kind == "none" else 4 * total + 16 * learns
    assert size == pytest.approx(held / 1e9, abs=0.006)


def test_4_bits_take_less() -> None:
    lora = {"type": "lora", "rank": 2}
    whole = said(peft=lora)[2]
    packed = said(peft=lora, model={"quantization": "nf4"})[2]
    assert packed < whole / 4


def test_what_is_not_known_is_guessed() -> None:
    assert said(peft={"type": "lora", "targets": ["nowhere"]})[1] == from_config(LLAMA).total // 50
