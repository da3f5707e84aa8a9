"""The whole config of a run: its sections, and changed copies of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from medray.config.cluster import ClusterConfig
from medray.config.data import DataConfig
from medray.config.eval import EvalConfig
from medray.config.launch import LaunchConfig
from medray.config.method import MethodConfig
from medray.config.model import ModelConfig
from medray.config.peft import PeftConfig
from medray.config.run import RunConfig
from medray.config.section import Section, key
from medray.config.stages import StageConfig
from medray.config.tracking import TrackingConfig
from medray.config.train import TrainConfig
from medray.config.tune import TuneConfig


class Config(Section):
    """The config of one run. Every key has a default; a recipe states the differences."""

    run: RunConfig = Field(default_factory=RunConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    method: MethodConfig = Field(default_factory=MethodConfig)
    peft: PeftConfig = Field(default_factory=PeftConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    launch: LaunchConfig = Field(default_factory=LaunchConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    stages: tuple[StageConfig, ...] = key(
        (), "Runs one after the other, each on the weights of the one before; see docs/stages.md."
    )

    tune: TuneConfig | None = key(
        None, "A search over keys of this config, for `medray tune`; see docs/tune.md."
    )

    def override(self, values: Mapping[str, Any]) -> Config:
        """Return a validated copy with other values, such as `config.override({"train.max_steps": 10})`.

        values: dotted keys with values as in a YAML file; a later key wins, and a section takes a dict of all its keys.
        Keys that were not given in this config keep their defaults and count as not given in the copy. Paths are not
        changed: relative paths belong to the working directory, not to the folder of a config file.
        Raises InputError that names the key, as `read` does.
        """
        from medray.config.loading.load import (
            overridden,  # imported here, because it needs this class to explain errors
        )

        return overridden(self, values)
