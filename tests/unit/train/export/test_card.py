"""The example in an export's model card: it is run, and must give the same answer as medray's evaluation."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import recorder
import tiny
import torch

from medray.config import Config
from medray.config.peft import PeftConfig
from medray.data.batching.collate import prompts
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError
from medray.evaluate.decoding import Decoding
from medray.evaluate.generate import generate
from medray.models.adapters import add_adapter
from medray.models.export import export, load_export
from medray.models.export.usage import FILE, Usage, base_of_model, example, read_usage, usage, write_usage
from medray.models.generation import evaluation_settings
from medray.train.export.card import usage_of_plan
from medray.train.loop import training
from medray.train.run_folder import results

CPU = torch.device("cpu")
LORA = {"type": "lora", "rank": 2, "alpha": 4.0}
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}"
    "{{ '[' + m['role'] + ']' + m['content'] + (eos_token if m['role'] == 'assistant' else '') }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


def conversation(row: dict[str, Any]) -> dict[str, Any]:
    turns = [{"role": "user", "content": row["input"]}, {"role": "assistant", "content": row["label"]}]
    return {"id": row["id"], "messages": turns}


def with_begin_token(folder: Path) -> None:
    """Make the tokenizer that `tiny.token_set` uses, with a begin token that it puts before every text."""
    from tokenizers.processors import TemplateProcessing

    place = tiny.tokenizer(folder)
    made: Any = load_tokenizer(str(place))
    made.add_special_tokens({"bos_token": "<s>"})
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
    )
    made.save_pretrained(place)


def move(model: Any) -> None:
    """Change the trained weights at random."""
    torch.manual_seed(1)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(torch.randn_like(one), alpha=0.2 * one.requires_grad)


def exported(
    folder: Path, *, architecture: str = "causal", peft: dict[str, Any] | None = None, spec: dict[str, Any]
) -> tuple[TokenSet, Path]:
    """Make token shards and an export whose answers are noise, but always the same noise."""
    rows = [row | {"input": " ".join(row["input"].split()[:12])} for row in tiny.rows(5)]
    made = [conversation(row) for row in rows] if spec.pop("talks", False) else rows
    asked = replace(tiny.encode_spec(architecture), max_input_tokens=300, **spec)
    tokens = tiny.token_set(folder, made, architecture=architecture, spec=asked)
    model = tiny.saved_model(
        folder / "base", "t5-tiny" if architecture == "seq2seq" else "llama-tiny", tokens
    )
    tokenizer = tokens.load_tokenizer()
    loaded: Any = load_export(folder / "base", CPU)
    move(loaded)  # random weights give long answers
    loaded.save_pretrained(folder / "base")
    kind = PeftConfig.model_validate(peft or {"type": "none"})
    loaded = add_adapter(loaded, kind, seq2seq=architecture == "seq2seq", seed=0, tokenizer=tokenizer)
    move(loaded)
    export(loaded, tokenizer, folder / "export", write=True, gathered=lambda one: nullcontext())
    config = Config.model_validate({"model": model})
    found = usage(
        asked,
        tokenizer,
        tokens,
        format="adapter" if peft else "full",
        base=base_of_model(config.model, str(folder / "base")),
        dtype="fp32",
        adapter=kind.type if peft else None,
        model=json.loads((folder / "base" / "config.json").read_text()),
        max_new_tokens=9,
        num_beams=1,
    )
    write_usage(folder / "export", found)
    return tokens, folder / "export"


def answered(tokens: TokenSet, folder: Path) -> str:
    """Return what medray generates for the first row."""
    tokenizer = load_tokenizer(str(folder))
    asked = prompts([tokens.store().prompt(0, 0)], tokens.spec.architecture, tokenizer.pad_token_id)
    return generate(load_export(folder, CPU), tokenizer, asked, Decoding(max_new_tokens=9), device=CPU)[0]


CASES: dict[str, dict[str, Any]] = {
    "chat": {"spec": {}},
    "system": {"spec": {"template": "chatml", "system": "Be brief."}, "peft": LORA},
    "no-system": {"spec": {"template": f"jinja:{NO_SYSTEM}", "system": "Be brief."}},
    "alpaca": {
        "spec": {"template": "alpaca", "prompts": {"label": 'the "patient"\nsays', "rationale": "why"}}
    },
    "legacy": {"spec": {"template": "legacy/llama"}},
    "begin": {"spec": {"template": "chatml"}},
    "talks": {"spec": {"talks": True, "tasks": ("label",)}},
    "no-prompt": {"spec": {"prompts": {"label": "", "rationale": "explain"}}},
    "virtual": {"spec": {}, "peft": {"type": "multitask_prompt", "virtual_tokens": 3}},
    "t5": {"spec": {}, "architecture": "seq2seq", "peft": LORA},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # peft, of virtual tokens
def test_the_example_answers_as_the_evaluation_does(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if case == "begin":
        with_begin_token(tmp_path)
    options = {**CASES[case], "spec": dict(CASES[case]["spec"])}
    tokens, folder = exported(tmp_path, **options)
    found = read_usage(folder)
    assert found is not None
    assert found.records == ("conversation" if case == "talks" else "prompted")
    text = " ".join(tiny.rows(1)[0]["input"].split()[:12])
    asked = found.tasks["label"]
    shown = load_tokenizer(str(folder)).decode(tokens.store().prompt(0, 0))
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", asked.before + text + asked.after)
    code = example(found)
    assert 10 <= len(code.splitlines()) <= 16
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(code.replace('"the input"', repr(text)), {})
    answer = capsys.readouterr().out.strip()
    assert answer == answered(tokens, folder)
    assert len(answer) > 5, "an empty answer shows nothing"


def test_an_unreadable_or_newer_description_is_refused(tmp_path: Path) -> None:
    assert read_usage(tmp_path) is None
    for text, reason in (
        ("{", "does not describe an export"),
        ("[]", "does not describe an export"),
        ('{"schema_version": 1}', "does not describe an export"),
        ("[" * 100_000, "does not describe an export"),
        ('{"schema_version": 99}', "version 99"),
    ):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(InputError, match=reason):
            read_usage(tmp_path)


def test_a_base_is_named_by_its_public_id() -> None:
    def base(**model: Any) -> tuple[str, str, str | None]:
        found = base_of_model(Config.model_validate({"model": model}).model, "/cache/x")
        return found.kind, found.name, found.revision

    revision = "0123456789abcdef0123456789abcdef01234567"
    assert base(name="org/tiny-1") == ("hub", "org/tiny-1", None)
    assert base(name="smollm2-135m-instruct")[:2] == ("package", "smollm2-135m-instruct")
    assert base(name="/models/mine") == ("folder", "/models/mine", None)
    cached = f"/home/me/.cache/huggingface/hub/models--org--tiny-1/snapshots/{revision}"
    assert base(name=cached) == ("hub", "org/tiny-1", revision)
    assert base(name=None, init="random", preset="t5-tiny")[:2] == ("random", "t5-tiny")


def test_a_run_writes_the_card_of_its_export(tmp_path: Path) -> None:
    """Replace peft's empty card, which names a folder of a cache as the base."""
    tokens = tiny.token_set(tmp_path / "tokens", tiny.rows(12), tasks=("label",), truth=True)
    cache = tmp_path / "models--org--tiny" / "snapshots" / ("0a" * 20)
    made = tiny.plan(
        tmp_path / "run",
        tokens,
        "llama-tiny",
        workers=1,
        max_steps=2,
        model=tiny.saved_model(cache, "llama-tiny", tokens),
        method={"name": "sft"},
        peft=LORA,
        data={"prompts": {"label": "predict"}, "train": [{"path": "x.jsonl"}]},
        train={"zero_stage": 0},
        eval={"generation": {"max_new_tokens": 7, "num_beams": 2}},
    )
    finished, folder = recorder.Recorder(), Path(made.run_folder)
    done = training.run(made, finished)
    found = read_usage(folder / "export")
    assert isinstance(found, Usage)
    assert (found.format, found.adapter, found.dtype) == ("adapter", "lora", "fp32")
    assert found.generation["max_new_tokens"] == 7
    assert found.generation["num_beams"] == 2
    (folder / "steps.jsonl").write_text("".join(json.dumps(one) + "\n" for one in finished.steps))
    result = results.write_results(made, done, {"rouge1": 12.5}, [], {"fit": 1.0}, 2.0, {})
    assert result.summary["exported_step"] == 2
    card = (folder / "export" / "README.md").read_text()
    for fact in ("base_model: org/tiny", "| base | org/tiny |", "0a" * 20, "lora rank 2", "'predict:\\n'", example(found),
                 "rouge1 on validation, before and after | -, 12.5", "Clinicians", "`medray train`"):  # fmt: skip
        assert fact in card, fact
    for wrong in ("[More Information Needed]", str(tmp_path), "denies"):
        assert wrong not in card, wrong
        assert wrong not in (folder / "export" / FILE).read_text()


@pytest.mark.parametrize("base_settings", [False, True])
def test_the_settings_of_the_export_are_those_of_the_evaluation(tmp_path: Path, base_settings: bool) -> None:
    from transformers import GenerationConfig

    tokens = tiny.token_set(tmp_path / "tokens", tiny.rows(4), tasks=("label",))
    tiny.saved_model(tmp_path / "base", "llama-tiny", tokens)
    model: Any = load_export(tmp_path / "base", CPU)
    model.generation_config.update(
        repetition_penalty=1.3, no_repeat_ngram_size=4, do_sample=True, temperature=0.6
    )
    made = tiny.plan(
        tmp_path / "run", tokens, "llama-tiny", workers=1, max_steps=1, method={"name": "sft"},
        eval={"generation": {"max_new_tokens": 7, "num_beams": 2, "base_settings": base_settings}},
    )  # fmt: skip
    tokenizer = tokens.load_tokenizer()
    asked: dict[str, Any] = {"max_new_tokens": 7, "num_beams": 2, "base_settings": base_settings}
    wanted = evaluation_settings(model, tokenizer, **asked)
    write_usage(tmp_path, usage_of_plan(made, tokenizer, model))
    found = read_usage(tmp_path)
    assert found is not None
    assert GenerationConfig(**found.generation).to_dict() == wanted.to_dict()
    assert ("repetition_penalty" in found.generation) == base_settings
