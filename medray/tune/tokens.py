"""The token shards of a search, made before its first trial: no tokenization takes CPUs from trials that are compared."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator

from medray.config import Config
from medray.config.tune import configured, keys_with
from medray.data.shards.preparation import Preparation
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError
from medray.plan.model_config import ModelDescription
from medray.train.checks import describe_model
from medray.train.driver import data_phase
from medray.train.driver.observer import Observer
from medray.tune.checks import known_points, tune_of
from medray.tune.points import Point

Prepared = Callable[[Config, ModelDescription, TokenSet], None]
DECIDE_TOKENS = ("data", "model", "method")  # sections that may decide the tokens
MOST_SETS = 256


def prepare_all(config: Config, observer: Observer, prepared: Prepared = lambda *made: None) -> int:
    """Write the shards of every token set that the known configurations need, and return the number of sets.

    With tpe, later configurations are not known: all combinations of listed values are prepared, with the low ends of
    ranges. A configuration that cannot be used is left to its trial, which fails with the message.
    prepared: called with the config, model and training shards of each set. Its errors end the search.
    Raises StoppedError if `observer` does.
    """
    made: set[str] = set()
    refused: InputError | None = None
    for each in _distinct(config):
        try:
            model = describe_model(each)
            folder = str(Preparation(each, model.architecture, model.folder).folder)
            if folder in made:
                continue
            encoding = data_phase.prepare(each, model, observer)
            made.add(folder)
        except InputError as error:
            refused = refused or error
            continue
        prepared(each, model, encoding.sets["train"])
    if not made and refused is not None:
        raise refused
    return len(made)


def _distinct(config: Config) -> Iterator[Config]:
    """Yield one config for each combination of values that may have tokens of its own."""
    tune = tune_of(config)
    names = keys_with(tune.space, DECIDE_TOKENS)
    points = known_points(config) or _combinations(config)
    seen: set[str] = set()
    for point in points:
        for seed in range(config.run.seed, config.run.seed + tune.seeds):
            known = json.dumps([seed, [point[name] for name in names]])
            if known in seen or len(seen) >= MOST_SETS:
                continue
            seen.add(known)
            try:
                yield configured(config, point, seed, f"{config.run.name}.trial-0001")
            except InputError:
                continue


def _combinations(config: Config) -> list[Point]:
    space = tune_of(config).space
    values = [draw.bounds[:1] if draw.bounds else draw.values for draw in space.values()]
    return [
        dict(zip(space, each, strict=True))
        for each in itertools.islice(itertools.product(*values), 16 * MOST_SETS)
    ]
