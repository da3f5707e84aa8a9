"""Checks of a run that need its model's config and DeepSpeed, but no cluster. Those without weights import no torch."""

from __future__ import annotations

from typing import Any

from medray.config import Config
from medray.config.checks import check_model_config
from medray.config.checks.data import check_data
from medray.config.checks.method import check_architecture
from medray.config.peft import LOW_RANK_TYPES
from medray.plan.model_config import architecture, auto_class, model_config

SOME_STEPS = 1_000_000  # of a schedule that does not matter where only names do


def check_model(config: Config) -> None:
    """Raise InputError for what the workers would refuse. Needs no cluster, so it runs while one starts."""
    model = checked_model(config)
    from medray.models.weights import check_weights
    from medray.train.engine.deepspeed_keys import check_deepspeed_keys
    from medray.train.prepare import precision

    check_weights(config.model, model)
    check_names(config, model)
    check_deepspeed_keys(config.train, precision(config, "cpu"))


def checked_model(config: Config) -> dict[str, Any]:
    """The dict of the model's `config.json`. Raises InputError where the run cannot have such a model."""
    model = model_config(config.model, config.data.vocab_size)
    check_model_config(config, model)
    auto_class(model)
    seq2seq = architecture(model) == "seq2seq"
    check_architecture(config, seq2seq=seq2seq)
    check_data(config, seq2seq=seq2seq)
    return model


def check_names(config: Config, model: dict[str, Any]) -> None:
    """Raises InputError where the adapter or a group of the optimizer asks for modules that the model has not.

    model: the dict of `config.json`. Only where the config names some: building the skeleton takes seconds.
    """
    peft, groups = config.peft, config.train.optimizer.groups
    named = (
        bool(groups) or peft.type == "ia3" or (peft.type in LOW_RANK_TYPES and peft.targets != "all-linear")
    )
    start = config.model.adapter  # brings its own modules
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
