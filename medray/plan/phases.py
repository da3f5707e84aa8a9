"""The memory of one worker in each phase of a run: on its device, and in the memory of its host.

`memory.py` has the model states, `activations.py` what a forward pass keeps. This file adds what DeepSpeed 0.19.8 and
medray hold in each phase, and takes the peak. Read from their code and compared on CPU with the tensors that are alive:

| stage | while gradients are computed | for a moment in an optimizer step |
|---|---|---|
| 0 | a copy of one bucket for the sum over workers | 16 bits: gradients in float32 |
| 1, 2 | one bucket of `reduce_bucket_size` values, whatever the model's size | the worker's gradients, flat and in float32 |
| 3 | the same bucket, all the time; gathered layers | the same, for at most 10^9 parameters at once |

| offload | host memory per trained parameter of the worker's share |
|---|---|
| stages 1, 2 | master copy 4, moments 8, gradients 4, weights to send back 2 or 4; at stage 2 the accumulated gradients, 2 or 4 |
| stage 3 | master copy 4, moments 8, gradients 4 and 2 or 4; with all weights of the share |

Moments exist from the first optimizer step on (at stage 0 in 16 bits from the start), so the first steps need less than the
peak. An estimate leaves out what no tensor holds: `RUNTIME` is an allowance for it, and `FRAGMENTATION` for memory that
the allocator cannot use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from medray.plan.activations import FLOAT, Forward, Training, cache_bytes, kept, without_gradients
from medray.plan.memory import MemoryPlan, zero_bytes

BUCKET = 500_000_000  # values; DeepSpeed's reduce_bucket_size
SUB_GROUP = 1_000_000_000  # parameters; DeepSpeed's sub_group_size at stage 3
PREFETCH = 50_000_000  # parameters that stage 3 gathers ahead
REUSED = 500_000_000  # parameters that stage 3 keeps around the turn from forward to backward
FRAGMENTATION = 0.05  # share of the tensors' bytes
RUNTIME = 1_200_000_000  # bytes of CUDA's context, its libraries and NCCL on a GPU
HOST_RUNTIME = 2_000_000_000  # bytes of Python and the libraries of a worker with a GPU
CPU_RUNTIME = 500_000_000  # the same without a GPU
SHARD_BYTES = 5_000_000_000  # size of one file of weights in a merge


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything that decides the memory of a run, as plain values.

    model: the dict of `config.json`. total: parameters of the base. trained: trained parameters, of the adapter if there
    is one. adapter: parameters that an adapter adds. largest_layer, largest_trained: parameters of the largest layer, and of
    the largest tensor that is trained. frozen_bytes: bytes of a base in 4 bits. moment_bytes: per trained parameter, 8 for float32 moments. accumulates: whether a step has several
    forward passes. plain_torch: the run does not use DeepSpeed. chunk: positions whose logits exist at once. bucket: values
    in DeepSpeed's communication bucket. pretrained: weights are loaded, and not made at random.

    reference: whether a method needs log-probabilities of the model that training begins with.

    eval_rows, new_tokens: rows of an evaluation's forward pass, and the tokens it generates (times beams).
    """

    model: Mapping[str, Any]
    total: int
    trained: int
    adapter: int
    largest_layer: int
    largest_trained: int
    training: Training
    forward: Forward
    stage: int
    workers: int
    offload: bool = False
    plain_torch: bool = False
    accumulates: bool = True
    chunk: int | None = None
    frozen_bytes: int | None = None
    moment_bytes: float = 8
    bucket: int = BUCKET
    pretrained: bool = True
    reference: bool = False
    eval_rows: int = 0
    new_tokens: int = 0
    beams: int = 1

    @property
    def share(self) -> int:
        """Return the trained parameters that this worker updates."""
        return -(-self.trained // (self.workers if self.stage else 1))

    @property
    def bucket_bytes(self) -> int:
        """Return the bytes of DeepSpeed's bucket. On a CPU, the part that no gradient fills takes no memory."""
        filled = self.bucket if self.training.on_gpu and self.stage else min(self.bucket, self.trained)
        return self.training.weight_bytes * filled


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """The bytes of one worker in one phase: on its device by part, and in host memory. first: more host memory of the
    first worker alone."""

    name: str
    parts: Mapping[str, int]
    host: int = 0
    first: int = 0

    @property
    def device(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMemory:
    """The phases of a run. states: the model states. on_gpu: whether device and host are different memories."""

    phases: tuple[Phase, ...]
    states: MemoryPlan
    on_gpu: bool
    host_floor: int = field(default=0)

    @property
    def peak(self) -> Phase:
        """Return the phase that needs most of the device."""
        return max(self.phases, key=lambda phase: phase.device)

    @property
    def device(self) -> int:
        """Return the bytes of the device that must be free: the peak, what the allocator loses, and the runtime."""
        runtime = RUNTIME if self.on_gpu else 0
        return round(self.peak.device * (1 + FRAGMENTATION if self.on_gpu else 1)) + runtime

    def on_node(self, workers: int) -> int:
        """Return the bytes of host memory that `workers` workers of one node need, the first one among them.

        Without GPUs, this includes their devices.
        """
        return self.host_floor * workers + max(
            workers * (phase.host + (0 if self.on_gpu else phase.device)) + phase.first
            for phase in self.phases
        )


def run_memory(job: Job) -> RunMemory:
    """Return the memory of one worker of `job` in each phase. Raises ValueError for numbers that are impossible."""
    states = model_states(job)
    resting = _resting(job, states)
    gradients = 0 if "gradients" in resting else states.gradients
    return RunMemory(
        phases=(
            _loading(job, states),
            *_reference(job, states, resting),
            *_passes(job, states, resting, gradients),
            *_steps(job, states, resting, gradients),
            _saving(job, states, resting),
            _evaluation(job, states, resting),
            _export(job, states, resting),
            *_merge(job),
        ),
        states=states,
        on_gpu=job.training.on_gpu,
        host_floor=HOST_RUNTIME if job.training.on_gpu else CPU_RUNTIME,
    )


def model_states(job: Job) -> MemoryPlan:
    """Return the weights, gradients and optimizer state of one worker."""
    width = job.training.weight_bytes
    plan = zero_bytes(
        job.total + job.adapter,
        job.trained,
        stage=job.stage,
        world_size=job.workers,
        weight_bytes=width,
        offload="cpu" if job.offload else "none",
        largest_layer=job.largest_layer,
    )
    if job.moment_bytes != 8:
        saved = round((8 - job.moment_bytes) * job.share)
        plan = replace(
            plan, **({"host": plan.host - saved} if job.offload else {"optimizer": plan.optimizer - saved})
        )
    if job.frozen_bytes is not None:
        plan = replace(plan, weights=job.frozen_bytes + width * job.adapter)
    if job.stage == 3:
        whole = job.total + job.adapter
        gathered = min(whole, max(job.largest_layer, REUSED) + PREFETCH)
        plan = replace(plan, gathered=width * gathered)
    if job.offload:
        plan = replace(plan, host=_offloaded(job, plan))
    return plan


def _offloaded(job: Job, plan: MemoryPlan) -> int:
    """Return the host memory of offloaded state; see the table above."""
    width = job.training.weight_bytes
    each = FLOAT + job.moment_bytes + FLOAT + width + (width if job.stage == 2 else 0)
    if job.stage == 3:
        weights = -(-width * (job.total + job.adapter) // job.workers)
        return round(each * job.share) + weights
    return round(each * job.share) + width * job.largest_trained


def _resting(job: Job, states: MemoryPlan) -> dict[str, int]:
    """Return what a worker holds between steps, after the first."""
    parts = {"weights": states.weights, "optimizer": states.optimizer}
    if job.stage == 3:
        parts["gradients"] = states.gradients  # one buffer for the whole run
        parts["buffers"] = job.bucket_bytes
    elif job.offload:
        parts["buffers"] = job.training.weight_bytes * job.largest_trained
    return parts


def _loading(job: Job, states: MemoryPlan) -> Phase:
    width = job.training.weight_bytes
    if job.frozen_bytes is not None or (job.stage == 3 and job.pretrained):
        host = width * job.largest_layer
    else:
        host = width * job.total if job.training.on_gpu else 0
    gathered = width * job.largest_layer if job.stage == 3 else 0
    return Phase(
        name="load", parts={"weights": states.weights, "gathered": gathered}, host=host + states.host
    )


def _reference(job: Job, states: MemoryPlan, resting: Mapping[str, int]) -> tuple[Phase, ...]:
    """A forward pass without gradients: of all rows before the first step, or before each pass under an adapter."""
    if not job.reference:
        return ()
    forward = job.forward
    if job.chunk is not None:
        forward = replace(forward, targets=min(forward.targets, -(-job.chunk // forward.rows)))
    alone = without_gradients(job.model, forward, job.training.weight_bytes)
    parts = dict(resting) | {"activations": alone, "gathered": states.gathered}
    return (Phase(name="reference pass", parts=parts, host=states.host),)


def _passes(job: Job, states: MemoryPlan, resting: Mapping[str, int], gradients: int) -> tuple[Phase, Phase]:
    """Return the forward and the backward pass of the longest micro-batch."""
    width = job.training.weight_bytes
    alive = kept(job.model, job.forward, job.training, chunk=job.chunk)
    parts = dict(resting)
    if job.stage == 3:
        parts["gathered"] = states.gathered
    elif job.frozen_bytes is not None:
        parts["gathered"] = width * job.largest_layer  # one layer in 16 bits
    earlier = gradients if job.accumulates else 0
    forward = Phase(
        name="forward",
        parts=parts
        | {"gradients": parts.get("gradients", 0) + earlier}
        | {"activations": alive.activations, "logits": alive.forward - alive.activations},
        host=states.host,
    )
    # The gradient of the largest trained layer, before it is added to the others or copied into the bucket.
    moving = width * job.largest_trained
    bucket = 0
    if not job.plain_torch and job.stage < 3:
        bucket = job.bucket_bytes
    at_loss, at_end = earlier + alive.backward, gradients + alive.backward - alive.activations
    most = max(at_loss, at_end if gradients > earlier else 0)
    grown = gradients if most > at_loss else earlier
    rest = most - grown
    activations = min(alive.activations, rest)
    backward = Phase(
        name="backward",
        parts=parts
        | {
            "gradients": parts.get("gradients", 0) + grown + moving,
            "buffers": parts.get("buffers", 0) + bucket,
            "activations": activations,
            "logits": rest - activations,
        },
        host=states.host,
    )
    return forward, backward


def _steps(job: Job, states: MemoryPlan, resting: Mapping[str, int], gradients: int) -> tuple[Phase, Phase]:
    width, share = job.training.weight_bytes, job.share
    if job.offload:
        moment = 0
    elif job.stage == 0:
        moment = FLOAT * job.trained if width < FLOAT else 0
    else:
        at_once = min(share, SUB_GROUP) if job.stage == 3 else share
        moment = width * at_once + (FLOAT * at_once if width < FLOAT else 0)
    if not job.training.on_gpu and not job.offload:  # torch's AdamW on a CPU is not fused
        largest = share if job.stage else job.largest_trained
        moment = max(moment, 2 * FLOAT * largest)
    parts = dict(resting) | {"gradients": resting.get("gradients", 0) + gradients, "temporary": moment}
    first, later = (Phase(name=name, parts=parts, host=states.host) for name in ("first step", "later steps"))
    return first, later


def _saving(job: Job, states: MemoryPlan, resting: Mapping[str, int]) -> Phase:
    """A checkpoint is copied to host memory in float32, and written from there while training continues."""
    copied = 3 * FLOAT * -(-job.trained // job.workers)
    return Phase(name="save", parts=resting, host=states.host + copied)


def _evaluation(job: Job, states: MemoryPlan, resting: Mapping[str, int]) -> Phase:
    """A forward pass of `eval.batch_size` rows without gradients, or generation with its cache of keys and values."""
    width, forward, rows = job.training.weight_bytes, job.forward, max(job.eval_rows, 1)
    asked = Forward(rows=rows, length=forward.length, targets=forward.targets)
    if job.chunk is not None:
        asked = replace(asked, targets=min(asked.targets, -(-job.chunk // rows)))
    cache = 0
    if job.new_tokens:
        cache = cache_bytes(
            job.model,
            rows=rows * job.beams,
            length=forward.length,
            new_tokens=job.new_tokens,
            weight_bytes=width,
        )
    parts = dict(resting) | {
        "activations": max(without_gradients(job.model, asked, width), cache),
        "gathered": states.gathered,
    }
    return Phase(name="evaluation", parts=parts, host=states.host)


def _export(job: Job, states: MemoryPlan, resting: Mapping[str, int]) -> Phase:
    """The first worker collects the exported weights in host memory, one parameter at a time."""
    width = job.training.weight_bytes
    exported = job.adapter or job.total
    gathered = width * job.largest_layer if job.stage == 3 else 0
    parts = dict(resting) | {"gathered": gathered}
    return Phase(name="export", parts=parts, host=states.host, first=width * exported)


def _merge(job: Job) -> tuple[Phase, ...]:
    """Merging (`medray export --format merged`) holds one file of weights, the adapter, and one layer in float32; no device."""
    if not job.adapter:
        return ()
    width = job.training.weight_bytes
    host = min(SHARD_BYTES, width * job.total) + FLOAT * (job.adapter + 2 * job.largest_layer)
    return (Phase(name="merge", parts={}, first=host),)
