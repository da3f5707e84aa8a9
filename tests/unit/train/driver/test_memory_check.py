"""The check of peak memory before a run starts: a refusal on CPUs, a warning on GPUs, the micro-batch of the plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from recipes import MODELS

from medray.config import Config
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError
from medray.plan.model_config import ModelDescription
from medray.plan.resources import NodeSupply, Supply
from medray.train.checks import check_batch
from medray.train.driver.memory_check import MemoryCheck, lengths_of_shard
from medray.train.prepare import Resources
from medray.train.run_folder.changes import recorded_rows
from medray.train.run_folder.claim import claim
from medray.train.run_folder.files import DATA

LLAMA_8B = ModelDescription(MODELS["meta-llama/Meta-Llama-3-8B-Instruct"], "causal", None)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return tiny.token_set(tmp_path_factory.mktemp("rows"), tiny.rows(30), tasks=("label",))


def check(
    tokens: TokenSet, node: NodeSupply, granted: Resources, precision: str = "bf16", **train: Any
) -> MemoryCheck | None:
    config = Config.model_validate({"train": {"global_batch_size": 64, **train}})
    return MemoryCheck.of(config, LLAMA_8B, Supply.of(node), granted, precision, tokens)


def on_cpu(gigabytes: float) -> tuple[NodeSupply, Resources]:
    return NodeSupply(8.0, 0.0, int(gigabytes * 1e9)), Resources(1, 7.0, 0, 8)


def on_gpu(name: str, count: int = 8) -> tuple[NodeSupply, Resources]:
    return NodeSupply(64.0, float(count), 10**12, name), Resources(count, 1.0, 1, 8)


def test_cpus_refuse_what_cannot_fit_and_force_warns(tokens: TokenSet) -> None:
    small = check(tokens, *on_cpu(130), "fp32")  # the states are 129 GB
    assert small is not None
    with pytest.raises(InputError) as error:
        small.check(force=False)
    assert "1 worker on one node need" in str(error.value)
    assert "but the node has 130 GB" in str(error.value)
    assert "--force" in str(error.value.fix)
    warning = small.check(force=True)
    assert warning is not None
    assert "130 GB" in warning
    large = check(tokens, *on_cpu(400), "fp32")
    assert large is not None
    assert 129e9 < large.peak_bytes(1) <= large.peak_bytes(64) < 400e9
    assert large.check(force=False) is None


def test_gpus_warn(tokens: TokenSet) -> None:
    full = check(tokens, *on_gpu("A100-40G"), zero_stage=0)
    assert full is not None
    warning = full.check(force=False)
    assert warning is not None
    assert "a A100-40GB has 42.5 GB" in warning
    assert "To change that: set train.zero_stage=" in warning
    fits = check(tokens, *on_gpu("H100"), zero_stage=3)
    assert fits is not None
    assert fits.check(force=False) is None


def test_nothing_is_said_where_nothing_is_known(tokens: TokenSet) -> None:
    assert check(tokens, *on_gpu("Voodoo")) is None
    assert check(tokens, *on_cpu(0), "fp32") is None
    config = Config.model_validate({})
    mamba = ModelDescription({"model_type": "mamba"}, "causal", None)
    node, granted = on_cpu(100)
    assert MemoryCheck.of(config, mamba, Supply.of(node), granted, "fp32", tokens) is None


def test_only_gpus_get_the_micro_batch_of_the_plan(tokens: TokenSet, tmp_path: Path) -> None:
    def rows(found: MemoryCheck | None) -> int | None:
        assert found is not None
        return found.rows(tmp_path)

    assert rows(check(tokens, *on_cpu(400), "fp32")) is None
    assert rows(check(tokens, *on_gpu("H100"), zero_stage=3)) == 8  # short rows: as without a plan
    assert rows(check(tokens, *on_gpu("H100"), zero_stage=3, micro_batch_size=2)) is None
    assert rows(check(tokens, *on_gpu("H100"), zero_stage=3, gradient_accumulation_steps=2)) is None
    assert rows(check(tokens, *on_gpu("T4"), zero_stage=0)) == 1  # nothing fits: the least


def test_the_micro_batch_suits_every_number_of_workers(tokens: TokenSet, tmp_path: Path) -> None:
    """8 rows on 2 workers are 4 for each; on 3 workers, micro-batches of 4 rows would leave one row empty everywhere."""
    config = Config.model_validate({"train": {"global_batch_size": 8}, "cluster": {"workers": [2, 3]}})
    found = []
    for kind in ("B200", "T4"):
        node, granted = on_gpu(kind, 2)
        one = MemoryCheck.of(config, LLAMA_8B, Supply.of(node), granted, "bf16", tokens)
        assert one is not None
        found.append(one.rows(tmp_path))
    assert found == [None, 1]  # all fit; nothing fits
    check_batch(config.override({"train.micro_batch_size": 1}))
    with pytest.raises(InputError):
        check_batch(config.override({"train.micro_batch_size": 4}))


def test_a_run_keeps_the_rows_that_it_began_with(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"run": {"storage": str(tmp_path), "name": "kept"}, "data": {"train": ["x"]}}
    )
    claim(config, "/tokens/a/train", "bf16", 1, lambda note: None, rows=4)
    data = tmp_path / "kept" / DATA
    assert recorded_rows(data) == 4
    claim(config, "/tokens/a/train", "bf16", 1, lambda note: None)
    assert recorded_rows(data) is None
    data.write_text(json.dumps({"micro_batch_size": "many"}))
    assert recorded_rows(data) is None


def test_lengths_are_of_the_first_shard(tokens: TokenSet) -> None:
    config = Config.model_validate({})
    found = lengths_of_shard(config, tokens)
    shard = int(tokens.plan(config).shard_order()[0])
    counts = tokens.store().counts(shard, "label", "length")
    assert (found.rows, found.tasks["label"].longest) == (30, int(counts.max()))
    assert found.tasks["label"].length == pytest.approx(float(counts.mean()))
