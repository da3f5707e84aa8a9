"""The memory of trials at the same time: refused with the numbers where one fits and all together do not."""

from __future__ import annotations

import pytest
import tiny
from recipes import MODELS

from medray.config import Config
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError
from medray.plan.model_config import ModelDescription
from medray.plan.resources import NodeSupply, Supply
from medray.tune.memory import check_together
from medray.tune.share import Share

LLAMA_8B = ModelDescription(MODELS["meta-llama/Meta-Llama-3-8B-Instruct"], "causal", None)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return tiny.token_set(tmp_path_factory.mktemp("rows"), tiny.rows(30), tasks=("label",))


def check(tokens: TokenSet, gigabytes: float, concurrent: int, workers: int = 1, gpus: int = 0) -> None:
    config = Config.model_validate(
        {"peft": {"type": "lora"}, "train": {"precision": "bf16", "global_batch_size": 4}}
    )
    node = NodeSupply(16.0, 8.0 * gpus, int(gigabytes * 1e9), "H100" if gpus else "")
    share = Share(concurrent=concurrent, workers=workers, cpus=1.0, gpus=gpus, threads=1)
    check_together(config, LLAMA_8B, Supply.of(node), share, tokens)


def test_trials_that_do_not_fit_together_are_refused_with_the_number_that_does(tokens: TokenSet) -> None:
    check(tokens, 40, 1)
    with pytest.raises(InputError) as refused:
        check(tokens, 40, 4)
    assert refused.value.key == "tune.concurrent"
    assert "4 trials on one node need" in refused.value.what
    assert "the node has 40 GB" in refused.value.what
    assert refused.value.fix is not None
    most = int(refused.value.fix.rpartition(" ")[2])
    assert 1 <= most < 4
    check(tokens, 40, most)
    check(tokens, 400, 4)


def test_a_trial_that_does_not_fit_alone_and_trials_on_gpus_are_left_to_the_run(tokens: TokenSet) -> None:
    check(tokens, 5, 4)
    check(tokens, 40, 4, gpus=1)


def test_workers_of_a_trial_count_together(tokens: TokenSet) -> None:
    with pytest.raises(InputError, match="2 trials on one node"):
        check(tokens, 70, 2, workers=2)
