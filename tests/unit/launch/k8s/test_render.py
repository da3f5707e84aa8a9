"""Tests of the manifests of a config on Kubernetes, and of what is refused before anything is sent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from launched import SOUND, config_file, launched

from medray.cli.main import main
from medray.config import read
from medray.config.checks import check
from medray.errors import InputError
from medray.launch import wrappers
from medray.launch.environment import allowed
from medray.launch.k8s import Launch, kustomize, render
from medray.launch.k8s.names import rayjob_name

CLAIM = ("launch.k8s.volume_claim=shared", "run.storage=/medray/runs")


def head(launch: Launch) -> Any:
    return launch.job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]


def workers(launch: Launch) -> Any:
    return launch.job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


def worker(launch: Launch) -> Any:
    return workers(launch)["template"]["spec"]


def test_the_text_is_yaml_of_the_manifests(tmp_path: Path) -> None:
    launch = launched(tmp_path, environ={"NCCL_DEBUG": "1e3", "NCCL_IB_HCA": "a\n b\n"})
    assert list(yaml.safe_load_all(launch.text())) == list(launch.manifests)
    assert 'value: "1e3"' in launch.text()  # a number for YAML readers in Go
    assert [each["kind"] for each in launch.manifests] == [
        "ServiceAccount", "NetworkPolicy", "ConfigMap", "RayJob"]  # fmt: skip


def test_the_config_that_is_sent_is_the_same_config(tmp_path: Path) -> None:
    launch = launched(tmp_path, "train.max_steps=7", "peft.type=lora")
    (tmp_path / "config.yaml").write_text(launch.manifests[2]["data"]["config.yaml"])
    sent = read(tmp_path / "config.yaml")
    check(sent)
    assert sent == read(config_file(tmp_path), ["train.max_steps=7", "peft.type=lora"])


def test_the_same_launch_later_is_the_same_job(tmp_path: Path) -> None:
    config = read(config_file(tmp_path))
    nothing = allowed((), {})
    now, later = (
        render(config, nothing, launched_at=seconds).job for seconds in (1_700_000_000, 1_800_000_000)
    )
    assert now["spec"]["entrypoint"] != later["spec"]["entrypoint"]
    assert now["metadata"] == later["metadata"]
    other = render(
        config.model_copy(update={"tracking": config.tracking.model_copy(update={"experiment": "x"})}),
        nothing,
    )
    assert other.job["metadata"] != now["metadata"]


def test_workers_are_the_nodes_of_the_run(tmp_path: Path) -> None:
    launch = launched(tmp_path, "cluster.workers=16", "cluster.gpus_per_node=8", "cluster.nodes=2")
    group = workers(launch)
    assert [group[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [2, 2, 2]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {
        "cpu": "9",
        "memory": "16Gi",
        "nvidia.com/gpu": "8",
    }  # a CPU more than workers, for data
    assert launch.job["spec"]["entrypoint"] == (
        "sh /etc/medray/run.sh medray train /etc/medray/config.yaml cluster.nodes=2 --launched-at=1700000000"
    )
    assert "nvidia.com/gpu" not in head(launch)["containers"][0]["resources"]["limits"]


def test_autoscaling_starts_with_the_fewest_workers(tmp_path: Path) -> None:
    launch = launched(
        tmp_path, "cluster.workers=[2,8]", "cluster.gpus_per_node=2", "launch.k8s.autoscaling=true"
    )
    group = workers(launch)
    assert [group[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [1, 1, 4]
    assert "cluster.nodes=1" in launch.job["spec"]["entrypoint"]
    assert launch.overlays == ("gpu", "s3", "autoscaling")


@pytest.mark.parametrize(
    ("overrides", "replicas", "cpus"),
    [
        ([], [2, 2, 8], "2"),
        (["cluster.cpus_per_worker=3"], [2, 2, 8], "4"),
        (["cluster.nodes=4"], [1, 1, 4], "3"),
    ],
)
def test_autoscaling_on_cpus_adds_a_pod_for_a_worker(
    overrides: list[str], replicas: list[int], cpus: str, tmp_path: Path
) -> None:
    launch = launched(tmp_path, "cluster.workers=[2,8]", "launch.k8s.autoscaling=true", *overrides)
    group = workers(launch)
    assert [group[key] for key in ("replicas", "minReplicas", "maxReplicas")] == replicas
    assert worker(launch)["containers"][0]["resources"]["limits"]["cpu"] == cpus
    assert f"cluster.nodes={replicas[0]}" in launch.job["spec"]["entrypoint"]


def test_settings_reach_their_fields(tmp_path: Path) -> None:
    launch = launched(
        tmp_path, *CLAIM, "launch.k8s.namespace=team", "launch.k8s.retries=7", "launch.k8s.deadline_seconds=3600",
        "launch.k8s.keep_seconds=5", "launch.k8s.head_memory=10Gi", "launch.k8s.memory_per_node=20Gi",
        "launch.k8s.disk_per_node=9Gi", "launch.k8s.image_pull_secrets=[pull]", "launch.k8s.service_account=own",
        "launch.k8s.token_secret=ray", "launch.k8s.secrets=[one,two]", "launch.k8s.cpus_per_node=6",
    )  # fmt: skip
    spec = launch.job["spec"]
    assert {each["metadata"]["namespace"] for each in launch.manifests} == {"team"}
    assert "ServiceAccount" not in {each["kind"] for each in launch.manifests}
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (
        7,
        3600,
        5,
    )
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "ray"}
    for pod, shared in ((head(launch), "4096Mi"), (worker(launch), "8192Mi")):
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert volumes["storage"]["persistentVolumeClaim"]["claimName"] == "shared"
        assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": shared}
        assert volumes["ray-logs"]["emptyDir"]["sizeLimit"] == "9Gi"
        assert [each["secretRef"]["name"] for each in pod["containers"][0]["envFrom"]] == ["one", "two"]
    for pod in (head(launch), worker(launch), spec["submitterPodTemplate"]["spec"]):
        assert pod["serviceAccountName"] == "own"
        assert pod["imagePullSecrets"] == [{"name": "pull"}]
        assert pod["containers"][0]["image"] == "registry.example.org/medray:0.1.0"
    assert worker(launch)["containers"][0]["resources"]["limits"]["cpu"] == "6"


def test_nothing_of_the_examples_in_k8s_is_left(tmp_path: Path) -> None:
    """Names and images of the wrappers are replaced everywhere."""
    text = launched(tmp_path, *CLAIM).text()
    assert "medray-storage" not in text
    assert not re.search(r"(name|serviceAccountName|medray/run|value|jobId): medray$", text, re.MULTILINE)
    assert "image: medray" not in text


@pytest.mark.parametrize(
    ("overrides", "key", "says", "fix"),
    [
        (["launch.k8s.image=null"], "launch.k8s.image", "need an image", "Dockerfile"),
        (["launch.k8s.image=medray"], "launch.k8s.image", "rule pinned-image", "0.1.0"),
        (["launch.k8s.head_memory=4Gi"], "launch.k8s.head_memory", "rule head-memory", "8Gi"),
        (["run.storage=runs"], "run.storage", "a pod", "run.storage=s3://bucket/prefix"),
        (["run.storage=/data/runs"], "run.storage", "a pod", "launch.k8s.volume_claim"),
        (["run.storage=/data/runs", CLAIM[0]], "run.storage", "a pod", "/medray"),
        (["run.storage=/medray/../etc", CLAIM[0]], "run.storage", "a pod", "/medray"),
        (["data.dataset=null", "data.train=a.jsonl", "data.columns={input: a, label: b}"], "data.train[0].path", "a pod", "s3://"),
        (["launch.k8s.overlay=gpu"], "launch.k8s.overlay", "gpus_per_node", "cluster.gpus_per_node"),
        (["launch.k8s.overlay=cpu", "cluster.gpus_per_node=1"], "launch.k8s.overlay", "gpus_per_node", ""),
        (["launch.k8s.scheduler=kueue"], "launch.k8s.queue", "Kueue", "LocalQueue"),
        (["launch.k8s.queue=team"], "launch.k8s.queue", "scheduler", "kueue or volcano"),
        (["launch.k8s.autoscaling=true"], "launch.k8s.autoscaling", "range", "cluster.workers=[1,2]"),
        (["launch.k8s.autoscaling=true", "cluster.workers=[1,2]", "launch.k8s.scheduler=kueue", "launch.k8s.queue=q"], "launch.k8s.autoscaling", "rule kueue-autoscaling", "false"),
        (["cluster.workers=9", "cluster.nodes=2", "cluster.gpus_per_node=4"], "cluster.nodes", "2 nodes with 4 GPUs have only 8", "3"),
        (["launch.k8s.memory_per_node=0Gi"], "launch.k8s.memory_per_node", "rule worker-memory", "16Gi"),
        (["launch.k8s.memory_per_node='500'"], "launch.k8s.memory_per_node", "rule worker-memory", "16Gi"),
        (["launch.k8s.disk_per_node=0Gi"], "launch.k8s.disk_per_node", "rule scratch-size", "50Gi"),
        (["tracking={enabled: true, uri: 'sqlite:////tmp/x.db'}"], "tracking.uri", "/tmp/x.db is a path", "http://mlflow"),
        (["tracking={enabled: true, uri: 'sqlite:////tmp/x.db'}", *CLAIM], "tracking.uri", "/tmp/x.db is a path", "http://mlflow"),
        (["tracking={enabled: true, uri: 'file:///home/me/mlruns'}"], "tracking.uri", "/home/me/mlruns is", "http://mlflow"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(
    overrides: list[str], key: str, says: str, fix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file(tmp_path)
    assert main(["launch", "k8s", str(config), "--dry-run", *overrides]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert key in err.splitlines()[-2]
    assert says in err
    assert fix in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--with-data"], "data cannot be sent to Kubernetes"),
        (["--dry-run", "--", "--mail-user=me"], "options of sbatch"),
        (["--dry-run", "--delete"], "--delete cannot be combined with --dry-run"),
    ],
)
def test_words_that_do_not_fit_are_refused(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", "k8s", str(config_file(tmp_path)), *words]) == 2
    assert says in capsys.readouterr().err


def test_a_config_that_a_pod_would_not_read_is_refused(tmp_path: Path) -> None:
    """Absolute paths make a config longer: this one is read here, and what would be sent is not read there."""
    names = ", ".join(f"{number:06}.jsonl" for number in range(1_000))
    rest = SOUND.replace("dataset: clinic", "root: ROOT, columns: {input: a, label: b}, train: [FILES]")
    for root, refused in (("s3://b", False), ("s3://bucket/" + 240 * "a", True)):
        (tmp_path / "run.yaml").write_text(rest.replace("ROOT", root).replace("FILES", names))
        config = read(tmp_path / "run.yaml")
        if refused:
            with pytest.raises(InputError, match="the pod reads at most 262,144") as raised:
                render(config, allowed((), {}))
            assert raised.value.key == "data.train"
        else:
            render(config, allowed((), {}))


def test_the_folder_of_the_config_is_not_sent(tmp_path: Path) -> None:
    clinic = launched(tmp_path)
    files = launched(
        tmp_path, "data.dataset=null", "data.train=s3://b/a.jsonl", "data.columns={input: a, label: b}"
    )
    for launch in (clinic, files):
        assert str(tmp_path) not in launch.text()
    assert "s3://b/a.jsonl" in files.text()


def test_a_dry_run_prints_manifests_and_the_rule_of_the_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_value")
    config = str(config_file(tmp_path))
    assert main(["launch", "k8s", config, "run.name=My_Run", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    manifests = list(yaml.safe_load_all(out))
    name = manifests[-1]["metadata"]["name"]
    assert f"run.name My_Run becomes {name} in Kubernetes" in err
    assert "at most 47" in err
    assert "HF_TOKEN" in err
    assert "hf_value" not in out + err
    assert main(["launch", "k8s", config, "run.name=My_Run", "--dry-run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["name"] == name
    assert [each["kind"] for each in result["manifests"]] == [each["kind"] for each in manifests]


def test_another_verb_is_launched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "k8s", str(config_file(tmp_path)), "--verb", "data prepare", "--dry-run"]) == 0
    (line,) = re.findall("entrypoint: (.*)", capsys.readouterr().out)
    assert line == "sh /etc/medray/run.sh medray data prepare /etc/medray/config.yaml cluster.nodes=1"


def test_names() -> None:
    assert rayjob_name("first-run") == "first-run"
    assert rayjob_name("a" * 47) == "a" * 47
    changed = ["First-run", "first_run", "first.run", "1st", "9", "a" * 48, "a" * 99, "x-", "run--1", "A._-B"]
    names = [rayjob_name(each) for each in changed]
    assert len({*names, *changed}) == 2 * len(
        changed
    )  # each is another name, and none is a name of another run
    for name in names:
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,39}-[0-9a-f]{6}", name)
        assert len(name) <= 47
    assert names == [rayjob_name(each) for each in changed]


# -- the wrappers themselves

FOLDER = wrappers.folder("k8s")


def test_kustomizations_name_files_that_exist() -> None:
    files = sorted(FOLDER.rglob("kustomization.yaml"))
    assert len(files) == 9
    for file in files:
        tree = yaml.safe_load(file.read_text())
        paths = [*tree.get("resources", ()), *tree.get("components", ())]
        paths += [patch["path"] for patch in tree.get("patches", ())]
        assert paths
        for path in paths:
            assert (file.parent / path).exists(), f"{file}: {path}"
        named = {(file.parent / path).resolve() for path in paths}
        beside = {each.resolve() for each in file.parent.glob("*.yaml")} - {file.resolve()}
        assert beside <= named, f"{file} does not name {beside - named}"


@pytest.mark.parametrize(
    "components",
    [["cpu"], ["gpu", "s3", "autoscaling", "volcano"], ["gpu", "kueue"], ["cpu", "s3"]],
    ids=" ".join,
)
def test_kubectl_builds_the_same(components: list[str], tmp_path: Path) -> None:
    """Our subset of kustomize against kustomize itself."""
    kubectl = shutil.which("kubectl") or shutil.which("kustomize")
    if kubectl is None:
        pytest.skip("kubectl is absent")
    shutil.copytree(FOLDER, tmp_path / "k8s")
    tree = {"resources": ["k8s/base"], "components": [f"k8s/overlays/{each}" for each in components]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(tree))
    verb = ["kustomize"] if kubectl.endswith("kubectl") else ["build"]
    done = subprocess.run(
        [kubectl, *verb, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    theirs = {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}
    ours = {each["kind"]: each for each in kustomize.build(FOLDER, components)}
    assert theirs == ours


def test_kubectl_builds_the_folder_as_it_is() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is absent")
    for folder in (FOLDER, FOLDER / "storage"):
        done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_the_config_in_the_base_is_a_config(tmp_path: Path) -> None:
    config_map = kustomize.build(FOLDER, ())[2]
    (tmp_path / "config.yaml").write_text(config_map["data"]["config.yaml"])
    check(read(tmp_path / "config.yaml"))


def test_an_edited_wrapper_is_refused_with_its_name(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "k8s")
    for change, overlay in (
        ("- {op: remove, path: /spec/nothing}", "cpu"),
        ("- {op: move, path: /spec/entrypoint, from: /spec}", "gpu"),
        ("- {op: test, path: /spec/jobId, value: other}", "s3"),
    ):
        (tmp_path / "k8s/overlays" / overlay / "patch.yaml").write_text(change)
        with pytest.raises(InputError) as raised:
            kustomize.build(tmp_path / "k8s", [overlay])
        assert str(raised.value.file).endswith(f"{overlay}/patch.yaml")
    (tmp_path / "k8s/base/kustomization.yaml").write_text("kind: Kustomization\nnamePrefix: my-\n")
    with pytest.raises(InputError, match="`resources` only"):
        kustomize.build(tmp_path / "k8s", [])


def test_sound_is_what_the_tests_take_it_for(tmp_path: Path) -> None:
    assert read(config_file(tmp_path)).run.storage in SOUND
