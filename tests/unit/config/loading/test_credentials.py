"""A config with a password or a signature is refused, and no message, file or parameter of a run contains one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medray.config import Config, dump, read
from medray.config.checks import check
from medray.config.loading.credentials import has_credentials
from medray.config.loading.yaml_text import write
from medray.errors import InputError
from medray.tracking.mlflow_names import without_userinfo
from medray.train.driver.tracking import tracking_spec

URLS = [
    "postgresql://user:s3cr3t@db/x",
    "postgresql+psycopg2://user:s3c/r3t@db:5432/x",
    "mysql://:s3cr3t@db/x",
    "https://user:s3cr3t@host:8443/x",
    "https://s3cr3t@host/x",
    "HTTPS://User:s3cr3t@host/x",
    "https://user%3As3cr3t%40host/x@y",
    "simplecache::https://user:s3cr3t@host/x.jsonl",
    "zip://a.jsonl::https://user:s3cr3t@host/x.zip",
    "s3://KEY:s3cr3t@bucket/x.jsonl",
    "ray://user:s3cr3t@head:10001",
    "//user:s3cr3t@host/x",
    "https://host/x.jsonl?token=s3cr3t",
    "https://host/x.jsonl?a=b&access_token=s3cr3t",
    "https://host/x.jsonl#access_token=s3cr3t",
    "https://host/x.jsonl?sv=2020&sig=s3cr3t",
    "https://host/x.jsonl?X-Amz-Credential=a&X-Amz-Signature=s3cr3t",
    "https://host/x.jsonl?x-goog-signature=s3cr3t",
    "https://host/x.jsonl?AWSAccessKeyId=a&Signature=s3cr3t",
    "https://host/x.jsonl?%74oken=s3cr3t",
    "https://host/x.jsonl?s3cr3t",
    "HTTPS://host/x.jsonl?raw&s3cr3t",
    "https://host/x.jsonl;s3cr3t",
    "https://host/x.jsonl;token=s3cr3t",
    "https://host/x?s3cr3t.jsonl",
    "abfs://c@acct.dfs.core.windows.net/a.jsonl?s3cr3t",
    "simplecache::https://host/x.jsonl?s3cr3t",
    "https://host/x?api_key=s3cr3t",
    "https://host/x;password=s3cr3t",
    "postgresql://db/x?user=me&password=s3cr3t",
    "mssql+pyodbc:///?odbc_connect=PWDs3cr3t",
    "azure://container/x?SAS=s3cr3t",
    "x.jsonl?token=s3cr3t",
]
PLACES: dict[str, Any] = {
    "tracking.uri": "MLFLOW_TRACKING_URI",
    "run.storage": "AWS_SECRET_ACCESS_KEY",
    "cluster.address": "RAY_AUTH_TOKEN_PATH",
    "model.name": "HF_TOKEN",
    "model.adapter": "download",
    "data.root": "download",
    "data.train[0]": "download",
    "data.train[0].path": "download",
    "data.validation[0]": "download",
    "data.decontaminate[1]": "download",
    "tracking.tags.from": "environment",
    "train.deepspeed.wandb.host": "environment",
    "unknown.key": "environment",
}


def tree(key: str, value: Any) -> Any:
    """Return {section: …} with `value` at a dotted key; [n] makes a list."""
    for part in reversed(key.replace("[", ".[").split(".")):
        value = ["x"] * int(part[1:-1]) + [value] if part.startswith("[") else {part: value}
    return value


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        read(file, overrides)
    said = f"{caught.value} {caught.value!r}"
    assert "s3cr3t" not in said
    assert "s3c/r3t" not in said
    return str(caught.value)


@pytest.mark.parametrize("url", URLS)
def test_every_form_is_refused(url: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(write({"tracking": {"uri": url}}))
    assert refusal(file).startswith(f"{file}: tracking.uri: contains a ")
    file.write_text("")
    assert refusal(file, f"tracking.uri={url}").startswith("command line: tracking.uri: contains a ")
    refusal(file, url)  # a whole URL as an override


@pytest.mark.parametrize("key", PLACES)
def test_every_key_is_checked_and_has_a_fix(key: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(write(tree(key, URLS[0])))
    said = refusal(tmp_path / "run.yaml")
    assert f": {key}: contains a user or a password in a URL" in said
    assert PLACES[key] in said


def test_keys_of_mappings_and_anchors_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(write({"tracking": {"tags": {URLS[0]: "x"}}}))
    refusal(tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_text(f"a: &a [{URLS[0]!r}]\ndata: {{train: *a}}\n")
    refusal(tmp_path / "run.yaml")


def test_a_config_that_was_made_in_python_is_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tracking\.uri: contains a user or a password"):
        check(Config.model_validate({"tracking": {"uri": URLS[0]}}))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user@db:5432/x",  # its password is in a file: PGPASSFILE
        "http://mlflow:5000",
        "http://mlflow:5000/#/experiments/1",
        "https://host:8080/data/a@b.jsonl",
        "https://host/a.jsonl?revision=main&format=jsonl&author=x&tokenizer=y",
        "s3://bucket/a@b/c.jsonl",
        "sqlite:////home/a@b/mlflow.db",
        "/data/a:b@c.jsonl",
        "Ask: is it 12:30? Write to a@b.org",
        "data/*.jsonl?token=",
        "https://host/a.jsonl?raw",
        "https://host/a.jsonl?v=1&download",
        "s3://bucket/part-?.jsonl.gz",
        "s3://bucket/part-??",
        "What is https://host/a?b",
        "data/a?b",
        "hdfs://user@namenode:8020/x",
        "{% if x == 'token=a' %}",
    ],
)
def test_text_without_credentials_is_accepted(text: str) -> None:
    assert not has_credentials(text)


@pytest.mark.parametrize("uri", ["https://user:s3cr3t@mlflow/x", "postgresql://user:s3c/r3t@db/x", URLS[-4]])
def test_the_environments_uri_is_used_and_never_written(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    config = Config.model_validate({"run": {"storage": str(tmp_path)}})
    spec = tracking_spec(config)
    assert spec.uri == uri
    shown = without_userinfo(uri)
    for written in (dump(config), json.dumps(spec.params), json.dumps(spec.tags), shown):
        assert "s3cr3t" not in written
        assert "r3t" not in written
    assert tracking_spec(Config.model_validate({"tracking": {"uri": "http://other"}})).uri == "http://other"
