"""Tests of the section of a backend, and of files with sections of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from medray.config.backends import BackendConfig
from medray.config.loading.own_file import path_near_file, read_own
from medray.errors import InputError

GOOD = "{base_url: 'http://127.0.0.1:8000/v1', model: m"


def read(folder: Path, text: str, *overrides: str) -> BackendConfig:
    (folder / "x.yaml").write_text(text, encoding="utf-8")
    return read_own(BackendConfig, folder / "x.yaml", overrides)


def test_a_file_is_read_with_overrides(tmp_path: Path) -> None:
    found = read(tmp_path, f"{GOOD}}}", "limits.concurrency=9", "model=other")
    assert (found.limits.concurrency, found.model, found.may_receive) == (9, "other", "synthetic")


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("{type: endpoint, model: m}", "type endpoint needs base_url", "set base_url"),
        (f"{GOOD}, file: a.jsonl}}", "type endpoint ignores file", "remove file"),
        ("{type: rule, rule: x, price: {prompt_per_million: 1, completion_per_million: 1}}",
         "type rule ignores price", "remove price"),
        (f"{GOOD}, may_recieve: records}}", "there is no such key", "did you mean may_receive?"),
        (f"{GOOD}, limits: {{concurency: 2}}}}", "there is no such key", "did you mean limits.concurrency?"),
        (f"{GOOD}, price: {{prompt_per_million: 1}}}}", "completion_per_million is missing", "set price"),
        (f"{GOOD}, limits: {{retries: -1}}}}", "must be at least 0", "use a number that is at least 0"),
        (f"{GOOD}, body: {{messages: []}}}}", "sets messages", "remove messages"),
        ("{base_url: 'http://h/v1/chat/completions', model: m}", "contains /chat/completions", "remove"),
        ("{base_url: 'ftp://h/v1', model: m}", "is not an http:// or https:// URL", "use a URL"),
    ],
)  # fmt: skip
def test_a_wrong_section_names_key_and_fix(tmp_path: Path, text: str, what: str, fix: str) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    assert what in str(error.value)
    assert fix in str(error.value)


@pytest.mark.parametrize(
    "url", ["https://user:pw-123@h/v1", "https://token-123@h/v1", "https://h/v1?api_key=pw-123"]
)
def test_a_url_with_credentials_is_refused_without_showing_them(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path, f"{{base_url: '{url}', model: m}}")
    assert "-123" not in str(error.value)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    assert path_near_file("a/b.jsonl", tmp_path / "x.yaml", "items") == str(tmp_path / "a" / "b.jsonl")
    assert path_near_file("s3://b/a", tmp_path / "x.yaml", "items") == "s3://b/a"
