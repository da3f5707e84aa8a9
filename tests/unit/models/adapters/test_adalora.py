"""AdaLoRA's cuts of ranks and its importance, compared with the paper's schedule and sums, computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medray.config.peft import PeftConfig
from medray.config.train import TrainConfig
from medray.models.adapters import add_adapter
from medray.models.adapters.adalora import ranks
from medray.plan.model_config import PRESETS
from medray.train.engine import TorchEngine

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft calls it

STEPS, VOCABULARY = 12, 40
BASE: dict[str, Any] = {"init_rank": 4, "target_rank": 2, "tinit": 2, "tfinal": 3, "delta_t": 2}


def engine(**changes: Any) -> TorchEngine:
    """Return a Llama with an adapter whose singular values are all 1."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {name: value for name, value in PRESETS["llama-tiny"].items() if name != "model_type"}
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", vocab_size=VOCABULARY, **values)
    )
    peft = PeftConfig.model_validate({"type": "adalora", "adalora": BASE | changes})
    adapted: Any = add_adapter(model, peft, seq2seq=False, seed=0, total_steps=STEPS)
    with torch.no_grad():
        for name, one in adapted.named_parameters():
            if "lora_E" in name:
                one.fill_(1.0)
    return TorchEngine(adapted.train(), TrainConfig(), torch.device("cpu"))


def step(made: TorchEngine, number: int) -> None:
    ids = torch.randint(VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(number))
    made.backward(made.model(input_ids=ids, labels=ids).loss)
    made.step(1e-3)


def schedule(layers: int, values: dict[str, Any]) -> list[int]:
    """Return the ranks of the whole model after each step: the cubic schedule of equation 12, applied every delta_t steps.

    In the steps between, what was set to zero is trained and may come back.
    """
    first, last = layers * values["init_rank"], layers * values["target_rank"]
    found = []
    begin, end = values["tinit"], STEPS - values["tfinal"]
    for number in range(1, STEPS + 1):
        share = (1 - (number - begin) / (end - begin)) ** 3
        asked = number > begin and number % values["delta_t"] == 0
        found.append(last if number >= end else int((first - last) * share + last) if asked else first)
    return found


@pytest.mark.parametrize(
    "change",
    [{}, {"init_rank": 6}, {"target_rank": 1}, {"tinit": 5}, {"tfinal": 6}, {"delta_t": 3}],
    ids=lambda change: next(iter(change), "base"),
)
def test_ranks_follow_the_schedule_after_every_step(change: dict[str, Any]) -> None:
    made, found = engine(**change), []
    layers = len(ranks(made.model))
    for number in range(STEPS):
        step(made, number)
        found.append(sum(ranks(made.model).values()))
    assert found == schedule(layers, BASE | change)
    assert not change or found != schedule(layers, BASE)


@pytest.mark.parametrize("betas", [(0.85, 0.85), (0.3, 0.85), (0.85, 0.3)])
def test_importance_and_its_uncertainty_decay_by_their_own_rates(betas: tuple[float, float]) -> None:
    """Compare with equations 9 and 10 for one factor, whose sums begin at zero."""
    made = engine(betas=betas)
    named = dict(made.model.named_parameters())
    name = next(one for one in named if "lora_A" in one)
    seen: list[Tensor] = []
    made.optimizer.register_step_post_hook(
        lambda *_: seen.append((named[name] * named[name].grad).detach().abs())  # type: ignore[operator]
    )
    for number in range(3):
        step(made, number)
    mean, spread = torch.zeros_like(seen[0]), torch.zeros_like(seen[0])
    for now in seen:
        mean = betas[0] * mean + (1 - betas[0]) * now
        spread = betas[1] * spread + (1 - betas[1]) * (now - mean).abs()
    assert made.extra is not None
    sums = made.extra.tensors()
    (found,) = [
        one for one in sums if one.startswith("exp_avg_ipt/") and name.endswith(one.partition("/")[2])
    ]
    torch.testing.assert_close(sums[found], mean)
    torch.testing.assert_close(sums[found.replace("ipt", "unc")], spread)
    assert bool(spread.any())
