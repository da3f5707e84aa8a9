"""A plan as text for people and as one JSON object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from medray.config.checks.method import notes
from medray.config.checks.train import learning_rate_notes
from medray.plan.memory import gigabytes
from medray.plan.options import Given, Option, Plan
from medray.plan.resources import plural

_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "gathered": "gathered layers",
    "activations": "activations",
    "logits": "logits",
    "buffers": "buffers",
    "temporary": "for a moment",
}


def lines(plan: Plan) -> list[str]:
    """Return the plan as text, line by line."""
    return [
        *_heading(plan),
        "",
        *table(_option_rows(plan)),
        "",
        *_peaks(plan.asked),
        "",
        *_answer(plan),
    ]


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as values for JSON. Bytes are whole numbers."""
    given, gpus, count = plan.given, plan.given.gpus, plan.given.count
    return {
        "model": {"type": given.model.get("model_type"), "parameters": count.total},
        "precision": given.precision,
        "workers": given.workers,
        "gpus": None if gpus is None else {"name": gpus.described, "memory": gpus.gpu.memory},
        "lengths": given.lengths.origin,
        "rows": given.lengths.rows,
        "options": [_option_json(plan, option) for option in plan.options],
        "asked": _option_json(plan, plan.asked),
        "phases": {
            phase.name: {
                "device": phase.device,
                "host": phase.host,
                "first": phase.first,
                "parts": dict(phase.parts),
            }
            for phase in plan.asked.memory.phases
        },
        "cheapest": None if plan.cheapest is None else _option_json(plan, plan.cheapest),
        "cost": None
        if plan.cost is None
        else {name: getattr(plan.cost, name) for name in type(plan.cost).__dataclass_fields__}
        | {"efficiency": given.efficiency},
        "changes": list(plan.changes),
    }


def range_rows(plans: Sequence[Plan]) -> list[list[str]]:
    """Return one row per number of workers."""
    rows = [["workers", "cheapest", "micro-batch", "GB a worker", "hours", "GPU-hours"]]
    for plan in plans:
        best, cost = plan.cheapest, plan.cost
        shown = best or plan.asked
        rows.append(
            [
                str(plan.given.workers),
                _named(shown) if best or plan.asked.fits is None else "none fits",
                str(best.rows) if best else "-",
                gigabytes(_needed(shown, plan.given.on_gpu)),
                "-" if cost is None or cost.hours is None else f"{cost.hours:,.1f}",
                "-" if cost is None or cost.gpu_hours is None else f"{cost.gpu_hours:,.0f}",
            ]
        )
    return rows


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of text in columns; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _heading(plan: Plan) -> Iterable[str]:
    given, job = plan.given, plan.given.job(plan.asked.choice)
    trained = "all trained" if not job.adapter else f"an adapter of {job.trained:,} trained"
    base = ", base in 4 bits" if job.frozen_bytes is not None else ""
    yield f"model    {given.model.get('model_type')}, {given.count.total:,} parameters, {trained} in {given.precision}{base}"
    forward = job.forward
    saved = ", checkpointed" if job.training.checkpointing else ""
    yield (
        f"batch    the longest forward pass has {plural(forward.rows, 'row')} of {forward.length:,} tokens and "
        f"{forward.targets:,} targets{saved}"
    )
    yield f"lengths  from {given.lengths.origin}"
    yield from _notes(given)
    if given.gpus is not None:
        gpus = given.gpus
        yield (
            f"GPUs     {gpus.count} x {gpus.gpu.name} on {plural(gpus.nodes, 'node')}, {gigabytes(gpus.gpu.memory)} GB each"
        )
        if given.precision == "bf16" and not gpus.gpu.bf16:
            yield f"         {gpus.gpu.name} has no bfloat16: set train.precision: fp16, or fp32 for T5"
    elif given.on_gpu:
        yield f"GPUs     {given.workers} of an unknown kind; --gpus names them, such as {given.workers}xH100-80GB"
    else:
        memory = "" if given.host_memory is None else f" on a node of {gigabytes(given.host_memory)} GB"
        yield f"CPUs     {plural(given.workers, 'worker')}{memory}; --gpus plans for GPUs"


def _notes(given: Given) -> Iterable[str]:
    train = given.config.train
    for text in notes(given.config):
        yield f"note     {text}"
    for text in learning_rate_notes(given.config):
        yield f"WARNING  {text}"
    if given.config.tune is not None:
        yield "search   this config is a search; this is the plan of one trial with the config's own values"
    if train.global_batch_tokens is None and train.global_batch_size < given.workers:
        yield (
            f"WARNING  a step has {plural(train.global_batch_size, 'row')} (train.global_batch_size) for "
            f"{given.workers} workers: {given.workers - train.global_batch_size} of them have nothing to do"
        )


def _option_rows(plan: Plan) -> list[list[str]]:
    given = plan.given
    on_gpu = given.on_gpu
    rows = [
        [
            "stage",
            "offload",
            "GB a GPU" if on_gpu else "GB a worker",
            *(["host GB a node"] if on_gpu else []),
            "fits",
            "largest micro-batch",
            "GB sent a step",
            *(["smallest GPU"] if on_gpu else []),
        ]
    ]
    for option in plan.options:
        choice, memory = option.choice, option.memory
        mark = " *" if choice == plan.asked.choice else ""
        fits = "?" if option.fits is None else "yes" if option.fits else "no"
        rows.append(
            [
                f"{choice.stage}{mark}",
                "cpu" if choice.offload else "none",
                gigabytes(_needed(option, on_gpu)),
                *([gigabytes(memory.on_node(given.workers_per_node))] if on_gpu else []),
                fits,
                "?" if option.most_rows is None else str(option.most_rows or "-"),
                gigabytes(option.sent) if option.sent else "0",
                *([option.smallest_gpu or "-"] if on_gpu else []),
            ]
        )
    return rows


def _peaks(asked: Option) -> Iterable[str]:
    memory = asked.memory
    where = "a GPU" if memory.on_gpu else "a worker"
    yield f"the config's choice (*), stage {asked.choice.stage}: GB of tensors of {where} in each phase, and of its host"
    rows = [["phase", "GB", "host GB", "of which"]]
    for phase in memory.phases:
        mark = " <" if phase is memory.peak else ""
        parts = ", ".join(
            f"{_PARTS[name]} {gigabytes(size)}"
            for name, size in phase.parts.items()
            if size * 500 > phase.device
        )
        rows.append([phase.name, gigabytes(phase.device) + mark, gigabytes(phase.host + phase.first), parts])
    yield from table(rows)


def _answer(plan: Plan) -> Iterable[str]:
    given, best, cost = plan.given, plan.cheapest, plan.cost
    if plan.asked.fits is not None:
        verdict = "fits" if plan.asked.fits else "does not fit"
        yield f"verdict  the config {verdict}"
    if best is not None:
        yield (
            f"cheapest train.zero_stage={best.choice.stage} train.offload={'cpu' if best.choice.offload else 'none'} "
            f"train.micro_batch_size={best.rows}; the largest micro-batch is {best.most_rows}"
        )
        if given.on_gpu and given.host_memory is None:
            node = gigabytes(best.memory.on_node(given.workers_per_node))
            yield f"         if each node has {node} GB of host memory"
    elif plan.asked.fits is False:
        yield "cheapest no ZeRO stage or offload fits, not even one row at once"
        for change in plan.changes:
            yield f"         {change}"
        if not plan.changes:
            yield "         use more memory, a smaller model, or shorter rows"
    if cost is None:
        yield "time     not known: nobody has counted the rows; set train.max_steps, or run medray data prepare"
        return
    yield f"work     {cost.steps:,} steps, {cost.tokens:,} tokens, {cost.operations:.3g} operations"
    if cost.hours is not None and cost.gpu_hours is not None:
        price = "" if cost.price is None else f", {cost.price:,.2f} at {given.price:g} an hour"
        yield (
            f"time     {_duration(cost.hours)}, {cost.gpu_hours:,.3g} GPU-hours{price}, if the GPUs reach "
            f"{100 * given.efficiency:g} % of their rate (--efficiency)"
        )
    yield f"disk     {gigabytes(cost.checkpoints)} GB for checkpoints, {gigabytes(cost.export)} GB for the export"


def _option_json(plan: Plan, option: Option) -> dict[str, Any]:
    choice = option.choice
    return {
        "zero_stage": choice.stage,
        "offload": "cpu" if choice.offload else "none",
        "micro_batch_size": choice.micro_batch_size,
        "device": option.memory.device,
        "host_node": option.memory.on_node(plan.given.workers_per_node),
        "peak": option.memory.peak.name,
        "fits": option.fits,
        "largest_micro_batch": option.most_rows,
        "rows": option.rows,
        "sent": option.sent,
        "smallest_gpu": option.smallest_gpu,
    }


def _duration(hours: float) -> str:
    """Return a time in the largest unit of which it has at least one."""
    for unit, size in (("hours", 1.0), ("minutes", 60.0)):
        if hours * size >= 1:
            return f"{hours * size:,.1f} {unit}"
    return f"{hours * 3600:,.1f} seconds"


def _needed(option: Option, on_gpu: bool) -> int:
    return option.memory.device if on_gpu else option.memory.on_node(1)


def _named(option: Option) -> str:
    return f"stage {option.choice.stage}" + (", offload" if option.choice.offload else "")
