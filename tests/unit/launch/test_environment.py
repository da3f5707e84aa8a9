"""Tests of the variables that a launched run gets, and of those that may be secrets."""

from __future__ import annotations

import pytest

from medray.config.launch import ENVIRONMENT
from medray.launch.environment import allowed, is_secret

SECRET = (
    ("HF_TOKEN", "x"),
    ("AWS_SECRET_ACCESS_KEY", "x"),
    ("AWS_SESSION_TOKEN", "x"),
    ("MLFLOW_TRACKING_PASSWORD", "x"),
    ("MLFLOW_TRACKING_URI", "https://me:word@host/"),
    ("HTTP_PROXY", "user:word@proxy:3128"),
    ("https_proxy", "http://u:wo/rd@proxy:3128"),
    ("AWS_SIGNED", "https://h/x?X-Amz-Signature=word"),
    ("WANDB_API_KEY", "x"),
    ("MYDB_PASSWD", "x"),
    ("MY_PRIVATE_KEY", "x"),
)
PLAIN = {
    "HF_HOME": "/shared/hf",
    "HF_HUB_OFFLINE": "1",
    "AWS_REGION": "eu-central-1",
    "AWS_ENDPOINT_URL": "http://minio:9000",
    "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    "HTTPS_PROXY": "http://proxy:3128",
    "NO_PROXY": "localhost,.svc,10.0.0.0/8",
    "REQUESTS_CA_BUNDLE": "/etc/ssl/ca.pem",
    "NCCL_IB_HCA": "mlx5_0:1",
}


@pytest.mark.parametrize(("name", "value"), SECRET)
def test_secrets(name: str, value: str) -> None:
    assert is_secret(name, value)


@pytest.mark.parametrize(("name", "value"), PLAIN.items())
def test_what_is_none(name: str, value: str) -> None:
    assert not is_secret(name, value)


def test_only_what_is_allowed_goes_along() -> None:
    found = allowed(ENVIRONMENT, {**PLAIN, "HF_TOKEN": "x", "HOME": "/home/me", "AWS": "x"})
    assert found.plain == PLAIN
    assert found.secret == {"HF_TOKEN": "x"}
    assert allowed((), {"HOME": "/"}).plain == {}
