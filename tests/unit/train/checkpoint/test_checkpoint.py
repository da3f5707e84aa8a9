"""Checkpoints: bits and losses after a resume, on the same and on other numbers of ranks and ZeRO stages."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import full_disk
import pytest
import tiny
from recorder import Recorder
from safetensors.torch import load_file
from torchrun import run_loops

from medray.errors import InputError, RunFailedError
from medray.storage import json_files
from medray.train import checkpoint
from medray.train.loop import training
from medray.train.loop.step import Progress
from medray.train.worker_plan import WorkerPlan

STOPPED, STEPS = 6, 12
# (ranks, ZeRO stage); stage 0 with one rank is plain torch
WAYS = ((1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3))
SOME = ((1, 0), (2, 2), (2, 3))


def make(
    folder: Path, ways: tuple[int, int], steps: int, peft: str, dropout: float = 0.0, **train: Any
) -> WorkerPlan:
    ranks, stage = ways
    tokens = tiny.token_set(folder, tiny.rows(37))
    raw = {"zero_optimization": {"stage3_param_persistence_threshold": 100}} if stage == 3 else {}
    return tiny.plan(
        folder / f"{peft}-{ranks}-{stage}-{steps}",
        tokens,
        "llama-tiny",
        workers=ranks,
        global_batch_size=12,
        max_steps=steps,
        model=tiny.saved_model(folder / "model", "llama-tiny", tokens),
        peft={"type": peft, "rank": 4, "dropout": dropout},
        train={"zero_stage": stage, "deepspeed": raw, "scheduler": {"name": "constant"}} | train,
    )


def losses(seen: dict[str, Any]) -> list[float]:
    return [record["loss"] for record in seen["steps"]]


@pytest.mark.parametrize(
    ("peft", "among"),
    [("lora", SOME), pytest.param("none", WAYS, marks=pytest.mark.long)],
)
def test_a_checkpoint_resumes_on_any_number_of_ranks_and_stage(
    peft: str, among: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    """Resume with every way of sharding from the checkpoints of every other one."""
    calm = make(tmp_path, (2, 2), STEPS, peft)
    first = {ways: make(tmp_path, ways, STOPPED, peft) for ways in among}
    for ranks in sorted({ranks for ranks, _ in among}):
        plans = {str(ways): plan for ways, plan in first.items() if ways[0] == ranks}
        seen = run_loops(tmp_path, plans | ({"calm": calm} if ranks == 2 else {}), processes=ranks)
        if ranks == 2:
            wanted = losses(seen["calm"])
    for ranks in sorted({ranks for ranks, _ in among}):
        resumed = {}
        for place, ways in enumerate(ways for ways in among if ways[0] == ranks):
            # Each way of sharding reads the checkpoints of one other, or of two where there are many.
            more = {among[-1 - place]} if len(among) > 3 else set()
            for other in {among[(place + ranks) % len(among)]} | more:
                plan = make(tmp_path, ways, STEPS, peft)
                folder = tmp_path / f"{peft}-{other}-then-{ways}"
                shutil.copytree(Path(first[other].run_folder) / "checkpoints", folder / "checkpoints")
                resumed[folder.name] = replace(plan, run_folder=str(folder))
        for name, found in run_loops(tmp_path, resumed, processes=ranks).items():
            assert losses(found) == pytest.approx(wanted[STOPPED:], abs=1e-4), name
    assert max(wanted[STOPPED:]) - min(wanted[STOPPED:]) > 1e-3, (
        "nothing moves after the resume: nothing was compared"
    )


@pytest.mark.parametrize(
    "ways",
    [((2, 0), (2, 3)), pytest.param(((2, 1), (2, 2)), marks=pytest.mark.long)],
    ids=["stages 0 and 3", "stages 1 and 2"],
)
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_run(
    ways: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    """Train with dropout: the same number of ranks gives the same bits."""
    options = {"save_every_steps": 3, "keep_checkpoints": 9}
    calm = {str(one): make(tmp_path, one, STEPS, "lora", dropout=0.1, **options) for one in ways}
    run_loops(tmp_path, calm, processes=2)
    cut = {}
    for name, plan in calm.items():
        folder = Path(plan.run_folder).with_name(f"cut-{name}")
        # On a busy machine, a checkpoint is skipped while the previous one is being written.
        *earlier, _ = sorted((Path(plan.run_folder) / "checkpoints").iterdir())
        for source in earlier[:2]:
            shutil.copytree(source, folder / "checkpoints" / source.name)
        cut[name] = replace(plan, run_folder=str(folder))
    seen = run_loops(tmp_path, cut, processes=2)
    for name, plan in calm.items():
        assert 0 < len(seen[name]["steps"]) < STEPS
        a, b = (last(Path(one.run_folder)) for one in (plan, cut[name]))
        assert a == b, f"{name}: other bits"


def last(run_folder: Path) -> list[str]:
    """Return the hashes of the state after the last step."""
    found = checkpoint.newest(run_folder / "checkpoints")
    assert found is not None
    assert found.progress.step == STEPS
    return [found.files[name]["sha256"] for name in sorted(found.files)]


def small(folder: Path, **train: Any) -> WorkerPlan:
    return make(folder, (1, 0), STEPS, "none", save_every_steps=3, keep_checkpoints=3, **train)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> WorkerPlan:
    plan = small(tmp_path_factory.mktemp("trained"))
    training.run(plan, Recorder(saves_every=3))
    return plan


@pytest.fixture
def trained(trained_once: WorkerPlan, tmp_path: Path) -> WorkerPlan:
    """A run that has ended, in a folder that the test may damage."""
    shutil.copytree(trained_once.run_folder, tmp_path / "run")
    return replace(trained_once, run_folder=str(tmp_path / "run"))


def steps_of(plan: WorkerPlan) -> list[int]:
    return [found.progress.step for found in checkpoint.complete(Path(plan.run_folder) / "checkpoints")]


@pytest.mark.parametrize(
    "damage",
    [
        "bits",
        "manifest",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("cut", "manifest bit", "file gone")),
    ],
)
def test_a_damaged_checkpoint_is_skipped_and_the_previous_one_is_used(
    damage: str, trained: WorkerPlan
) -> None:
    plan = trained
    calm = last(Path(plan.run_folder))
    newest = checkpoint.newest(Path(plan.run_folder) / "checkpoints")
    assert newest is not None
    file, manifest = newest.state_files[0], newest.folder / checkpoint.MANIFEST
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(bytes(data[:-10]))
    elif damage == "bits":
        data[-10] ^= 1
        file.write_bytes(bytes(data))
    elif damage == "manifest":
        manifest.unlink()
    elif damage == "manifest bit":  # in a number, so that it stays JSON
        text = bytearray(manifest.read_bytes())
        text[text.index(b'"samples": ') + 11] ^= 1
        manifest.write_bytes(bytes(text))
    else:
        file.unlink()
    recorder = Recorder(saves_every=3)
    training.run(plan, recorder)
    assert recorder.resumed == [9]
    assert [record["step"] for record in recorder.steps] == [10, 11, 12]
    told = [event["text"] for event in recorder.events if event["kind"] == "message"]
    assert told == ([f"the checkpoint {newest.folder.name} is incomplete or damaged and was skipped"])
    assert last(Path(plan.run_folder)) == calm
    assert steps_of(plan) == [6, 9, 12]


def _progress(**changes: Any) -> dict[str, Any]:
    return {"progress": {**vars(Progress(20, 160, 9, 9, "aa")), **changes}}


@pytest.mark.parametrize(
    "change",
    [
        *(_progress(step=step) for step in (25, 10**12, -5, "20", 20.0, True, None, [20], 2**70)),
        *(_progress(**{name: -1}) for name in ("samples", "tokens", "loss_tokens", "evaluated")),
        _progress(order=7),
        _progress(more=1),
        {"progress": None},
        {"world_size": 2},
        {"world_size": "1"},
        {"optimizer_step": "20"},
        {"metrics": {"loss": "low"}},
        {"metrics": [1]},
        {"files": {}},
        {"files": {"rank-00000.safetensors": {"bytes": "4", "sha256": ""}}},
        {"files": {"../../secret": {"bytes": 4, "sha256": ""}}},
        {"format": "1"},
        {"format": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("hashed", [True, False])  # an earlier version wrote none
def test_a_checkpoint_with_an_impossible_manifest_is_incomplete(
    hashed: bool, change: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(str(checkpoint.folder_of(tmp_path, 20, 7)))
    folder.mkdir()
    (folder / "rank-00000.safetensors").write_bytes(b"1234")
    record = {"file": "rank-00000.safetensors", "bytes": 4, "sha256": "00"}
    checkpoint.write_manifest(folder, Progress(20, 160, 9, 9, "aa"), 20.0, {"loss": 1.0}, [record])
    tree = json_files.read_sealed(folder / checkpoint.MANIFEST)
    for changes, whole in (({}, True), (change, False)):
        if hashed:
            json_files.write_sealed(folder / checkpoint.MANIFEST, tree | changes)
        else:
            (folder / checkpoint.MANIFEST).write_text(json.dumps(tree | changes))
        assert bool(checkpoint.newest(tmp_path)) is whole


def test_a_checkpoint_without_a_regular_manifest_is_incomplete_and_never_blocks(tmp_path: Path) -> None:
    folder = Path(str(checkpoint.folder_of(tmp_path, 20, 7)))
    for make in (
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.mkdir(),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text('{"format": 1,'),
        lambda path: path.write_text("null"),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make(folder / checkpoint.MANIFEST)
        assert checkpoint.newest(tmp_path) is None


def test_a_checkpoint_of_another_version_is_refused_and_left_unchanged(trained: WorkerPlan) -> None:
    plan = trained
    newest = checkpoint.newest(Path(plan.run_folder) / "checkpoints")
    assert newest is not None
    manifest = newest.folder / checkpoint.MANIFEST
    json_files.write_sealed(manifest, json_files.read_sealed(manifest) | {"format": 99})
    with pytest.raises(InputError, match="a different version of medray wrote"):
        training.run(plan, Recorder(saves_every=3))
    assert manifest.exists()


def test_a_checkpoint_on_unreadable_storage_is_not_marked_damaged(
    trained: WorkerPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = trained.config.train.model_copy(update={"save_patience_minutes": 0.01})
    plan = replace(trained, config=trained.config.model_copy(update={"train": hasty}))

    def fails(file: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sha256", fails)
        with pytest.raises(OSError, match="Input/output error"):
            training.run(plan, Recorder(saves_every=3))
    recorder = Recorder(saves_every=3)
    training.run(plan, recorder)
    assert recorder.resumed == [STEPS]


class TestRetention:
    def test_the_newest_are_kept_and_incomplete_ones_of_killed_starts_are_deleted(
        self, tmp_path: Path
    ) -> None:
        plan = make(tmp_path, (1, 0), 9, "none", save_every_steps=2, keep_checkpoints=2)
        root = Path(plan.run_folder) / "checkpoints"
        orphan = root / "step-00000003-00000001"
        orphan.mkdir(parents=True)
        (orphan / "rank-00000.safetensors").write_bytes(b"half")
        training.run(plan, Recorder(saves_every=2))
        assert steps_of(plan) == [8, 9]
        assert len(list(root.iterdir())) == 2

    @pytest.mark.parametrize(
        ("metric", "lr", "exported"),
        [(None, 1.0, "the last"), ("loss", 1.0, "an earlier"), ("loss", 1e-3, "the last")],
    )
    def test_the_best_is_kept_and_exported_if_the_config_asks_for_it(
        self, metric: str | None, lr: float, exported: str, tmp_path: Path
    ) -> None:
        """Train with a learning rate that makes the run worse, and with one that lets it learn to the end."""
        plan = make(tmp_path, (1, 0), 6, "none", keep_checkpoints=1, keep_best=metric, optimizer={"lr": lr})
        plan, recorder = evaluated(plan, every=1), Recorder(saves_every=1)
        outcome = training.run(plan, recorder)
        found = {one["step"]: one["metrics"]["loss"] for one in recorder.evaluations}
        best = min(found, key=found.__getitem__) if metric else 6
        assert (best == 6) == (exported == "the last")
        assert steps_of(plan) == sorted({best, 6})
        assert outcome.exported == best
        assert outcome.evaluated["loss"] == found[best]
        assert len(recorder.evaluations) == 6, "the best has its metrics, and is not evaluated again"
        assert written(plan) == stored(plan, best)
        # A start that only repeats the export exports the same checkpoint.
        shutil.rmtree(Path(plan.run_folder) / "export")
        assert training.run(plan, Recorder()).exported == best
        assert written(plan) == stored(plan, best)

    @pytest.mark.long
    def test_sharded_ranks_export_the_best_together(self, tmp_path: Path) -> None:
        plan = make(tmp_path, (2, 3), 6, "none", keep_checkpoints=1, keep_best="loss", optimizer={"lr": 1.0})
        plan = evaluated(plan, every=1)
        run_loops(tmp_path, {"run": plan}, processes=2)
        best, last = checkpoint.complete(Path(plan.run_folder) / "checkpoints")
        assert best.metrics["loss"] < last.metrics["loss"]
        assert written(plan) == stored(plan, best.progress.step)

    def test_the_next_best_is_used_if_the_best_is_damaged(self, tmp_path: Path) -> None:
        plan = make(tmp_path, (1, 0), 6, "none", keep_checkpoints=9, keep_best="loss", optimizer={"lr": 1.0})
        plan, recorder = evaluated(plan, every=1), Recorder(saves_every=1)
        best = training.run(plan, recorder).exported
        found = {one["step"]: one["metrics"]["loss"] for one in recorder.evaluations}
        (file,) = of_step(plan, best).state_files
        file.write_bytes(file.read_bytes()[:-1] + b"?")
        second = training.run(plan, Recorder()).exported
        assert [best, second] == sorted(found, key=found.__getitem__)[:2]

    def test_an_evaluation_rates_a_checkpoint_that_a_notice_caused_before_it(self, tmp_path: Path) -> None:
        plan = evaluated(make(tmp_path, (1, 0), 6, "none", keep_checkpoints=9), every=4)
        recorder = Recorder(gone_after=4)
        assert training.run(plan, recorder).progress.step == 5
        (evaluation,) = recorder.evaluations
        assert of_step(plan, 4).metrics == evaluation["metrics"]

    @pytest.mark.parametrize(("metric", "best"), [("loss", 2), ("rougeL", 4)])
    def test_the_best_by_a_metric_is_kept_too(self, metric: str, best: int, tmp_path: Path) -> None:
        values = {
            1: (3.0, 10.0),
            2: (1.0, 20.0),
            3: (2.0, 30.0),
            4: (2.5, 40.0),
            5: (4.0, 5.0),
            6: (9.0, 0.0),
        }
        for step, (loss, rouge) in values.items():
            folder = checkpoint.folder_of(tmp_path, step, 1)
            folder.mkdir()
            checkpoint.write_manifest(folder, Progress(step), step, {"loss": loss, "rougeL": rouge}, [])
            checkpoint.retire(tmp_path, keep=1, best=metric)
        assert [found.progress.step for found in checkpoint.complete(tmp_path)] == [best, 6]


def evaluated(plan: WorkerPlan, *, every: int) -> WorkerPlan:
    """Return the plan with the training rows as validation split."""
    often = plan.config.eval.model_copy(update={"every_steps": every})
    return replace(plan, config=plan.config.model_copy(update={"eval": often}), validation=plan.train)


def of_step(plan: WorkerPlan, step: int | None) -> checkpoint.Checkpoint:
    found = checkpoint.complete(Path(plan.run_folder) / "checkpoints")
    return next(one for one in found if one.progress.step == step)


def stored(plan: WorkerPlan, step: int) -> dict[str, list[float]]:
    """Return the weights of a checkpoint, flat."""
    found: dict[str, list[float]] = defaultdict(list)
    for file in of_step(plan, step).state_files:  # one file per rank, with its slice of each weight
        for name, one in load_file(str(file)).items():
            kind, _, parameter = name.partition("/")
            if kind == "weight":
                found[parameter] += one.tolist()
    return found


def written(plan: WorkerPlan) -> dict[str, list[float]]:
    """Return the weights of the export, flat."""
    file = load_file(Path(plan.run_folder) / "export" / "model.safetensors")
    return {name: one.flatten().tolist() for name, one in file.items()}


def on_a_small_disk(plan: WorkerPlan, freed_after: int) -> dict[str, Any]:
    """Run `full_disk.py` in its own mount namespace, and return what it reports."""
    work = Path(plan.run_folder) / "plan.pickle"
    work.write_bytes(pickle.dumps(plan))
    script = Path(full_disk.__file__)
    done = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            sys.executable,
            str(script),
            str(work),
            str(freed_after),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parents[2]), str(script.parent)])},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class TestTrouble:
    def test_a_run_survives_storage_that_fails_for_a_while(self, tmp_path: Path) -> None:
        """Put a file at the path of the checkpoints folder, and remove it after the third step."""
        plan = make(tmp_path, (1, 0), 9, "none", save_every_steps=1)
        blocked = Path(plan.run_folder) / "checkpoints"
        blocked.write_text("in the way")

        class Frees(Recorder):
            def step(self, record: dict[str, Any]) -> None:
                super().step(record)
                if record["step"] == 3:
                    blocked.unlink()

        recorder = Frees()
        outcome = training.run(plan, recorder)
        assert outcome.status == "done"
        assert steps_of(plan)[-1] == 9
        told = [event["text"] for event in recorder.events if event["kind"] == "message"]
        assert "worker 0: a checkpoint cannot be written, retrying: Not a directory" in told
        assert "skipped the checkpoint of step 2: the one before is still being written" in told

    def test_the_run_fails_with_the_reason_after_save_patience_minutes(self, tmp_path: Path) -> None:
        plan = make(tmp_path, (1, 0), 9, "none", save_every_steps=1, save_patience_minutes=0.01)
        (Path(plan.run_folder) / "checkpoints").write_text("in the way")
        with pytest.raises(RunFailedError, match="the checkpoint of step 1 could not be written: Not a dir"):
            training.run(plan, Recorder())

    @pytest.mark.long  # as storage that fails for a while, above
    def test_a_disk_that_is_full_for_a_while(self, tmp_path: Path) -> None:
        found = on_a_small_disk(make(tmp_path, (1, 0), 40, "none", save_every_steps=1), freed_after=20)
        assert found["error"] == ""
        assert found["steps"] == found["saved"][-1] == 40
        assert any("No space left on device" in text for text in found["messages"])

    @pytest.mark.long
    def test_a_disk_that_stays_full(self, tmp_path: Path) -> None:
        plan = make(tmp_path, (1, 0), 40, "none", save_every_steps=1, save_patience_minutes=0.02)
        found = on_a_small_disk(plan, freed_after=1000)
        assert "could not be written" in found["error"]
        assert "No space left on device" in found["error"]
        assert found["saved"], "what was saved before is kept"

    def test_a_checkpoint_of_another_adapter_is_not_loaded_in_part(self, tmp_path: Path) -> None:
        plan = make(tmp_path, (1, 0), STOPPED, "none")
        training.run(plan, Recorder())
        other = make(tmp_path, (1, 0), STEPS, "lora")
        with pytest.raises(RunFailedError, match="it belongs to a different model or adapter"):
            training.run(replace(other, run_folder=plan.run_folder), Recorder())
