"""How long a run is, what one of its steps holds, and in which forwards: by each key of `train` that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from recorder import Rank, Recorder

from medray.config import Config
from medray.train.driver.data_phase import Encoding, steps


class Watch:
    def phase(self, name: str, detail: str = "") -> None: ...
    def beat(self) -> None: ...


@pytest.mark.parametrize(
    ("train", "wanted"),
    [
        ({}, 3),  # 23 rows in batches of 8
        ({"epochs": 2.5}, 8),
        ({"max_steps": 7}, 7),
        ({"max_steps": 7, "epochs": 2.5}, 7),
        ({"global_batch_size": 5}, 5),
    ],
)
def test_the_number_of_steps(train: dict[str, Any], wanted: int, tmp_path: Path) -> None:
    encoding = Encoding({"train": tiny.token_set(tmp_path, tiny.rows(23))})
    config = Config.model_validate({"method": {"name": "distill"}, "train": train})
    assert steps(config, encoding, Watch()) == wanted


def ran(
    folder: Path, name: str, layer: str = "", steps: int = 1, **train: Any
) -> tuple[list[dict[str, Any]], list[int]]:
    """(records, rows of each forward) of a run of distillation. layer: the module that is looked at; default: all."""
    tokens = tiny.token_set(folder, tiny.rows(23))
    plan = tiny.plan(
        folder / name, tokens, "llama-tiny", workers=1, max_steps=steps, train={"zero_stage": 0} | train
    )
    recorder, rows = Recorder(), []
    running = Rank(plan, recorder)

    def seen(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows.append(len(named["input_ids"] if "input_ids" in named else inputs[0]))

    running.built.engine.model.get_submodule(layer).register_forward_pre_hook(seen, with_kwargs=True)
    running.run()
    return recorder.steps, rows


@pytest.mark.parametrize(
    ("train", "rows"),
    [
        ({}, [8]),
        ({"micro_batch_size": 3}, [3, 3, 3]),
        ({"gradient_accumulation_steps": 2}, [4, 4]),
        ({"global_batch_size": 4}, [4]),
        ({"global_batch_size": 12}, [6, 6]),
    ],
)
def test_a_step_is_computed_in_so_many_rows_at_once(
    train: dict[str, Any], rows: list[int], tmp_path: Path
) -> None:
    """Rows that fill up the last forward have no weight."""
    (record,), found = ran(tmp_path, "run", **train)
    assert sorted(found) == sorted(2 * rows)  # of labels and of rationales
    assert record["samples"] == train.get("global_batch_size", 8)


@pytest.mark.parametrize("most", [200, 500])
def test_a_step_may_hold_so_many_tokens_in_place_of_rows(most: int, tmp_path: Path) -> None:
    """What a step has left is less than its longest row, with both its texts, which has at most 192."""
    records, _ = ran(tmp_path, "run", steps=3, global_batch_size=None, global_batch_tokens=most)
    assert all(most - 192 < record["tokens"] <= most for record in records)
    assert 0 < records[0]["samples"] < records[1]["samples"] < records[2]["samples"]


def test_recomputed_activations_are_the_same_loss_and_twice_the_forwards(tmp_path: Path) -> None:
    kept, recomputed = (
        ran(tmp_path, str(again), "model.layers.0.mlp", gradient_checkpointing=again)
        for again in (False, True)
    )
    assert recomputed[0][0]["loss"] == kept[0][0]["loss"]
    assert recomputed[0][0]["grad_norm"] == pytest.approx(kept[0][0]["grad_norm"], rel=1e-5)
    assert len(recomputed[1]) == 2 * len(kept[1])
