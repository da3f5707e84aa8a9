"""Every rendering against what KubeRay 1.7.0 and Kubernetes accept: schema, CEL rules, built-in kinds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from kuberay import RayJobSchema, crds
from launched import launched

from medray.launch import wrappers
from medray.launch.k8s import kustomize

SIZES = {
    "cpu": (),
    "gpu": ("cluster.gpus_per_node=8", "cluster.workers=16"),
    "other GPU": ("cluster.gpus_per_node=1", "launch.k8s.gpu_resource=amd.com/gpu"),
    "elastic": ("cluster.workers=[1,4]", "cluster.nodes=2", "launch.k8s.autoscaling=true"),
    "elastic GPU": ("cluster.gpus_per_node=2", "cluster.workers=[2,8]", "launch.k8s.autoscaling=true"),
}
SCHEDULERS = {
    "none": (),
    "kueue": ("launch.k8s.scheduler=kueue", "launch.k8s.queue=team"),
    "volcano": ("launch.k8s.scheduler=volcano", "launch.k8s.queue=team"),
}
STORAGES = {
    "bucket": (),
    "claim": ("launch.k8s.volume_claim=shared", "run.storage=/medray/runs"),
    "bucket and claim": ("launch.k8s.volume_claim=shared", "launch.k8s.mount_path=/mnt/data"),
}
CASES = [
    pytest.param((*size, *scheduler, *storage), id=f"{a}, {b}, {c}")
    for a, size in SIZES.items()
    for b, scheduler in SCHEDULERS.items()
    for c, storage in STORAGES.items()
    if not ("elastic" in a and b == "kueue")
]


@pytest.fixture(scope="module")
def schema() -> RayJobSchema:
    return RayJobSchema(crds())


@pytest.mark.parametrize("overrides", CASES)
def test_a_rendering_is_accepted(overrides: tuple[str, ...], schema: RayJobSchema, tmp_path: Path) -> None:
    launch = launched(tmp_path, *overrides)
    assert schema.errors(launch.job) == []
    for manifest in launch.manifests[:-1]:
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_wrappers_alone_are_accepted(schema: RayJobSchema) -> None:
    folder = wrappers.folder("k8s")
    for components in ((), ("cpu", "s3"), ("gpu", "autoscaling", "volcano"), ("gpu", "kueue")):
        *others, job = kustomize.build(folder, components)
        assert schema.errors(job) == []
        for manifest in others:
            kubernetes_validate.validate(manifest, "1.37", strict=True)
    (claim,) = kustomize._documents(folder / "storage" / "claim.yaml")
    kubernetes_validate.validate(claim, "1.37", strict=True)


def _set(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed: Any = copy.deepcopy(tree)
    inner = changed
    *parents, last = path.split(".")
    for name in parents:
        inner = inner[int(name)] if isinstance(inner, list) else inner.setdefault(name, {})
    inner[last] = value
    return changed  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("spec.shutDownAfterJobFinishes", True, "shutDownAfterJobFinishes"),
        ("spec.backoffLimit", "3", "not of type 'integer'"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.imagePullPolcy", "Always", "imagePullPolcy"),
        ("spec.rayClusterSpec.authOptions.mode", "tokens", "is not one of"),
    ],
)  # fmt: skip
def test_the_closed_schema_refuses_what_a_server_refuses(
    path: str, value: Any, what: str, schema: RayJobSchema, tmp_path: Path
) -> None:
    """Verdicts of a real 1.36 server: facts/kubernetes.md, section 4."""
    (error,) = schema.errors(_set(launched(tmp_path).job, path, value))
    assert what in error


DELETE = {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}
BOTH = {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}
OLD_STYLE = {"onSuccess": {"policy": "DeleteNone"}, "onFailure": {"policy": "DeleteNone"}}
CLUSTER = "spec.rayClusterSpec"


@pytest.mark.parametrize(
    ("path", "value", "before", "message"),
    [
        ("spec.deletionStrategy", {**OLD_STYLE, "deletionRules": [DELETE]}, None, "cannot be used together within the same deletionStrategy"),
        ("spec.deletionStrategy", {}, None, "requires either BOTH onSuccess and onFailure"),
        ("spec.deletionStrategy.deletionRules", [BOTH], None, "cannot be used together within the same deletion condition"),
        ("spec.deletionStrategy.deletionRules", [{**DELETE, "condition": {}}], None, "requires either the JobStatus"),
        ("spec.managedBy", "me", None, "must be either"),
        ("spec.managedBy", "ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue", "managedBy field is immutable"),
        (f"{CLUSTER}.managedBy", "me", None, "must be either"),
        (f"{CLUSTER}.managedBy", "ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue", "managedBy field is immutable"),
        (f"{CLUSTER}.gcsFaultToleranceOptions.backend", "redis", "rocksdb", "backend is immutable"),
    ],
)  # fmt: skip
def test_cel_rules_refuse(
    path: str, value: Any, before: Any, message: str, schema: RayJobSchema, tmp_path: Path
) -> None:
    """All nine of the CRD, each broken once."""
    job = launched(tmp_path).job
    old = None if before is None else _set(job, path, before)
    broken = [text for _, text, holds in schema.cel(_set(job, path, value), old) if not holds]
    assert len(broken) == 1
    assert message in broken[0]


def test_there_are_nine_cel_rules(schema: RayJobSchema) -> None:
    def count(tree: Any) -> int:
        if isinstance(tree, list):
            return sum(map(count, tree))
        if not isinstance(tree, dict):
            return 0
        return len(tree.get("x-kubernetes-validations", ())) + sum(map(count, tree.values()))

    assert count(schema.open) == 9
