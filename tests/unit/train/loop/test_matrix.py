"""Every model type, method, adapter and ZeRO stage: equal to plain torch, saved and reloaded, or refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oracle
import pytest
import tiny
import torch
from recorder import Rank, Recorder
from torchrun import run_loops

from medray.config.checks.adapter import check_adapter
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError
from medray.models.adapters import add_adapter
from medray.models.export import load_export
from medray.models.load import load_model
from medray.train.engine.optimizers import learning_rate
from medray.train.worker_plan import WorkerPlan

CPU = torch.device("cpu")
STEPS = 5
PRESETS = {"t5-tiny": "seq2seq", "llama-tiny": "causal"}
METHODS: dict[str, dict[str, Any]] = {"sft": {"name": "sft"}, "distill": {"name": "distill", "alpha": 0.3}}
ADAPTERS: dict[str, dict[str, Any]] = {
    "none": {"type": "none"},
    "lora": {"type": "lora", "rank": 2},
    "adalora": {
        "type": "adalora",
        "adalora": {"init_rank": 3, "target_rank": 2, "tinit": 1, "tfinal": 1, "delta_t": 1},
    },
    "prefix": {"type": "prefix", "virtual_tokens": 4},
    "multitask_prompt": {"type": "multitask_prompt", "virtual_tokens": 4},
}
STAGES = (0, 2, 3)


@dataclass(frozen=True)
class Cell:
    preset: str
    method: str
    adapter: str
    stage: int

    @property
    def name(self) -> str:
        return f"{self.preset}-{self.method}-{self.adapter}-{self.stage}"

    @property
    def refused_for(self) -> str | None:
        """The key that the refusal must name."""
        if self.adapter == "multitask_prompt" and self.method == "sft":
            return "peft.type"
        if self.adapter == "adalora" and self.stage:
            return "train.zero_stage"
        return None


# A method of one task differs where the adapter knows tasks, and else in what it trains.
CELLS = [
    *(
        Cell(preset, "distill", adapter, stage)
        for preset in PRESETS
        for adapter in ADAPTERS
        for stage in STAGES
    ),
    *(
        Cell("llama-tiny", "sft", adapter, stage)
        for adapter in ("none", "multitask_prompt")
        for stage in STAGES
    ),
]


def make(folder: Path, cell: Cell, *, workers: int) -> WorkerPlan:
    tokens = tiny.token_set(folder, tiny.rows(23), architecture=PRESETS[cell.preset])
    threshold = {"zero_optimization": {"stage3_param_persistence_threshold": 0}} if cell.stage == 3 else {}
    return tiny.plan(
        folder / f"{cell.name}-{workers}",
        tokens,
        cell.preset,
        workers=workers,
        micro=8 // workers,
        max_steps=STEPS,
        model=tiny.saved_model(folder / f"base-{cell.preset}", cell.preset, tokens),
        method=METHODS[cell.method],
        peft=ADAPTERS[cell.adapter],
        train={"zero_stage": cell.stage, "deepspeed": threshold},
    )


def by_the_oracle(plan: WorkerPlan) -> list[float]:
    """Losses of plain torch and peft, a row at a time."""
    config, order = plan.config, plan.train.plan(plan.config)
    method: Any = plan.method
    seq2seq = plan.train.spec.architecture == "seq2seq"
    tokenizer = load_tokenizer(plan.train.tokenizer)
    model: Any = load_model(config.model, plan.model, tokenizer, dtype=torch.float32, seed=config.run.seed)
    model = add_adapter(
        model, config.peft, seq2seq=seq2seq, seed=config.run.seed, total_steps=STEPS, tokenizer=tokenizer
    )
    batches = [order.batch(step) for step in range(STEPS)]
    rates = [
        learning_rate(step, STEPS, config.train.optimizer.lr, config.train.scheduler) for step in range(STEPS)
    ]
    return oracle.losses(
        plan.train.folder,
        [list(zip(batch.shards.tolist(), batch.rows.tolist(), strict=True)) for batch in batches],
        model,
        method.weights,
        seq2seq=seq2seq,
        lrs=rates,
        weight_decay=config.train.optimizer.weight_decay,
        clip=config.train.clip_grad_norm,
    )


def logits(model: Any, cell: Cell) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    multitask = cell.adapter == "multitask_prompt"
    if cell.preset.startswith("t5"):  # peft takes the one or the other, by adapter
        inputs["labels" if multitask else "decoder_input_ids"] = ids
    inputs |= {"task_ids": torch.tensor([0])} if multitask else {}
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**inputs).logits
    return found[:, -ids.shape[1] :]


def refusal(plan: WorkerPlan) -> str | None:
    try:
        check_adapter(plan.config)
    except InputError as error:
        return error.key if error.fix else "no fix"
    return None


@pytest.mark.long
def test_every_cell_equals_plain_torch_or_is_refused(tmp_path: Path) -> None:
    plans = {cell: make(tmp_path, cell, workers=2) for cell in CELLS}
    for cell, plan in plans.items():
        assert refusal(plan) == cell.refused_for, cell.name
    allowed = {cell.name: plan for cell, plan in plans.items() if not cell.refused_for}
    assert len(allowed) == 29
    seen = run_loops(tmp_path, allowed, processes=2)

    for cell in CELLS:
        if cell.stage or cell.refused_for:
            continue
        plan, recorder = make(tmp_path, cell, workers=1), Recorder()
        assert plan.plain_torch(1)
        alone = Rank(plan, recorder)
        alone.run()
        wanted = [step["loss"] for step in recorder.steps]
        assert wanted == pytest.approx(by_the_oracle(plan), abs=1e-4), cell.name
        live = logits(alone.built.model, cell)
        again = logits(load_export(Path(plan.run_folder) / "export", CPU), cell)
        torch.testing.assert_close(again, live, rtol=1e-5, atol=1e-5, msg=cell.name)
        for stage in STAGES:
            other = Cell(cell.preset, cell.method, cell.adapter, stage)
            if other.refused_for:
                continue
            found = [step["loss"] for step in seen[other.name]["steps"]]
            assert found == pytest.approx(wanted, abs=1e-4), other.name
            exported = logits(load_export(Path(plans[other].run_folder) / "export", CPU), cell)
            torch.testing.assert_close(exported, live, rtol=1e-2, atol=1e-3, msg=other.name)
