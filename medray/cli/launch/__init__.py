from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray.errors import InputError

if TYPE_CHECKING:
    from medray.config import Config

PLACES = {
    "job": "on a Ray cluster that runs already, as a job of its job server",
    "slurm": "on a SLURM cluster, by sbatch",
    "k8s": "on Kubernetes, as a RayJob of the KubeRay operator",
}
VERBS = ("train", "data prepare")  # what takes a config, and runs on a cluster


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "launch",
        help="run a config on a job server, SLURM or Kubernetes",
        description="Runs the config that runs on this machine, unchanged, on a cluster.",
    )
    places = verb.add_subparsers(dest="place", metavar="PLACE", required=True)
    for place, what in PLACES.items():
        parser = places.add_parser(place, help=what, description=f"Runs a config {what}.")
        optional = getattr(_module(place), "CONFIG_IS_OPTIONAL", False)
        parser.add_argument("config", nargs="?" if optional else None, help="YAML file")
        parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, later ones win")
        parser.add_argument("--verb", choices=VERBS, default="train", help="what to run there (train)")
        parser.add_argument(
            "--site",
            metavar="FILE",
            help="YAML with launch: and cluster: of this site; default: ~/.config/medray/site.yaml or "
            "/etc/medray/site.yaml, where there is one",
        )
        parser.add_argument("--dry-run", action="store_true", help="print what would run, and run nothing")
        parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
        _module(place).add_options(parser)
        parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.config.site import default_file

    site = Path(arguments.site) if arguments.site else default_file()
    if site is not None:
        print(f"medray: site values of {site}", file=sys.stderr)
    try:
        return _run(arguments, site)
    except InputError as error:
        if error.file is None and error.key and site and _of_site(error.key, site, arguments):
            error.file = site
        raise


def _run(arguments: argparse.Namespace, site: Path | None) -> int:
    from medray.config import read
    from medray.train import check

    if arguments.config is None:
        return int(_module(arguments.place).run_without_config(arguments, site))
    config: Config = read(arguments.config, arguments.overrides, site=site)
    if config.cluster.address:
        raise InputError(
            "a launched run gets its cluster from the launcher",
            key="cluster.address",
            value=config.cluster.address,
            fix="leave the key out",
        )
    check(config, elsewhere=True, data=False, model=False)
    return int(_module(arguments.place).run(arguments, config))


def _of_site(key: str, site: Path, arguments: argparse.Namespace) -> bool:
    """Whether the value of a key is the site file's: it has the key, and neither the config nor an override has."""
    from medray.config import read
    from medray.config.load import load_site

    if not load_site(site).gives(key):
        return False
    return arguments.config is None or not read(arguments.config, arguments.overrides).gives(key)


def _module(place: str) -> Any:
    return importlib.import_module(f"medray.cli.launch.{place}")
