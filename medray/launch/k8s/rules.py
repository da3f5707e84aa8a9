"""Rules for a RayJob that the schema of KubeRay 1.7.0 does not contain: rules of the operator and of medray.

The API server accepts a job that breaks such a rule, but the job then fails or does not do what it should. Sources:
the operator's validation (ray-operator/controllers/ray/utils/validation.go of v1.7.0, rules 1 to 21), Kueue's
documentation, and failures that users of KubeRay report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from medray.errors import InputError
from medray.launch.environment import is_secret

GIB = 2**30
WORKER_MEMORY = GIB  # bytes; Python, Ray and torch do not fit into less
SCRATCH = GIB  # bytes
HEAD_MEMORY = 5 * GIB  # bytes; heads of 2 GiB are killed for memory (kuberay#4287)
SHARED_MEMORY = (
    2,
    5,
)  # 2/5 of a container's memory limit: Ray's object store uses 3/10 of the limit, NCCL and data loaders the rest
_UNITS = {
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": GIB,
    "Ti": 2**40,
}
_LABEL_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_LABEL_NAME}"
_MODES = ("", "K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
KUEUE = "kueue.x-k8s.io/queue-name"


def amount(quantity: str) -> float:
    """Convert a quantity of Kubernetes to a number of bytes, CPUs or devices."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity)).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS.get(unit, 1)


def shared_memory(limit: str) -> str:
    """Return the size of /dev/shm for a container with this memory limit, in whole MiB. The size is part of the limit."""
    part, whole = SHARED_MEMORY
    return f"{int(amount(limit)) * part // (whole * 2**20)}Mi"


class _Job:
    """The tree of a RayJob, with the parts that several rules read."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.name: str = tree["metadata"]["name"]
        self.labels: dict[str, str] = tree["metadata"].get("labels") or {}
        self.annotations: dict[str, str] = tree["metadata"].get("annotations") or {}
        self.spec: dict[str, Any] = tree["spec"]
        self.cluster: dict[str, Any] = self.spec.get("rayClusterSpec") or {}
        self.head: dict[str, Any] = self.cluster.get("headGroupSpec") or {}
        self.workers: list[dict[str, Any]] = self.cluster.get("workerGroupSpecs") or []
        self.groups = [each for each in (self.head, *self.workers) if each]
        self.mode: str = self.spec.get("submissionMode", "")
        self.autoscaling = bool(self.cluster.get("enableInTreeAutoscaling"))
        self.options: dict[str, Any] = self.cluster.get("autoscalerOptions") or {}
        self.strategy: dict[str, Any] = self.spec.get("deletionStrategy") or {}
        self.deletions: list[dict[str, Any]] = self.strategy.get("deletionRules") or []
        self.auth: dict[str, Any] = self.cluster.get("authOptions") or {}
        self.gcs: dict[str, Any] | None = self.cluster.get("gcsFaultToleranceOptions")

    def pods(self) -> Iterator[dict[str, Any]]:
        yield from (group["template"]["spec"] for group in self.groups)
        if "submitterPodTemplate" in self.spec:
            yield self.spec["submitterPodTemplate"]["spec"]

    def containers(self) -> Iterator[dict[str, Any]]:
        for pod in self.pods():
            yield from pod.get("containers") or ()


def _first(group: dict[str, Any]) -> dict[str, Any]:
    return next(iter(group["template"]["spec"].get("containers") or ()), {})


def _env(group: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in _first(group).get("env") or ()}


def _params(group: dict[str, Any]) -> dict[str, str]:
    return group.get("rayStartParams") or {}


@dataclass(frozen=True)
class Rule:
    """A rule that a RayJob must keep, and the error message if it does not.

    number: its number among the operator's rules, 0 for medray's own. says: the rule as a sentence. broken: function
    that says whether a RayJob breaks it. key: the key to change. fix: an instruction.
    """

    name: str
    number: int
    says: str
    broken: Callable[[_Job], Any]
    key: str
    fix: str


def check(tree: dict[str, Any]) -> None:
    """Raise InputError with the name of the rule for the first rule that a RayJob breaks."""
    job = _Job(tree)
    for rule in RULES:
        if rule.broken(job):
            raise InputError(
                f"the RayJob breaks the rule {rule.name}: {rule.says}",
                file=None if rule.key.startswith("launch.") else "k8s/",
                key=rule.key,
                fix=rule.fix,
            )


def _bad_deletion(job: _Job) -> bool:
    if not job.strategy:
        return False
    legacy = bool({"onSuccess", "onFailure"} & set(job.strategy))
    if job.deletions and (job.spec.get("shutdownAfterJobFinishes") or legacy):
        return True
    return any(
        len({"jobStatus", "jobDeploymentStatus"} & set(rule["condition"])) != 1
        or rule["condition"].get("ttlSeconds", 0) < 0
        for rule in job.deletions
    )


def _bad_order(job: _Job) -> bool:
    seen: dict[tuple[Any, Any], dict[str, int]] = {}
    for rule in job.deletions:
        condition = rule["condition"]
        ttls = seen.setdefault((condition.get("jobStatus"), condition.get("jobDeploymentStatus")), {})
        if rule["policy"] in ttls:
            return True
        ttls[rule["policy"]] = condition.get("ttlSeconds", 0)
    sequences = ([ttls[policy] for policy in _ORDER if policy in ttls] for ttls in seen.values())
    return any(sequence != sorted(sequence) for sequence in sequences)


def _bad_mode(job: _Job) -> bool:
    if job.mode == "SidecarMode":
        restart = job.head.get("template", {}).get("spec", {}).get("restartPolicy", "Never")
        return bool({"submitterPodTemplate", "submitterConfig"} & set(job.spec)) or restart != "Never"
    return job.mode not in _MODES or (job.mode == "InteractiveMode" and job.spec.get("backoffLimit", 0) > 0)


def _bad_values(job: _Job) -> bool:
    spec = job.spec
    if spec.get("backoffLimit", 0) < 0:
        return True
    if any(spec.get(key, 1) <= 0 for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds")):
        return True
    try:
        return not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML") or "{}"), dict)
    except yaml.YAMLError:
        return True


def _bad_replicas(job: _Job) -> bool:
    for group in job.workers:
        fewest, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if fewest is None or most is None:
            return not job.autoscaling
        if not 0 <= fewest <= most:
            return True
    return False


def _bad_selector(job: _Job) -> bool:
    selector = job.spec.get("clusterSelector")
    if not selector:
        return not job.cluster
    return (
        bool(job.cluster or job.spec.get("suspend") or job.spec.get("backoffLimit", 0) > 0)
        or job.mode == "SidecarMode"
        or not selector.get("ray.io/cluster")
    )


def _bad_gcs(job: _Job) -> bool:
    return job.gcs is not None and bool(
        {"ray.io/ft-enabled", "ray.io/external-storage-namespace"} & set(job.annotations)
        or "redis-password" in _params(job.head)
        or {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & set(_env(job.head))
    )


def _bad_redis(job: _Job) -> bool:
    if "redis-username" in _params(job.head) or "REDIS_USERNAME" in _env(job.head):
        return True
    if job.gcs is None:
        return "RAY_REDIS_ADDRESS" in _env(job.head)
    return job.gcs.get("backend") == "rocksdb" or "storage" in job.gcs


def _bad_v2(job: _Job) -> bool:
    written = job.options.get("version") == "v2"
    if any({"idleTimeoutSeconds", "priority"} & set(group) for group in job.workers) and not written:
        return True
    if any(group.get("idleTimeoutSeconds", 0) < 0 for group in job.workers):
        return True
    restarts = (group["template"]["spec"].get("restartPolicy", "Never") for group in job.groups)
    return job.autoscaling and written and any(each != "Never" for each in restarts)


def _bad_auth(job: _Job) -> bool:
    if job.auth.get("enableK8sTokenAuth"):
        return True
    if job.auth.get("mode") != "token":
        return False
    version = re.match(r"(\d+)\.(\d+)", job.cluster.get("rayVersion") or "")
    return version is None or (int(version[1]), int(version[2])) < (2, 52)


def _bad_shared_memory(job: _Job) -> bool:
    for group in job.groups:
        volumes = {
            each["name"]: each.get("emptyDir") or {} for each in group["template"]["spec"].get("volumes", ())
        }
        mounts = {each["mountPath"]: each["name"] for each in _first(group).get("volumeMounts", ())}
        volume = volumes.get(mounts.get("/dev/shm", ""), {})
        limit = _first(group)["resources"]["limits"]["memory"]
        if volume.get("medium") != "Memory" or volume.get("sizeLimit") != shared_memory(limit):
            return True
    return False


def _bad_scratch(job: _Job) -> bool:
    folders = (volume.get("emptyDir") for pod in job.pods() for volume in pod.get("volumes", ()))
    return any(folder is not None and "sizeLimit" not in folder for folder in folders) or any(
        "/tmp/ray" not in {mount["mountPath"] for mount in _first(group).get("volumeMounts", ())}
        for group in job.groups
    )


def _small_scratch(job: _Job) -> bool:
    folders = (volume.get("emptyDir") or {} for pod in job.pods() for volume in pod.get("volumes", ()))
    return any(
        amount(each["sizeLimit"]) < SCRATCH
        for each in folders
        if "sizeLimit" in each and each.get("medium") != "Memory"
    )


def _bad_pod(job: _Job) -> bool:
    for pod in job.pods():
        if not (pod["securityContext"].get("runAsNonRoot") and pod["securityContext"].get("runAsUser")):
            return True
        if pod["securityContext"].get("seccompProfile", {}).get("type") != "RuntimeDefault":
            return True
    for container in job.containers():
        security = container["securityContext"]
        if security.get("privileged") or security.get("allowPrivilegeEscalation", True):
            return True
        if not security.get("readOnlyRootFilesystem") or security["capabilities"] != {"drop": ["ALL"]}:
            return True
    return False


def _bad_image(job: _Job) -> bool:
    images = (container["image"].rpartition("/")[2] for container in job.containers())
    return any("@sha256:" not in each and (":" not in each or each.endswith(":latest")) for each in images)


_KEEP = "restore the value of k8s/base/rayjob.yaml"
_TEMPLATE = "RayJob.spec.rayClusterSpec"
RULES = (
    Rule("rayjob-name", 1, "the name of a RayJob is a DNS-1035 label of at most 47 characters",
         lambda job: len(job.name) > 47 or not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", job.name),
         "RayJob.metadata.name", "use lower-case letters, digits and '-', beginning with a letter"),
    Rule("cluster-or-selector", 2, "a RayJob must have either rayClusterSpec or clusterSelector; a selector must name ray.io/cluster, without suspend, SidecarMode or backoffLimit",
         _bad_selector, "RayJob.spec.clusterSelector", _KEEP),
    Rule("suspend-needs-shutdown", 3, "suspend needs shutdownAfterJobFinishes",
         lambda job: job.spec.get("suspend") and not job.spec.get("shutdownAfterJobFinishes"),
         "RayJob.spec.suspend", "set shutdownAfterJobFinishes: true"),
    Rule("ttl-needs-shutdown", 4, "ttlSecondsAfterFinished is at least 0, and above 0 only with shutdownAfterJobFinishes",
         lambda job: (ttl := job.spec.get("ttlSecondsAfterFinished", 0)) < 0 or (ttl and not job.spec.get("shutdownAfterJobFinishes")),
         "RayJob.spec.ttlSecondsAfterFinished", "set shutdownAfterJobFinishes: true"),
    Rule("deletion-rules", 5, "deletionRules cannot be used with shutdownAfterJobFinishes, onSuccess or onFailure; each needs one of jobStatus and jobDeploymentStatus, and ttlSeconds of at least 0",
         _bad_deletion, "RayJob.spec.deletionStrategy", "remove deletionStrategy"),
    Rule("deletion-order", 6, "each pair of condition and policy may occur once; for one condition, workers must be deleted before the cluster, and the cluster before the job",
         _bad_order, "RayJob.spec.deletionStrategy", "remove deletionStrategy"),
    Rule("deletion-context", 7, "DeleteWorkers cannot be used with autoscaling; DeleteWorkers and DeleteCluster cannot be used with a clusterSelector",
         lambda job: any((each["policy"] == "DeleteWorkers" and job.autoscaling) or (each["policy"] in _ORDER[:2] and job.spec.get("clusterSelector")) for each in job.deletions),
         "RayJob.spec.deletionStrategy", "remove deletionStrategy"),
    Rule("submission-mode", 8, "submissionMode must be K8sJobMode, HTTPMode, InteractiveMode (without backoffLimit) or SidecarMode (without submitterPodTemplate and submitterConfig, head restartPolicy Never)",
         _bad_mode, "RayJob.spec.submissionMode", "set submissionMode: K8sJobMode"),
    Rule("values-in-range", 9, "runtimeEnvYAML must be a YAML map, deadlines must be above 0, and backoffLimit must be at least 0",
         _bad_values, "RayJob.spec", _KEEP),
    Rule("containers", 10, "head and workers must have at least one container, and Ray's must be the first",
         lambda job: not all(map(_first, job.groups)), f"{_TEMPLATE}", _KEEP),
    Rule("replicas", 11, "workers must have minReplicas and maxReplicas, both at least 0, with minReplicas at most maxReplicas",
         _bad_replicas, f"{_TEMPLATE}.workerGroupSpecs", _KEEP),
    Rule("group-resources", 12, "a group with resources must not set num-cpus, num-gpus, memory or resources in rayStartParams, and no group may set labels there",
         lambda job: any("labels" in _params(each) or (each.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(_params(each))) for each in job.groups),
         f"{_TEMPLATE} resources", "remove resources from the group, and labels from its rayStartParams"),
    Rule("group-labels", 13, "labels of a group must follow the syntax of Kubernetes",
         lambda job: any(not re.fullmatch(_LABEL_KEY, key) or not re.fullmatch(rf"({_LABEL_NAME})?", value) for each in job.groups for key, value in (each.get("labels") or {}).items()),
         f"{_TEMPLATE} labels", "use at most 63 letters, digits, '-', '_' and '.'"),
    Rule("gcs-options-alone", 14, "gcsFaultToleranceOptions cannot be used with annotations, parameters or variables for the same settings",
         _bad_gcs, f"{_TEMPLATE}.gcsFaultToleranceOptions", "remove these annotations, parameters and variables"),
    Rule("redis-options", 15, "Redis may be set up by gcsFaultToleranceOptions only; storage and backend rocksdb need a feature gate",
         _bad_redis, f"{_TEMPLATE}.gcsFaultToleranceOptions", "remove these settings: a run resumes from its own checkpoints"),
    Rule("autoscaler-variable", 16, "RAY_enable_autoscaler_v2 needs enableInTreeAutoscaling, and no autoscalerOptions.version",
         lambda job: (value := _env(job.head).get("RAY_enable_autoscaler_v2")) is not None and ((value in ("1", "true") and not job.autoscaling) or (job.autoscaling and "version" in job.options)),
         f"{_TEMPLATE}.headGroupSpec env", "remove the variable, and set autoscalerOptions.version instead"),
    Rule("autoscaler-v2", 17, "the autoscaler v2 needs restartPolicy Never; idleTimeoutSeconds (at least 0) and priority of a group need version: v2",
         _bad_v2, f"{_TEMPLATE}.autoscalerOptions", "set version: v2, and restartPolicy: Never in all groups"),
    Rule("suspended-group", 18, "with an autoscaler, a worker group must not be suspended",
         lambda job: job.autoscaling and any(each.get("suspend") for each in job.workers),
         f"{_TEMPLATE}.workerGroupSpecs", "remove suspend"),
    Rule("token-auth", 19, "token authentication needs rayVersion 2.52.0 or later; a RayJob does not support enableK8sTokenAuth",
         _bad_auth, f"{_TEMPLATE}.authOptions", "set mode: token, and rayVersion to the version in the image"),
    Rule("feature-gates", 20, "networkPolicy, tlsOptions and historyServerOptions of the cluster need feature gates that are off",
         lambda job: {"networkPolicy", "tlsOptions", "historyServerOptions"} & set(job.cluster),
         _TEMPLATE, "remove them: k8s/base/network.yaml is a NetworkPolicy"),
    Rule("upgrade-strategy", 21, "the cluster of a RayJob does not support upgradeStrategy",
         lambda job: job.cluster.get("upgradeStrategy"), f"{_TEMPLATE}.upgradeStrategy", "remove upgradeStrategy"),
    Rule("token-required", 0, "without token authentication any pod may run code on the cluster",
         lambda job: job.auth.get("mode") != "token", f"{_TEMPLATE}.authOptions", "set mode: token"),
    Rule("head-memory", 0, "a head with less than 5Gi runs out of memory and is killed",
         lambda job: amount(_first(job.head)["resources"]["limits"]["memory"]) < HEAD_MEMORY,
         "launch.k8s.head_memory", "set launch.k8s.head_memory: 8Gi"),
    Rule("worker-memory", 0, "a worker with less than 1Gi runs out of memory and is killed",
         lambda job: any(amount(_first(each)["resources"]["limits"]["memory"]) < WORKER_MEMORY for each in job.workers),
         "launch.k8s.memory_per_node", "set launch.k8s.memory_per_node: 16Gi"),
    Rule("head-without-work", 0, 'the head must have num-cpus "0", because training on it would use the memory that Ray\'s services need',
         lambda job: _params(job.head).get("num-cpus") != "0", f"{_TEMPLATE}.headGroupSpec.rayStartParams", 'set num-cpus: "0"'),
    Rule("requests-equal-limits", 0, "requests must equal limits, so that a pod is among the last to be evicted",
         lambda job: any(each["resources"].get("requests") != each["resources"].get("limits") for each in job.containers()),
         f"{_TEMPLATE} resources", "set requests and limits to the same values"),
    Rule("shared-memory", 0, "/dev/shm of head and workers must be an emptyDir in memory with two fifths of the memory limit",
         _bad_shared_memory, f"{_TEMPLATE} volumes", _KEEP),
    Rule("limited-scratch", 0, "/tmp/ray must be mounted, and every emptyDir must have a sizeLimit, because a full node evicts the head",
         _bad_scratch, f"{_TEMPLATE} volumes", _KEEP),
    Rule("scratch-size", 0, "a folder on disk with less than 1Gi is soon full, and its pod is then evicted",
         _small_scratch, "launch.k8s.disk_per_node", "set launch.k8s.disk_per_node: 50Gi"),
    Rule("gang", 0, "without autoscaling, replicas, minReplicas and maxReplicas must be equal, so that all workers start or none",
         lambda job: not job.autoscaling and any(not each.get("minReplicas") == each["replicas"] == each.get("maxReplicas") for each in job.workers),
         f"{_TEMPLATE}.workerGroupSpecs", _KEEP),
    Rule("one-submitter", 0, "backoffLimit of the submitter must be 0, because a second submitter would submit the same job id again",
         lambda job: job.mode in _MODES[:2] and (job.spec.get("submitterConfig") or {}).get("backoffLimit") != 0,
         "RayJob.spec.submitterConfig.backoffLimit", "set backoffLimit: 0"),
    Rule("clean-up", 0, "shutdownAfterJobFinishes and activeDeadlineSeconds must be set, because a broken job would keep its GPUs",
         lambda job: not (job.spec.get("shutdownAfterJobFinishes") and job.spec.get("activeDeadlineSeconds")),
         "RayJob.spec", _KEEP),
    Rule("kueue-autoscaling", 0, "Kueue admits a fixed number of pods, so it does not support an autoscaler",
         lambda job: KUEUE in job.labels and job.autoscaling,
         "launch.k8s.autoscaling", "set launch.k8s.autoscaling: false, and cluster.workers to a fixed number"),
    Rule("kueue-owns-the-job", 0, "Kueue needs shutdownAfterJobFinishes, allows no clusterSelector, and sets suspend itself",
         lambda job: KUEUE in job.labels and (not job.spec.get("shutdownAfterJobFinishes") or job.spec.get("clusterSelector") or "suspend" in job.spec),
         "RayJob.spec", _KEEP),
    Rule("restricted-pods", 0, "pods must run without root, capabilities, privilege escalation or a writable root file system, and with the seccomp profile RuntimeDefault",
         _bad_pod, "RayJob securityContext", _KEEP),
    Rule("pinned-image", 0, "an image without a tag, or with :latest, may differ from node to node",
         _bad_image, "launch.k8s.image", "use an image with a version, such as registry.example.org/medray:0.1.0, or with a digest"),
    Rule("no-secret-value", 0, "a manifest must not contain the value of a secret variable",
         lambda job: any(is_secret(each["name"], each["value"] or "") for one in job.containers() for each in one.get("env", ()) if "value" in each),
         "RayJob env", "put the variable into a Secret, and add the name of the Secret to launch.k8s.secrets"),
)  # fmt: skip
