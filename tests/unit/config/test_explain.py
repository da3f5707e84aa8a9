"""Unknown keys and wrong values are explained in plain words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medray.config import read
from medray.config.explain import ALIASES, keys
from medray.errors import InputError


def refused(folder: Path, text: str, *overrides: str) -> InputError:
    file = folder / "run.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read(file, overrides)
    assert "\n" not in caught.value.what
    return caught.value


# ---- what a message does not quote


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("tracking: {url: 'http://me:hunter2@host/x'}", "tracking.url"),
        ("run: {storge: 's3://KEY:hunter2@bucket/runs'}", "run.storge"),
        ("run: {storge: 's3://KEY:hunt@er/hunter2@bucket/runs'}", "run.storge"),
        ("run: {seed: 's3://KEY:hunter2@bucket'}", "run.seed"),
        ("run: 's3://KEY:hunter2@bucket'", "run"),
        ("data: {trian: 'https://host/a.jsonl?X-Amz-Signature=hunter2'}", "data.trian"),
        ("model: {init: 'https://host/a#hunter2'}", "model.init"),
        ("data: {train: [{path: a.jsonl, weight: 's3://KEY:hunter2@bucket'}]}", "data.train[0].weight"),
    ],
)
def test_a_url_under_a_wrong_key_is_quoted_without_its_secrets(text: str, key: str, tmp_path: Path) -> None:
    error = refused(tmp_path, text)
    assert error.key == key
    assert "hunter2" not in f"{error} {error.fix}"
    assert error.value is None or "://" in str(error.value), "a whole URL is not shown, or without its secret"


def test_a_url_of_the_command_line_is_quoted_without_its_secrets(tmp_path: Path) -> None:
    error = refused(tmp_path, "{}", "run.seed=s3://KEY:hunter2@bucket")
    assert (error.value, "hunter2" in str(error)) == (None, False)


# ---- keys that do not exist


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("train: {max_step: 3}", "train.max_step", "train.max_steps"),
        ("train: {global-batch-size: 3}", "train.global-batch-size", "train.global_batch_size"),
        ("train: {lr: 3}", "train.lr", "train.optimizer.lr"),
        ("train: {learning_rate: 3}", "train.learning_rate", "train.optimizer.lr"),
        ("train: {optimizer: {lrr: 3}}", "train.optimizer.lrr", "train.optimizer.lr"),
        ("train: {batch_size: 3}", "train.batch_size", "train.global_batch_size"),
        ("train: {output_dir: x}", "train.output_dir", "run.storage"),
        ("train: {seed: 3}", "train.seed", "run.seed"),
        ("train: {grad_accumulation: 3}", "train.grad_accumulation", "train.gradient_accumulation_steps"),
        ("cluster: {num_workers: 3}", "cluster.num_workers", "cluster.workers"),
        ("deepspeed: {}", "deepspeed", "train.deepspeed"),
        ("peft: {r: 3}", "peft.r", "peft.rank"),
        ("trian: {epochs: 3}", "trian", "train"),
        ("Train: {epochs: 3}", "Train", "train"),
        ("epochs: 3", "epochs", "train.epochs"),
        ("data: {colums: {}}", "data.colums", "data.columns"),
        ("data: {columns: {lable: x}}", "data.columns.lable", "data.columns.label"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, text: str, key: str, near: str) -> None:
    error = refused(tmp_path, text)
    assert (error.key, error.what, error.fix) == (key, "there is no such key", f"did you mean {near}?")


def test_for_an_unfamiliar_key_the_existing_keys_are_listed(tmp_path: Path) -> None:
    error = refused(tmp_path, "peft: {name: lora}")
    assert (
        error.fix
        == "use a key of peft: adalora, alpha, dora, dropout, init_text, rank, rslora, targets, task_rank, type, virtual_tokens"
    )
    assert (error.value, error.file) == ("lora", tmp_path / "run.yaml")
    assert "cluster, data, eval" in str(refused(tmp_path, "qqqq: 1").fix)


def test_names_of_other_projects_lead_to_keys_that_exist() -> None:
    assert set(ALIASES.values()) <= set(keys())
    assert not set(ALIASES) & {key.rsplit(".", 1)[-1] for key in keys()} - {"batch_size", "seed"}


# ---- values that do not fit


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {epochs: soon}", "train.epochs = 'soon': expected a number"),
        ("train: {epochs: '3'}", "train.epochs = '3': expected a number"),
        ("train: {epochs: .nan}", "train.epochs = nan: expected a finite number"),
        ("train: {epochs: -.inf}", "train.epochs = -inf: expected a finite number"),
        ("train: {epochs: null}", "train.epochs: expected a number, not null"),
        ("train: {epochs: 0}", "train.epochs = 0: must be above 0"),
        ("train: {max_steps: 1.5}", "train.max_steps = 1.5: expected a whole number"),
        ("train: {max_steps: 1e3}", "train.max_steps: 1000"),
        ("train: {max_steps: yes}", "train.max_steps: expected a whole number, not true"),
        ("train: {max_steps: [1]}", "train.max_steps: expected a whole number, not a list"),
        ("train: {max_steps: {a: 1}}", "train.max_steps: expected a whole number, not keys with values"),
        ("cluster: {workers: '2'}", "cluster.workers = '2': expected a whole number"),
        ("cluster: {workers: 0}", "cluster.workers = 0: must be at least 1"),
        (
            "train: {zero_stage: 4}",
            "train.zero_stage = 4: must be at most 3\n  Fix: use a number that is at least 0 and at most 3, or set train.zero_stage: 2, its default",
        ),
        (
            "train: {max_steps: 0}",
            "Fix: use a number that is at least 1, or remove the key to use its default",
        ),
        ("train: {precision: int8}", "Fix: set train.precision: auto, its default"),
        (
            "train: {optimizer: {name: paged_adamw_4bit}}",
            "neither bitsandbytes nor transformers has an optimizer",
        ),
        ("train: {optimizer: {name: paged_adamw_4bit}}", "Fix: use paged_adamw_8bit, whose moments"),
        ("train: {optimizer: {name: paged_adamw_32bit}}", "Fix: use paged_adamw"),
        ("train: {optimizer: {name: adam}}", "Fix: did you mean adamw?"),
        ("train: {optimizer: {betas: [0.9]}}", "Fix: set train.optimizer.betas: [0.9, 0.999], its default"),
        (
            "train: {optimizer: {groups: [{lr: 1.0}]}}",
            "train.optimizer.groups[0]: match is missing\n  Fix: set train.optimizer.groups[0].match: …",
        ),
        ("train: {zero_stage: true}", "train.zero_stage: expected a whole number, not true"),
        ("train: {optimizer: {betas: [0.9]}}", "train.optimizer.betas[1]: an entry of this list is missing"),
        ("train: {optimizer: {betas: [0.9, 1, 1]}}", "train.optimizer.betas: expected 2 entries, not 3"),
        ("train: {optimizer: {betas: [0.9, 1]}}", "train.optimizer.betas[1] = 1: must be below 1"),
        ("train: {offload: no}", "expected 'none' or 'cpu', not false\n  Fix: did you mean none?"),
        ("train: {precision: float16}", "'float16': expected 'auto', 'fp32', 'bf16' or 'fp16'"),
        ("train: {precision: BF-16}", "Fix: did you mean bf16?"),
        (
            "method: {name: destill}",
            "method.name = 'destill': expected 'sft', 'distill' or 'dpo'\n  Fix: did you mean distill?",
        ),
        ("peft: {type: null}", "or 'multitask_prompt', not null\n  Fix: did you mean none?"),
        (
            "peft: {type: prompt, init_text: ''}",
            "peft.init_text = '': string should have at least 1 character",
        ),
        ("peft: {targets: 5}", "peft.targets = 5: expected 'all-linear' or a list"),
        (
            "peft: {targets: all_linear}",
            "peft.targets = 'all_linear': expected 'all-linear' or a list\n  Fix: did you",
        ),
        ("peft: {targets: [q_proj, 1]}", "peft.targets[1] = 1: expected text\n  Fix: put it in quotes"),
        ("peft: lora", "peft = 'lora': expected a section with keys of its own\n  Fix: set peft.type: lora"),
        ("model: org/name", "Fix: set model.name: org/name"),
        ("cluster: {workers: two}", "cluster.workers = 'two': expected a whole number or a list"),
        ("cluster: {workers: [2, 1]}", "cluster.workers: the first number must be the fewest workers"),
        ("cluster: {workers: [1, 0]}", "cluster.workers[1] = 0: must be at least 1"),
        (
            "train: 5",
            "train = 5: expected a section with keys of its own\n  Fix: use the keys of train: clip_grad_norm,",
        ),
        ("train: []", "train: expected a section with keys of its own, not a list"),
        ("run: {name: 5}", "run.name = 5: expected text\n  Fix: put it in quotes"),
        ("run: {name: a b}", "run.name = 'a b': use 1 to 100 letters"),
        (
            "eval: {metrics: rouge}",
            "eval.metrics = 'rouge': expected a list\n  Fix: set eval.metrics: [rouge]",
        ),
        (
            "eval: {metrics: [rouge, rogue]}",
            "eval.metrics[1] = 'rogue': expected 'rouge', 'accuracy', 'entity_f1', ",
        ),
        ("tracking: {tags: {a: 1}}", "tracking.tags.a = 1: expected text"),
        ("tracking: {tags: [a]}", "tracking.tags: expected keys with values, not a list"),
        ("tracking: {enabled: 1}", "tracking.enabled = 1: expected true or false"),
        ("data: {train: {a: b}}", "data.train.a = 'b': there is no such key"),
        ("data: {train: [a.jsonl, 5]}", "data.train[1] = 5: expected a path, or keys that include path"),
        ("data: {prompts: {label: 'a': b}}", "not valid YAML: line 1"),
        ("run: {seed: 2147483648}", "must be below 2.14748e+09"),
        ("train: {deepspeed: {a: .nan}}", "train.deepspeed: expected JSON values"),
        ("train: {deepspeed: {a: !!binary aGk=}}", "train.deepspeed: expected JSON values"),
        ("train: {deepspeed: {train_batch_size: 1}}", "train.deepspeed: train_batch_size is derived"),
        (
            "train: {deepspeed: {zero_optimization: {stage: 3}}}",
            "zero_optimization.stage must not be set here",
        ),
        ("train: {deepspeed: {fp16: {enabled: true}}}", "set train.precision"),
        (f"train: {{max_steps: 0x{'f' * 9000}}}", "train.max_steps: the number is too large"),
        (f"run: {{name: {'x' * 9000}}}", "xxx…': use 1 to 100 letters"),
        (
            "train: {epochs: x, max_steps: y}\nrun: {seed: z}",
            "run.seed = 'z': expected a whole number (and 2 more)",
        ),
    ],
)
def test_a_wrong_value_is_shown_with_what_was_expected(tmp_path: Path, text: str, says: str) -> None:
    message = str(refused(tmp_path, text))
    assert says in message
    assert "pydantic" not in message.lower()
    assert "Input should" not in message
    assert len(message) < 600


def test_text_with_a_colon_on_the_command_line_needs_quotes(tmp_path: Path) -> None:
    error = refused(tmp_path, "", "data.prompts.label=Note: write")
    assert error.fix == "put it in quotes: data.prompts.label='\"…\"'"
    assert (
        read(tmp_path / "run.yaml", ['data.prompts.label="Note: write"']).data.prompts.label == "Note: write"
    )


# ---- names of runs, which become folders


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("../x", "x"),
        ("a/../b", "a-..-b"),
        ("..", "run"),
        ("/etc", "etc"),
        ("a\\b", "a-b"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("", "run"),
        ("x" * 300, "x" * 100),
        ("é" * 100, "run"),
        ("a\nb", "a-b"),
        ("a\n", "a"),
        ("\x1b[31mred", "31mred"),
        ("a\x00b", "a-b"),
        ("a\u202eb", "a-b"),
        ("a\u2028b", "a-b"),
    ],
)
def test_a_run_name_that_is_not_a_plain_folder_name(tmp_path: Path, name: str, plain: str) -> None:
    error = refused(tmp_path, json.dumps({"run": {"name": name}}))
    assert error.key == "run.name"
    assert error.what.startswith("use 1 to 100 letters, digits,")
    assert error.fix == f"run.name: {plain}"
    assert str(error).replace("\n  Fix: ", "").isprintable()
    assert len(str(error)) < 500
    assert read(tmp_path / "run.yaml", [f"run.name={plain}"]).run.name == plain


@pytest.mark.parametrize(
    "name", ["tokens", "Tokens", "tokenizers", "mlartifacts", "mlflow.db", "mlflow.db-journal"]
)
def test_a_run_name_that_is_reserved_for_shared_files(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, f"run: {{name: {name}}}")
    assert error.key == "run.name"
    assert error.what == "medray keeps files of all runs under this name"
    assert error.fix == f"run.name: {name}-run"
    assert read(tmp_path / "run.yaml", [f"run.name={name}-run"]).run.name == f"{name}-run"


def test_no_key_value_or_file_name_reaches_the_terminal_unescaped(tmp_path: Path) -> None:
    for text in ('"\\e[2J\\n": 1', 'train: {"\\u202e": 1}', 'tracking: {tags: {"\\a": 1}}'):
        message = str(refused(tmp_path, text))
        assert message.replace("\n  Fix: ", "").isprintable()
    with pytest.raises(InputError) as caught:
        read(tmp_path / "\x1b[31m.yaml")
    assert "\\x1b[31m.yaml" in str(caught.value)
    assert "\x1b" not in str(caught.value)
