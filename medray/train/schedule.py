"""The learning rate as a pure function of the step: nothing to save, nothing to lose on resume."""

from __future__ import annotations

import math

from medray.config.train import SchedulerConfig


def learning_rate(step: int, total_steps: int, peak: float, schedule: SchedulerConfig) -> float:
    """The rate in force in 0-based `step`: linear warm-up to `peak`, then the schedule's course.

    Warm-up reaches the peak in its last step: transformers' schedulers begin it at 0, which trains nothing in the first
    step. Behind it, step by step, theirs and ours are the same.
    """
    warmup = warmup_steps(total_steps, schedule)
    if step < warmup:
        return peak * (step + 1) / warmup
    floor = schedule.min_lr_ratio
    return peak * (floor + (1 - floor) * _course(step, warmup, total_steps, schedule))


def warmup_steps(total_steps: int, schedule: SchedulerConfig) -> int:
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    return math.ceil(schedule.warmup_ratio * total_steps)


def _course(step: int, warmup: int, total_steps: int, schedule: SchedulerConfig) -> float:
    """1 at the peak, 0 where the schedule ends."""
    if schedule.name in ("constant", "constant_with_warmup"):
        return 1.0
    shape: str
    if schedule.name == "wsd":
        # Warmup-stable-decay: Hu et al. 2024 (MiniCPM), section 4; 1-sqrt: Hägele et al. 2024, section 3.
        decay = schedule.decay_steps
        if decay is None:
            decay = math.ceil(schedule.decay_ratio * total_steps)
        start = max(total_steps - decay, warmup)
        shape = schedule.decay_shape
    else:
        start, shape = warmup, schedule.name
    progress = min(max(step - start, 0) / max(total_steps - start, 1), 1.0)
    if shape == "linear":
        return 1 - progress
    if shape == "1-sqrt":
        return 1 - math.sqrt(progress)
    return 0.5 * (1 + math.cos(math.pi * progress))
