"""What a model's config and DeepSpeed tell of a run without a cluster. What needs no weights imports no torch."""

from __future__ import annotations

from typing import Any

from medray.config import Config
from medray.config.check import check_model_config
from medray.config.check_method import check_architecture
from medray.config.peft import LOW_RANK_TYPES
from medray.models.architecture import architecture, model_config

SOME_STEPS = 1_000_000  # of a schedule that does not matter where only names do


def check_model(config: Config) -> None:
    """Raises InputError for what the workers would refuse, before a cluster is started or joined."""
    model = checked_model(config)
    from medray.train.deepspeed_keys import check_deepspeed_keys
    from medray.train.prepare import precision

    check_names(config, model)
    check_deepspeed_keys(config.train, precision(config, "cpu"))


def checked_model(config: Config) -> dict[str, Any]:
    """The dict of the model's `config.json`. Raises InputError where the run cannot have such a model."""
    model = model_config(config.model, config.data.vocab_size)
    check_model_config(config, model)
    check_architecture(config, seq2seq=architecture(model) == "seq2seq")
    return model


def check_names(config: Config, model: dict[str, Any]) -> None:
    """Raises InputError where the adapter or a group of the optimizer asks for modules that the model has not.

    model: the dict of `config.json`. Only where the config names some: building the skeleton takes seconds.
    """
    peft, groups = config.peft, config.train.optimizer.groups
    named = (
        bool(groups) or peft.type == "ia3" or (peft.type in LOW_RANK_TYPES and peft.targets != "all-linear")
    )
    if not named or config.model.adapter is not None:  # that one brings its own modules
        return
    import torch

    from medray.models.adapters import add_adapter
    from medray.models.load import skeleton
    from medray.train.optimizers import parameter_groups

    plain = peft.model_copy(update={"init_text": None})  # its words have no weights here
    with torch.device("meta"):
        adapted = add_adapter(
            skeleton(model), plain, seq2seq=architecture(model) == "seq2seq", seed=0, total_steps=SOME_STEPS
        )
    parameter_groups(adapted, config.train.optimizer)
