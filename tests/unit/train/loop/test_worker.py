"""The imports of a rank's process before it trains. Each case runs in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

LOOK = """
import gc, importlib.util, json, sys
from medray.config import Config
from medray.train.loop.worker import import_libraries
from medray.train.worker_plan import WorkerPlan

config = Config.model_validate(
    {"model": {"name": None, "init": "random", "preset": "llama-tiny"}, "data": {"train": ["x.jsonl"]}}
    | json.loads(sys.argv[1])
)
import_libraries(WorkerPlan(config, "", None, None, {}, 1, "fp32", 1), int(sys.argv[2]))
libraries = ("deepspeed", "peft", "mlflow", "bitsandbytes")
print(json.dumps({
    "loaded": [name for name in libraries if sys.modules.get(name)],
    "there": [name for name in libraries if importlib.util.find_spec(name)],
    "collects": gc.isenabled(),
    "frozen": gc.get_freeze_count() > 0,
}))
"""
LORA: dict[str, Any] = {"peft": {"type": "lora"}}
PLAIN: dict[str, Any] = {"train": {"zero_stage": 0}}
EIGHT_BITS: dict[str, Any] = {"train": {"zero_stage": 0, "optimizer": {"name": "adamw_8bit"}}}


@pytest.mark.parametrize(
    ("sections", "ranks", "loaded", "there"),
    [
        (PLAIN, 1, [], ["deepspeed", "peft"]),
        (LORA, 2, ["deepspeed", "peft"], ["deepspeed", "peft"]),
        pytest.param(
            LORA | EIGHT_BITS,
            1,
            ["peft", "bitsandbytes"],
            ["deepspeed", "peft", "bitsandbytes"],
            marks=pytest.mark.long,
        ),
    ],
    ids=["one full rank", "adapters on two", "moments in 8 bits"],
)
def test_a_rank_imports_what_its_plan_needs_and_collects_garbage_again(
    sections: dict[str, Any], ranks: int, loaded: list[str], there: list[str]
) -> None:
    command = [sys.executable, "-c", LOOK, json.dumps(sections), str(ranks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "loaded": loaded,
        "there": there,
        "collects": True,
        "frozen": True,
    }
