"""The rules that no schema has: each is broken once and refused by its name; what is rendered breaks none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launched import launched

from medray.errors import InputError
from medray.launch.k8s.models import check_fields
from medray.launch.k8s.rules import RULES, amount, check, shared_memory

Tree = dict[str, Any]


def spec(**fields: Any) -> Callable[[Tree], None]:
    return lambda job: job["spec"].update(fields)


def cluster(**fields: Any) -> Callable[[Tree], None]:
    return lambda job: job["spec"]["rayClusterSpec"].update(fields)


def head(**fields: Any) -> Callable[[Tree], None]:
    return lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].update(fields)


def worker(**fields: Any) -> Callable[[Tree], None]:
    return lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(fields)


def pod(**fields: Any) -> Callable[[Tree], None]:
    return lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].update(fields)


def container(**fields: Any) -> Callable[[Tree], None]:
    return lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0].update(fields)  # fmt: skip


def head_env(name: str, value: str) -> Callable[[Tree], None]:
    return lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"].append({"name": name, "value": value})  # fmt: skip


def rules(*deletions: Tree) -> Callable[[Tree], None]:
    return spec(
        deletionStrategy={"deletionRules": list(deletions)},
        shutdownAfterJobFinishes=False,
        ttlSecondsAfterFinished=0,
    )


def both(*changes: Callable[[Tree], None]) -> Callable[[Tree], None]:
    def change_all(job: Tree) -> None:
        for change in changes:
            change(job)

    return change_all


def deletion(policy: str, ttl: int = 0, **condition: str) -> Tree:
    return {"policy": policy, "condition": {"jobStatus": "FAILED", "ttlSeconds": ttl} | condition}


SIZES = {"cpu": "2", "memory": "4Gi"}
V2 = cluster(enableInTreeAutoscaling=True, autoscalerOptions={"version": "v2"})
BROKEN = [
    ("rayjob-name", lambda job: job["metadata"].update(name="1st")),
    ("rayjob-name", lambda job: job["metadata"].update(name="a" * 48)),
    ("cluster-or-selector", lambda job: job["spec"].pop("rayClusterSpec")),
    ("cluster-or-selector", spec(clusterSelector={"ray.io/cluster": "one"})),
    ("suspend-needs-shutdown", spec(suspend=True, shutdownAfterJobFinishes=False)),
    ("ttl-needs-shutdown", spec(shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=60)),
    ("ttl-needs-shutdown", spec(ttlSecondsAfterFinished=-1)),
    ("deletion-rules", spec(deletionStrategy={"deletionRules": [deletion("DeleteSelf")]})),
    ("deletion-rules", rules(deletion("DeleteSelf", jobDeploymentStatus="Failed"))),
    ("deletion-rules", rules(deletion("DeleteSelf", -1))),
    ("deletion-order", rules(deletion("DeleteCluster"), deletion("DeleteCluster", 9))),
    ("deletion-order", rules(deletion("DeleteSelf", 5), deletion("DeleteWorkers", 9))),
    ("deletion-context", both(V2, rules(deletion("DeleteWorkers")))),
    ("submission-mode", spec(submissionMode="Bogus")),
    ("submission-mode", spec(submissionMode="InteractiveMode")),
    ("submission-mode", spec(submissionMode="SidecarMode")),
    ("values-in-range", spec(activeDeadlineSeconds=0)),
    ("values-in-range", spec(preRunningDeadlineSeconds=0)),
    ("values-in-range", spec(backoffLimit=-1)),
    ("values-in-range", spec(runtimeEnvYAML="[a]")),
    ("values-in-range", spec(runtimeEnvYAML="a: {")),
    ("containers", pod(containers=[])),
    ("replicas", worker(minReplicas=3, maxReplicas=2)),
    ("replicas", worker(minReplicas=None)),
    ("group-resources", head(resources={"CPU": "0"})),
    ("group-resources", worker(rayStartParams={"labels": "a=b"})),
    ("group-labels", worker(labels={"team": "not allowed"})),
    ("gcs-options-alone", both(cluster(gcsFaultToleranceOptions={}), head_env("RAY_REDIS_ADDRESS", "r:6379"))),
    ("gcs-options-alone", both(cluster(gcsFaultToleranceOptions={}), lambda job: job["metadata"]["annotations"].update({"ray.io/ft-enabled": "true"}))),
    ("redis-options", head_env("RAY_REDIS_ADDRESS", "r:6379")),
    ("redis-options", cluster(gcsFaultToleranceOptions={"backend": "rocksdb"})),
    ("autoscaler-variable", head_env("RAY_enable_autoscaler_v2", "1")),
    ("autoscaler-variable", both(V2, head_env("RAY_enable_autoscaler_v2", "1"))),
    ("autoscaler-v2", both(V2, pod(restartPolicy="Always"))),
    ("autoscaler-v2", worker(idleTimeoutSeconds=60)),
    ("autoscaler-v2", both(V2, worker(idleTimeoutSeconds=-1))),
    ("suspended-group", both(V2, worker(suspend=True))),
    ("token-auth", cluster(rayVersion="2.51.9")),
    ("token-auth", cluster(rayVersion="")),
    ("token-auth", cluster(authOptions={"mode": "token", "enableK8sTokenAuth": True})),
    ("feature-gates", cluster(networkPolicy={})),
    ("upgrade-strategy", cluster(upgradeStrategy={"type": "Recreate"})),
    ("token-required", cluster(authOptions={"mode": "disabled"})),
    ("head-memory", container(resources={"requests": SIZES, "limits": SIZES})),
    ("worker-memory", lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].update(resources={"requests": {"memory": "1023Mi"}, "limits": {"memory": "1023Mi"}})),
    ("head-without-work", head(rayStartParams={})),
    ("requests-equal-limits", container(resources={"requests": {"cpu": "1", "memory": "8Gi"}, "limits": {"cpu": "2", "memory": "8Gi"}})),
    ("shared-memory", lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"][0]["emptyDir"].update(sizeLimit="64Mi")),
    ("limited-scratch", lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"].append({"name": "more", "emptyDir": {}})),
    ("scratch-size", lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"].append({"name": "more", "emptyDir": {"sizeLimit": "1000M"}})),
    ("gang", worker(minReplicas=0)),
    ("one-submitter", spec(submitterConfig={"backoffLimit": 2})),
    ("clean-up", lambda job: job["spec"].pop("activeDeadlineSeconds")),
    ("kueue-autoscaling", both(V2, lambda job: job["metadata"]["labels"].update({"kueue.x-k8s.io/queue-name": "team"}))),
    ("kueue-owns-the-job", both(spec(suspend=True), lambda job: job["metadata"]["labels"].update({"kueue.x-k8s.io/queue-name": "team"}))),
    ("restricted-pods", container(securityContext={"privileged": True})),
    ("restricted-pods", pod(securityContext={"runAsNonRoot": False})),
    ("pinned-image", container(image="registry:5000/medray")),
    ("pinned-image", container(image="medray:latest")),
    ("no-secret-value", head_env("HF_TOKEN", "hf_not_a_real_one")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change"), BROKEN, ids=[f"{name} {i}" for i, (name, _) in enumerate(BROKEN)]
)
def test_a_broken_rule_is_named(name: str, change: Callable[[Tree], Any], tmp_path: Path) -> None:
    job = copy.deepcopy(launched(tmp_path).job)
    change(job)
    with pytest.raises(InputError, match=f"breaks the rule {name}: ") as raised:
        check(job)
    assert raised.value.fix


def test_every_rule_is_broken_here_once() -> None:
    assert {rule.name for rule in RULES} == {name for name, _ in BROKEN}
    assert {rule.number for rule in RULES} == set(range(22))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda job: job["spec"].update(shutDownAfterJobFinishes=True), "RayJob.spec.shutDownAfterJobFinishes"),
        (container(imagePullPolcy="Always"), "headGroupSpec.template.spec.containers.0.imagePullPolcy"),
        (container(resources={"requests": {"memory": "5 Gigs"}, "limits": {}}), "resources.requests.memory"),
        (spec(backoffLimit="3"), "RayJob.spec.backoffLimit"),
        (lambda job: job.update(kind="Pod"), "kind"),
    ],
)  # fmt: skip
def test_a_misspelt_field_is_named(change: Callable[[Tree], None], key: str, tmp_path: Path) -> None:
    job = copy.deepcopy(launched(tmp_path).job)
    change(job)
    with pytest.raises(InputError) as raised:
        check_fields([job])
    assert str(raised.value.key).endswith(key)


def test_quantities() -> None:
    assert [amount(each) for each in ("500m", "2", "5Gi", "5G", "1.5Ki")] == [0.5, 2, 5 * 2**30, 5e9, 1536]
    assert shared_memory("16Gi") == "6553Mi"
    assert shared_memory("10G") == "3814Mi"
