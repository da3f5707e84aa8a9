"""The engines with one rank in this process, on a CPU: precision, the device of the state, and DeepSpeed's config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from recorder import Rank, Recorder
from safetensors.torch import load_file
from torch import distributed, nn

from medray.config import Config
from medray.config.train import TrainConfig
from medray.train.engine import DeepSpeedEngine, TorchEngine
from medray.train.loop import training
from medray.train.prepare import precision

CPU = torch.device("cpu")
# One process in float32 is trained without DeepSpeed, unless a raw override asks for it.
BY_DEEPSPEED = {"steps_per_print": 1_000_000}


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make a process group of this process alone, without a port, and destroy it afterwards."""
    store = distributed.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")  # DeepSpeed reads it
        patch.setenv("DS_ACCELERATOR", "cpu")
        distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        yield
        distributed.destroy_process_group()


@dataclass(frozen=True)
class Ran:
    engine: Any  # DeepSpeed's
    losses: list[float]
    export: Path


def run(folder: Path, name: str, **train: Any) -> Ran:
    """Return a plan of four steps at stage 2, in the precision that the driver chooses on CPUs."""
    tokens = tiny.token_set(folder, tiny.rows(9))
    plan = tiny.plan(folder / name, tokens, "llama-tiny", workers=1, max_steps=4, train=train)
    recorder = Recorder()
    running = Rank(replace(plan, precision=precision(plan.config, "cpu")), recorder)
    running.run()
    return Ran(
        running.built.engine.model, [step["loss"] for step in recorder.steps], folder / name / "export"
    )


def in_fp16(folder: Path, stage: int, *, steps: int) -> Any:
    """Return a loop that has not begun."""
    tokens = tiny.token_set(folder, tiny.rows(9))
    train = {"zero_stage": stage}
    plan = tiny.plan(folder / "run", tokens, "llama-tiny", workers=1, max_steps=steps, train=train)
    return Rank(replace(plan, precision="fp16"), Recorder())


@pytest.mark.usefixtures("one_rank")
class TestDeepSpeed:
    @pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
    def test_half_a_precision_is_that_of_weights_and_export(
        self, name: str, dtype: torch.dtype, tmp_path: Path
    ) -> None:
        whole, half = (
            run(tmp_path, "whole", precision="fp32", deepspeed=BY_DEEPSPEED),
            run(tmp_path, "half", precision=name),
        )
        for found, wanted in ((whole, torch.float32), (half, dtype)):
            assert {one.dtype for one in found.engine.module.parameters()} == {wanted}
            stored = load_file(found.export / "model.safetensors")
            assert {one.dtype for one in stored.values()} == {wanted}
        enabled = {"bf16": half.engine.bfloat16_enabled(), "fp16": half.engine.fp16_enabled()}
        assert enabled == {"bf16": False, "fp16": False} | {name: True}
        assert half.losses == pytest.approx(whole.losses, abs=0.01)
        assert half.losses != whole.losses
        assert half.losses[-1] < half.losses[0] - 0.1

    @pytest.mark.parametrize("stage", [2, *(pytest.param(stage, marks=pytest.mark.long) for stage in (1, 3))])
    @pytest.mark.filterwarnings("ignore:`torch.distributed:FutureWarning")  # deepspeed 0.19 calls them
    def test_a_resumed_run_scales_fp16_losses_as_it_did(self, stage: int, tmp_path: Path) -> None:
        first = in_fp16(tmp_path, stage, steps=3)
        optimizer = first.built.engine.model.optimizer
        optimizer.loss_scaler.cur_scale = 2.0**40  # the scaled gradients overflow in 16 bits
        first.run()
        moved = vars(optimizer.loss_scaler)
        assert moved["cur_scale"] < 2.0**40
        then = in_fp16(tmp_path, stage, steps=4)
        assert vars(then.built.engine.model.optimizer.loss_scaler) != moved
        training.resume(then.plan, then.built, then.news)
        assert vars(then.built.engine.model.optimizer.loss_scaler) == moved

    def test_deepspeed_scales_no_loss_without_sharding(self, tmp_path: Path) -> None:
        """Show why fp16 at stage 0 is refused. When this test fails, it can be allowed."""
        running = in_fp16(tmp_path, 0, steps=1)
        running.built.engine.model.optimizer.loss_scale_config.cur_scale = 2.0**40
        running.run()
        assert not running.built.engine.model.optimizer.overflow

    @pytest.mark.parametrize("stage", [2, 3])
    @pytest.mark.filterwarnings("ignore:`torch.distributed:FutureWarning")  # deepspeed 0.19 calls them
    def test_offloaded_state_is_in_host_memory_and_trains_the_same(self, stage: int, tmp_path: Path) -> None:
        stay, moved = (
            run(tmp_path, offload, zero_stage=stage, offload=offload, deepspeed=BY_DEEPSPEED)
            for offload in ("none", "cpu")
        )
        assert (stay.engine.zero_cpu_offload(), moved.engine.zero_cpu_offload()) == (False, True)
        parameters = stay.engine.zero_offload_param(), moved.engine.zero_offload_param()
        assert [one and one.device for one in parameters] == [None, "cpu" if stage == 3 else None]
        assert moved.losses == pytest.approx(stay.losses, abs=1e-4)

    def test_raw_overrides_replace_single_keys_of_our_config(self, tmp_path: Path) -> None:
        own = run(tmp_path, "own", deepspeed={"wall_clock_breakdown": False})
        raw = {"steps_per_print": 1_000_000, "zero_optimization": {"reduce_bucket_size": 1000}}
        other = run(tmp_path, "other", deepspeed=raw)
        assert (own.engine.steps_per_print(), other.engine.steps_per_print()) == (None, 1_000_000)
        assert own.engine.gradient_clipping() == other.engine.gradient_clipping() == 1.0
        assert own.engine.zero_reduce_bucket_size() != other.engine.zero_reduce_bucket_size() == 1000
        assert other.engine.zero_optimization_stage() == 2
        assert own.losses == pytest.approx(other.losses, rel=1e-6)

    @pytest.mark.parametrize(
        ("stage", "preset", "peft"),
        [
            (2, "llama-tiny", "none"),
            (1, "llama-tiny", "lora"),
            *(
                pytest.param(*cell, marks=pytest.mark.long)
                for cell in [(1, "t5-tiny", "lora"), (2, "t5-tiny", "none")]
            ),
        ],
    )
    def test_one_worker_trains_the_same_without_deepspeed(
        self, stage: int, preset: str, peft: str, tmp_path: Path
    ) -> None:
        """Compare losses and norms; each engine also resumes from the other's checkpoint."""
        tokens = tiny.token_set(
            tmp_path, tiny.rows(9), architecture="seq2seq" if preset == "t5-tiny" else "causal"
        )

        def steps(name: str, until: int, raw: dict[str, Any]) -> list[dict[str, Any]]:
            plan = tiny.plan(
                tmp_path / name,
                tokens,
                preset,
                workers=1,
                max_steps=until,
                train={
                    "zero_stage": stage,
                    "deepspeed": raw,
                    "clip_grad_norm": 0.5,
                    "scheduler": {"name": "constant"},
                },
                peft={"type": peft, "dropout": 0.1} if peft != "none" else {},
            )
            recorder = Recorder()
            running = Rank(plan, recorder)
            assert isinstance(running.built.engine, DeepSpeedEngine if raw else TorchEngine)
            running.run()
            return recorder.steps

        wanted = steps("calm", 6, BY_DEEPSPEED)
        assert wanted[0]["grad_norm"] > 0.5  # it is clipped
        for name, first, then in (("plain", {}, {}), ("to", BY_DEEPSPEED, {}), ("fro", {}, BY_DEEPSPEED)):
            found = steps(name, 3, first) + steps(name, 6, then)
            for key in ("loss", "grad_norm"):
                assert [one[key] for one in found] == pytest.approx([one[key] for one in wanted], rel=2e-5), (
                    name
                )

    @pytest.mark.filterwarnings("ignore:`torch.distributed:FutureWarning")  # deepspeed 0.19 calls them
    def test_peft_cannot_make_dora_of_sharded_weights(self, tmp_path: Path) -> None:
        """Show why DoRA is refused at stage 3. When this test fails, it can be allowed."""
        tokens = tiny.token_set(tmp_path, tiny.rows(9))
        raw = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
        plan = tiny.plan(
            tmp_path / "run",
            tokens,
            "llama-tiny",
            workers=1,
            max_steps=1,
            model=tiny.saved_model(tmp_path / "model", "llama-tiny", tokens),
            peft={"type": "lora", "rank": 2, "dora": True},
            train={"zero_stage": 3, "deepspeed": raw},
        )
        with pytest.raises(RuntimeError, match=r"size of tensor a \(0\)"):
            Rank(plan, Recorder())


@pytest.mark.parametrize(
    ("sections", "device", "chosen"),
    [
        ({}, "cpu", "fp32"),
        ({}, "cuda", "bf16"),
        ({"peft": {"type": "adalora"}}, "cuda", "fp32"),
        ({"train": {"precision": "fp32"}}, "cuda", "fp32"),
        ({"train": {"precision": "fp16"}}, "cuda", "fp16"),
    ],
)
def test_the_default_precision_depends_on_the_device(
    sections: dict[str, Any], device: str, chosen: str
) -> None:
    assert precision(Config.model_validate(sections), device) == chosen


@pytest.mark.parametrize(("clip", "left"), [(0.5, 0.5), (1e6, 10.0), (0.0, 10.0)])
def test_gradients_are_clipped_to_clip_grad_norm_and_0_disables_it(clip: float, left: float) -> None:
    model = nn.Linear(2, 1, bias=False)
    engine = TorchEngine(model, TrainConfig(clip_grad_norm=clip), CPU)
    seen: list[float] = []
    engine.optimizer.register_step_pre_hook(lambda *_: seen.append(float(model.weight.grad.norm())))  # type: ignore[union-attr]
    engine.backward((model.weight * torch.tensor([[6.0, 8.0]])).sum())
    assert engine.step(1e-3) == pytest.approx(10.0)  # the norm before clipping
    assert seen == pytest.approx([left], rel=1e-5)


def test_a_parameter_that_no_forward_pass_used_has_gradient_0() -> None:
    """Match DeepSpeed, so that the result does not depend on the number of workers: AdamW still applies decay and momentum."""
    used, unused = nn.Linear(2, 1), nn.Linear(2, 1, bias=False)
    model = nn.ModuleDict({"used": used, "unused": unused})
    before = unused.weight.detach().clone()
    engine = TorchEngine(model, TrainConfig.model_validate({"optimizer": {"weight_decay": 0.25}}), CPU)
    for _ in range(2):
        engine.backward(model["used"](torch.ones(1, 2)).sum())
        engine.step(0.5)
    torch.testing.assert_close(unused.weight.detach(), before * (1 - 0.5 * 0.25) ** 2)
    assert {float(slot["step"]) for slot in engine.optimizer.state.values()} == {2.0}
