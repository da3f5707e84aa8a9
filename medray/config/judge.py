"""The file of `medray judge`: the items, the two judges, and where their verdicts are kept."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from medray.config.backends import BackendConfig
from medray.config.loading.load import looks_like_path
from medray.config.loading.own_file import path_near_file, read_own
from medray.config.section import Section, key


class JudgeBackendConfig(BackendConfig):
    """One judge: a backend with a name."""

    name: str = key(..., "Name of the judge in files and reports.", pattern=r"^[A-Za-z0-9_.-]{1,40}$")
    json_schema: bool = key(False, "Send the schema of a verdict, for servers that make the model obey one.")


class JudgeColumnsConfig(Section):
    """Names of the fields of an item. The defaults fit the files of `medray predict`."""

    id: str = key("id", "Field with the id of an item.")
    input: str | None = key(None, "Field with the task; null: input, prompt or question.")
    answer: str | None = key(
        None, "Field with the answer to judge, text or a list; null: answer, answers or prediction."
    )
    gold: str | None = key(
        None, "Field with the right answer, which may be absent; null: gold, reference or label."
    )
    gold_verdict: str = key("gold_verdict", "Field with the right verdict, which may be absent.")


class JudgeConfig(Section):
    """Dual review: two judges decide independently, and people decide where they differ."""

    items: str = key(..., "JSON lines file with the items to judge.")
    folder: str = key(..., "Folder for verdicts, queue and report.")
    holds: Literal["records", "synthetic"] = key(
        "records",
        "The kind of text in the items: records (about real patients, or yours) or synthetic (invented).",
    )
    columns: JudgeColumnsConfig = key(JudgeColumnsConfig(), "Names of the fields of an item.")
    judges: tuple[JudgeBackendConfig, ...] = key(..., "The two judges.", min_length=2, max_length=2)
    instruction: str | None = key(None, "The judges' task in your words; null: the built-in text.")
    show_gold: bool = key(False, "Show the judges the right answer.")
    max_new_tokens: int = key(256, "Longest reply of a judge, in tokens.", ge=1, le=100_000)
    tries: int = key(3, "Times a judge is asked until its verdict is readable.", ge=1, le=20)
    budget: float | None = key(
        None, "Most that all starts together may cost, in the currency of the prices; null: no limit.", ge=0
    )
    seed: int = key(0, "Seed of the random part of waits.", ge=0)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if self.judges[0].name == self.judges[1].name:
            raise ValueError(
                f"both judges are called {self.judges[0].name}", "give them different names in judges"
            )
        if self.budget is not None and not any(judge.price for judge in self.judges):
            raise ValueError("no judge has a price, so that no cost is known", "set judges[0].price")
        return self


def read_judge(path: str | Path, overrides: Iterable[str] = ()) -> JudgeConfig:
    """Return the config of a review with absolute paths; relative ones are relative to the folder of the file.

    Raises InputError as `read_own` does.
    """
    config = read_own(JudgeConfig, path, overrides)
    judges = []
    for number, judge in enumerate(config.judges):
        where, changes = f"judges[{number}]", {}
        if judge.file is not None:
            changes["file"] = path_near_file(judge.file, path, f"{where}.file")
        name = judge.model or ""
        if judge.type == "local" and (
            looks_like_path(name) or os.path.isdir(Path(path).resolve().parent / name)
        ):
            changes["model"] = path_near_file(name, path, f"{where}.model")
        judges.append(judge.model_copy(update=changes))
    return config.model_copy(
        update={
            "items": path_near_file(config.items, path, "items"),
            "folder": path_near_file(config.folder, path, "folder"),
            "judges": tuple(judges),
        }
    )
