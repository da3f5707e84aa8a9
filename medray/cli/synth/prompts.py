"""The verb `medray synth prompts`: write the requests for opening questions."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def add_to(actions: Any) -> None:
    verb = actions.add_parser(
        "prompts",
        help="write the requests for opening questions, from lists of tasks, specialties and patients",
        description="Write the requests for opening questions to the folder of the synthesis. Nothing is sent. The same seed "
        "and lists give the same requests on any machine.",
    )
    add_config(verb)
    verb.add_argument(
        "--show", type=int, default=0, metavar="N", help="print the first N requests of each part (0)"
    )
    verb.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    verb.set_defaults(run=run)


def add_config(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("config", help="YAML file of the synthesis, such as configs/synth.yaml")
    verb.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="values of dotted keys; later ones take precedence",
    )


def run(arguments: argparse.Namespace) -> int:
    from medray.report.console import Console
    from medray.synth import settings
    from medray.synth.prompts import write

    config = settings.read(arguments.config, arguments.overrides)
    prompts = write.make(config)
    folder = settings.folder_of(config)
    write.write(folder, config, prompts)
    facts = prompts.to_json()
    for part in facts["parts"]:
        for request in [each for each in prompts.requests if str(each.part) == part][: arguments.show]:
            print(f"{request.id}\n{request.prompt}\n")
    rows: list[tuple[str, ...]] = [
        (
            f"part {part}",
            f"{each['requests']:,} of {each['grid']:,} requests, {each['questions']:,} questions",
        )
        for part, each in facts["parts"].items()
    ]
    Console(sys.stderr).table(f"requests, written to {folder / write.REQUESTS}", rows)
    if arguments.json:
        print(json.dumps({**facts, "folder": str(folder)}))
    return 0
