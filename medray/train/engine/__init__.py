"""What turns losses into weights: DeepSpeed, or plain torch as the second form and as the oracle of tests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medray.config.dotted import merged
from medray.config.train import TrainConfig
from medray.models.adapters.adalora import rank_allocation
from medray.train.engine.optimizers import make_optimizer, rates_in_force, set_rate
from medray.train.engine.state import Beside, TrainState, train_state

# Larger than any gradient norm: DeepSpeed computes the norm only where it may clip.
_NO_CLIP = 1e30


class Engine(Protocol):
    """A model under training. Losses are shares of one global loss: gradients add up over backwards and ranks."""

    model: Any
    rank: int
    world_size: int
    device: torch.device
    gathers: bool  # forwards are collectives: every rank must run the same number of them
    beside: Beside | None  # neither weight nor moment: sums of AdaLoRA, the scale of fp16

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of this rank's share of the global loss."""

    def step(self, lr: float) -> float:
        """Updates the weights with learning rate `lr`; returns the gradient's norm before clipping.

        DeepSpeed leaves the weights as they are, without a word, where the norm is not finite.
        """

    def rates(self) -> dict[str, float]:
        """Learning rates in force, as the optimizer has them: by the pattern of a group, "" for the rest."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all ranks."""

    def state(self) -> TrainState:
        """What this rank holds of the trained weights and the optimizer's moments, by name, and of `beside`."""


class TorchEngine:
    """One process, torch alone."""

    rank, world_size, gathers = 0, 1, False

    def __init__(self, model: nn.Module, train: TrainConfig, device: torch.device) -> None:
        self.model, self.device, self._clip = model.to(device), device, train.clip_grad_norm
        self.optimizer = make_optimizer(model, train)
        self.beside: Beside | None = rank_allocation(self.model, self.optimizer)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        for parameter in trainable(self.model):
            if parameter.grad is None:  # no forward of this step has used it: DeepSpeed counts that as 0
                parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.clip_grad_norm_(trainable(self.model), self._clip or _NO_CLIP)
        set_rate(self.optimizer.param_groups, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def rates(self) -> dict[str, float]:
        return rates_in_force(self.optimizer.param_groups)

    def sum(self, values: Tensor) -> Tensor:
        return values

    def state(self) -> TrainState:
        return train_state(self.model, self.optimizer, self.beside)


class DeepSpeedEngine:
    """ZeRO stages 0 to 3 over the process group that is already there."""

    def __init__(
        self, model: nn.Module, train: TrainConfig, ds_config: dict[str, Any], device: torch.device
    ) -> None:
        import deepspeed

        self.model: Any
        self.model, *_ = deepspeed.initialize(
            model=model, optimizer=make_optimizer(model, train), config=ds_config, dist_init_required=False
        )
        self.rank, self.world_size, self.device = self.model.global_rank, self.model.world_size, device
        self.gathers = train.zero_stage == 3
        self._clip, self._norm = train.clip_grad_norm or _NO_CLIP, float("nan")
        if isinstance(
            self.model.optimizer, torch.optim.Optimizer
        ):  # stage 0 in float32: DeepSpeed keeps no norm
            self.model.optimizer.register_step_pre_hook(self._clip_summed_gradients)
        optimizer = self.model.optimizer
        self.beside: Beside | None = rank_allocation(self.model, optimizer) or loss_scale(optimizer)

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages over ranks; ours is a sum of shares.
        self.model.backward(loss * self.world_size, scale_wrt_gas=False)

    def step(self, lr: float) -> float:
        set_rate(self.model.optimizer.param_groups, lr)
        self.model.step()
        norm = self.model.get_global_grad_norm()
        return float(norm) if norm is not None else self._norm

    def rates(self) -> dict[str, float]:
        return rates_in_force(self.model.optimizer.param_groups)

    def _clip_summed_gradients(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._norm = float(nn.utils.clip_grad_norm_(trainable(self.model), self._clip))

    def sum(self, values: Tensor) -> Tensor:
        torch.distributed.all_reduce(values)
        return values

    def state(self) -> TrainState:
        return train_state(self.model, self.model.optimizer, self.beside)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def deepspeed_config(
    train: TrainConfig, *, micro_batch_size: int, world_size: int, precision: str
) -> dict[str, Any]:
    """DeepSpeed's config of a run; `train.deepspeed` overrides it key by key."""
    own_clipping = train.zero_stage == 0 and precision == "fp32"  # see DeepSpeedEngine
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "train_batch_size": micro_batch_size * world_size,
        "gradient_accumulation_steps": 1,
        # We call step() at the end of a global batch, however many forwards it took.
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if own_clipping else train.clip_grad_norm or _NO_CLIP,
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": train.zero_stage, "stage3_gather_16bit_weights_on_model_save": True},
    }
    if precision in ("bf16", "fp16"):
        config[precision] = {"enabled": True}
    if train.offload == "cpu":
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
        if train.zero_stage == 3:
            config["zero_optimization"]["offload_param"] = {"device": "cpu"}
    return merged(config, train.deepspeed)


def choose_accelerator() -> None:
    """DeepSpeed asks once, when it is imported; left alone it looks around and says what it found."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")


def prepare_process(threads: int) -> None:
    """Before anything else in a process: threads, and none of DeepSpeed's extensions compiled on the first start.

    On a CPU, init_distributed would compile shm_comm for minutes; gloo does without. The table of compatible ops is
    DeepSpeed's own but private: a test fails the day it moves.
    """
    torch.set_num_threads(threads)
    if torch.cuda.is_available():  # workers of one node see all its GPUs
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    choose_accelerator()
    import deepspeed

    deepspeed.logger.setLevel("ERROR")
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False, verbose=False
    )


def gathered(engine: Engine, parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:
    """Whole parameters on every rank, where stage 3 has sharded them."""
    if not engine.gathers:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)


# cur_hysteresis: overflows until the factor halves.
_COUNTS = ("cur_iter", "last_overflow_iter", "cur_hysteresis")


class LossScale:
    """All ranks skip a step together, so every rank holds the same."""

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler

    def tensors(self) -> dict[str, Tensor]:
        """A power of two and whole numbers below 2^24: float32 holds them as they are."""
        return {name: torch.tensor([float(getattr(self._scaler, name))]) for name in ("cur_scale", *_COUNTS)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._scaler.cur_scale = tensors["cur_scale"].item()
        for name in _COUNTS:
            setattr(self._scaler, name, int(tensors[name].item()))


def loss_scale(optimizer: Any) -> LossScale | None:
    """Of a ZeRO optimizer in fp16; None for every other."""
    scaler = getattr(optimizer, "loss_scaler", None)
    return LossScale(scaler) if getattr(scaler, "dynamic", False) else None
