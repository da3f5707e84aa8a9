"""The verb `medray config`: explain a key, or print the JSON schema of a config for editors."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medray.config.reference import KeyFacts

SCHEMA = "schema"
FILES_SHOWN = 6


def add_to(verbs: Any) -> None:
    verb = verbs.add_parser(
        "config",
        help="explain a key of a config, or print the JSON schema for editors",
        description="Print the meaning, type and default of a key and the source files that read it. For a section, print "
        "its keys. `medray config schema` prints the JSON schema of a config, for editors.",
    )
    verb.add_argument(
        "key",
        nargs="?",
        metavar="KEY",
        help="dotted key or section, such as train.max_steps or train; `schema`: print the JSON schema; default: list the "
        "sections",
    )
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from medray.config.reference import all_keys, facts_of, keys_in, schema

    if arguments.key == SCHEMA:
        print(json.dumps(schema(), indent=1, ensure_ascii=False))
        return 0
    if arguments.key is None:
        _list([facts for facts in all_keys() if "." not in facts.key])
        return 0
    facts = facts_of(arguments.key)
    print(f"{facts.key}\n  {facts.meaning}")
    if facts.section:
        print()
        _list(keys_in(facts))
    else:
        _explain(facts)
    return 0


def _list(keys: list[KeyFacts]) -> None:
    width = max(len(facts.key) for facts in keys)
    for facts in keys:
        default = f" (default: {facts.default})" if facts.default else ""
        print(f"{facts.key:<{width}}  {facts.meaning}{default}")


def _explain(facts: KeyFacts) -> None:
    from medray.config.reference import files_that_read

    files = files_that_read(facts)
    more = f" and {len(files) - FILES_SHOWN} more" if len(files) > FILES_SHOWN else ""
    resume = "may change when a run resumes" if facts.resumable else "must stay the same when a run resumes"
    if facts.file != "run":
        resume = "may change; the steps that depend on it are repeated"
    for name, text in (
        ("type", facts.type),
        ("default", facts.default or "none: a value is required"),
        ("resume", resume),
        ("declared", facts.declared_in),
        ("read in", f"{', '.join(files[:FILES_SHOWN])}{more}" if files else "not found"),
    ):
        print(f"  {name:<9} {text}")
