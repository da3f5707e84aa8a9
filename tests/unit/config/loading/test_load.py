"""YAML and overrides become a config, or an error in plain words."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_configs import RUN_CONFIGS

from medray.config import Config, dump, read
from medray.config.loading.load import LARGEST_FILE
from medray.errors import InputError


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "run.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refused(folder: Path, text: str | bytes, *overrides: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read(write(folder, text), overrides)
    assert "\n" not in caught.value.what
    return caught.value


# ---- what is a config


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "data:\ntrain:\n", "---\n", "{}", "\ufeff# a byte order mark\n"]
)
def test_an_empty_file_and_empty_sections_are_the_defaults(tmp_path: Path, text: str) -> None:
    config = read(write(tmp_path, text))
    assert config.train == Config().train
    assert config.run.storage == str(tmp_path / "runs")


@pytest.mark.parametrize("file", RUN_CONFIGS, ids=lambda file: file.stem)
def test_every_recipe_loads_and_survives_its_dump(tmp_path: Path, file: Path) -> None:
    config = read(file)
    again = read(write(tmp_path, dump(config)))
    assert again == config
    assert dump(again) == dump(
        config
    )  # as text too: 32 and 32.0 are one number, and two when a run is resumed


def test_a_dump_means_the_same_to_us_and_to_any_yaml_reader(tmp_path: Path) -> None:
    tags = {
        "a": "1e-3",
        "b": "2024-01-01",
        "c": "yes",
        "d": "5",
        "e": "null",
        "f": "Größe: 3 µg\n# x",
        "g": "",
    }
    config = read(write(tmp_path, json.dumps({"tracking": {"tags": tags}})))
    assert config.tracking.tags == tags
    text = dump(config)
    assert read(write(tmp_path, text)) == config
    plain = yaml.safe_load(text)
    assert plain["train"]["optimizer"]["lr"] == 5e-5
    assert plain["tracking"]["tags"]["b"] == "2024-01-01"


def test_relative_paths_resolve_against_the_config_not_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home / "model", elsewhere):
        folder.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "run: {storage: ../runs}\nmodel: {name: model}\ndata: {train: a.jsonl, validation: [b.jsonl, ~/c.jsonl]}\n"
    config = read(write(home, text))
    assert config.run.storage == str(tmp_path / "runs")
    assert config.model.name == str(home / "model")
    assert paths(config.data.train) == [str(home / "a.jsonl")]
    assert paths(config.data.validation) == [str(home / "b.jsonl"), str(tmp_path / "c.jsonl")]
    moved = read(home / "run.yaml", ["data.root=../elsewhere"]).data
    assert paths(moved.train) == [str(elsewhere / "a.jsonl")]


def test_urls_and_names_of_published_sets_are_not_paths(tmp_path: Path) -> None:
    text = "data: {train: [s3://b/a.jsonl, {path: org/set, format: huggingface}], validation: c.jsonl}\n"
    data = read(write(tmp_path, text)).data
    assert paths(data.train) == ["s3://b/a.jsonl", "org/set"]
    assert paths(data.validation) == [str(tmp_path / "c.jsonl")]
    remote = read(tmp_path / "run.yaml", ["data.root=s3://bucket/folder/"]).data
    assert paths(remote.validation) == ["s3://bucket/folder/c.jsonl"]


def paths(entries: Any) -> list[str]:
    return [entry.path for entry in entries]


def test_a_link_to_data_keeps_its_name_which_decides_the_format(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("{}\n")
    (tmp_path / "train.jsonl").symlink_to("blob")
    assert paths(read(write(tmp_path, "data: {train: train.jsonl}")).data.train) == [
        str(tmp_path / "train.jsonl")
    ]


@pytest.mark.parametrize(
    ("name", "absolute"),
    [("org/name", False), ("smollm2-135m-instruct", False), ("./m", True), ("../m", True)],
)
def test_a_model_name_is_a_folder_where_it_says_so(tmp_path: Path, name: str, absolute: bool) -> None:
    found = read(write(tmp_path, f"model: {{name: {name}}}")).model.name
    assert found == (str((tmp_path / name).resolve()) if absolute else name)


def test_yaml_beyond_version_1_1(tmp_path: Path) -> None:
    """Read 1e-3 as a number and a date as text, and prefer a mapping's own keys to merged anchors."""
    text = (
        "run: {name: 2024-01-01}\n"
        "train: {optimizer: {lr: 1e-3, eps: 1.e-8}, deepspeed: {a: &a {x: 1, y: 2}, b: {<<: *a, x: 3}}}\n"
    )
    config = read(write(tmp_path, text))
    assert config.run.name == "2024-01-01"
    assert (config.train.optimizer.lr, config.train.optimizer.eps) == (1e-3, 1e-8)
    assert config.train.deepspeed == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


# ---- overrides


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.max_steps=3", "train", "max_steps", 3),
        ("train.max_steps=null", "train", "max_steps", None),
        ("train.epochs=2", "train", "epochs", 2.0),
        (
            "train.optimizer.lr=1e-3",
            "train",
            "optimizer",
            Config().train.optimizer.model_copy(update={"lr": 1e-3}),
        ),
        ("train.deepspeed.a.b=1", "train", "deepspeed", {"a": {"b": 1}}),
        ("eval.metrics=[]", "eval", "metrics", ()),
        ("eval.metrics=[rouge, accuracy]", "eval", "metrics", ("rouge", "accuracy")),
        ("method.name=distill", "method", "name", "distill"),
        ("run.name=a.b-c", "run", "name", "a.b-c"),
        ("tracking.run_name=a=b", "tracking", "run_name", "a=b"),
        ("tracking.run_name=@x", "tracking", "run_name", "@x"),
        ("tracking.run_name=[x", "tracking", "run_name", "[x"),
        ("tracking.run_name=!!bool x", "tracking", "run_name", "!!bool x"),
        ("tracking.run_name='5'", "tracking", "run_name", "5"),
        ("train=null", "train", "max_steps", None),
    ],
)
def test_an_override_is_yaml_or_else_text(
    tmp_path: Path, override: str, section: str, key: str, value: object
) -> None:
    config = read(write(tmp_path, "train: {max_steps: 7}" if "max_steps" in override else ""), [override])
    assert getattr(getattr(config, section), key) == value


def test_data_files_by_override(tmp_path: Path) -> None:
    file = write(tmp_path, "data: {train: x.jsonl}")
    names = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    assert paths(read(file, ["data.train=[a.jsonl,b.jsonl]"]).data.train) == names
    assert paths(read(file, ["data.train=a.jsonl"]).data.train) == names[:1]
    assert read(file, ["data.train=null"]).data.train == ()


def test_the_last_override_wins_and_an_anchor_is_not_changed_with_its_copy(tmp_path: Path) -> None:
    file = write(tmp_path, "train: {deepspeed: {a: &a {x: 1}, b: *a}}")
    config = read(file, ["train.deepspeed.a.x=2", "train.deepspeed.a.x=3", "train.max_steps=1"])
    assert config.train.deepspeed == {"a": {"x": 3}, "b": {"x": 1}}
    assert config.train.max_steps == 1


@pytest.mark.parametrize(
    "override", ["=x", "a..b=1", "train", ".=1", "train.=1", ".train=1", "=", "", "other.yaml"]
)
def test_an_invalid_override(tmp_path: Path, override: str) -> None:
    error = refused(tmp_path, "", override)
    assert error.file == "command line"
    assert "section.key=value" in str(error)
    assert repr(override) in str(error)
    assert error.fix


@pytest.mark.parametrize("override", ["train.max_steps=", "train= "])
def test_an_empty_value_is_not_read_as_null(tmp_path: Path, override: str) -> None:
    """A shell variable that is not set must not turn 10 steps into an epoch."""
    error = refused(tmp_path, "", override)
    assert (error.file, error.key) == ("command line", override.partition("=")[0])
    assert "is empty" in str(error)
    assert "=null" in str(error)


def test_an_override_of_thousands_of_levels(tmp_path: Path) -> None:
    error = refused(tmp_path, "", "train.deepspeed" + ".a" * 3000 + "=1")
    assert (error.key, error.what) == ("train", "is nested more than 64 levels deep")


def test_thousands_of_unknown_keys_are_answered_soon(tmp_path: Path) -> None:
    began = time.process_time()
    error = refused(tmp_path, "\n".join(f"k{number}: x" for number in range(10_000)))
    assert error.what == "there is no such key (and 9999 more)"
    assert (
        time.process_time() - began < 5
    )  # seconds; 25,000 keys took 68 when locations were compared with each other


def test_an_error_names_the_file_or_the_command_line(tmp_path: Path) -> None:
    assert refused(tmp_path, "train: {epochs: x}").file == tmp_path / "run.yaml"
    assert refused(tmp_path, "train: {epochs: 1}", "train.epochs=x").file == "command line"
    assert refused(tmp_path, "", "train={epochs: x}").file == "command line"
    assert refused(tmp_path, "", "foo.bar=1").file == "command line"
    assert refused(tmp_path, "train: {epochs: x}", "train.max_steps=1").file == tmp_path / "run.yaml"
    assert "cannot have keys" in str(refused(tmp_path, "", "train=5", "train.epochs=1"))


# ---- files that are none


def bomb(first: str, of: str) -> str:
    """Return fifty lines of anchors, each with three uses of the one before: 3^50 values."""
    lines = [f"a{n}: &a{n} {of.format(', '.join([f'*a{n - 1}'] * 3))}" for n in range(1, 50)]
    return "\n".join([f"a0: &a0 {first}", *lines])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a:\n\tb: 1\n", "line 2: a tab"),
        ("- 1\n", "this is a list"),
        ("hello\n", "this is one value"),
        ("5", "this is one value"),
        ("run: {}\n---\nrun: {}\n", "line 2: a second document"),
        ("run:\n  name: x\n seed: 2\n", "line 3: keys with different indentation"),
        ("run: name: x\n", "line 1: a second ': ' in one line"),
        ("run: {name: x}\nrun: {seed: 1}\n", "line 2: the key 'run' is repeated"),
        ("run: {name: x, name: y}\n", "line 1: the key 'name' is repeated"),
        ("1: 2\n", "line 1: a key is not text"),
        ("? [a]\n: 1\n", "line 1: a key is not text"),
        ("null: 1\n", "line 1: a key is not text"),
        ("run: [1", "not valid YAML: line 1"),
        ("run: *x", "undefined alias"),
        ("run: &a [*a]", "recursive"),
        ("run: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        (bomb("[x]", "[{}]"), "more than 100,000 values"),
        (bomb("{x: 1}", "{{<<: [{}]}}"), "more than 100,000 values"),
        ("run: !!bool x", "not valid YAML"),
        ("run: !!int ''", "not valid YAML"),
        ("run: !!timestamp x", "not valid YAML"),
        ("run: !!map [1]", "not valid YAML"),
        ("%YAML 9", "not valid YAML"),
        ("run: " + "[" * 3000, "nested too deeply"),
        ("run: " + "[" * 70 + "]" * 70, "is nested more than 64 levels deep"),
        (f"run: {{seed: {'1:' * 100}1}}", "a number with too many digits"),
        ("run: " + "{a: " * 3000, "nested too deeply"),
        (f"train: {{max_steps: {'9' * 5000}}}", "not valid YAML"),
        ("run: {}\n\x07\n", "line 2: a character that is not allowed in text"),
        (b"\xff\xfer\x00u\x00n\x00", "is not UTF-8 text (byte 0)"),
        (b"run: \xe9\n", "is not UTF-8 text (byte 5)"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is not UTF-8 text"),
        (b"\x00\x01\x02", "a character that is not allowed in text"),
        (b'{"input": "x"}\n' * (LARGEST_FILE // 15 + 2), "so it is not a config"),
    ],
)
def test_a_file_that_is_not_a_config(tmp_path: Path, text: str | bytes, says: str) -> None:
    error = refused(tmp_path, text)
    assert says in str(error)
    assert error.file == tmp_path / "run.yaml"


def test_a_missing_config(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    with pytest.raises(InputError, match="no such config file") as caught:
        read(tmp_path / "runn.yaml")
    assert caught.value.fix == f"did you mean {file}?"
    with pytest.raises(InputError, match="there is no folder"):
        read(tmp_path / "nowhere" / "run.yaml")
    with pytest.raises(InputError, match="is a folder, not a config file"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"cannot be read \(Not a directory\)"):
        read(file / "run.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / ("x" * 300))
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "loop.yaml")


@pytest.mark.parametrize("key", ["run.storage", "data.root", "model.name"])
@pytest.mark.parametrize("path", [r"./a\0b", r"./\ud800"])
def test_an_invalid_path(tmp_path: Path, key: str, path: str) -> None:
    section, name = key.split(".")
    error = refused(tmp_path, f'{section}: {{{name}: "{path}"}}')
    assert (error.key, error.what) == (key, "is not a valid path")


def test_the_home_of_an_unknown_user(tmp_path: Path) -> None:
    error = refused(tmp_path, "data: {train: ~no-such-user/a.jsonl}")
    assert (error.key, error.value) == ("data.train", "~no-such-user/a.jsonl")
