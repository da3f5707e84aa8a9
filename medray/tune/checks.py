"""The checks of a search that need no cluster: of its keys, its metric, and the configurations that are known before it begins."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

from medray import train
from medray.config import Config
from medray.config.checks.train import evaluation_metrics
from medray.config.method_specs import spec_of
from medray.config.run import LONGEST_NAME
from medray.config.tune import SPACE, TuneConfig, configured
from medray.errors import InputError
from medray.tune.points import Point, grid_points, label, random_points

DEFAULT_TRIALS = 10
_SAMPLES = 8  # draws that are checked if later ones depend on results
_SAME_LOSS = ("method.loss_norm",)  # keys of the method that do not change the loss of an evaluation
_DECIDE_DATA, _DECIDE_MODEL = ("data.",), ("model.", "peft.", "data.", "train.optimizer.groups")
_SUFFIX = len(".trial-0001")


def tune_of(config: Config) -> TuneConfig:
    """Return the section of the search. Raises InputError if the config has none."""
    if config.tune is None:
        raise InputError(
            "the config has no section `tune`, so there is nothing to search",
            key="tune",
            fix="add tune: {space: {train.optimizer.lr: {loguniform: [1e-5, 1e-3]}}}, or use medray train",
        )
    return config.tune


def known_points(config: Config) -> list[Point]:
    """Return the configurations that are known before the search begins: all of them, except with tpe."""
    tune = tune_of(config)
    if tune.how == "grid":
        return grid_points(tune.space)[: tune.trials]
    if tune.how == "random":
        return random_points(tune.space, tune.trials or DEFAULT_TRIALS, config.run.seed)
    return []


def check(config: Config, **options: Any) -> None:
    """Raise InputError for the first thing in a search that cannot work. options: as `medray.train.check` has them.

    Every configuration of a grid must be one that `medray train` accepts. Of drawn configurations at least one must be;
    the trials of the others fail with their own message.
    """
    tune = tune_of(config)
    _check_search(config, tune)
    refused: InputError | None = None
    accepted = 0
    seen: set[tuple[str, str]] = set()
    for number, point in enumerate(_checkable(config, tune)):
        # The data and the model are the same for most points, and looking at them takes longest.
        files, weights = (
            json.dumps([(name, value) for name, value in point.items() if name.startswith(sections)])
            for sections in (_DECIDE_DATA, _DECIDE_MODEL)
        )
        first = {"data": ("data", files) not in seen, "model": ("model", weights) not in seen}
        try:
            made = configured(config, point, config.run.seed, f"{config.run.name}.trial-0001")
            _check_metric(made, tune)
            train.check(made, **options | {name: options.get(name, True) and first[name] for name in first})
            accepted += 1
            seen |= {("data", files), ("model", weights)}
        except InputError as error:
            if tune.how == "grid":
                raise _of_point(error, point if number else {}, tune) from None
            refused = refused or error
    if not accepted and refused is not None:
        raise _of_point(refused, {}, tune)


def _checkable(config: Config, tune: TuneConfig) -> Iterator[Point]:
    yield from known_points(config) or random_points(tune.space, _SAMPLES, config.run.seed)


def _of_point(error: InputError, point: Point, tune: TuneConfig) -> InputError:
    """Return an error with the configuration that it is about. An error of a searched key names the space."""
    key = error.key
    if key is not None and key in tune.space:
        key = f"{SPACE}.{key}"
    what = f"{error.what} (in the configuration {label(point)})" if point else error.what
    return InputError(what, file=error.file, key=key, value=error.value, fix=error.fix)


def _check_search(config: Config, tune: TuneConfig) -> None:
    cluster, longest = config.cluster, LONGEST_NAME - _SUFFIX
    if len(config.run.name) > longest:
        raise InputError(
            f"the folders of trials add {_SUFFIX} characters, and a name has at most {LONGEST_NAME}",
            key="run.name",
            value=config.run.name,
            fix=f"use at most {longest} characters",
        )
    if config.tracking.register_as is not None:
        raise InputError(
            "a search registers no model, because most of its trials are not meant to be used",
            key="tracking.register_as",
            value=config.tracking.register_as,
            fix="remove the key, and train best.yaml with it afterwards",
        )
    if cluster.fewest_workers != cluster.most_workers:
        raise InputError(
            "trials can only be compared if all of them have the same number of workers",
            key="cluster.workers",
            value=list(cluster.workers) if isinstance(cluster.workers, tuple) else cluster.workers,
            fix=f"set cluster.workers: {cluster.most_workers}",
        )
    if tune.how == "tpe" and importlib.util.find_spec("optuna") is None:
        raise InputError(
            "the package optuna is not installed",
            key="tune.searcher",
            value="tpe",
            fix="run pip install 'medray[tune]', or set tune.searcher: random",
        )
    if tune.scheduler != "none" and config.eval.every_steps is None:
        raise InputError(
            "trials are stopped early by evaluations during training, but there are none",
            key="tune.scheduler",
            value=tune.scheduler,
            fix="set eval.every_steps to about a tenth of the steps, or tune.scheduler: none",
        )


def _check_metric(config: Config, tune: TuneConfig) -> None:
    """Raise InputError if the evaluations of a configuration do not have the metric of the search."""
    metrics = evaluation_metrics(config)
    if tune.metric not in metrics:
        raise InputError(
            "evaluations of this run have no metric of this name",
            key="tune.metric",
            value=tune.metric,
            fix=f"use one of {', '.join(metrics)}; eval.metrics adds others",
        )
    defining = [name for name in tune.space if name.split(".")[0] == "method" and name not in _SAME_LOSS]
    if tune.metric == "loss" and defining:
        raise InputError(
            f"{defining[0]} decides what the loss is, so the losses of two trials cannot be compared",
            key="tune.metric",
            value="loss",
            fix=f"use a metric that means the same in all trials: {', '.join(metrics[1:])}",
        )
    if tune.metric == "loss" and spec_of(config.method).moving_weights:
        raise InputError(
            "alpha changes during training, so the total losses of two evaluations cannot be compared",
            key="tune.metric",
            value="loss",
            fix="set tune.metric: loss_label",
        )
