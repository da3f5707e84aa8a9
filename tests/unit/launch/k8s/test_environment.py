"""Tests of the variables of this machine that reach the pods, and of the ports that they open in the network policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from launched import launched

from medray.errors import InputError
from medray.launch.k8s import Launch

CLAIM = ("launch.k8s.volume_claim=shared", "run.storage=/medray/runs")


def head(launch: Launch) -> Any:
    return launch.job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]


def worker(launch: Launch) -> Any:
    return launch.job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]


def test_another_environment_is_the_same_job(tmp_path: Path) -> None:
    here, there = (
        launched(tmp_path, environ=environ)
        for environ in ({"AWS_REGION": "eu-1", "http_proxy": "http://proxy:3128"}, {})
    )
    assert here.job["metadata"] == there.job["metadata"]
    assert here.text() != there.text()
    assert launched(tmp_path, "launch.k8s.secrets=[one]").job["metadata"] != there.job["metadata"]


def test_no_secret_is_in_a_manifest(tmp_path: Path) -> None:
    environ = {
        "HF_TOKEN": "hf_value", "AWS_SECRET_ACCESS_KEY": "aws_value", "AWS_ACCESS_KEY_ID": "AKIAVALUE",
        "MLFLOW_TRACKING_PASSWORD": "ml_value", "HTTPS_PROXY": "http://user:px_value@proxy:3128",
        "NO_PROXY": "internal", "NOT_ALLOWED": "other_value", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    launch = launched(tmp_path, environ=environ)
    everything = launch.text() + " ".join(launch.notes)
    for value in ("hf_value", "aws_value", "AKIAVALUE", "ml_value", "px_value", "other_value"):
        assert value not in everything
    env = {each["name"]: each["value"] for each in worker(launch)["containers"][0]["env"]}
    assert (env["NO_PROXY"].split(",")[0], env["HF_HUB_OFFLINE"]) == ("internal", "1")
    (note,) = launch.notes
    for name in (
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "MLFLOW_TRACKING_PASSWORD",
        "HTTPS_PROXY",
    ):
        assert name in note
    assert "launch.k8s.secrets" in note


def test_paths_of_this_machine_are_not_sent(tmp_path: Path) -> None:
    environ = {"HF_HOME": "/home/me/hf", "SSL_CERT_FILE": "/medray/ca.pem"}
    launch = launched(tmp_path, *CLAIM, environ=environ)
    names = {each["name"] for each in head(launch)["containers"][0]["env"]}
    assert "SSL_CERT_FILE" in names
    assert "HF_HOME" not in names
    assert "HF_HOME" in launch.notes[0]


INSIDE = "127.0.0.1,localhost,.svc,.cluster.local"


@pytest.mark.parametrize(
    ("environ", "large", "small"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, INSIDE, INSIDE),
        ({"https_proxy": "http://user:word@proxy:3128"}, INSIDE, INSIDE),  # by a Secret
        ({"NO_PROXY": "internal, localhost"}, "internal,localhost,127.0.0.1,.svc,.cluster.local",
         "internal,localhost,127.0.0.1,.svc,.cluster.local"),
        ({"NO_PROXY": "a", "no_proxy": "b"}, f"a,{INSIDE}", f"b,{INSIDE}"),
        ({"http_proxy": "http://proxy", "no_proxy": "*"}, "*", "*"),
    ],
)  # fmt: skip
def test_a_proxy_is_not_asked_for_the_cluster_itself(
    environ: dict[str, str], large: str | None, small: str | None, tmp_path: Path
) -> None:
    launch = launched(tmp_path, environ=environ)
    for pod in (head(launch), worker(launch)):
        env = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
        assert (env.get("NO_PROXY"), env.get("no_proxy")) == (large, small)


@pytest.mark.parametrize(
    ("name", "value", "ports"),
    [
        ("HTTPS_PROXY", "proxy:3128", [443, 3128]),
        ("http_proxy", "10.1.2.3:8080", [443, 8080]),
        ("http_proxy", "proxy", [80, 443]),
        ("HTTPS_PROXY", "proxy:no", [443]),
        ("NO_PROXY", "internal:9999", [443]),
    ],
)
def test_the_port_of_a_proxy_is_let_out(name: str, value: str, ports: list[int], tmp_path: Path) -> None:
    spec = launched(tmp_path, environ={name: value}).manifests[1]["spec"]
    assert sorted(each["port"] for each in spec["egress"][-1]["ports"]) == ports


def test_a_value_that_is_not_utf8_is_not_sent(tmp_path: Path) -> None:
    environ = {"NCCL_DEBUG": b"caf\xe9".decode("utf-8", "surrogateescape"), "NCCL_IB_HCA": "caf\u00e9"}
    launch = launched(tmp_path, environ=environ)
    env = {each["name"]: each["value"] for each in worker(launch)["containers"][0]["env"]}
    assert "NCCL_DEBUG" not in env
    assert env["NCCL_IB_HCA"] == "caf\u00e9"
    assert launch.notes == (
        "variables not sent, because their values are not UTF-8, as a manifest must be: NCCL_DEBUG",
    )
    launch.text().encode()


def test_the_network_policy_lets_out_what_the_config_names(tmp_path: Path) -> None:
    launch = launched(
        tmp_path,
        "tracking.uri=http://mlflow:5000",
        "tracking.enabled=true",
        environ={"AWS_ENDPOINT_URL": "http://minio:9000"},
    )
    spec = launch.manifests[1]["spec"]
    assert [each["port"] for each in spec["egress"][-1]["ports"]] == [443, 5000, 9000]
    assert spec["egress"][1] == {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    pods = [head(launch), worker(launch)]
    labels = launch.job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    assert labels == spec["podSelector"]["matchLabels"] == {"medray/run": "first"}
    assert all(pod["automountServiceAccountToken"] is False for pod in pods)


def test_a_database_in_the_environment_or_on_the_claim(tmp_path: Path) -> None:
    environ = {"MLFLOW_TRACKING_URI": "sqlite:////home/me/mlflow.db"}
    with pytest.raises(InputError) as raised:
        launched(tmp_path, "tracking={enabled: true}", *CLAIM, environ=environ)
    assert raised.value.key == "MLFLOW_TRACKING_URI"
    launched(tmp_path, *CLAIM, environ=environ)  # tracking is off
    launched(tmp_path, "tracking={enabled: true, uri: 'sqlite:////medray/mlflow.db'}", *CLAIM)
