"""The same worker in Ray Train's local mode: no worker processes, so it starts at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from recorder import Recorder

from medray.tracking import ledger as ledgers
from medray.train.loop import training
from medray.train.loop.finish import WorkerResult
from medray.train.loop.worker import worker


def test_local_mode_trains_as_the_bare_loop_does(connected: Any, tmp_path: Path) -> None:
    tokens = tiny.token_set(tmp_path, tiny.rows(20))
    plans = {
        name: tiny.plan(
            tmp_path / name, tokens, "llama-tiny", workers=1, micro=2, max_steps=5, train={"zero_stage": 0}
        )
        for name in ("bare", "local")
    }
    recorder = Recorder()
    training.run(plans["bare"], recorder)
    ledger = ledgers.start(str(tmp_path / "local"), ledgers.TrackingSpec(False, "", "", "", {}, {}, False))
    trainer = TorchTrainer(
        worker,  # type: ignore[arg-type]
        train_loop_config={"plan": plans["local"], "ledger": ledger},
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="local", storage_path=str(tmp_path / "ray")),
    )
    result: Any = trainer.fit()
    returned = result.return_value
    assert isinstance(returned, WorkerResult)
    assert returned.status == "done"
    steps = [json.loads(line) for line in (tmp_path / "local" / "steps.jsonl").read_text().splitlines()]
    assert [step["loss"] for step in steps] == [step["loss"] for step in recorder.steps]
