"""The file of requests in the folder of a synthesis, and the facts that it was made from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from medray import storage
from medray.config.synth import SynthConfig
from medray.errors import InputError
from medray.storage import StoragePath, json_files
from medray.synth.lists.read import read_lists
from medray.synth.lists.values import Lists
from medray.synth.prompts.grid import PromptRequest, counts, requests

REQUESTS, FACTS = "requests.jsonl", "prompts.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """The requests of a synthesis. grid: size of the whole grid by part, before `prompts.sample`."""

    lists: Lists
    requests: list[PromptRequest]
    grid: dict[int, int]

    def to_json(self) -> dict[str, Any]:
        by_part = {part: [each for each in self.requests if each.part == part] for part in self.grid}
        return {
            "parts": {
                str(part): {
                    "grid": self.grid[part],
                    "requests": len(found),
                    "questions": sum(len(each.question_ids) for each in found),
                    "max_tokens": sum(each.max_tokens for each in found),
                }
                for part, found in by_part.items()
                if found
            },
            "requests": len(self.requests),
        }


def make(config: SynthConfig) -> Prompts:
    """Return the requests of a config. Raises InputError for lists that are wrong or do not fit together."""
    lists = read_lists(config.prompts.resources)
    made = list(requests(lists, config.prompts, config.run.seed))
    return Prompts(lists=lists, requests=made, grid=counts(lists))


def fingerprint(config: SynthConfig, lists: Lists) -> str:
    """Return a hash of everything that decides the requests and questions."""
    listed = {
        **asdict(lists),
        "specialty_ages": [[*pair, ages] for pair, ages in lists.specialty_ages.items()],
    }
    facts = {
        "seed": config.run.seed,
        "lists": listed,
        "prompts": config.prompts.model_dump(mode="json", exclude={"resources"}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def write(folder: StoragePath, config: SynthConfig, prompts: Prompts) -> None:
    """Write the requests. Writing them again changes nothing.

    Raises InputError if the folder has requests that were made from other lists, keys or another seed.
    """
    check_same(folder, config, prompts)
    storage.make_private(folder)
    lines = (json.dumps(each.to_json(), ensure_ascii=False) + "\n" for each in prompts.requests)
    storage.write(folder / REQUESTS, "".join(lines))
    facts = {"fingerprint": fingerprint(config, prompts.lists), **prompts.to_json()}
    json_files.write_sealed(folder / FACTS, facts, indent=2)


def check_same(folder: StoragePath, config: SynthConfig, prompts: Prompts) -> None:
    """Raise InputError if the requests in the folder were made from something else."""
    try:
        known = json_files.read_sealed(folder / FACTS).get("fingerprint")
    except FileNotFoundError:
        return
    if known != fingerprint(config, prompts.lists):
        raise InputError(
            f"{folder} has requests that were made with another seed, other lists or other keys of prompts",
            key="run.name",
            value=config.run.name,
            fix="use another run.name, or remove the folder",
        )
