"""Applying, following and deleting against an emulated API server (kmock), with the faults of a real one."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kmock
import pytest
from kubernetes_server import RAYJOBS, KubernetesServer
from launched import config_file, launched

from medray.cli.main import main
from medray.config import read
from medray.errors import InputError, RunFailedError
from medray.launch.k8s import Launch, client
from medray.launch.k8s.client import Cluster, Status, outcome_code
from medray.launch.k8s.needs import check_needs

MADE = {
    ("serviceaccounts", "first"),
    ("networkpolicies", "first"),
    ("configmaps", "first"),
    ("rayjobs", "first"),
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesServer]:
    with KubernetesServer(tmp_path) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield server


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return launched(tmp_path)


def fault(server: KubernetesServer, payload: Any, ahead: int = 0) -> None:
    """The next watch of RayJobs (or the one `ahead` of it) gets this answer."""
    watches = server.kmock[kmock.action.WATCH][kmock.resource(RAYJOBS)]

    def register() -> None:
        number = len(list(watches)) + ahead
        watches[number : number + 1] << payload

    server(register)


def follow(
    server: KubernetesServer, steps: list[dict[str, Any]], **options: Any
) -> tuple[Status, int | None, list[str], list[str]]:
    """Follow the job; after each line of the follower the operator takes the next step."""
    said: list[str] = []
    lines: list[str] = []
    todo = iter(steps)

    def say(line: str) -> None:
        said.append(line)
        if (step := next(todo, None)) is not None:
            server.set_status("first", **step)

    settings = {"retries": 3, "seconds": 60} | options
    status, code = Cluster("default").follow("first", say, lines.append, **settings)
    return status, code, said, lines


RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
COMPLETE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


def test_what_is_printed_is_what_is_made(server: KubernetesServer, launch: Launch) -> None:
    assert Cluster("default").start(launch) is True
    assert server.names() == MADE
    assert server.get(RAYJOBS, "first") == launch.job
    posts = server(lambda: [each.data for each in server.kmock["post"]])
    assert posts == list(launch.manifests)  # the RayJob last: what its pods need is there


def test_a_job_that_runs_is_followed_and_not_made_again(
    server: KubernetesServer, launch: Launch, tmp_path: Path
) -> None:
    cluster = Cluster("default")
    cluster.start(launch)
    server.set_status("first", **RUNNING)
    assert cluster.start(launch) is False
    with pytest.raises(InputError, match="with another config, and is Running"):
        cluster.start(launched(tmp_path, "train.max_steps=3"))
    assert len(server(lambda: list(server.kmock["post"]))) == 4


@pytest.mark.parametrize("end", ["Complete", "Failed", "ValidationFailed"])
def test_a_job_that_has_ended_is_replaced(
    end: str, server: KubernetesServer, launch: Launch, tmp_path: Path
) -> None:
    cluster = Cluster("default")
    cluster.start(launch)
    server.set_status("first", jobDeploymentStatus=end)
    again = launched(tmp_path, "train.max_steps=3")
    assert cluster.start(again) is True
    assert server.names() == MADE
    assert "max_steps: 3" in server.get("v1/configmaps", "first")["data"]["config.yaml"]
    assert "status" not in server.get(RAYJOBS, "first")


@pytest.mark.parametrize(
    ("resource", "what"),
    [(RAYJOBS, "not created by medray"), ("v1/configmaps", "not created by medray")],
)
def test_objects_of_others_are_left_alone(
    resource: str, what: str, server: KubernetesServer, launch: Launch
) -> None:
    """The server's 409 for the ConfigMap; a RayJob is read first."""
    server.put(resource, "first", {"spec": {"of": "others"}})
    with pytest.raises(InputError, match=what) as raised:
        Cluster("default").start(launch)
    assert raised.value.key == "run.name"
    assert server.get(resource, "first")["spec"] == {"of": "others"}
    assert ("rayjobs", "first") not in server.names() or resource == RAYJOBS


def test_a_cluster_without_kuberay_is_named(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KubernetesServer(tmp_path, kuberay=False) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        server(lambda: server.kmock["post", kmock.resource(RAYJOBS)] << 404)
        with pytest.raises(
            RunFailedError, match=r"does not support RayJobs\. Fix: install the KubeRay operator"
        ):
            Cluster("default").start(launch)


def test_a_refusal_of_the_server_is_an_error_of_ours(server: KubernetesServer, launch: Launch) -> None:
    server(lambda: server.kmock["get", kmock.resource(RAYJOBS)] << 403)
    with pytest.raises(RunFailedError, match="answers 403"):
        Cluster("default").start(launch)


def connection(request: kmock.Request) -> Any:
    raw: Any = request._raw_request
    return raw.transport


def abort(request: kmock.Request) -> bytes:
    connection(request).abort()
    return b""


def cut(request: kmock.Request) -> bytes:
    connection(request).close()  # what was sent before arrives
    return b""


GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Gone", "message": "too old"}}
FAULTS: dict[str, Any] = {
    "410": 410,
    "410 in the stream": (GONE,),
    "cut": (b'{"type": "MODIFIED", "obj', abort),
    "500": 500,
    "ended": (b"",),
}


@pytest.mark.parametrize("payload", FAULTS.values(), ids=FAULTS)
def test_a_broken_watch_loses_nothing(
    payload: Any, server: KubernetesServer, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cluster("default").start(launch)
    fault(server, payload)
    status, code, said, _ = follow(server, [RUNNING, COMPLETE])
    assert (status.deployment, outcome_code(status, code)) == ("Complete", 0)
    assert said == [f"RayJob first: {line}" for line in (
        "waiting for the operator", "Running, Ray job RUNNING", "Complete, Ray job SUCCEEDED")]  # fmt: skip
    assert len(server(lambda: list(server.kmock[kmock.action.WATCH]))) == 2


def test_a_job_that_fails(server: KubernetesServer, launch: Launch) -> None:
    Cluster("default").start(launch)
    failed = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "failed": 1}
    message = (
        "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\nx"
    )
    status, code, said, _ = follow(server, [RUNNING, {**failed, "message": message}])
    assert outcome_code(status, code) == 1
    assert (status.reason, status.message) == ("AppFailed", message)
    assert said[-1].endswith("Failed, Ray job FAILED, clusters that failed: 1 of at most 4, AppFailed")


def submitter(server: KubernetesServer, uid: str, *logs: Any, phase: str = "Succeeded") -> None:
    """A pod of a submitter; logs: what it answers each time that its log is read, the last of them from then on."""
    labels = {"job-name": "first"}
    metadata = {"uid": uid, "labels": labels, "creationTimestamp": f"2026-11-30T10:00:{uid}Z"}
    server.put("v1/pods", f"first-{uid}", {"metadata": metadata, "status": {"phase": phase}})
    path = server.kmock[f"get /api/v1/namespaces/default/pods/first-{uid}/log"]

    def answer(part: slice, log: Any) -> Any:
        return path[part] << log

    for number, log in enumerate(logs):
        last = number + 1 == len(logs)
        server(partial(answer, slice(number, None if last else number + 1), log))


def test_a_retry_on_a_new_cluster(server: KubernetesServer, launch: Launch) -> None:
    """The logs of both clusters are shown, each line once, and the last exit code counts."""
    Cluster("default").start(launch)
    submitter(server, "01", b"step 1\nmedray: exit code 1\n")
    submitter(server, "02", b"resumed after step 1\nred \x1b[31m\nmedray: exit code 0\n")
    server.put("v1/pods", "other", {"metadata": {"uid": "03", "labels": {"job-name": "other"}}})
    first = {"rayClusterStatus": {"desiredWorkerReplicas": 2, "readyWorkerReplicas": 1}}
    steps: list[dict[str, Any]] = [
        {"jobDeploymentStatus": "Initializing", **first},
        {"jobDeploymentStatus": "Retrying", "failed": 1},
        RUNNING,
        COMPLETE,
    ]
    status, code, said, lines = follow(server, steps)
    assert (code, outcome_code(status, code)) == (0, 0)
    assert "RayJob first: Initializing, workers ready: 1 of 2" in said
    assert any("Retrying" in line and "clusters that failed: 1 of at most 4" in line for line in said)
    assert lines == ["step 1", "medray: exit code 1", "resumed after step 1", "red \\x1b[31m", "medray: exit code 0"]  # fmt: skip


def test_a_log_that_is_cut_is_read_on(server: KubernetesServer, launch: Launch) -> None:
    Cluster("default").start(launch)
    whole = b"step 1\nstep 2\nmedray: exit code 76"
    submitter(server, "01", (b"step 1\nste", cut), whole, phase="Running")
    read = threading.Event()
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        read.set()

    def say(line: str) -> None:
        assert read.wait(30)
        server.set_status("first", **COMPLETE)

    status, code = Cluster("default").follow("first", say, log, retries=0, seconds=60)
    assert lines == ["step 1", "step 2", "medray: exit code 76"]
    assert outcome_code(status, code) == 76


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        (COMPLETE, 0, 0),
        (COMPLETE, None, 0),  # the log's tail was lost: the status decides
        (COMPLETE, 76, 76),  # stopped on request
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, 2, 2),  # run.sh: the input is wrong
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, None, 1),  # somebody stopped it
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"}, None, 1),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"}, 0, 1),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"}, 75, 75),
        ({"jobDeploymentStatus": "Failed", "message": "Job entrypoint command failed with exit code 2, last"}, None, 2),
        ({"jobDeploymentStatus": "ValidationFailed"}, None, 1),
    ],
)  # fmt: skip
def test_exit_codes(status: dict[str, str], driver: int | None, code: int) -> None:
    assert outcome_code(Status.of({"status": status}), driver) == code


def test_a_job_that_no_operator_handles_is_explained(
    server: KubernetesServer, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "HINT_SECONDS", -1)
    Cluster("default").start(launch)
    fault(server, (b"",))
    _, _, said, _ = follow(server, [{}, COMPLETE])
    assert (
        said[1]
        == "no operator has handled the job yet: check that KubeRay runs on this cluster and watches this namespace"
    )


def test_a_wait_is_limited(server: KubernetesServer, launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster("default")
    cluster.start(launch)
    server(lambda: server.kmock[kmock.action.WATCH] << (b"",))  # it ends at once
    with pytest.raises(RunFailedError, match="has not ended in time"):
        follow(server, [RUNNING], seconds=0.5)
    with pytest.raises(RunFailedError, match="somebody deleted the RayJob"):
        cluster.follow("nobody", print, print, retries=0, seconds=60)
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0)
    server(lambda: server.kmock["get", kmock.resource(RAYJOBS)] << 503)
    with pytest.raises(RunFailedError, match="has not answered for 0 s"):
        follow(server, [])


def test_deletion_takes_what_the_launch_made_and_nothing_else(
    server: KubernetesServer, tmp_path: Path
) -> None:
    launch = launched(tmp_path, "launch.k8s.volume_claim=shared", "run.storage=/medray/runs")
    label = {"labels": {"medray/run": "first"}}
    server.put("v1/persistentvolumeclaims", "shared", {"metadata": label})
    server.put("v1/secrets", "keys", {"metadata": label})
    server.put("v1/configmaps", "other", {"metadata": {"labels": {"medray/run": "other"}}})
    cluster = Cluster("default")
    cluster.start(launch)
    deleted = cluster.delete("first")
    assert sorted(deleted) == [
        "ConfigMap first",
        "NetworkPolicy first",
        "RayJob first",
        "ServiceAccount first",
    ]
    left = {("persistentvolumeclaims", "shared"), ("secrets", "keys"), ("configmaps", "other")}
    assert server.names() == left
    assert cluster.delete("first") == []
    touched = server(lambda: {each.resource.plural for each in server.kmock if each.resource})
    assert touched == {"rayjobs", "configmaps", "networkpolicies", "serviceaccounts"}


# -- what the namespace must have


@pytest.mark.parametrize(
    ("override", "objects", "says"),
    [
        ("secrets=[keys]", {}, "no secret of this name"),
        ("image_pull_secrets=[keys]", {}, "no secret of this name"),
        ("service_account=own", {}, "no service account of this name"),
        ("volume_claim=shared", {}, "no persistent volume claim of this name"),
        ("volume_claim=shared", {("v1/persistentvolumeclaims", "shared"): {"spec": {"accessModes": ["ReadWriteOnce"]}}}, "the volume claim is ReadWriteOnce"),
        ("token_secret=ray", {("v1/secrets", "ray"): {"data": {"token": "eA=="}}}, "no key auth_token"),
    ],
)  # fmt: skip
def test_what_the_namespace_lacks_is_named(
    override: str, objects: dict[Any, Any], says: str, server: KubernetesServer, tmp_path: Path
) -> None:
    for (resource, name), tree in objects.items():
        server.put(resource, name, tree)
    config = read(config_file(tmp_path), [f"launch.k8s.{override}"])
    with pytest.raises(InputError, match=says) as raised:
        check_needs(Cluster("default"), config.launch.k8s, ())
    assert raised.value.key == f"launch.k8s.{override.partition('=')[0]}"


def test_objects_that_exist_or_are_hidden_are_no_error(server: KubernetesServer, tmp_path: Path) -> None:
    server.put("v1/secrets", "keys", {"data": {"HF_TOKEN": "eA=="}})
    server.put("v1/persistentvolumeclaims", "shared", {"spec": {"accessModes": ["ReadWriteMany"]}})
    overrides = ["launch.k8s.secrets=[keys]", "launch.k8s.volume_claim=shared"]
    settings = read(config_file(tmp_path), overrides).launch.k8s
    assert check_needs(Cluster("default"), settings, ["HF_TOKEN"]) == []
    (note,) = check_needs(Cluster("default"), settings, ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY"])
    assert note.startswith("the pods will lack AWS_SECRET_ACCESS_KEY,")
    server(lambda: server.kmock["get", kmock.resource("v1/secrets")] << 403)
    assert check_needs(Cluster("default"), settings, ["AWS_SECRET_ACCESS_KEY"]) == []


# -- the command


class Operator(threading.Thread):
    """Waits for the RayJob, then gives it statuses one after another."""

    def __init__(self, server: KubernetesServer, *statuses: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.server, self.statuses, self.tick = server, statuses, threading.Event()

    def run(self) -> None:
        for _ in range(1000):
            if ("rayjobs", "first") in self.server.names():
                break
            self.tick.wait(0.01)
        for status in self.statuses:
            self.server.set_status("first", **status)


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["launch", "k8s", str(config_file(tmp_path)), *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_command_launches_follows_and_deletes(
    server: KubernetesServer, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_value")
    submitter(server, "01", b"loss 1.0\nmedray: exit code 0\n")
    operator = Operator(server, RUNNING, COMPLETE)
    operator.start()
    code, out, err = command()
    operator.join()
    assert code == 0
    assert out == "loss 1.0\nmedray: exit code 0\n"
    assert "started the RayJob first in default" in err
    assert "Complete, Ray job SUCCEEDED" in err
    sent = server(lambda: "".join(each.text or "" for each in server.kmock))
    assert "--launched-at=" in sent
    assert "hf_value" not in sent + err
    code, out, err = command("--delete", "--json")
    assert code == 0
    assert json.loads(out)["deleted"][0] == "RayJob first"
    assert server.names() == {("pods", "first-01")}


def test_the_command_without_following(server: KubernetesServer, command: Command) -> None:
    code, out, err = command("--no-follow", "--json")
    assert code == 0
    assert json.loads(out) == {"name": "first", "namespace": "default"}
    assert server.names() == MADE
    code, out, err = command("--no-follow")
    assert code == 0
    assert "runs this config already" in err
    code, out, err = command("--no-follow", "train.max_steps=3")
    assert code == 2
    assert "run.name" in err
    assert "with another config" in err


def test_the_command_looks_for_what_the_run_needs(server: KubernetesServer, command: Command) -> None:
    code, _, err = command("launch.k8s.secrets=[keys]")
    assert code == 2
    assert "launch.k8s.secrets = 'keys': there is no secret of this name" in err
    assert server.names() == set()


def test_the_command_tells_why_a_run_failed(server: KubernetesServer, command: Command) -> None:
    submitter(server, "01", b"medray: data.train = 'x': no such file\nmedray: exit code 2\n")
    operator = Operator(server, {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"})
    operator.start()
    code, out, err = command("--json")
    operator.join()
    result = json.loads(out)
    assert code == result["exit_code"] == 2
    assert result["job_status"] == "STOPPED"
    assert "no such file" in err  # the driver's own words; standard output is for the object
    assert "the config or the data of the run is wrong" in err


@pytest.mark.parametrize("words", [(), ("--context", "nowhere")])
def test_without_a_cluster_the_way_out_is_said(
    words: tuple[str, ...], command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert "no Kubernetes cluster is configured here" in err
    assert "--dry-run" in err


USER = "contexts: [{name: c, context: {cluster: k, user: u}}]\ncurrent-context: c\nusers: [{name: u, user: {}}]\n"


@pytest.mark.parametrize(
    "text",
    [
        b"clusters: [\n",
        b"clusters:\n\t- name: k\n",
        b"a\0b",
        b"\xff\xfe\0a",
        f"{USER}clusters: [{{name: k, cluster: {{server: 5}}}}]\n".encode(),
        f"{USER}clusters: [{{name: k, cluster: {{server: 'https://x', certificate-authority-data: x}}}}]\n".encode(),
    ],
)
def test_a_broken_kubeconfig_is_wrong_input(
    text: bytes, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kubeconfig").write_bytes(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    code, out, err = command()
    assert (code, out) == (2, "")
    assert "no Kubernetes cluster is configured here" in err.splitlines()[-2]


def test_without_the_client_the_way_out_is_said(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    code, _, err = command()
    assert code == 2
    assert "pip install 'medray[k8s]'" in err
    assert command("--dry-run")[0] == 0


def test_a_server_that_is_not_there_is_an_error_of_ours(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with KubernetesServer(tmp_path) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    code, _, err = command()
    assert code == 1
    assert "does not answer" in err
