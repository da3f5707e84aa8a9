"""The memory of trials that run at the same time without GPUs: on a node, it adds up."""

from __future__ import annotations

from medray.config import Config
from medray.data.shards.token_split import TokenSet
from medray.errors import InputError
from medray.plan.memory import gigabytes
from medray.plan.model_config import ModelDescription
from medray.plan.resources import Supply, plural
from medray.train.driver.memory_check import MemoryCheck
from medray.train.prepare import Resources, precision
from medray.tune.share import Share


def check_together(
    config: Config, model: ModelDescription, have: Supply, share: Share, tokens: TokenSet
) -> None:
    """Raise InputError if one trial fits into the memory of a node, but not the trials that would share it.

    config: of one trial. tokens: its training shards, of which the first one exists. Rows of mean length count, as in the
    check of one run. What cannot be computed is not checked.
    """
    if share.gpus or share.concurrent == 1:
        return
    granted = Resources(share.workers, share.cpus, share.gpus, share.threads)
    found = MemoryCheck.of(config, model, have, granted, precision(config, granted.device), tokens)
    if found is None or found.given.host_memory is None:
        return
    node = max(have.nodes, key=lambda each: each.memory_bytes)
    workers = min(share.concurrent * share.workers, max(1, int(node.cpus / share.cpus)))
    trials, each = -(-workers // share.workers), found.usual.on_node(min(share.workers, workers))
    most = node.memory_bytes // each
    if trials <= most or most < 1:  # a trial that does not fit alone says so itself
        return
    raise InputError(
        f"by computation, {plural(trials, 'trial')} on one node need {gigabytes(trials * each)} GB of memory, "
        f"{gigabytes(each)} GB each, but the node has {gigabytes(node.memory_bytes)} GB",
        key="tune.concurrent",
        value=share.concurrent,
        fix=f"set tune.concurrent: {most}",
    )
