"""The training engines: DeepSpeed, and plain torch for one process, which tests also use as their reference."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medray.config.loading.dotted import merged
from medray.config.train import TrainConfig
from medray.models.adapters.adalora import rank_allocation
from medray.train.engine.optimizers import make_optimizer, rates_in_force, set_rate
from medray.train.engine.state import ExtraState, TrainState, train_state

# Larger than any gradient norm: DeepSpeed computes the norm only if clipping is enabled.
_NO_CLIP = 1e30


class Engine(Protocol):
    """A model in training. Each loss is a share of the global loss: gradients sum over backward calls and ranks."""

    model: Any
    rank: int
    world_size: int
    device: torch.device
    gathers: bool  # forward passes are collective: every rank must run the same number of them
    extra: ExtraState | None  # neither weight nor moment: the sums of AdaLoRA, the loss scale of fp16

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's share of the global loss."""

    def step(self, lr: float) -> float:
        """Update the weights with learning rate `lr`, and return the gradient norm before clipping.

        DeepSpeed silently skips the update if the norm is not finite.
        """

    def rates(self) -> dict[str, float]:
        """Return the optimizer's current learning rates by the pattern of their group; "" is the remaining parameters."""

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all ranks."""

    def state(self) -> TrainState:
        """Return this rank's slices of the trained weights and optimizer moments, by name, and the extra state."""


class TorchEngine:
    """The engine for one process. It uses torch only."""

    rank, world_size, gathers = 0, 1, False

    def __init__(self, model: nn.Module, train: TrainConfig, device: torch.device) -> None:
        self.model, self.device, self._clip = model.to(device), device, train.clip_grad_norm
        self.optimizer = make_optimizer(model, train)
        self.extra: ExtraState | None = rank_allocation(self.model, self.optimizer)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        for parameter in trainable(self.model):
            if parameter.grad is None:  # no forward pass of this step used it: like DeepSpeed, count it as 0
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
        return train_state(self.model, self.optimizer, self.extra)


class DeepSpeedEngine:
    """The engine for ZeRO stages 0 to 3. It uses the existing process group."""

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
        self.extra: ExtraState | None = rank_allocation(self.model, optimizer) or loss_scale(optimizer)

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages over ranks, but the global loss is a sum of shares.
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
        return train_state(self.model, self.model.optimizer, self.extra)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def deepspeed_config(
    train: TrainConfig, *, micro_batch_size: int, world_size: int, precision: str
) -> dict[str, Any]:
    """Return the DeepSpeed config of a run. `train.deepspeed` overrides it key by key."""
    own_clipping = train.zero_stage == 0 and precision == "fp32"  # see DeepSpeedEngine
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "train_batch_size": micro_batch_size * world_size,
        "gradient_accumulation_steps": 1,
        # medray calls step() at the end of a global batch, after any number of forward passes.
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
    """Tell DeepSpeed which accelerator to use. It reads this once, on import; otherwise it probes the machine and logs."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")


def prepare_process(threads: int) -> None:
    """Set the number of threads, and initialize DeepSpeed without compiling an extension. Call this first in a process.

    On a CPU, init_distributed would compile shm_comm for minutes, which gloo does not need. DeepSpeed's table of
    compatible ops is private: a test fails if DeepSpeed moves it.
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
    """Return a context in which every rank has the full parameters, which ZeRO stage 3 has sharded."""
    if not engine.gathers:
        return nullcontext()
    import deepspeed

    whole: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(parameters)
    return whole


# cur_hysteresis: overflows until the scale is halved.
_COUNTS = ("cur_iter", "last_overflow_iter", "cur_hysteresis")


class LossScale:
    """The dynamic loss scale of fp16. All ranks skip the same steps, so it is equal on every rank."""

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler

    def tensors(self) -> dict[str, Tensor]:
        """Return the scale and its counters. They are a power of two and integers below 2^24: exact in float32."""
        return {name: torch.tensor([float(getattr(self._scaler, name))]) for name in ("cur_scale", *_COUNTS)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._scaler.cur_scale = tensors["cur_scale"].item()
        for name in _COUNTS:
            setattr(self._scaler, name, int(tensors[name].item()))


def loss_scale(optimizer: Any) -> LossScale | None:
    """Return the loss scale of a ZeRO optimizer in fp16; None for any other optimizer."""
    scaler = getattr(optimizer, "loss_scaler", None)
    return LossScale(scaler) if getattr(scaler, "dynamic", False) else None
