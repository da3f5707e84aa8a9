"""What a YAML may say: one pydantic model a section, one file each. Imports neither torch nor Ray."""

from __future__ import annotations

from pydantic import Field

from medray.config.cluster import ClusterConfig
from medray.config.data import DataConfig
from medray.config.eval import EvalConfig
from medray.config.launch import LaunchConfig
from medray.config.method import MethodConfig
from medray.config.model import ModelConfig
from medray.config.peft import PeftConfig
from medray.config.run import RunConfig
from medray.config.section import Section
from medray.config.tracking import TrackingConfig
from medray.config.train import TrainConfig

__all__ = ["Config", "Section"]


class Config(Section):
    """One run. Everything has a default; a recipe states what differs."""

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
