"""Run as a process of its own: does AdaLoRA see gradients and cut ranks at the ZeRO stage of the first argument?

Prints one JSON object: gradients (how many factors have one after the backward pass), failed (what update_and_allocate
raised), ranks (before and after).
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

import torch

from medray.config.peft import PeftConfig
from medray.config.train import TrainConfig
from medray.models.adapters import adalora, add_adapter
from medray.plan.model_config import PRESETS
from medray.train import engine as engines


def main(stage: int) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update(alone)
    engines.prepare_process(1)
    engines.rank_allocation = lambda *_: None  # type: ignore[attr-defined]  # asked for by hand below
    preset = {name: value for name, value in PRESETS["llama-tiny"].items() if name != "model_type"}
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=64, **preset))
    ranks = {"init_rank": 4, "target_rank": 2, "tinit": 0, "tfinal": 1, "delta_t": 1}
    peft = PeftConfig.model_validate({"type": "adalora", "adalora": ranks})
    adapted: Any = add_adapter(model, peft, seq2seq=False, seed=0, total_steps=5)
    with torch.no_grad():
        for name, one in adapted.named_parameters():
            if "lora_E" in name:
                one.fill_(1.0)
    train = TrainConfig(zero_stage=stage, precision="fp32")
    config = engines.deepspeed_config(train, micro_batch_size=2, world_size=1, precision="fp32")
    engine = engines.DeepSpeedEngine(adapted, train, config, torch.device("cpu"))
    ids = torch.randint(64, (2, 6))
    engine.backward(engine.model(input_ids=ids, labels=ids).loss)
    factors = [one for name, one in adapted.named_parameters() if "lora_" in name]
    gradients = sum(one.grad is not None and bool(one.grad.any()) for one in factors)
    before, failed = sum(adalora.ranks(adapted).values()), None
    try:
        adapted.base_model.update_and_allocate(2)
    except Exception as error:
        failed = type(error).__name__
    after = sum(adalora.ranks(adapted).values())
    print(json.dumps({"gradients": gradients, "failed": failed, "ranks": [before, after]}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]))
