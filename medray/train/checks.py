"""The checks of a run that need no cluster: of its config, workers, batch, data and model."""

from __future__ import annotations

import os
from typing import Any

from medray.config import Config
from medray.config.checks import check as check_config
from medray.config.checks import check_model_config
from medray.config.checks.data import check_data
from medray.config.checks.method import check_architecture
from medray.config.peft import LOW_RANK_TYPES
from medray.errors import InputError
from medray.plan.model_config import ModelDescription, architecture, auto_class, describe

SOME_STEPS = 1_000_000  # length of a schedule that does not matter, because only names are checked


def check(config: Config, *, elsewhere: bool = False, data: bool = True, model: bool = True) -> None:
    """Raise InputError for the first thing in `config` that cannot work.

    elsewhere: the run joins a cluster that this machine does not know, so whether its workers fit is left to the run.
    data: whether this machine sees the files of the data. model: whether to look at the model too: its own config, its
    weights and its modules. That may ask a model hub and imports torch; the other checks take a moment.
    """
    check_config(config)
    if not elsewhere:
        check_workers(config)
    check_batch(config)
    if data:
        from medray.data.index.sources import (
            check_sources,  # imports NumPy, which a wrong key need not wait for
        )

        check_sources(config)
    if model:
        if config.run.begin_from is not None:
            from medray.train.run_folder.begin_from import beginning  # imports torch

            beginning(config)
        check_weights_and_names(config, describe_model(config))


def refuse_search(config: Config) -> None:
    """Raise InputError for the config of a search: a run would train its own values and ignore the space."""
    if config.tune is not None:
        raise InputError(
            "this config is a search, and a run would ignore its space",
            key="tune",
            fix="run medray tune with it, or add tune=null to train its own values",
        )


def check_workers(config: Config) -> None:
    """Raise InputError if a cluster on this machine alone cannot hold the workers."""
    from medray.plan.resources import Request, Supply, shortage

    cluster = config.cluster
    cpus = max(os.cpu_count() or 1, 2)  # the command line starts a cluster with at least 2
    if lack := shortage(Request(cluster.fewest_workers, cluster.cpus_per_worker), Supply(cpus=cpus)):
        raise InputError(lack.what, key="cluster.workers", value=cluster.workers, fix=lack.fix)


def check_batch(config: Config) -> None:
    """Raise InputError if some number of workers that the run may have cannot hold the global batch."""
    from medray.plan.steps import split_batch

    train, cluster = config.train, config.cluster
    if train.global_batch_tokens is not None:
        return
    for workers in range(cluster.fewest_workers, cluster.most_workers + 1):
        split_batch(
            train.global_batch_size, workers, train.micro_batch_size, train.gradient_accumulation_steps
        )


def describe_model(config: Config) -> ModelDescription:
    """Return the description in the model's own config. Raises InputError if the run cannot use such a model."""
    model = describe(config.model, config.data.vocab_size)
    check_model_config(config, model.config)
    auto_class(model.config)
    check_architecture(config, seq2seq=model.seq2seq)
    check_data(config, seq2seq=model.seq2seq)
    return model


def check_weights_and_names(config: Config, model: ModelDescription) -> None:
    """Raise InputError for what the workers would refuse. Imports torch; needs no cluster, so it runs while one starts."""
    from medray.models.weights import check_weights
    from medray.train.engine.deepspeed_keys import check_deepspeed_keys
    from medray.train.prepare import precision

    check_weights(config.model, model.config)
    check_names(config, model.config)
    check_deepspeed_keys(config.train, precision(config, "cpu"))


def check_names(config: Config, model: dict[str, Any]) -> None:
    """Raise InputError if the adapter or a group of the optimizer asks for modules that the model does not have.

    model: the dict of `config.json`. The check runs only if the config names modules: building the skeleton takes seconds.
    """
    peft, groups = config.peft, config.train.optimizer.groups
    named = (
        bool(groups) or peft.type == "ia3" or (peft.type in LOW_RANK_TYPES and peft.targets != "all-linear")
    )
    start = config.model.adapter  # it has its own modules
    if not named and start is None and config.model.init == "pretrained":
        return
    import torch

    from medray.models.adapters import add_adapter
    from medray.models.load import skeleton
    from medray.train.engine.optimizers import parameter_groups

    bare = skeleton(model)
    if not named and start is None:
        return
    plain = peft.model_copy(update={"init_text": None})  # its words have no weights here
    with torch.device("meta"):
        adapted = add_adapter(
            bare,
            plain,
            seq2seq=architecture(model) == "seq2seq",
            seed=0,
            total_steps=SOME_STEPS,
            start=start,
        )
    parameter_groups(adapted, config.train.optimizer)
