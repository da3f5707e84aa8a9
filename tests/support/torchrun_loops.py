"""Run by every rank of tests/support/torchrun.py: worker loops of pickled plans, one after another in one process.

With arguments, a pickle of {name: WorkerPlan} and the file for what rank 0 saw, it runs those and ends. Without, it
reads such pairs from standard input, one JSON list per line, answers each with a line, and ends with its input.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

from memory_census import Case, measured
from recorder import Rank, Recorder
from torch import distributed

from medray.models import load
from medray.train.loop import build
from medray.train.worker_plan import WorkerPlan


def main() -> None:
    if sys.argv[1:]:
        run(*sys.argv[1:])
    else:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print is no answer
        for line in sys.stdin:
            run(*json.loads(line))
            print("done", file=answers, flush=True)
    # Without the interpreter's end: on a busy machine a thread of gloo's outlives it, and aborts the process.
    sys.stderr.flush()
    os._exit(0)


def run(work: str, result: str) -> None:
    """Train every plan of the pickle `work`; rank 0 writes what it saw of each to `result`. A `Case` is measured."""
    plans: dict[str, WorkerPlan | Case] = pickle.loads(Path(work).read_bytes())
    seen: dict[str, Any] = {}
    for name, plan in plans.items():
        if isinstance(plan, Case):
            sizes = measured(plan)
            if distributed.get_rank() == 0:
                seen[name] = sizes
            continue
        loaded: list[bool] = []

        def watched(*args: Any, loaded: list[bool] = loaded, **options: Any) -> Any:
            model = load.load_model(*args, **options)
            loaded.append(all(hasattr(parameter, "ds_id") for parameter in model.parameters()))
            return model

        build.load_model = watched  # type: ignore[attr-defined]
        recorder = Recorder()
        running = Rank(plan, recorder)
        outcome = running.run()
        held = sum(
            getattr(parameter, "ds_tensor", parameter).numel()
            for parameter in running.built.model.parameters()
        )
        held_by_rank = _gather(held)
        if running.built.engine.rank == 0:
            seen[name] = {
                "steps": recorder.steps,
                "held": held_by_rank,
                "total": outcome.parameters,
                "sharded_while_loading": loaded[0],
                "order": outcome.progress.order,
                "evaluations": recorder.evaluations,
            }
    if seen:
        Path(result).write_text(json.dumps(seen))
    if distributed.is_initialized():
        distributed.barrier()


def _gather(value: int) -> list[int]:
    if not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


if __name__ == "__main__":
    main()
