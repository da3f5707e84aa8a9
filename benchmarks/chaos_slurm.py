"""A run on two SLURM nodes that is ended again and again, against the same run left alone: the bits must be the same.

    .venv/bin/python benchmarks/chaos_slurm.py [KILLS] [--steps STEPS]

Root starts a SLURM of two nodes in namespaces of this machine (tests/support/slurm_cluster.py), and `medray launch slurm`
submits the run. Each ending comes 0 to 5 s (drawn by a fixed seed) after the first step that no start had made before: a
worker is killed, the driver, Ray on the head's node, Ray on the other node; SLURM requeues the job; the job is warned of its
time limit (USR1), cancelled (TERM), or asked to stop by `medray stop`. Where the job has ended, the same launch again. At the
end the state after the last step must have the hashes of the calm run's, and steps.jsonl each step once, with its loss.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from runs import final  # noqa: E402
from slurm_cluster import Slurm, absent, slurm_cluster  # noqa: E402

CONFIG = """
run: {{storage: runs, name: {name}, seed: 5}}
model: {{name: null, init: random, preset: llama-tiny}}
data: {{dataset: clinic, clinic: {{size: small, train_rows: 400, validation_rows: 0}}, tokenizer: train, vocab_size: 800}}
method: {{name: distill, alpha: 0.3}}
train: {{max_steps: {steps}, global_batch_size: 8, micro_batch_size: 2, precision: fp32, save_every_steps: 25}}
peft: {{type: lora, rank: 4, dropout: 0.1}}
cluster: {{workers: 2, cpus_per_worker: 0.5, threads_per_worker: 1, max_failures: 100}}
eval: {{metrics: []}}
tracking: {{enabled: false}}
"""
LIMIT_SECONDS = 40 * 60
SHAPE = ("cluster.nodes=2", "launch.slurm.cpus_per_node=2", "launch.slurm.max_restarts=100")
ENDED = {"FAILED", "COMPLETED", "CANCELLED", "NODE_FAIL", "TIMEOUT"}


class Run:
    """One run whose job is submitted again where it has ended."""

    def __init__(self, slurm: Slurm, folder: Path, steps: int) -> None:
        self.slurm, self.folder = slurm, folder / "runs" / "killed"
        self.config = write(folder, "killed", steps)
        self.launches, self.job = 0, ""
        self.launch()

    def launch(self) -> None:
        env = "launch.env=[PYTHONPATH, HF_HUB_OFFLINE, OMP_NUM_THREADS]"
        words = [sys.executable, "-m", "medray", "launch", "slurm", str(self.config), env, *SHAPE]
        said = self.slurm.run(*words).stderr
        found = re.search(r"job (\d+) of", said)
        assert found, said
        self.launches, self.job = self.launches + 1, found[1]

    @property
    def state(self) -> str:
        return self.slurm.job(self.job)["JobState"]

    def steps(self) -> int:
        try:
            return len((self.folder / "steps.jsonl").read_text().splitlines())
        except FileNotFoundError:
            return 0

    def kill(self, host: str, words: str) -> None:
        for pid in self.slurm.pids(host, words)[:1]:
            os.kill(pid, signal.SIGKILL)


def worker(run: Run) -> None:
    run.kill(random.choice(["n1", "n2"]), "ray::RayTrainWorker")


def driver(run: Run) -> None:
    run.kill("n1", "-m medray train")


def ray_of_the_head(run: Run) -> None:
    run.kill("n1", "gcs_server")


def ray_of_the_other(run: Run) -> None:
    run.kill("n2", "raylet/raylet")


def requeued(run: Run) -> None:
    run.slurm.run("scontrol", "requeue", run.job)


def warned(run: Run) -> None:
    run.slurm.run("scancel", "--signal=USR1", "--batch", run.job)


def cancelled(run: Run) -> None:
    run.slurm.run("scancel", run.job)


def stopped(run: Run) -> None:
    subprocess.run([sys.executable, "-m", "medray", "stop", str(run.folder)], check=True, capture_output=True)


KINDS: tuple[Callable[[Run], None], ...] = (
    *(worker, driver, ray_of_the_head, ray_of_the_other, requeued, warned, cancelled, stopped),
)


def write(folder: Path, name: str, steps: int) -> Path:
    config = folder / f"{name}.yaml"
    config.write_text(CONFIG.format(name=name, steps=steps))
    return config


def until_new_step(run: Run, before: int) -> bool:
    """Whether the run has made a step beyond `before`; False where it is done. What has ended is launched again."""
    limit = time.monotonic() + 300
    while run.steps() <= before:
        assert time.monotonic() < limit, f"no step beyond {before}: job {run.job} is {run.state}"
        state = run.state
        if state == "COMPLETED":
            return False
        if state in ENDED:
            run.launch()
        elif state == "PENDING":
            run.slurm.run("scontrol", "update", f"JobId={run.job}", "StartTime=now+3seconds", check=False)
        time.sleep(0.3)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", nargs="?", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    if reason := absent():
        raise SystemExit(reason)
    random.seed(0)
    os.environ["HF_HUB_OFFLINE"] = "1"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        folder = Path(place)
        calm = [sys.executable, "-m", "medray", "train", str(write(folder, "calm", arguments.steps))]
        subprocess.run(calm, check=True, capture_output=True)
        with slurm_cluster() as slurm:
            run, before = Run(slurm, folder, arguments.steps), 0
            for number in range(arguments.kills):
                assert time.monotonic() - began < LIMIT_SECONDS, "out of time"
                if not until_new_step(run, before):
                    print(f"done before kill {number + 1}: give more --steps")
                    break
                time.sleep(random.uniform(0, 5))
                kind, before = KINDS[number % len(KINDS)], run.steps()
                kind(run)
                print(
                    f"{number + 1:>2}  {kind.__name__.replace('_', ' '):<18} after step {before:>4}",
                    flush=True,
                )
            while run.state != "COMPLETED":
                until_new_step(run, run.steps())
        same = final(folder / "runs" / "killed") == final(folder / "runs" / "calm")
        print(f"{run.launches} launches, {run.steps()} steps; the same bits as the calm run: {same}")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch"))
    print(
        f"Python {platform.python_version()}, {versions}, {os.cpu_count()} CPUs, {time.monotonic() - began:.0f} s"
    )
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
