"""Starts worker loops under torchrun, in fresh processes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from medray.train.worker_plan import WorkerPlan

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]


def run_loops(
    folder: Path, plans: dict[str, WorkerPlan], processes: int, **environment: str
) -> dict[str, Any]:
    """What rank 0 of `processes` ranks saw of each plan's loop."""
    work, result = folder / f"plans-{processes}.pickle", folder / f"seen-{processes}.json"
    work.write_bytes(pickle.dumps(plans))
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT)]),
        **environment,
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            str(SUPPORT / "torchrun_loops.py"),
            str(work),
            str(result),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return json.loads(result.read_text())
