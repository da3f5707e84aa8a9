"""docs/migrating.md: every flag of the reference systems, and what it became."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from medray.cli.main import parser
from medray.config import read
from medray.config.explain import ALIASES, keys
from medray.config.loading.former_flags import Flag, hint, is_planned, key_of, planned, tables
from medray.config.reference import FILES
from medray.errors import InputError

SCRIPT = Path(__file__).parents[2] / "scripts" / "migrating.py"

# As those systems' parsers and config files have them.
DISTILLATION = """
dataset subsample alpha weight max_steps train_epochs eval_steps save_and_eval_steps batch_size batch_size_train
batch_size_eval grad_steps optimizer_name lr run seed from_pretrained label_type llm model_type peft_type rank
lora_alpha lora_dropout max_input_length max_output_length gen_max_len max_new_tokens parallelize local_rank deepspeed
bf16 no_log output_rationale addi_info description output_dir hub_model_id cos_sim dynamic hierarchical with_head
task_type gcs_project gcs_path
"""
EVALUATION = """
max_source_length max_target_length val_max_target_length generation_max_length num_beams source_prefix
label_smoothing_factor warmup_ratio group_by_length metric_for_best_model checkpoint_dir task fn_eval_data
"""
INFERENCE = (
    "team_name run_id subtask max_input_length max_tokens batch_size device output_dir bertscore_model"
)
EXAMPLES_AND_PREFERENCES = """
all datasets task one_dataset embedding_model_path rerank_model_path search_type k score_threshold modelpath
datapreprocess epoch batchsize gradient_accumulation_steps lr_scheduler_type learning_rate output_dir beta loss_type
dpop_lambda max_length max_prompt_length
"""
PUBLISHED = [names.split() for names in (DISTILLATION, EVALUATION, INFERENCE, EXAMPLES_AND_PREFERENCES)]
NAMES = sorted({name for names in PUBLISHED for name in names})
FLAGS = [flag for table in tables() for flag in table.flags]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("migrating", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_writes(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = script.PAGE.read_text(encoding="utf-8")
    assert written == script.page(), "python scripts/migrating.py"
    assert script.main(["--check"]) == 0
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == written


def test_every_published_flag_has_one_row() -> None:
    for table, names in zip(tables(), PUBLISHED, strict=False):
        found = [name for flag in table.flags for name in flag.names]
        assert sorted(found) == sorted(names), table.title
    assert len(tables()) == len(PUBLISHED) + 1, "the last table is of what had no flag"
    assert all(" " in name for flag in tables()[-1].flags for name in flag.names)


def test_every_key_and_command_of_the_page_exists_unless_it_says_not_yet() -> None:
    commands = set(_commands(parser(), "medray"))
    known = {key for schema in FILES.values() for key in keys(schema)}
    for flag in FLAGS:
        assert flag.text
        for entry in flag.medray:
            if not is_planned(entry):
                key = key_of(entry)
                assert entry in commands if key is None else key in known, f"{flag.names}: {entry}"
    built = {entry for entry in planned() if entry in commands | known}
    assert not built, f"it exists now: take {built} out of `planned` and run scripts/migrating.py"
    used = {entry for flag in FLAGS for entry in flag.medray}
    assert all(any(f"{entry} ".startswith((f"{name} ", f"{name}.")) for entry in used) for name in planned())


def test_values_that_rows_name_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    for flag in FLAGS:
        for entry in flag.medray:
            if ": " in entry and not is_planned(entry):
                key, _, value = entry.partition(": ")
                file.write_text("")
                read(file, [f"{key}={value}"])


def _commands(command: argparse.ArgumentParser, words: str) -> Iterator[str]:
    yield words
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from _commands(inner, f"{words} {name}")
        else:
            yield from (f"{words} {option}" for option in action.option_strings)


@pytest.mark.parametrize("name", NAMES)
def test_a_flag_written_as_a_key_is_answered_by_what_it_became(name: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"{name}: 1\n")
    with pytest.raises(InputError) as caught:
        read(file)
    error = caught.value
    assert (error.file, error.key) == (file, name)
    rows = [flag for flag in FLAGS if name in flag.names]
    if name == "run":  # the section has that name: what it may hold is listed
        assert error.fix == "use the keys of run: begin_from, name, seed, storage"
    else:
        assert any(_answers(str(error.fix), row) for row in rows), error.fix


def _answers(fix: str, row: Flag) -> bool:
    """Whether `fix` leads to what the row says is there, and to nothing that is not."""
    if not row.medray:
        return fix == row.text
    if row.planned:
        return fix == f"not in medray yet: {' and '.join(row.medray)}"
    return any(entry in fix for entry in row.medray if not is_planned(entry)) and not any(
        entry in fix for entry in planned()
    )


def test_a_flag_is_known_in_any_section_and_spelling(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    for text, fix in (
        ("method: {cos-sim: true}", "did you mean method.variant: cosine?"),
        ("model: {With_Head: true}", hint("with_head")),
        ("peft: {lora_alpha: 8}", "did you mean peft.alpha?"),
        ("peft: {adalora: {deltaT: 8}}", "did you mean peft.adalora.delta_t?"),
    ):
        file.write_text(text)
        with pytest.raises(InputError) as caught:
            read(file)
        assert caught.value.fix == fix
    assert hint("nothing_of_the_kind") is None


def test_what_peers_call_it_agrees_with_the_table() -> None:
    names = {name for flag in FLAGS for name in flag.names} & set(ALIASES)
    assert names
    for name in names:
        became = {key_of(entry) for flag in FLAGS if name in flag.names for entry in flag.medray}
        assert ALIASES[name] in became, name
