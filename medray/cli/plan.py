"""The verb `medray plan`: what a run will cost, whether it fits, and what would."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from medray.errors import InputError

if TYPE_CHECKING:
    from medray.config import Config
    from medray.plan.gpus import Gpus
    from medray.plan.headers import ParameterCount
    from medray.plan.jobs import Lengths
    from medray.plan.model_config import ModelDescription
    from medray.plan.options import Given, Plan

_MOST_ROWS = 12  # numbers of workers in the table of a range


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "plan",
        help="say what a config will cost, whether it fits, and what would",
        description="Compute what a run needs: memory in each phase, the ZeRO stages that fit, time, price and disk. Nothing is "
        "loaded or started; the numbers are computed from config.json and the config, not measured.",
    )
    verb.add_argument("config", help="YAML file")
    verb.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values of dotted keys; later ones take precedence"
    )
    verb.add_argument(
        "--gpus",
        metavar="4x8xH100-80GB",
        help="GPUs to plan for: nodes x GPUs of a node x name, one worker each; without it, the CPUs of this machine, or the "
        "workers of the config on unknown GPUs if cluster.gpus is true",
    )
    verb.add_argument(
        "--cluster",
        action="store_true",
        help="ask the Ray cluster of cluster.address or RAY_ADDRESS what it has",
    )
    verb.add_argument("--price", type=float, help="price of one GPU for an hour")
    verb.add_argument(
        "--efficiency",
        type=float,
        default=0.4,
        help="share of the GPUs' matrix rate that training reaches, for the hours (0.4)",
    )
    verb.add_argument("--json", action="store_true", help="print the plan as one JSON object at the end")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    from medray.config import read
    from medray.stages import checkable_configs

    config = read(arguments.config, arguments.overrides)
    stream = sys.stderr if arguments.json else sys.stdout
    found = []
    for number, each in enumerate(checkable_configs(config)):
        if config.stages:
            gap = "\n" if number else ""
            print(f"{gap}stage {number + 1}, {config.stages[number].name}\n", file=stream)
        try:
            found.append(_show(each, arguments, stream))
        except InputError as error:
            if not config.stages:
                raise
            key = f"stages.{number + 1}" + (f".{error.key}" if error.key else "")
            raise InputError(error.what, file=error.file, key=key, value=error.value, fix=error.fix) from None
    if arguments.json:
        print(json.dumps({"stages": found} if config.stages else found[0]))
    return 0


def _show(config: Config, arguments: argparse.Namespace, stream: TextIO) -> dict[str, Any]:
    """Print the plan of one run, and return it as JSON values."""
    from medray.plan.show import as_json, lines, range_rows, table

    given = _given(config, arguments)
    plans = [_plan(each) for each in _range(config, given, arguments)]
    if len(plans) > 1:
        print(*table(range_rows(plans)), "", sep="\n", file=stream)
    print(*lines(plans[-1]), sep="\n", file=stream)
    found = as_json(plans[-1])
    return found | {"range": [as_json(one) for one in plans]} if len(plans) > 1 else found


def _check(arguments: argparse.Namespace) -> None:
    if arguments.price is not None and not 0 <= arguments.price < math.inf:
        raise InputError(
            "must be a number that is not negative",
            key="--price",
            value=arguments.price,
            fix="use --price 2.5",
        )
    if not 0 < arguments.efficiency <= 1:
        raise InputError(
            "must be above 0 and at most 1",
            key="--efficiency",
            value=arguments.efficiency,
            fix="use --efficiency 0.4",
        )
    if arguments.gpus and arguments.cluster:
        raise InputError("both say which GPUs there are", key="--cluster", fix="remove --gpus or --cluster")


def _given(config: Config, arguments: argparse.Namespace) -> Given:
    """Return everything that the plan is made from: model, lengths, and what there is to run on."""
    from medray.plan.gpus import parse
    from medray.plan.options import Given

    model = _checked_model(config)
    gpus = parse(arguments.gpus) if arguments.gpus else None
    host_memory: int | None = None
    on_gpu, workers = gpus is not None, config.cluster.most_workers
    per_node = gpus.per_node if gpus else max(config.cluster.gpus_per_node or workers, 1)
    if arguments.cluster:
        gpus, host_memory, per_node = _of_cluster(config, workers)
        on_gpu = gpus is not None
    elif gpus is not None:
        workers = gpus.count
    elif config.cluster.gpus or config.cluster.gpus_per_node:
        on_gpu = True
    else:
        host_memory, per_node = _own_memory(), workers
    return Given(
        config=config,
        model=model.config,
        count=_count(config, model),
        lengths=_lengths(config, model),
        precision=_precision(config, on_gpu=on_gpu),
        on_gpu=on_gpu,
        workers=workers,
        gpus=gpus,
        host_memory=host_memory,
        workers_per_node=min(per_node, workers),
        efficiency=arguments.efficiency,
        price=arguments.price,
    )


def _checked_model(config: Config) -> ModelDescription:
    """Return the model's own description. Raises InputError for a config that no machine could train."""
    from medray.config.checks import check, check_model_config
    from medray.config.checks.data import check_data
    from medray.config.checks.method import check_architecture
    from medray.plan.model_config import described_offline

    check(config, planned=True)
    model = described_offline(config.model, config.data.vocab_size)
    check_model_config(config, model.config)
    check_architecture(config, seq2seq=model.seq2seq)
    check_data(config, seq2seq=model.seq2seq, planned=True)
    return model


def _range(config: Config, given: Given, arguments: argparse.Namespace) -> list[Given]:
    """Return the plan's input for each number of workers that the config allows; the last is the largest."""
    from medray.plan.gpus import with_count

    fewest = config.cluster.fewest_workers
    if arguments.gpus or fewest == given.workers:
        return [given]
    numbers = sorted(
        {*range(fewest, given.workers, -(-(given.workers - fewest) // _MOST_ROWS)), given.workers}
    )
    return [
        replace(
            given,
            workers=number,
            workers_per_node=min(given.workers_per_node, number),
            gpus=None if given.gpus is None else with_count(given.gpus, number),
        )
        for number in numbers
    ]


def _plan(given: Given) -> Plan:
    from medray.plan.options import plan

    try:
        return plan(given)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise _unknown(given.config, str(error)) from None


def _unknown(config: Config, what: str) -> InputError:
    return InputError(
        f"the memory of this model cannot be computed ({what})",
        key="model.name",
        value=config.model.name or config.model.preset,
        fix="plan with a model of similar size whose type is known",
    )


def _count(config: Config, model: ModelDescription) -> ParameterCount:
    """Return the parameters of the model. Raises InputError for a model or adapter that the plan cannot count."""
    from medray.plan import adapters, parameters

    kind = str(model.config.get("model_type"))
    if kind not in parameters.DECODERS + parameters.ENCODER_DECODERS:
        known = ", ".join(parameters.DECODERS + parameters.ENCODER_DECODERS)
        raise InputError(
            f"medray plan does not know the layers of a model of the type {kind[:60]!r}",
            key="model.name",
            value=config.model.name,
            fix=f"plan with a model of similar size and of a known type ({known}); medray train needs no plan",
        )
    try:
        count = parameters.from_config(model.config)
    except ValueError as error:
        raise _unknown(config, str(error)) from None
    peft = config.peft
    try:
        adapters.trained(model.config, peft)
    except ValueError as error:
        named = peft.type in ("lora", "adalora")
        raise InputError(
            str(error),
            key="peft.targets" if named else "peft.type",
            value=", ".join(peft.targets)[:200] if named and not isinstance(peft.targets, str) else peft.type,
            fix="use peft.targets: all-linear, or these names"
            if named
            else "use peft.type: lora for the plan",
        ) from None
    return count


def _lengths(config: Config, model: ModelDescription) -> Lengths:
    from medray.plan.jobs import lengths_of_limits

    found = None
    if config.data.train or config.data.dataset:
        from medray.data.inspect.lengths import manifest_lengths, sampled_lengths

        found = manifest_lengths(config, model.architecture, model.folder) or sampled_lengths(
            config, model.architecture, model.folder
        )
    if found is not None:
        return found
    limits = lengths_of_limits(config, seq2seq=model.seq2seq)
    why = "the rows of data.train cannot be read here" if config.data.train else "no data is set"
    return replace(limits, origin=f"{limits.origin} ({why})")


def _precision(config: Config, *, on_gpu: bool) -> str:
    """Return the precision by the rule of a run: `auto` is bf16 on GPUs, and fp32 on CPUs and for AdaLoRA."""
    chosen = config.train.precision
    if chosen != "auto":
        return chosen
    return "bf16" if on_gpu and config.peft.type != "adalora" else "fp32"


def _own_memory() -> int:
    """Return the bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_cluster(config: Config, workers: int) -> tuple[Gpus | None, int, int]:
    """Return the GPUs of the live cluster, the memory of its smallest node that has what a worker needs, and its workers."""
    from medray.cli.cluster import before_import, cluster_address, connect, disconnect

    address = cluster_address(config)
    if address is None:
        raise InputError(
            "no cluster is named",
            key="--cluster",
            fix="set cluster.address or RAY_ADDRESS, or name GPUs with --gpus",
        )
    before_import(address)
    connect(address)
    try:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        disconnect()
    return gpus_of_nodes(nodes, wanted=config.cluster.gpus, workers=workers)


def gpus_of_nodes(
    nodes: list[dict[str, float]], *, wanted: bool | None, workers: int
) -> tuple[Gpus | None, int, int]:
    """Return the kind of GPU of Ray's nodes (None: they have none), the least memory of a node, and workers per node.

    nodes: the resources of each node. wanted: cluster.gpus. Raises InputError for GPUs of an unknown kind.
    """
    from medray.plan.gpus import Gpus, gpu

    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if wanted is False or not with_gpus:
        each = [int(node.get("memory", 0)) for node in nodes if node.get("CPU", 0) >= 1]
        return None, min(each, default=0), -(-workers // max(len(each), 1))
    names = {
        name.partition(":")[2] for node in with_gpus for name in node if name.startswith("accelerator_type:")
    }
    kinds = [gpu(name) for name in names]
    known = [one for one in kinds if one is not None]
    if not known or len(known) < len(kinds):
        raise InputError(
            "the cluster has GPUs that are not in the table",
            key="--cluster",
            value=", ".join(sorted(names)) or None,
            fix="name a similar kind with --gpus instead",
        )
    least = min(known, key=lambda one: one.memory)
    per_node = int(min(node["GPU"] for node in with_gpus))
    memory = min(int(node.get("memory", 0)) for node in with_gpus)
    nodes_needed = -(-workers // per_node)
    return (
        Gpus(gpu=least, nodes=nodes_needed, per_node=min(per_node, workers)),
        memory,
        min(per_node, workers),
    )
