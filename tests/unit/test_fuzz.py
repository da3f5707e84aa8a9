"""Random configs and random record files: a config, rows, bad rows or an InputError that says what would work.

Nothing else may come of any input, and nothing may take two seconds. A failure names the seed, never the input.
"""

from __future__ import annotations

import functools
import io
import json
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args

import pyarrow as pa
import pytest
import yaml
from damaged import FILES, JSONL, ROWS, changed
from pyarrow import parquet
from run_configs import RUN_CONFIGS

from medray.config import Config, dump, read
from medray.config.checks import check
from medray.config.columns import ColumnsConfig
from medray.config.data import SourceConfig
from medray.config.explain import keys
from medray.data.index.row_index import index_range
from medray.data.index.sources import FileSource
from medray.errors import InputError

CPU_SECONDS = 2.0  # of one input; not of the clock, so that a busy machine fails no test
CONFIG_INPUTS = 1000
FILE_INPUTS = 400  # of each format
ROW_INPUTS = 1200


def seeds(count: int) -> pytest.MarkDecorator:
    """Parametrizes a test by seeds of inputs: `make test` has a fifth of them."""
    first = count // 5
    parts = [range(first), pytest.param(range(first, count), marks=pytest.mark.long)]
    return pytest.mark.parametrize("seeds", parts, ids=["a fifth", "the others"])


class TooSlowError(BaseException):
    """Not an Exception: nothing that is tested may catch it."""


def _too_slow(number: int, frame: object) -> None:
    raise TooSlowError


@contextmanager
def guarded(seed: object, outcomes: Counter[str]) -> Iterator[None]:
    """Counts how an input ends; fails, with its seed alone, on what no input may do."""
    before = signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    failure = ""
    try:
        yield
        outcomes["taken"] += 1
    except InputError as error:
        outcomes["refused"] += 1
        if not (error.what and error.fix):
            failure = f"no Fix: {_place(error)}"
        elif not str(error).replace("\n  Fix: ", "").isprintable():
            failure = f"a message with control characters: {_place(error)}"
        elif "SECRET" in str(error).replace("AWS_SECRET_ACCESS_KEY", ""):
            failure = f"a message with text of a record: {_place(error)}"
    except (Exception, TooSlowError) as error:
        failure = _place(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    if failure:
        pytest.fail(f"seed {seed}: {failure}", pytrace=False)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return (
        f"{type(error).__name__} at {' < '.join(f'{Path(f.filename).name}:{f.lineno}' for f in frames[::-1])}"
    )


# ---- configs

_MARKS = [
    *(b"\t", b"\0", b"\xff", b"\x1b[31m", b"\xe2\x80\xa8", b"\xc2\x85", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r"),
    *(b"&a ", b"*a", b"<<: *a", b"!!python/name:os.system ", b"!!binary ", b"!!set ", b"!!float ", b"? ", b"- "),
    *(b": ", b":", b"[", b"]", b"{", b"}", b"'", b'"', b"|\n", b">", b"%", b"#", b"---\n", b"...\n", b"\n", b"  "),
    *(b".nan", b"-.inf", b"1e999", b"0x" + b"f" * 99, b"1:30:00", b"9" * 5000, b"~", b"null", b"[" * 40, b"\\x00"),
]  # fmt: skip
_NESTED: Any = functools.reduce(lambda inner, _: {"a": [inner]}, range(40), cast(Any, 1))
_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 2**31, 2**63, 10**400, -(10**4000), 0.5, -0.0, 1e308, float("nan"), float("-inf")),
    *("", " ", "~", "~nobody/x", "../x", "/", ".", "-x", "x" * 300, "é", "\0", "\x1b[2J", "\u2028", "\u202e", "s3://"),
    *("null", "1e-3", "a.jsonl", "a: b", "*", "{", "5", b"\xff", [], {}, [[]], [{}], {"": 1}, {"a": {"b": []}}),
    *([None] * 50, [1, "a", {}], {1: 2}, {None: 1}, {"path": 5}, {"path": "a.csv", "format": "x"}, _NESTED),
]  # fmt: skip


@functools.cache
def _recipes() -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load(file.read_text()) for file in RUN_CONFIGS)


def _sections(rng: random.Random) -> dict[str, Any]:
    """Two to four sections of a recipe; a whole one would take most of the time to parse."""
    recipe = rng.choice(_recipes())
    chosen = rng.sample(sorted(recipe), min(len(recipe), rng.randrange(2, 5)))
    sound = {
        "data": {"dataset": "clinic", "tokenizer": "train"},
        "model": {"init": "random", "preset": "t5-tiny"},
    }
    return json.loads(json.dumps({name: recipe[name] for name in chosen} | sound))  # type: ignore[no-any-return]


def _default(path: list[str]) -> Any:
    """The default of a key; None for one in a section that a config may lack."""
    tree: Any = Config().model_dump(mode="json")
    return functools.reduce(lambda tree, name: tree if tree is None else tree[name], path, tree)


def _near(value: Any, rng: random.Random) -> Any:
    """Another value of the same type, as a user might try it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([0, 1, value + 1, 2 * value, 10 * value, -value])
    if isinstance(value, float):
        return rng.choice([0.0, 0.5 * value, 2 * value, 100 * value, -value])
    return value if value or rng.random() < 0.5 else rng.choice([1, 100, "a", [], ["rouge"]])


def _bytes_of_a_config(rng: random.Random) -> bytes:
    lines = yaml.safe_dump(_sections(rng), sort_keys=False).encode().splitlines(keepends=True)
    if rng.random() < 0.4:  # one letter or digit for another, which is often still a config
        text = bytearray(b"".join(lines))
        at = rng.choice([place for place, byte in enumerate(text) if chr(byte).isalnum()])
        text[at] = rng.choice(b"0123456789-.eE" if chr(text[at]).isdigit() else b"abcdefnosty_0")
        return bytes(text)
    for _ in range(rng.randrange(3)):  # keys that stand twice, or under another
        at = rng.randrange(len(lines))
        lines.insert(rng.randrange(len(lines)), rng.choice([b"", b" ", b"  "]) + lines[at])
    return changed(b"".join(lines), rng, _MARKS)


def _tree_of_a_config(rng: random.Random) -> bytes:
    tree = _sections(rng)
    names = list(keys())
    for _ in range(rng.choice([1, 1, 2, 4])):
        branch, path = tree, rng.choice(names).split(".")
        for name in path[:-1]:
            if not isinstance(branch.get(name), dict):
                branch[name] = {}
            branch = branch[name]
        if rng.random() < 0.9:
            branch[path[-1]] = _near(_default(path), rng) if rng.random() < 0.5 else rng.choice(_VALUES)
        else:
            odd: list[Any] = ["x", "\x1b[31m\n", 5]
            branch[rng.choice(odd)] = 1
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5).encode("utf-8", "replace")


def _bomb(rng: random.Random) -> bytes:
    """Anchors of anchors, in lists, values or merges, small enough to be taken or not."""
    width, depth = rng.randrange(1, 12), rng.choice([1, 2, 3, rng.randrange(1, 30)])
    kind = rng.choice(["[{}]", "{{<<: [{}]}}", "{{a: [{}]}}"])
    first = "x" if kind == "[{}]" else "{z: 1}"
    place = rng.choice(
        ["train: {deepspeed: {%s}}", "tracking: {tags: {%s}}", "{%s}", "data: {train: [{%s}]}"]
    )
    entries = [f"k0: &k0 {first}"]
    entries += [f"k{n}: &k{n} {kind.format(', '.join([f'*k{n - 1}'] * width))}" for n in range(1, depth)]
    if rng.random() < 0.1:
        entries.append("k: &k [*k]")
    return (place % ", ".join(entries)).encode()


def _overrides(rng: random.Random) -> list[str]:
    found = []
    for _ in range(rng.choice([0, 0, 0, 0, 1, 1, 3])):
        name = rng.choice(list(keys()))
        if rng.random() < 0.3:
            name = rng.choice(
                ["", ".", "a..b", f"{name}.x", "train.deepspeed" + ".a" * rng.randrange(3000), "\x1b"]
            )
        text = changed(rng.choice([b"1", b"[a, b]", b"{a: 1}", b"x", b"1e-3"]), rng, _MARKS)
        found.append(name + rng.choice(["=", "=", "=", "", "=="]) + text.decode("utf-8", "surrogateescape"))
    return found


@seeds(CONFIG_INPUTS)
def test_configs(seeds: range, tmp_path: Path) -> None:
    file, outcomes = tmp_path / "run.yaml", Counter[str]()
    for seed in seeds:
        rng = random.Random(seed)
        make = rng.choice([*[_bytes_of_a_config, _tree_of_a_config] * 4, _bomb])
        file.write_bytes(make(rng))
        overrides = _overrides(rng)
        with guarded(seed, outcomes):
            config = read(file, overrides)
            outcomes["loaded"] += 1
            file.write_text(dump(config))
            assert read(file) == config
            check(config)
    assert min(outcomes["taken"], outcomes["loaded"], outcomes["refused"]) > len(seeds) // 20, outcomes


# ---- files of records


def _parquet() -> bytes:
    stream = io.BytesIO()
    rows = [{**row, "d": {"x": [1.5, None]}, "label": "SECRET"} for row in ROWS]
    parquet.write_table(pa.Table.from_pylist(rows), stream, row_group_size=2, compression="snappy")
    return stream.getvalue()


def _zst() -> bytes:
    return pa.compress(JSONL, codec="zstd", asbytes=True)  # type: ignore[no-any-return]


KINDS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    **{name: (kind, ending, functools.partial(bytes, data)) for name, (kind, ending, data) in FILES.items()},
    "parquet": ("parquet", "", _parquet),
    "zst": ("jsonl", ".zst", _zst),
}
_FORMS = get_args(SourceConfig.model_fields["form"].annotation)
_COLUMNS = (
    ColumnsConfig(),
    ColumnsConfig(input="SECRET", label="id"),
    ColumnsConfig(input="id", label="SECRET", rationale="n", entities="n", group="n"),
)


def _index(source: FileSource, plain: Path) -> tuple[int, int]:
    """(rows, bad rows) of a source as a run reads it: what has no positions becomes a plain file first."""
    if not source.positional:
        source.convert(plain)
        source = source.plain_at(plain)
    good = bad = 0
    for start, stop in source.ranges():
        found = index_range(source, start, stop, shard_rows=2)
        assert len(found.good) == sum(chunk.raw_rows for chunk in found.chunks)
        reasons = [reject["reason"].replace("column 'SECRET'", "") for reject in found.rejects]
        assert all(reason and "SECRET" not in reason for reason in reasons)
        good, bad = good + int(found.good.sum()), bad + len(found.rejects)
    return good, bad


@seeds(FILE_INPUTS)
@pytest.mark.parametrize("name", KINDS)
def test_files_of_records(name: str, seeds: range, tmp_path: Path) -> None:
    format, ending, make = KINDS[name]
    data, file, outcomes = make(), tmp_path / f"rows{ending}", Counter[str]()
    for seed in seeds:
        rng = random.Random(f"{name} {seed}")
        file.write_bytes(changed(data, rng) if rng.random() < 0.9 else data)
        form = "auto" if rng.random() < 0.7 else rng.choice(_FORMS)
        source = FileSource(
            path=str(file), format=format, name="rows", form=form, columns=rng.choice(_COLUMNS)
        )
        with guarded(f"{name} {seed}", outcomes):
            good, bad = _index(source, tmp_path / "plain")
            outcomes["good"] += good
            outcomes["bad"] += bad
    assert outcomes["good"] + outcomes["bad"] > 0, outcomes
    assert outcomes["bad"] + outcomes["refused"] > 0, outcomes


@seeds(FILE_INPUTS)
def test_saved_data_sets(seeds: range, tmp_path: Path) -> None:
    import datasets

    folder, outcomes = tmp_path / "saved", Counter[str]()
    datasets.Dataset.from_list([{**row, "input": "SECRET", "label": "b"} for row in ROWS]).save_to_disk(
        folder
    )
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    for seed in seeds:
        rng = random.Random(seed)
        path = rng.choice([*sorted(whole), *folder.glob("*.arrow")])
        path.unlink()  # a new file: the old one may still be mapped into memory
        path.write_bytes(changed(whole[path], rng))
        with guarded(seed, outcomes):
            outcomes["good"] += _index(
                FileSource(path=str(folder), format="huggingface"), tmp_path / "plain"
            )[0]
        path.unlink()
        path.write_bytes(whole[path])
    assert min(outcomes["good"], outcomes["refused"]) > 0, outcomes


# ---- rows of every form

_ENTITY = {"id": "e", "type": "D", "text": ["SECRET"], "offsets": [[0, 6]], "normalized": [{"db_id": "D1"}]}
SOUND: list[dict[str, Any]] = [
    {"input": "SECRET", "label": "b", "rationale": {"a": "SECRET"}, "entities": ["SECRET"]},
    {"input": "SECRET", "label": "b", "rationale": ["SECRET", "c"]},
    {"messages": [{"role": "user", "content": "SECRET"}, {"role": "assistant", "content": "SECRET"}]},
    {"conversations": [{"from": "human", "value": "SECRET"}, {"from": "gpt", "value": "SECRET"}]},
    {"conversation": [{"human": "SECRET", "assistant": "SECRET"}]},
    {"prompt": "SECRET", "chosen": "SECRET", "rejected": "b"},
    {"input_1": "SECRET", "input_2": "b", "label_1": "SECRET", "label_2": "c", "label": "d"},
    {
        "document_id": "1",
        "passages": [{"id": "p", "type": "t", "text": ["SECRET b"], "offsets": [[0, 8]]}],
        "entities": [_ENTITY],
        "relations": [{"id": "r", "type": "t", "arg1_id": "e", "arg2_id": "e"}],
    },
    {"prompt": "SECRET", "gold": "SECRET", "system": "c"},
    {"instruction": "SECRET", "input": "b", "output": "SECRET"},
]


def _changed_value(value: Any, rng: random.Random) -> Any:
    """`value` with one thing in it, or all of it, exchanged, lost or doubled."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return rng.choice([each for each in _VALUES if not isinstance(each, bytes)])
    inside = dict(value) if isinstance(value, dict) else list(value)
    at: Any = rng.choice(sorted(inside)) if isinstance(inside, dict) else rng.randrange(len(inside))
    if rng.random() < 0.2:
        del inside[at]
    elif isinstance(inside, list) and rng.random() < 0.1:
        inside = inside * 30
    else:
        inside[at] = _changed_value(inside[at], rng)
    return inside


@seeds(ROW_INPUTS)
def test_rows_of_every_form(seeds: range, tmp_path: Path) -> None:
    file, outcomes = tmp_path / "rows.jsonl", Counter[str]()
    for seed in seeds:
        rng = random.Random(seed)
        rows = [_changed_value(rng.choice(SOUND), rng) for _ in range(rng.randrange(1, 4))]
        text = "\n".join(
            json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in [*rows, rng.choice(SOUND)]
        )
        file.write_text(text, encoding="utf-8", errors="replace")
        form = "auto" if rng.random() < 0.7 else rng.choice(_FORMS)
        with guarded(seed, outcomes):
            good, bad = _index(FileSource(path=str(file), format="jsonl", form=form), tmp_path / "plain")
            outcomes["good"] += good
            outcomes["bad"] += bad
    assert min(outcomes["good"], outcomes["bad"]) > len(seeds) // 4, outcomes


def test_there_are_enough_inputs() -> None:
    assert CONFIG_INPUTS + (len(KINDS) + 1) * FILE_INPUTS + ROW_INPUTS >= 9_000
