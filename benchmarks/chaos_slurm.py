"""A run on two SLURM nodes that is ended again and again, against the same run left alone: the bits must be the same.

    .venv/bin/python benchmarks/chaos_slurm.py [ENDINGS] [--steps STEPS] [--seed SEED]

Root starts a SLURM of two nodes in namespaces of this machine (tests/support/slurm_cluster.py), and `medray launch slurm`
submits the run. Each ending comes 0 to 5 s after the first step that no start had made before: a worker is killed, the driver,
Ray on the head's node, Ray on the other node; SLURM requeues the job; the job is warned of its time limit (USR1), cancelled
(TERM), or asked to stop by `medray stop`. Every eight endings have each kind once; the seed decides their order and the
seconds. Where the job has ended, the same launch again. At the end the state after the last step must have the hashes of the
calm run's, and steps.jsonl each step once, with its loss.

For each ending: the steps at that moment, the first step of the next start, and seconds until that start has made a new one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
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
from slurm_cluster import ENDED, Slurm, absent, slurm_cluster  # noqa: E402

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
POLL_SECONDS, LIMIT_SECONDS = 1, 300
SHAPE = ("cluster.nodes=2", "launch.slurm.cpus_per_node=2", "launch.slurm.max_restarts=100")
ENV = "launch.env=[PYTHONPATH, HF_HUB_OFFLINE, OMP_NUM_THREADS]"


class Run:
    """One run whose job is submitted again where it has ended."""

    def __init__(self, slurm: Slurm, folder: Path, steps: int) -> None:
        self.slurm, self.folder = slurm, folder / "runs" / "killed"
        self.config = write(folder, "killed", steps)
        self.launches = 0
        self.launch()

    def launch(self) -> None:
        words = [sys.executable, "-m", "medray", "launch", "slurm", str(self.config), ENV, *SHAPE]
        said = self.slurm.run(*words).stderr
        found = re.search(r"job (\d+) of", said)
        assert found, said
        self.launches, self.job, self.hurried = self.launches + 1, found[1], "0"

    def keep_going(self) -> bool:
        """Starts the job again where it has ended or waits; False where the run is done."""
        job = self.slurm.job(self.job)
        if job["JobState"] == "COMPLETED":
            return False
        if job["JobState"] in ENDED:
            self.launch()
        elif job["JobState"] == "PENDING" and job["Restarts"] != self.hurried:
            self.slurm.start_again(self.job)
            self.hurried = job["Restarts"]
        return True

    def steps(self) -> int:
        return len(self._lines("steps.jsonl"))

    def starts(self) -> int:
        """Starts whose workers have loaded the newest checkpoint."""
        return len(self._lines("attempts.jsonl"))

    def resumed(self) -> int:
        """The step after which the last start has resumed."""
        step: int = json.loads(self._lines("attempts.jsonl")[-1])["resumed_step"]
        return step

    def _lines(self, name: str) -> list[str]:
        """Whole lines of a file: the last may be half written."""
        try:
            return (self.folder / name).read_text().split("\n")[:-1]
        except FileNotFoundError:
            return []

    def logs(self) -> str:
        """The end of each job's log."""
        logs = sorted(self.folder.parent.glob("launch/*/slurm-*.log"), key=lambda log: log.stat().st_mtime)
        return "\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in logs[-2:])

    def kill(self, words: str, *hosts: str) -> None:
        """Kills one of the processes whose command line has these words; srun's clients, which have them too, do not count."""
        found = [pid for host in hosts for pid in self.slurm.pids(host, words) if not is_srun(pid)]
        assert found, f"no process of {words} on {', '.join(hosts)}"
        os.kill(random.choice(found), signal.SIGKILL)


def is_srun(pid: int) -> bool:
    return b"srun" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


def worker(run: Run) -> None:
    run.kill("ray::RayTrainWorker", "n1", "n2")


def driver(run: Run) -> None:
    run.kill("-m medray train", "n1")


def ray_of_the_head(run: Run) -> None:
    run.kill("/gcs_server --", "n1")


def ray_of_the_other(run: Run) -> None:
    run.kill("/raylet/raylet --", "n2")


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


def until_more(count: Callable[[], int], than: int, run: Run) -> bool:
    """False where the run is done before there is more. What has ended is launched again."""
    limit = time.monotonic() + LIMIT_SECONDS
    while count() <= than:
        if not run.keep_going():
            return count() > than
        if time.monotonic() > limit:
            raise SystemExit(f"{count.__name__}: no more than {than}, job {run.job}\n{run.logs()}")
        time.sleep(POLL_SECONDS)
    return True


def endings(run: Run, number: int) -> int:
    """Ends the run so many times, or until it is done; how many steps were computed again."""
    kinds: list[Callable[[Run], None]] = []
    again = 0
    until_more(run.steps, 0, run)
    for count in range(1, number + 1):
        kinds = kinds or random.sample(KINDS, len(KINDS))
        kind = kinds.pop()
        time.sleep(random.uniform(0, 5))
        starts, reached, at = run.starts(), run.steps(), time.monotonic()
        kind(run)
        # Until the next start, steps are those of a run that is ending.
        if not until_more(run.starts, starts, run):
            print(f"done before ending {count}: give more --steps")
            break
        resumed = run.resumed()
        until_more(run.steps, max(reached, resumed), run)
        again += max(reached - resumed, 0)
        print(
            f"{count:>2}  {kind.__name__.replace('_', ' '):<18} at step {reached:>4}, resumed after {resumed:>4}, "
            f"new step after {time.monotonic() - at:.0f} s",
            flush=True,
        )
    return again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("endings", nargs="?", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if reason := absent():
        raise SystemExit(reason)
    random.seed(arguments.seed)
    os.environ |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder, began = Path(name), time.monotonic()
        calm = [sys.executable, "-m", "medray", "train", str(write(folder, "calm", arguments.steps))]
        done = subprocess.run(calm, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        print(f"calm: {arguments.steps} steps in {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        with slurm_cluster() as slurm:
            run = Run(slurm, folder, arguments.steps)
            again = endings(run, arguments.endings)
            while run.keep_going():
                time.sleep(POLL_SECONDS)
        seconds = time.monotonic() - began
        same = final(folder / "runs" / "killed") == final(folder / "runs" / "calm")
        print(
            f"{run.launches} launches, {run.starts()} starts, {run.steps()} steps in {seconds:.0f} s, {again} of them "
            f"computed again; the same bits and losses as the calm run: {same}"
        )
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch", "deepspeed")
    )
    print(f"{os.cpu_count()} CPUs, {platform.platform()}, Python {platform.python_version()}, {versions}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
