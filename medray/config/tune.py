"""The section `tune`: a search over keys of the config, for `medray tune`.

A space names dotted keys and how each is drawn. A configuration is the values of one draw, by key; it is tried once per
seed, and each try is a trial: a whole run in the folder `<run.name>.trial-0007`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from medray.config.section import Section, key
from medray.errors import InputError

if TYPE_CHECKING:
    from medray.config.schema import Config

SEARCHED = ("model", "data", "method", "peft", "train")  # sections whose keys may be searched
SPACE = "tune.space"
_KINDS = ("uniform", "loguniform", "randint", "choice", "grid")
_LARGEST_SPACE = 64  # keys


class Draw(Section):
    """The way in which the values of one key are drawn: exactly one of five."""

    uniform: tuple[float, float] | None = key(None, "[low, high]: any number in between.")
    loguniform: tuple[float, float] | None = key(
        None, "[low, high], above 0: any number in between, each power of ten as likely as another."
    )
    randint: tuple[int, int] | None = key(None, "[low, high]: a whole number in between, both included.")
    choice: tuple[Any, ...] | None = key(None, "One of these values.")
    grid: tuple[Any, ...] | None = key(
        None, "Each of these values, with every combination of the other keys (searcher: grid)."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Draw:
        given = [name for name in _KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of {', '.join(_KINDS)}, not {len(given)}",
                "write a range or a list, as in {loguniform: [1e-5, 1e-3]} or {choice: [4, 8]}",
            )
        if self.bounds:
            low, high = self.bounds
            if low >= high:
                raise ValueError("the first number must be below the second", "swap them, or use choice")
            if self.kind == "loguniform" and low <= 0:
                raise ValueError(
                    "a logarithmic range must be above 0", "use a low end such as 1e-6, or uniform"
                )
        elif not self.values:
            raise ValueError("the list is empty", "use a list of values, as in [4, 8, 16]")
        elif any(value in self.values[:number] for number, value in enumerate(self.values)):
            raise ValueError("a value is listed twice", "list each value once")
        return self

    @model_serializer(mode="wrap")
    def _only_given(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = written(self)
        return {name: value for name, value in tree.items() if value is not None}

    @property
    def kind(self) -> str:
        return next(name for name in _KINDS if getattr(self, name) is not None)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return the ends of a range; None for a list."""
        return self.uniform or self.loguniform or self.randint

    @property
    def values(self) -> tuple[Any, ...]:
        """Return the values of a list; () for a range."""
        return self.choice or self.grid or ()


class TuneConfig(Section):
    """A search over keys of this config, for `medray tune`."""

    space: dict[str, Draw] = key(
        {},
        "Keys that are searched, such as {method.alpha: {uniform: [0.1, 0.9]}, peft.rank: {choice: [4, 8]}}, of the "
        f"sections {', '.join(SEARCHED)}.",
    )
    metric: str = key("loss", "Metric of evaluations that is compared (loss, rougeL, entity_f1, …).")
    mode: Literal["min", "max"] | None = key(
        None, "Whether a lower or a higher metric is better; default: by the metric's name."
    )
    trials: int | None = key(
        None,
        "Number of configurations that are tried; default: 10, or the whole grid. A higher number continues a finished "
        "search.",
        ge=1,
        le=9999,
        resumable=True,
    )
    searcher: Literal["random", "grid", "tpe"] | None = key(
        None,
        "random: independent draws. grid: every combination. tpe: draws where earlier trials were good (Optuna). Default: "
        "grid if every key has a grid, else random.",
    )
    scheduler: Literal["none", "asha", "median"] = key(
        "none",
        "Which trials are stopped early, by evaluations during training. asha: all but the best third at 10 % and at 30 % "
        "of the run. median: those that are worse than the median of the others.",
        resumable=True,
    )
    concurrent: int | None = key(
        None,
        "Largest number of trials at the same time; default: as many as the cluster holds.",
        ge=1,
        resumable=True,
    )
    seeds: int = key(
        1,
        "Trials per configuration, with run.seed, run.seed + 1, …; configurations are compared by their mean.",
        ge=1,
        le=100,
    )
    keep_exports: int | None = key(
        3,
        "Number of best trials whose exports and checkpoints are kept; null: those of all trials.",
        ge=1,
        resumable=True,
    )
    max_seconds: float | None = key(
        None,
        "Time limit of the search, over all starts: then running trials are saved, and no other begins.",
        gt=0,
        resumable=True,
    )
    max_gpu_hours: float | None = key(
        None, "Limit of the GPU-hours of all trials together, with the same effect.", gt=0, resumable=True
    )

    @field_validator("space", mode="before")
    @classmethod
    def _flat(cls, value: object) -> object:
        """Join nested keys, so that `peft: {rank: {choice: […]}}` is the same as `peft.rank: {choice: […]}`."""
        if not isinstance(value, dict):
            return value
        flat = dict(_draws(value))
        if plain := [dotted for dotted, draw in flat.items() if not isinstance(draw, dict | Draw)]:
            raise ValueError(
                f"{plain[0]} has a value, not a way to draw values",
                f"set {SPACE}.{plain[0]}: {{choice: [{flat[plain[0]]}]}}",
            )
        if len(flat) > _LARGEST_SPACE:
            raise ValueError(f"a space has at most {_LARGEST_SPACE} keys")
        return flat

    @model_validator(mode="after")
    def _searcher_fits(self) -> TuneConfig:
        if not self.space:
            raise ValueError(
                "the space is empty, so there is nothing to search",
                "set tune.space, as in {train.optimizer.lr: {loguniform: [1e-5, 1e-3]}}",
            )
        ranges = [name for name, draw in self.space.items() if draw.bounds]
        if self.searcher == "grid" and ranges:
            raise ValueError(
                f"a grid needs a list of values for every key, and {ranges[0]} has a range",
                f"set {SPACE}.{ranges[0]}: {{grid: […]}}, or tune.searcher: random",
            )
        grids = [name for name, draw in self.space.items() if draw.kind == "grid"]
        if self.how != "grid" and grids:
            raise ValueError(
                f"{grids[0]} has a grid, and values are drawn at random here",
                f"set {SPACE}.{grids[0]}: {{choice: […]}}, or give every key a grid",
            )
        return self

    @property
    def how(self) -> Literal["random", "grid", "tpe"]:
        """Return the searcher, with its default filled in."""
        if self.searcher is not None:
            return self.searcher
        return "grid" if all(draw.kind == "grid" for draw in self.space.values()) else "random"

    @property
    def lower_is_better(self) -> bool:
        from medray.config.eval import lower_is_better

        return lower_is_better(self.metric) if self.mode is None else self.mode == "min"


def _draws(tree: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        dotted = f"{above}.{name}" if above else str(name)
        nested = isinstance(value, dict) and value and not set(value) & set(_KINDS)
        if nested and dotted.count(".") < 8 and all(isinstance(each, dict) for each in value.values()):
            yield from _draws(value, dotted)
        else:
            yield dotted, value


def checked_space(config: Config, absolute: Callable[[Config], Config]) -> Config:
    """Return a config whose space has been checked against the schema, with absolute paths in its lists.

    absolute: makes the paths of a config absolute. Each value of a list and both ends of a range are tried by themselves.
    Raises InputError that names the key of the space.
    """
    tune = config.tune
    if tune is None:
        return config
    if config.stages:
        raise InputError(
            "a search cannot have stages: a trial is one run",
            key="stages",
            fix="remove stages, and search the key of one stage in a config of its own",
        )
    plain = config.model_copy(update={"tune": None})
    draws = {}
    for dotted, draw in tune.space.items():
        _check_section(dotted)
        tried = [_tried(plain, dotted, value, draw.kind, absolute) for value in draw.bounds or draw.values]
        draws[dotted] = draw if draw.bounds else draw.model_copy(update={draw.kind: tuple(tried)})
    return config.model_copy(update={"tune": tune.model_copy(update={"space": draws})})


def _check_section(dotted: str) -> None:
    section = dotted.partition(".")[0]
    if section in SEARCHED:
        return
    from medray.config.explain import nearest
    from medray.config.schema import Config

    known = section in Config.model_fields
    raise InputError(
        f"keys of {section} cannot be searched" if known else "there is no such key",
        key=f"{SPACE}.{dotted}",
        fix=f"use keys of {', '.join(SEARCHED)}" if known else nearest(dotted.split(".")),
    )


def _tried(plain: Config, dotted: str, value: Any, kind: str, absolute: Callable[[Config], Config]) -> Any:
    """Return a value of a key as the config has it: with absolute paths. Raises InputError if the key refuses it."""
    try:
        made = absolute(plain.override({dotted: value}))
    except InputError as error:
        where = f"{SPACE}.{error.key or dotted}"
        shown = error.value if error.value is not None else _short(value)
        whole = kind in ("uniform", "loguniform") and error.what == "expected a whole number"
        fix = f"use {SPACE}.{dotted}: {{randint: [low, high]}}" if whole else error.fix
        raise InputError(error.what, file=error.file, key=where, value=shown, fix=fix) from None
    tree: Any = made.model_dump(mode="json", exclude_unset=True)
    for name in dotted.split("."):
        tree = tree[name]
    return value if isinstance(value, float | int) else tree


def _short(value: Any) -> Any:
    return value if isinstance(value, float | int | str) else None


def configured(config: Config, values: Mapping[str, Any], seed: int, name: str) -> Config:
    """Return the config of one trial: the search's config with the values of its configuration.

    Raises InputError if the values do not fit together.
    """
    plain = config.model_copy(update={"tune": None})
    return plain.override({**values, "run.seed": seed, "run.name": name})


def keys_with(draws: Mapping[str, Draw], sections: Sequence[str]) -> tuple[str, ...]:
    """Return the searched keys that are in some sections."""
    return tuple(dotted for dotted in draws if dotted.partition(".")[0] in sections)
