"""The config as text for another machine, and the check that this other machine can read the paths in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from medray.config import Config
from medray.config.data import TEMPLATE_FILES
from medray.config.loading.load import is_url, looks_like_path
from medray.config.loading.yaml_text import write
from medray.config.run import begin_of
from medray.config.stages import StageConfig, checkable, stage_configs
from medray.config.tune import SPACE
from medray.errors import InputError


def config_text(config: Config) -> str:
    """Return the given keys, site values and overrides as YAML for `medray train`, with all paths absolute."""
    return write(config.model_dump(mode="json", exclude_unset=True))


def without_unused_root(config: Config) -> Config:
    """Return the config without data.root where no published corpus is read: all other paths are absolute.

    `read` sets data.root to the folder of the config, which other machines need not have.
    """
    if any(_reads_root(each) for each in (config, *_stages(config))):
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"root": None})})


def paths(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, path) for every path that the run, or a stage of it, will read or write; each path once."""
    found: dict[str, str] = {}
    for key, path in _own_paths(config):
        found.setdefault(path, key)
    for number, (stage, each) in enumerate(zip(config.stages, _stages(config), strict=True), 1):
        for key, path in _own_paths(each):
            # data.root is given at the top level, but its corpora may be read by this stage only.
            if key == "data.root" or _sets(stage, key):
                found.setdefault(path, f"stages.{number}.{key}")
    for searched, key, path in _searched_paths(config):
        if key.startswith(searched):
            found.setdefault(path, f"{SPACE}.{searched}")
    yield from ((key, path) for path, key in found.items())


def _searched_paths(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield (searched key, key, path) for every value of a list that a search tries."""
    if config.tune is None:
        return
    plain = config.model_copy(update={"tune": None})
    for searched, draw in config.tune.space.items():
        for value in draw.values if searched.partition(".")[0] in ("data", "model") else ():
            yield from ((searched, *each) for each in _own_paths(plain.override({searched: value})))


def _sets(stage: StageConfig, key: str) -> bool:
    section, name = key.split(".")[:2]
    return name.partition("[")[0] in stage.tree().get(section, {})


def _stages(config: Config) -> tuple[Config, ...]:
    return checkable(stage_configs(config)) if config.stages else ()


def _reads_root(config: Config) -> bool:
    return config.data.dataset not in (None, "clinic")


def _own_paths(config: Config) -> Iterator[tuple[str, str]]:
    yield "run.storage", config.run.storage
    data = config.data
    for split in ("train", "validation"):
        for number, source in enumerate(getattr(data, split)):
            if not (source.format == "huggingface" and not Path(source.path).is_absolute()):
                yield f"data.{split}[{number}].path", source.path
    for file in data.decontaminate:
        yield "data.decontaminate", file
    if data.split.validation_ids is not None:
        yield "data.split.validation_ids", data.split.validation_ids
    if _reads_root(config) and data.root:
        yield "data.root", data.root
    if data.template.endswith(TEMPLATE_FILES):
        yield "data.template", data.template
    if (start := config.run.begin_from) is not None:
        yield "run.begin_from", start if is_url(start) else begin_of(start)[0]
    for key, name in (("model.name", config.model.name), ("model.adapter", config.model.adapter)):
        if name and (looks_like_path(name) or is_url(name)):
            yield key, name


def check_seen(config: Config, seen: Callable[[str], bool], *, where: str, fix: str) -> None:
    """Raise InputError for the first path in the config that the cluster cannot read. URLs are readable everywhere.

    seen: function that says whether the cluster can read an absolute path. where: name of the cluster for messages.
    fix: an instruction, in addition to the use of a bucket.
    """
    for key, path in paths(config):
        if is_url(path) or seen(path):
            continue
        bucket = "s3://bucket/prefix" if key == "run.storage" else f"s3://bucket/{Path(path).name}"
        raise InputError(
            f"{path} is a path on this machine, which {where} cannot read",
            key=key,
            fix=f"override this key, for example with {key.replace('[0].path', '')}={bucket}; {fix}",
        )
