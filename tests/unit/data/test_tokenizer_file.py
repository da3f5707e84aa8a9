"""A tokenizer read without transformers equals the one that transformers loads, which loads all others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from medray.data.encode.encoder import Encoder
from medray.data.encode.render import EncodeSpec
from medray.data.encode.text_ids import TextIds
from medray.data.index.membership import SplitIndex
from medray.data.records import Distill, Instruction, Message, Origin, Record
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer
from medray.data.tokenizer_file import FileTokenizer, keep_tokenizer, read_tokenizer, tokenizer_of

CHATML = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' and loop.first %}\n"
    "    {{- '<|system|>' + m['content'] | tojson }}\n"
    "{% else %}{{ '<|' + m['role'] + '|>' }}{% generation %}{{ m['content'] }}{% endgeneration %}{{ eos_token }}"
    "{% endif %}{% if loop.index > 9 %}{% break %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TEXTS = ["fever", " two  days\n", "naïve café – 5 µg/mL 疼痛", "</s> is no end <pad>", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trained tokenizer with a begin token, an added token and a chat template."""
    made = tmp_path_factory.mktemp("model") / "tokenizer"
    shutil.copytree(tiny.tokenizer(tmp_path_factory.getbasetemp() / "trained"), made)
    file = made / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"bos_token": "<unk>", "chat_template": CHATML}
    file.write_text(json.dumps(config))
    return made


def changed(folder: Path, target: Path, change: Callable[[Path, dict[str, Any]], None]) -> Path:
    shutil.copytree(folder, target)
    file = target / "tokenizer_config.json"
    config = json.loads(file.read_text())
    change(target, config)
    file.write_text(json.dumps(config))
    return target


def spec(**changes: Any) -> EncodeSpec:
    values: dict[str, Any] = {
        "architecture": "causal", "tasks": ("label", "rationale"), "prompts": {"label": "Write", "rationale": "Why"},
        "system": "be brief", "template": "chat", "train_turns": "all", "train_on": "completion",
        "extraction_answer": "entities", "extraction_types": (), "max_input_tokens": 99,
        "limits": {"label": 20, "rationale": 20},
    }  # fmt: skip
    return EncodeSpec(**(values | changes))


def assert_same(ours: FileTokenizer, theirs: Any) -> None:
    for name in ("eos_token_id", "bos_token_id", "pad_token_id", "unk_token_id", "chat_template"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert set(ours.all_special_tokens) == set(theirs.all_special_tokens)
    assert {n: str(t) for n, t in ours.added_tokens_decoder.items()} == {
        n: str(t) for n, t in theirs.added_tokens_decoder.items()
    }
    for text in TEXTS:
        for special in (True, False):
            ids = ours(text, add_special_tokens=special)["input_ids"]
            assert ids == theirs(text, add_special_tokens=special)["input_ids"]
            options = {"skip_special_tokens": special, "clean_up_tokenization_spaces": False}
            assert ours.decode(ids, **options) == theirs.decode(ids, **options)
            assert ours.batch_decode([ids, []], **options) == theirs.batch_decode([ids, []], **options)
        assert [ours.convert_ids_to_tokens(n) for n in ids] == theirs.convert_ids_to_tokens(ids)
    turns = [{"role": role, "content": f"é <{role}>"} for role in ("system", "user", "assistant", "user")]
    for ask in (True, False):
        asked: dict[str, Any] = {"tokenize": False, "add_generation_prompt": ask, "enable_thinking": False}
        assert ours.apply_chat_template(turns, **asked) == theirs.apply_chat_template(turns, **asked)


def test_it_equals_the_tokenizer_of_transformers(folder: Path) -> None:
    ours = read_tokenizer(str(folder))
    assert isinstance(ours, FileTokenizer)
    assert_same(ours, load_tokenizer(str(folder)))


def test_the_encoder_makes_the_same_tokens(folder: Path) -> None:
    origin = Origin("a", "a", "a", "")
    records: list[Record] = [
        Distill(origin, "fever for two days", "has fever", "the patient says so"),
        Instruction(origin, (Message("user", "</s> cough?"), Message("assistant", "no"), Message("user", "pain?"),
                             Message("assistant", "some"))),
    ]  # fmt: skip
    ours, theirs = read_tokenizer(str(folder)), load_tokenizer(str(folder))
    assert TextIds(ours).control == TextIds(theirs).control
    for asked in (
        spec(),
        spec(template="plain"),
        spec(template="alpaca", system=None),
        spec(architecture="seq2seq"),
    ):
        mine, wanted = Encoder(ours, asked).encode(records), Encoder(theirs, asked).encode(records)
        for task in asked.tasks:
            assert mine[task].input_ids.tolist() == wanted[task].input_ids.tolist()
            assert mine[task].targets.tolist() == wanted[task].targets.tolist()


def rebuilt(_: Path, config: dict[str, Any]) -> None:
    config["tokenizer_class"] = "GPT2Tokenizer"


def with_begin(_: Path, config: dict[str, Any]) -> None:
    config["add_bos_token"] = True


def new_token(_: Path, config: dict[str, Any]) -> None:
    config["eos_token"] = "<|never seen|>"


def other_map(folder: Path, _: dict[str, Any]) -> None:
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<pad>"}')


def other_type(folder: Path, _: dict[str, Any]) -> None:
    (folder / "config.json").write_text('{"model_type": "mistral"}')


def no_end(_: Path, config: dict[str, Any]) -> None:
    del config["eos_token"]


def broken(folder: Path, _: dict[str, Any]) -> None:
    (folder / "tokenizer.json").write_text("{")


def qwen(_: Path, config: dict[str, Any]) -> None:
    config["tokenizer_class"] = "Qwen2Tokenizer"


def with_mask(_: Path, config: dict[str, Any]) -> None:
    config["mask_token"] = {"__type": "AddedToken", "content": "<m>", "lstrip": True, "special": True}
    config["extra_special_tokens"] = ["<turn>"]


@pytest.mark.parametrize("change", [rebuilt, qwen, with_begin, new_token, with_mask])
def test_the_tokenizer_of_shards_is_saved_next_to_them_unchanged(
    folder: Path, tmp_path: Path, change: Callable[[Path, dict[str, Any]], None]
) -> None:
    made = str(changed(folder, tmp_path / "changed", change))
    theirs, tokens = (
        load_tokenizer(made),
        TokenSet(
            folder=str(tmp_path / "0a1b" / "train"), tokenizer=made, spec=spec(), index=SplitIndex(shards=())
        ),
    )
    keep_tokenizer(theirs, tmp_path / "0a1b")
    ours = tokenizer_of(tokens)
    assert isinstance(ours, FileTokenizer)
    assert_same(ours, theirs)


@pytest.mark.parametrize("change", [rebuilt, with_begin, new_token, other_map, other_type, no_end, broken])
def test_a_tokenizer_that_transformers_changes_is_loaded_by_it(
    folder: Path,
    tmp_path: Path,
    change: Callable[[Path, dict[str, Any]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("medray.data.tokenizer_file.load_tokenizer", asked.append)
    made = str(changed(folder, tmp_path / "changed", change))
    read_tokenizer(made)
    assert asked == [made]
