"""The only caller of `from_pretrained` runs nothing from a folder, and asks no questions."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

import medray
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError
from medray.plan.pretrained import from_pretrained

CODE = "import pathlib\npathlib.Path({mark!r}).touch()\nclass Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Answer every question with yes, like a user or a pipe."""
    answers = io.StringIO("y\n" * 100)
    monkeypatch.setattr(sys, "stdin", answers)
    return answers


def folder_with_code(folder: Path, mark: Path, **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_code_of_a_model_folder_is_not_run(tmp_path: Path, yes: io.StringIO) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    named = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    folder = folder_with_code(
        tmp_path / "model", tmp_path / "ran", config={"model_type": "unheard_of", "auto_map": named}
    )
    for auto in (AutoConfig, AutoModelForCausalLM):
        with pytest.raises(InputError, match="which medray does not run") as caught:
            from_pretrained(auto, folder)
        assert (caught.value.file, caught.value.key) == (folder / "config.json", "auto_map")
    assert not (tmp_path / "ran").exists()
    assert yes.tell() == 0


@pytest.mark.parametrize("named", [{"AutoTokenizer": ["own.Tokenizer", None]}, ["own.Tokenizer", None]])
def test_code_of_a_tokenizer_is_not_run(named: Any, tmp_path: Path, yes: io.StringIO) -> None:
    folder = folder_with_code(
        tmp_path / "model",
        tmp_path / "ran",
        config={"model_type": "llama"},
        tokenizer_config={"tokenizer_class": "Tokenizer", "auto_map": named},
    )
    with pytest.raises(InputError, match="which medray does not run") as caught:
        load_tokenizer(str(folder))
    assert (caught.value.file, caught.value.key) == (folder / "tokenizer_config.json", "auto_map")
    assert not (tmp_path / "ran").exists()
    assert yes.tell() == 0


def test_a_class_of_transformers_is_used_instead_of_the_folders(tmp_path: Path) -> None:
    from transformers import AutoConfig, LlamaConfig

    named = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    folder = folder_with_code(
        tmp_path / "model", tmp_path / "ran", config={"model_type": "llama", "auto_map": named}
    )
    assert type(from_pretrained(AutoConfig, folder)) is LlamaConfig
    assert not (tmp_path / "ran").exists()


def test_a_kernel_that_a_config_names_is_not_fetched(tmp_path: Path) -> None:
    from transformers import AutoConfig

    (tmp_path / "config.json").write_text('{"model_type": "llama", "_attn_implementation": "org/kernel"}')
    with pytest.raises(InputError, match="which medray does not allow"):
        from_pretrained(AutoConfig, tmp_path)


def test_a_folder_that_a_library_cannot_read_is_refused_without_a_traceback(tmp_path: Path) -> None:
    folder = tiny.tokenizer(tmp_path)
    saved = load_tokenizer(str(folder))
    assert not {"local_files_only", "is_local", "trust_remote_code"} & set(saved.init_kwargs)
    for content in ("{}", '{"model": {}}', "{", '{"model": {"type": "BPE", "vocab": 5}}'):
        (Path(folder) / "tokenizer.json").write_text(content)
        with pytest.raises(InputError):
            load_tokenizer(str(folder))


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("You are trying to access a gated repo.\nMake sure to have access to it", "HF_TOKEN"),
        ("We couldn't connect to 'https://huggingface.co' to load the files", "hf download"),
        ("does not appear to have a file named config.json", "with a config.json"),
    ],
)
def test_a_hub_that_refuses_or_is_away_is_told_with_the_way_out(said: str, fix: str) -> None:
    class HubConfig:
        """A class of transformers whose download fails."""

        @classmethod
        def from_pretrained(cls, *names: str, **settings: Any) -> None:
            raise OSError(said)

    with pytest.raises(InputError, match="cannot load the config") as caught:
        from_pretrained(HubConfig, "org/model")
    assert fix in str(caught.value.fix)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config: Any = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=8
    )
    config.save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot load the model"):
        from_pretrained(AutoModelForCausalLM, tmp_path)


def test_no_other_file_calls_from_pretrained() -> None:
    root = Path(medray.__file__).parent
    found = []
    for file in sorted(root.rglob("*.py")):
        if file == root / "plan" / "pretrained.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                found.append(f"{file.relative_to(root)}:{node.lineno}")
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "from_config"
            ):
                told = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if told.get("trust_remote_code") != "False" and "parameters" not in ast.unparse(node.func):
                    found.append(f"{file.relative_to(root)}:{node.lineno}: from_config")
    assert found == []
