"""The verb `medray launch`: run a config on a job server, SLURM or Kubernetes."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray.errors import InputError

if TYPE_CHECKING:
    from medray.config import Config

TARGETS = {
    "job": "on a running Ray cluster, as a job of its job server",
    "slurm": "on a SLURM cluster, with sbatch",
    "k8s": "on Kubernetes, as a RayJob of the KubeRay operator",
}
VERBS = ("train", "tune", "data prepare")  # verbs that take a config and run on a cluster


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "launch",
        help="run a config on a job server, SLURM or Kubernetes",
        description="Run a config on a cluster, unchanged from the one that runs on this machine.",
    )
    targets = verb.add_subparsers(dest="target", metavar="TARGET", required=True)
    for target, what in TARGETS.items():
        parser = targets.add_parser(target, help=f"run a config {what}", description=f"Run a config {what}.")
        optional = getattr(_module(target), "CONFIG_IS_OPTIONAL", False)
        parser.add_argument("config", nargs="?" if optional else None, help="YAML file")
        parser.add_argument(
            "overrides",
            nargs="*",
            metavar="key=value",
            help="values of dotted keys; later ones take precedence",
        )
        parser.add_argument("--verb", choices=VERBS, default="train", help="medray verb to run there (train)")
        parser.add_argument(
            "--site",
            metavar="FILE",
            help="YAML file with the sections launch and cluster of this site; default: ~/.config/medray/site.yaml or "
            "/etc/medray/site.yaml, if it exists",
        )
        parser.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")
        parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
        _module(target).add_options(parser)
        parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.config.site import default_file

    site = Path(arguments.site) if arguments.site else default_file()
    if site is not None:
        print(f"medray: using site values from {site}", file=sys.stderr)
    try:
        return _run(arguments, site)
    except InputError as error:
        if error.file is None and error.key and site and _of_site(error.key, site, arguments):
            error.file = site
        raise


def _run(arguments: argparse.Namespace, site: Path | None) -> int:
    from medray.config import read

    if arguments.config is None:
        return int(_module(arguments.target).run_without_config(arguments, site))
    config: Config = read(arguments.config, arguments.overrides, site=site)
    if config.cluster.address:
        raise InputError(
            "a launched run gets its cluster from the launcher, not from this key",
            key="cluster.address",
            value=config.cluster.address,
            fix="remove cluster.address from the config",
        )
    check_for(arguments.verb, config)
    return int(_module(arguments.target).run(arguments, config))


def check_for(verb: str, config: Config, *, data: bool = False) -> None:
    """Raise InputError for the first thing in a config that cannot work with `verb` on another machine.

    data: look at the files too, which the other machine can read.
    """
    from medray import stages, tune
    from medray.train.checks import refuse_search

    if verb == "tune":
        tune.check(config, elsewhere=True, data=data, model=False)
        return
    if verb == "train":
        refuse_search(config)
    stages.check(config, elsewhere=True, data=data, model=False)


def _of_site(key: str, site: Path, arguments: argparse.Namespace) -> bool:
    """Return whether the value of a key is from the site file: neither the config nor an override sets the key."""
    from medray.config import read
    from medray.config.loading.load import load_site

    if not load_site(site).gives(key):
        return False
    return arguments.config is None or not read(arguments.config, arguments.overrides).gives(key)


def _module(target: str) -> Any:
    return importlib.import_module(f"medray.cli.launch.{target}")
