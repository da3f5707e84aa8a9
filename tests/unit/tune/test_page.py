"""The report of a search: one page that opens offline, whatever its keys and trials are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from medray.config import Config
from medray.train.run_folder.files import folder_of
from medray.tune import results
from medray.tune.page import write_page
from medray.tune.trials import Trial, TrialFiles

SPACE: dict[str, dict[str, Any]] = {
    "train.optimizer.lr": {"loguniform": [1e-5, 1e-2]},
    "peft.type": {"choice": ["lora", "none"]},
    "model.name": {"choice": ["/models/<script>alert(1)</script>", "/models/b"]},
}


def config(folder: Path) -> Config:
    return Config.model_validate({"run": {"storage": str(folder), "name": "s"}, "tune": {"space": SPACE}})


def trial(number: int, **more: Any) -> Trial:
    values = {
        "train.optimizer.lr": 10.0 ** -(2 + number % 4),
        "peft.type": ("lora", "none")[number % 2],
        "model.name": SPACE["model.name"]["choice"][number % 2],
    }
    return Trial(number=number, configuration=number, seed=0, values=values, **more)


def page(folder: Path, *trials: Trial) -> str:
    search = config(folder)
    for each in trials:
        TrialFiles(folder_of(search)).write(each)
    found = {each.number: each for each in trials}
    summary = results.summarize(search, found, status="done", seconds=3.0, gpu_hours=0.0, ended_by=None)
    write_page(search, found, summary)
    return (folder / "s" / "report.html").read_text()


def test_a_page_has_every_trial_key_and_curve(tmp_path: Path) -> None:
    evals = tmp_path / "s.trial-0002"
    evals.mkdir()
    lines = [{"step": step, "metrics": {"loss": 5.0 - step / 10}} for step in (0, 5, 10)]
    (evals / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = [
        trial(number, state="done", value=1.0 + number, step=10, steps=10, seconds=4.0, metrics={"loss": 1.0})
        for number in range(2, 9)
    ]
    failed = trial(9, state="failed", reason="peft.rank: <b>must</b> be at least 1")
    stopped = trial(10, state="stopped", value=9.0, step=2, steps=10, reason="asha at 20 % of the run")
    text = page(tmp_path, *done, failed, stopped)
    assert text.count("<polyline") >= 9  # parallel coordinates
    assert text.count("<circle") >= 3 * len(done)
    for words in (
        "trial 2",
        "asha at 20 %",
        "train.optimizer.lr",
        "peft.type",
        "fANOVA",
        "by percent of each run",
    ):
        assert words.lower() in text.lower(), words
    assert "<script" not in text
    assert "<b>must" not in text
    assert not re.search(r"""(?:src|href)=|url\(""", text), "it opens offline"
    assert text.count('class="line s1"') >= 1, "the best"


def test_a_page_of_no_complete_trial_says_what_happened(tmp_path: Path) -> None:
    text = page(tmp_path, trial(1, state="failed", reason="no CPU"), trial(2))
    assert "no CPU" in text
    assert "not ended" in text
    assert "NaN" not in text


def test_equal_values_and_one_trial_are_drawn(tmp_path: Path) -> None:
    assert "<circle" in page(tmp_path, trial(1, state="done", value=1.0, step=1, steps=1))
