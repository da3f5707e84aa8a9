"""Which trial comes next, what is written down about it, and which is the best: in a folder, without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medray.config import Config, read
from medray.errors import InputError
from medray.train.run_folder.files import folder_of
from medray.tune import claim, results
from medray.tune.share import Share
from medray.tune.state import SearchState
from medray.tune.trials import Trial, TrialFiles

SHARE = Share(concurrent=2, workers=1, cpus=1.0, gpus=0, threads=1)
RANKS = {"peft.rank": {"grid": [4, 8, 16]}}


def config(folder: Path, **tune: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"storage": str(folder), "name": "s", "seed": 5},
            "model": {"preset": "llama-tiny", "init": "random"},
            "data": {"dataset": "clinic", "tokenizer": "train"},
            "peft": {"type": "lora"},
            "tune": {"space": RANKS} | tune,
        }
    )


def state(search: Config) -> SearchState:
    return SearchState(search, SHARE, TrialFiles(folder_of(search)))


def done(value: float | None, **more: Any) -> dict[str, Any]:
    return {"state": "done", "value": value, "step": 10, "steps": 10, "seconds": 2.0} | more


def drained(search: SearchState) -> list[Trial]:
    """Begin every trial that is left."""
    found = []
    while (trial := search.next()) is not None:
        found.append(trial)
    return found


def test_every_configuration_is_tried_with_every_seed(tmp_path: Path) -> None:
    found = drained(state(config(tmp_path, seeds=2)))
    assert [(each.number, each.configuration, each.seed, each.values["peft.rank"]) for each in found] == [
        (1, 1, 5, 4), (2, 1, 6, 4), (3, 2, 5, 8), (4, 2, 6, 8), (5, 3, 5, 16), (6, 3, 6, 16),
    ]  # fmt: skip


def test_a_search_that_was_killed_repeats_nothing_and_continues_what_had_begun(tmp_path: Path) -> None:
    search = config(tmp_path)
    first = state(search)
    assert [first.next().number, first.next().number] == [1, 2]  # type: ignore[union-attr]
    assert first.full()
    first.ended(1, done(0.5))
    # Killed here: nothing of `first` is written after this.
    second = state(search)
    assert second.trials[1].value == 0.5
    assert [trial.number for trial in drained(second)] == [2, 3]
    second.ended(2, {"state": "pause", "step": 4, "steps": 10, "seconds": 1.5, "metrics": {"loss": 0.6}})
    third = state(search)
    assert (third.trials[2].state, third.trials[2].step) == ("begun", 4)
    third.next()
    third.ended(2, {"state": "pause", "step": 0, "steps": 0, "seconds": 0.5, "metrics": {}})
    assert (third.trials[2].step, third.trials[2].metrics) == (4, {"loss": 0.6})
    third.next()
    assert third.ended(2, done(0.4)).seconds == 4.0
    assert third.left()
    third.next()
    third.ended(3, None)
    assert third.trials[3].state == "failed"
    assert "Ray's logs" in str(third.trials[3].reason)
    assert not third.left()


def test_more_trials_continue_a_finished_search(tmp_path: Path) -> None:
    random = {"space": {"train.optimizer.lr": {"loguniform": [1e-5, 1e-3]}}, "trials": 2}
    first = state(config(tmp_path, **random))
    before = [trial.values for trial in drained(first)]
    for number in (1, 2):
        first.ended(number, done(1.0))
    more = state(config(tmp_path, **random | {"trials": 4}))
    assert [trial.number for trial in drained(more)] == [3, 4]
    assert [more.trials[number].values for number in (1, 2)] == before


def test_values_that_do_not_fit_fail_their_trial_alone(tmp_path: Path) -> None:
    search = config(tmp_path)
    files = TrialFiles(folder_of(search))
    files.write(Trial(number=1, configuration=1, seed=5, values={"peft.rank": 0}))
    found = drained(state(search))
    assert [trial.number for trial in found] == [2, 3]
    assert files.read()[1].state == "failed"
    assert "at least 1" in str(files.read()[1].reason)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"number": 2}', '{"number": "1"}'])
def test_a_damaged_file_of_a_trial_is_named(tmp_path: Path, text: str) -> None:
    search = config(tmp_path)
    path = TrialFiles(folder_of(search)).path(1)
    path.parent.mkdir(parents=True)
    path.write_text(text)  # type: ignore[union-attr]
    with pytest.raises(InputError) as caught:
        state(search)
    assert caught.value.file == path
    assert "--overwrite" in str(caught.value.fix)


def test_the_best_is_the_mean_over_seeds_of_complete_configurations(tmp_path: Path) -> None:
    search = state(config(tmp_path, seeds=2))
    drained(search)
    for number, value in enumerate((0.30, 0.10, 0.25, 0.13, 0.01), 1):
        search.ended(number, done(value))
    search.ended(6, {"state": "failed", "reason": "out of memory"})
    lower, higher = (results.ranked(search.trials, lower=each) for each in (True, False))
    assert [each.number for each in lower] == [2, 1], "the third has a seed that failed"
    assert [each.number for each in higher] == [1, 2]
    assert lower[0].value == pytest.approx(0.19)
    assert results.spread(lower[0]) == pytest.approx(0.06)


def test_ties_and_missing_values_are_named(tmp_path: Path) -> None:
    search = config(tmp_path)
    trials = state(search)
    drained(trials)
    trials.ended(1, done(None, reason="it has no finite loss"))
    trials.ended(2, done(0.5))
    trials.ended(3, done(0.5))
    summary = results.summarize(
        search, trials.trials, status="done", seconds=3.0, gpu_hours=0.0, ended_by=None
    )
    best = summary["search"]["best"]
    assert (best["trial"], best["ties"], best["values"]) == (2, [3], {"peft.rank": 8})
    assert summary["search"]["trials"][0]["reason"] == "it has no finite loss"
    assert json.loads((tmp_path / "s" / "summary.json").read_text()) == summary


def test_only_the_best_exports_are_kept(tmp_path: Path) -> None:
    search = state(config(tmp_path))
    drained(search)
    search.ended(1, done(0.5))
    search.ended(2, {"state": "stopped", "value": 0.1, "step": 2, "steps": 10})
    search.ended(3, done(0.4))
    assert [each.number for each in results.to_remove(search.trials, 1, lower=True)] == [1, 2]
    assert [each.number for each in results.to_remove(search.trials, 2, lower=True)] == [2]
    assert results.to_remove(search.trials, None, lower=True) == []


def test_the_best_config_reads_and_has_the_share_of_the_search(tmp_path: Path) -> None:
    search = config(tmp_path, metric="loss")
    trials = state(search)
    drained(trials)
    results.write_best(search, SHARE, trials.trials[2], 0.5)
    best = read(tmp_path / "s" / "best.yaml")
    assert best.tune is None
    assert (best.run.name, best.peft.rank, best.run.seed) == ("s.best", 8, 5)
    assert (best.cluster.cpus_per_worker, best.cluster.threads_per_worker) == (1.0, 1)
    from medray.train import check

    check(best, elsewhere=True, model=False)


def test_a_search_keeps_what_decides_its_numbers(tmp_path: Path) -> None:
    search = config(tmp_path)
    said: list[str] = []
    assert claim.claim(search, said.append) is None
    claim.write_notes(folder_of(search), SHARE, 12.0)
    notes = claim.claim(search.override({"tune.trials": 9, "tune.max_seconds": 5.0}), said.append)
    assert notes is not None
    assert (notes.seconds, said) == (12.0, [])
    claim.claim(search.override({"cluster.workers": 2}), said.append)
    assert "cluster.workers" in said[0]
    assert claim.kept(notes, search.override({"cluster.workers": 2})).cluster.workers == 1
    for key, value in (
        ("train.max_steps", 7),
        ("tune.seeds", 2),
        ("tune.space", {"peft.rank": {"grid": [4]}}),
    ):
        with pytest.raises(InputError, match="another value") as caught:
            claim.claim(search.override({key: value}), said.append)
        assert str(caught.value.key).startswith(key)


def test_the_seconds_of_trials_are_those_of_all_their_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("medray.tune.state.time.monotonic", lambda: clock[0])
    search = state(config(tmp_path))
    search.next()
    clock[0] = 130.0
    search.next()
    clock[0] = 140.0
    assert search.trial_seconds() == 40.0 + 10.0
    search.ended(1, done(0.5) | {"seconds": 39.0})
    assert search.trial_seconds() == 39.0 + 10.0
    search.ended(2, {"state": "pause", "seconds": 9.0, "step": 1, "steps": 5})
    assert state(config(tmp_path)).trial_seconds() == 48.0
