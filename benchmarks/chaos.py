"""A run that is killed again and again, against the same run left alone: the bits must be the same.

    .venv/bin/python benchmarks/chaos.py [KILLS] [STEPS] [--elastic]

A head and two nodes on this machine, two workers. Each kill comes 3 to 20 s (drawn by a fixed seed) after the first step
that no attempt had made before: of a worker, of all workers, of a node's raylet (a fresh node takes its place), of the
driver (the same command again), of the head with everything on it (another cluster, the same command again), a worker
that is stopped and hangs, and a TERM to the driver. At the end the state after the last step must have the hashes of the
calm run's, steps.jsonl each step once, and the order of samples must be the same. --elastic: workers: [1, 2]; in turns a
node is lost for good and another joins, which Ray Train looks for once a minute; then losses must agree within 1e-4.

For each kill: seconds until the workers had loaded the checkpoint again, until the first step after that, and until the
first new one; and how many steps were computed again.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import random
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))  # clusters of this machine, as the tests have them
os.environ["RAY_AUTH_MODE"] = "token"  # before Ray is imported
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

import psutil  # noqa: E402
import ray  # noqa: E402
from clusters import Cluster, head, processes_below  # noqa: E402

from medray.train import checkpoint  # noqa: E402

WORKER = "ray::RayTrainWorker"
RAYLET = f"{Path(ray.__file__).parent}/core/src/ray/raylet/raylet"
HANG_SECONDS, LIMIT_SECONDS = 15, 40 * 60
CONFIG = """
run: {{storage: runs, name: {name}, seed: 5}}
model: {{name: null, init: random, preset: llama-tiny}}
data: {{dataset: clinic, clinic: {{size: small, train_rows: 2000, validation_rows: 0}}, tokenizer: train, vocab_size: 800}}
method: {{name: distill, alpha: 0.3}}
train: {{max_steps: {steps}, global_batch_size: 8, micro_batch_size: 2, precision: fp32, optimizer: {{lr: {lr}}},
        save_every_steps: 25}}
peft: {{type: lora, rank: 4, dropout: {dropout}}}
cluster: {{workers: {workers}, cpus_per_worker: 0.9, max_failures: 100, hang_seconds: {hang}}}
eval: {{metrics: []}}
tracking: {{enabled: false}}
"""


class Run:
    """One `medray train` on a cluster of its own, which is killed and mended."""

    def __init__(
        self, folder: Path, name: str, steps: int, workers: str, dropout: float, head_cpus: int, lr: float
    ) -> None:
        self.root, self.folder = folder, folder / "runs" / name
        self.config = folder / f"{name}.yaml"
        self.config.write_text(
            CONFIG.format(name=name, steps=steps, workers=workers, hang=HANG_SECONDS, dropout=dropout, lr=lr)
        )
        self.log = (folder / f"{name}.log").open("ab")
        self.clusters, self.starts, self.head_cpus = 0, 0, head_cpus
        self.stack = contextlib.ExitStack()
        self.nodes: list[psutil.Process] = []
        self.begin()

    def begin(self) -> None:
        """A cluster of a head and two nodes, and the command on it."""
        self.clusters += 1
        place = self.root / f"cluster-{self.config.stem}-{self.clusters}"
        place.mkdir()
        self.place = place
        self.cluster: Cluster = self.stack.enter_context(head(place, cpus=self.head_cpus))
        self.nodes = []
        for _ in range(2):
            self.join()
        self.start()

    def join(self) -> None:
        self.nodes.append(self.stack.enter_context(self.cluster.node(self.place)))

    def start(self) -> None:
        self.starts += 1
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "medray", "train", str(self.config)],
            env={**os.environ, "RAY_ADDRESS": self.cluster.address, "HF_HUB_OFFLINE": "1"},
            stdout=self.log,
            stderr=self.log,
        )

    def workers(self) -> list[psutil.Process]:
        places = [self.cluster.head, *self.nodes]
        return [
            process for place in places if place.is_running() for process in processes_below(place, WORKER)
        ]

    def end_cluster(self) -> None:
        self.stack.close()
        self.stack = contextlib.ExitStack()

    def steps(self) -> list[int]:
        try:
            lines = (self.folder / "steps.jsonl").read_text().splitlines()
            return [json.loads(line)["step"] for line in lines]
        except (OSError, ValueError):  # the last line is being written
            return []

    def attempts(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in (self.folder / "attempts.jsonl").read_text().splitlines()]
        except (OSError, ValueError):
            return []


def kill_worker(run: Run) -> None:
    random.choice(run.workers()).kill()


def kill_all_workers(run: Run) -> None:
    for worker in run.workers():
        worker.kill()


def kill_raylet(run: Run) -> None:
    held = [node for node in run.nodes if processes_below(node, WORKER)] or run.nodes
    node = random.choice(held)
    (raylet,) = processes_below(node, RAYLET)
    raylet.kill()
    run.nodes.remove(node)
    run.join()


def kill_raylet_for_good(run: Run) -> None:
    """Of two nodes that hold a worker each."""
    node = run.nodes.pop()
    for process in [*processes_below(node, RAYLET), *node.children(recursive=True), node]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def join(run: Run) -> None:
    """Kills nothing: the group that runs is ended by Ray Train, to start with the new node's worker."""
    run.join()


def kill_driver(run: Run) -> None:
    run.driver.kill()
    run.driver.wait()
    run.start()


def kill_head(run: Run) -> None:
    for process in [*run.cluster.head.children(recursive=True), run.cluster.head]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    run.driver.wait(timeout=180)
    run.end_cluster()
    run.begin()


def hang_worker(run: Run) -> None:
    random.choice(run.workers()).send_signal(signal.SIGSTOP)


def stop_driver(run: Run) -> None:
    run.driver.send_signal(signal.SIGTERM)
    assert run.driver.wait(timeout=180) == 75, "a driver that was told to stop did not save"
    run.start()


KINDS: tuple[Callable[[Run], None], ...] = (
    kill_worker,
    kill_raylet,
    kill_driver,
    kill_all_workers,
    hang_worker,
    kill_head,
    stop_driver,
)


def until(condition: Callable[[], bool], run: Run, what: str) -> bool:
    """False where the run ended before."""
    limit = time.monotonic() + 300
    while not condition():
        if run.driver.poll() is not None:
            return condition()
        assert time.monotonic() < limit, f"never came: {what}"
        time.sleep(0.1)
    return True


def chaos(run: Run, kinds: tuple[Callable[[Run], None], ...], kills: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    reached, began = 0, time.monotonic()
    draw = random.Random(7)

    def beyond(step: int) -> bool:
        return (run.steps() or [0])[-1] > step

    def more_attempts(count: int) -> bool:
        return len(run.attempts()) > count

    while len(found) < kills and time.monotonic() - began < LIMIT_SECONDS - 300:
        if not until(partial(beyond, reached), run, "a new step"):
            break
        if found:
            found[-1]["new_step"] = time.time() - found[-1]["at"]
        time.sleep(draw.uniform(3, 20))
        if run.driver.poll() is not None:
            break
        steps, before = run.steps(), len(run.attempts())
        reached = steps[-1] if steps else reached
        kind = kinds[len(found) % len(kinds)]
        at = time.time()
        kind(run)
        if not until(partial(more_attempts, before), run, "another attempt"):
            break
        attempt = run.attempts()[before]
        until(partial(beyond, attempt["resumed_step"]), run, "a step")
        one = {
            "kind": kind.__name__,
            "at": at,
            "step": reached,
            "recomputed": max(
                reached - attempt["resumed_step"], 0
            ),  # a driver that is told to stop saves a later one
            "resumed": attempt["time"] - at,
            "first_step": time.time() - at,
            "workers": attempt["workers"],
        }
        found.append(one)
        print(
            f"  {len(found):2} {one['kind']:<21} at step {reached:5}: resumed after {one['resumed']:5.1f} s with "
            f"{one['workers']} workers, first step after {one['first_step']:5.1f} s, {one['recomputed']} steps again",
            flush=True,
        )
    return found


def final(run: Run) -> tuple[list[str], str, list[float]]:
    newest = checkpoint.newest(run.folder / "checkpoints")
    assert newest is not None
    lines = [json.loads(line) for line in (run.folder / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, newest.progress.step + 1)), (
        "steps lost or doubled"
    )
    return (
        [newest.files[name]["sha256"] for name in sorted(newest.files)],
        newest.progress.order,
        [line["loss"] for line in lines],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", nargs="?", type=int, default=15)
    parser.add_argument("steps", nargs="?", type=int, default=3000)
    parser.add_argument("--elastic", action="store_true")
    options = parser.parse_args()
    kinds = (kill_raylet_for_good, join) if options.elastic else KINDS
    # A head that holds one worker at most: a node that is killed has the other.
    workers, dropout, head_cpus = ("[1, 2]", 0.0, 0) if options.elastic else ("2", 0.1, 1)
    # At a larger rate, training makes of a rounding more than 1e-4 in so many steps.
    lr = 1e-4 if options.elastic else 1e-3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = []
        for which in ("calm", "chaos"):
            began = time.monotonic()
            run = Run(folder, which, options.steps, workers, dropout, head_cpus, lr)
            try:
                kills = chaos(run, kinds, options.kills) if which == "chaos" else []
                code = run.driver.wait(timeout=LIMIT_SECONDS)
                assert code == 0, (
                    f"{which} ended with {code}: {(folder / f'{which}.log').read_text()[-3000:]}"
                )
                results.append((final(run), time.monotonic() - began))
            finally:
                if run.driver.poll() is None:
                    run.driver.kill()
                run.end_cluster()
            print(
                f"{which}: {options.steps} steps in {results[-1][1]:.0f} s, clusters and starts included",
                flush=True,
            )
    (calm, calm_seconds), (broken, chaos_seconds) = results
    assert calm[1] == broken[1], "another order of samples"
    largest = max(abs(a - b) for a, b in zip(calm[2], broken[2], strict=True))
    print(
        f"the same order of samples; same bits at the end: {calm[0] == broken[0]}; losses differ by {largest:.1e} at most"
    )
    assert calm[0] == broken[0] or (options.elastic and largest < 1e-4)
    print(
        f"{len(kills)} kills of {len({one['kind'] for one in kills})} kinds, {run.starts} starts of the driver on "
        f"{run.clusters} clusters; {sum(one['recomputed'] for one in kills)} steps computed again; "
        f"{chaos_seconds - calm_seconds:.0f} s longer than the calm run"
    )
    for kind in dict.fromkeys(one["kind"] for one in kills):
        of = [one for one in kills if one["kind"] == kind]
        medians = {
            part: statistics.median([one[part] for one in of if part in one] or [float("nan")])
            for part in ("resumed", "first_step", "new_step")
        }
        print(
            f"  {kind:<21} {len(of)} times: checkpoint loaded after {medians['resumed']:.1f} s, first step after "
            f"{medians['first_step']:.1f} s, first new step after {medians['new_step']:.1f} s (medians)"
        )
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("medray", "ray", "torch", "deepspeed")
    )
    print(
        f"{platform.platform()}, {psutil.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    )


if __name__ == "__main__":
    main()
