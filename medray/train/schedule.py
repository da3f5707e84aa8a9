"""The learning rate as a pure function of the step: nothing to save, nothing to lose on resume."""

from __future__ import annotations

import math

from medray.config.train import SchedulerConfig


def learning_rate(step: int, total_steps: int, peak: float, schedule: SchedulerConfig) -> float:
    """The rate in force in 0-based `step`: linear warm-up to `peak`, then the schedule's course towards 0."""
    warmup = schedule.warmup_steps
    if warmup is None:
        warmup = math.ceil(schedule.warmup_ratio * total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.name == "constant":
        return peak
    progress = (step - warmup) / max(total_steps - warmup, 1)
    if schedule.name == "linear":
        return peak * (1 - progress)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
