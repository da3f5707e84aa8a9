"""Plain messages for pydantic's errors in a config: the key, the expected value, and a fix."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from medray.config.loading.dotted import fields, section_at
from medray.config.loading.former_flags import hint
from medray.config.schema import Config
from medray.errors import InputError

COMMAND_LINE = "command line"
_LONGEST = 80  # characters of a value that are shown

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_unicode": "text",
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "a section with keys of its own",
}
_LIMITS = {
    "greater_than": ("gt", "must be above"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be below"),
    "less_than_equal": ("le", "must be at most"),
}

# What peers call it, in lower case. Spelling alone cannot lead from these to ours. Flags of the reference systems have a
# table of their own: former_flags.toml.
ALIASES = {
    "base_model": "model.name",
    "batch_size": "train.global_batch_size",
    "deltat": "peft.adalora.delta_t",
    "fp16": "train.precision",
    "grad_accumulation": "train.gradient_accumulation_steps",
    "init_r": "peft.adalora.init_rank",
    "load_in_4bit": "model.quantization",
    "lora": "peft",
    "lora_r": "peft.rank",
    "lora_target_modules": "peft.targets",
    "max_grad_norm": "train.clip_grad_norm",
    "max_seq_length": "data.max_input_tokens",
    "model_name_or_path": "model.name",
    "num_gpus": "cluster.gpus",
    "num_ranks": "peft.task_rank",
    "num_train_epochs": "train.epochs",
    "num_virtual_tokens": "peft.virtual_tokens",
    "num_workers": "cluster.workers",
    "optim": "train.optimizer.name",
    "orth_reg_weight": "peft.adalora.orthogonal_weight",
    "per_device_train_batch_size": "train.micro_batch_size",
    "prompt_tuning_init_text": "peft.init_text",
    "r": "peft.rank",
    "save_steps": "train.save_every_steps",
    "seed": "run.seed",
    "target_modules": "peft.targets",
    "target_r": "peft.adalora.target_rank",
    "train_file": "data.train",
    "use_dora": "peft.dora",
    "use_gpu": "cluster.gpus",
    "use_rslora": "peft.rslora",
    "validation_file": "data.validation",
}


def explain(
    error: ValidationError,
    tree: Mapping[str, Any],
    file: object,
    overridden: Iterable[str],
    root: type[BaseModel] = Config,
) -> InputError:
    """Return the first of pydantic's errors about `tree`, with the number of further ones.

    overridden: dotted keys from the command line; an error in them does not name the file. root: the model of the file.
    """
    found: dict[tuple[str | int, ...], list[Any]] = {}
    for item in error.errors(include_url=False):
        if isinstance(item["input"], str):
            item["input"] = _without_secrets(item["input"])
        found.setdefault(_place(item["loc"], tree), []).append(item)
    # For a union of a word and a list, an error about a list entry is more specific than "this is not the word".
    outer = {place[:length] for place in found for length in range(len(place))}
    places = [place for place in found if place not in outer]
    place, items = places[0], found[places[0]]
    # For a union of a number and a list, a number beyond its limit was still meant as a number.
    items = [item for item in items if item["type"] in _LIMITS] or items
    also = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    dotted = ".".join(part for part in place if isinstance(part, str))
    given = any(f"{dotted}.".startswith(f"{name}.") or name.startswith(f"{dotted}.") for name in overridden)
    value, kind = _shown(items[0]["input"])
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:]
    if items[0]["type"] == "extra_forbidden":
        what, fix = "there is no such key", nearest([part for part in place if isinstance(part, str)], root)
    else:
        what, fix = _sentence(items, kind), _fix(items, key, place, given, root)
    shown_key = key if len(key) <= 2 * _LONGEST else f"{key[: 2 * _LONGEST]}…"
    return InputError(
        what + also, file=COMMAND_LINE if given else file, key=shown_key or None, value=value, fix=fix
    )


def _place(loc: Sequence[str | int], tree: object) -> tuple[str | int, ...]:
    """Return pydantic's location without the names of union branches, which are not part of the tree."""
    place: list[str | int] = []
    for part in loc:
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and isinstance(part, int):
            tree = tree[part] if part < len(tree) else None
        else:
            continue
        place.append(part)
    return tuple(place)


def _without_secrets(text: str) -> str:
    """Return a URL without user, password and query: a URL under a misspelled key is quoted too."""
    if "://" not in text:
        return text
    return re.sub(r"[?#;].*", "?***", re.sub(r"://.*@", "://***@", text, flags=re.DOTALL), flags=re.DOTALL)


def _shown(value: object) -> tuple[object, str]:
    """Return (value to print, "") or (None, description of the YAML value)."""
    if value is None or isinstance(value, bool):
        return None, {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return (value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"), ""
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 100):
        return value, ""
    if isinstance(value, int):
        return None, "a number with too many digits"
    kinds: tuple[tuple[Any, str], ...] = (((list, tuple), "a list"), (dict, "keys with values"))
    return None, next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def _sentence(items: Sequence[Any], kind: str) -> str:
    item = items[0]
    context = item.get("ctx", {})
    if expected := list(dict.fromkeys(filter(None, map(_expected, items)))):
        return f"expected {' or '.join(expected)}" + (f", not {kind}" if kind else "")
    if item["type"] in _LIMITS:
        name, words = _LIMITS[item["type"]]
        return f"{words} {context[name]:g}"
    if item["type"] == "too_long":
        return f"expected {context['max_length']} entries, not {context['actual_length']}"
    if item["type"] == "missing":
        name = item["loc"][-1]
        return f"{name} is missing" if isinstance(name, str) else "an entry of this list is missing"
    own = context.get("error")  # raised by a validator of medray: the message, and perhaps a fix
    message = str(own.args[0] if type(own) is ValueError else item["msg"])
    return f"{message[0].lower()}{message[1:]}"


def _expected(item: Any) -> str | None:
    if item["type"] == "literal_error":
        return str(item["ctx"]["expected"])
    return _EXPECTED.get(item["type"])


def _fix(
    items: Sequence[Any], key: str, place: Sequence[str | int], given: bool, root: type[BaseModel]
) -> str:
    value, kinds = items[0]["input"], [item["type"] for item in items]
    sign, word = (
        "=" if given else ": ",
        isinstance(value, str) and len(value) <= _LONGEST and value.isprintable(),
    )
    if "model_type" in kinds:
        known = _fields_at([part for part in place if isinstance(part, str)], root)
        leading = next((name for name in ("name", "type") if name in known and word), None)
        return (
            f"set {key}.{leading}{sign}{value}"
            if leading
            else f"use the keys of {key}: {', '.join(sorted(known))}"
        )
    for item in items:
        if item["type"] == "literal_error" and (near := _near_word(value, str(item["ctx"]["expected"]))):
            return f"did you mean {near}?"
    names = [part for part in place if isinstance(part, str)]
    if value is None:
        return _what_fits(names, key, sign, root)
    if "string_type" in kinds and isinstance(value, int | float | dict):  # 5 is a number, "a: b" is a key
        return "put it in quotes" + (f": {key}='\"…\"'" if given and "[" not in key else "")
    if "tuple_type" in kinds and word and not {"int_type", "int_parsing"} & set(kinds):
        return f"set {key}{sign}[{value}]"
    if "int_type" in kinds and isinstance(value, float) and value.is_integer() and value < 1e15:
        return f"set {key}{sign}{int(value)}"
    own = items[0].get("ctx", {}).get("error")
    if type(own) is ValueError and len(own.args) == 2:
        return str(own.args[1])
    if kinds[0] == "missing" and isinstance(items[0]["loc"][-1], str):
        return f"set {key}.{items[0]['loc'][-1]}: …"
    return _what_fits(names, key, sign, root)


def _what_fits(names: Sequence[str], key: str, sign: str, root: type[BaseModel]) -> str:
    """Return a fix with the limits of the key at `names`, and its default."""
    section = section_at(root, names[:-1]) if names else None
    field = section.model_fields.get(names[-1]) if section else None
    if field is None:
        return "use another value"
    limits = [
        f"{words.removeprefix('must be ')} {getattr(one, name):g}"
        for one in field.metadata
        for name, words in _LIMITS.values()
        if hasattr(one, name)
    ]
    default = field.get_default(call_default_factory=True)
    if field.is_required() or isinstance(default, BaseModel):
        by_default = []
    elif default in (None, (), {}):
        by_default = ["remove the key to use its default"]
    else:
        shown = default if isinstance(default, str) else json.dumps(default)
        by_default = [f"set {key.partition('[')[0]}{sign}{shown}, its default"]
    return (
        ", or ".join([f"use a number that is {' and '.join(limits)}"] * bool(limits) + by_default)
        or "use another value"
    )


def _near_word(value: object, expected: str) -> str | None:
    """Return the word of pydantic's "'a', 'b' or 'c'" that was probably meant."""
    words = re.findall(r"'([^']*)'", expected)
    if value in (None, False) and "none" in words:  # `type: null`, `offload: no`
        return "none"
    if not isinstance(value, str) or len(value) > _LONGEST:
        return None
    return next(iter(difflib.get_close_matches(value.lower(), words, n=1, cutoff=0.5)), None)


def nearest(names: list[str], root: type[BaseModel] = Config) -> str:
    """Return the key that was probably meant by an unknown one.

    It is the equivalent of another framework's name, the same name in another section, or the closest spelling.
    """
    section, name = names[:-1], names[-1][:_LONGEST].lower().replace("-", "_")
    here = sorted(_fields_at(section, root))
    everywhere = list(keys(root))
    aliases = ALIASES if root is Config else {}
    same = [dotted for dotted in everywhere if dotted.rsplit(".", 1)[-1] == name]
    leaves = {dotted.rsplit(".", 1)[-1]: dotted for dotted in reversed(everywhere)}
    named = name in aliases or name in here or len(same) == 1
    if root is Config and not named and (former := hint(name)):
        return former
    guesses = [
        [aliases[name]] if name in aliases else [],
        [".".join([*section, name])] if name in here else [],
        same if len(same) <= 2 else [],  # a `name` is in most sections
        [".".join([*section, near]) for near in difflib.get_close_matches(name, here, n=1)],
        [leaves[leaf] for leaf in difflib.get_close_matches(name, leaves, n=1) if not same],
    ]
    for guess in guesses:
        if guess:
            return f"did you mean {guess[0]}?"
    return f"use a key of {'.'.join(section) or 'a config'}: {', '.join(here)}"


def _fields_at(names: Sequence[str], root: type[BaseModel]) -> set[str]:
    section = section_at(root, names)
    return set(section.model_fields) if section else set()


def keys(root: type[BaseModel] = Config) -> Iterator[str]:
    """Yield every dotted key that a config knows, sections before what is in them; entries of lists have none."""
    return (key for key, _ in fields(root) if "[]" not in key)
