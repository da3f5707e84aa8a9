"""The manifests of a run on Kubernetes: the files of k8s/, filled with the values of a config.

k8s/ has the only copy of the manifests. Its base and the overlays that `launch.k8s` selects are built as kustomize does
(kustomize.py); then names, sizes, the config and the environment replace the examples in k8s/. The result is checked
against the models (models.py) and the rules (rules.py), so that a cluster accepts what is printed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import PurePosixPath
from typing import Any

import yaml

from medray.config import Config
from medray.config.launch import K8sLaunch
from medray.config.loading.load import LARGEST_FILE
from medray.config.tracking import TRACKING_URI
from medray.errors import InputError
from medray.launch import parcel, wrappers
from medray.launch.environment import Environment
from medray.launch.k8s import environment as k8s_environment
from medray.launch.k8s import kustomize
from medray.launch.k8s.models import check_fields
from medray.launch.k8s.names import rayjob_name
from medray.launch.k8s.rules import KUEUE, check, shared_memory
from medray.launch.shape import Shape, shape

RUN_LABEL = "medray/run"  # label of all objects that a launch creates, and of its pods
CONTENT = "medray/content"  # annotation with a digest of all that a launch sends, except its time and its environment
VOLCANO = "volcano.sh/queue-name"
_GPU = "nvidia.com/gpu"  # the name in k8s/overlays/gpu

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Launch:
    """The Kubernetes objects of a run. manifests: in the order in which they are created, the RayJob last.

    notes: messages for the user.
    """

    name: str
    namespace: str
    nodes: int
    overlays: tuple[str, ...]
    manifests: tuple[Manifest, ...]
    notes: tuple[str, ...]

    @property
    def job(self) -> Manifest:
        return self.manifests[-1]

    def text(self) -> str:
        """Return the manifests as YAML for `kubectl apply -f`."""
        return "".join(f"---\n{_yaml(manifest)}" for manifest in self.manifests)


def render(
    config: Config,
    environment: Environment,
    *,
    verb: str = "train",
    launched_at: int | None = None,
) -> Launch:
    """Build the manifests that run `config` on Kubernetes.

    environment: the variables of this machine that `launch.env` names. launched_at: seconds since the epoch; the run
    ignores requests to stop that are older. Raises InputError, with the key or the rule, if the config cannot run on
    Kubernetes.
    """
    settings = config.launch.k8s
    _check_settings(config)
    _check_tracking(config, environment)
    name = rayjob_name(config.run.name)
    nodes = _shape(config)
    fewest = _fewest_nodes(config, nodes)
    overlays = _overlays(config)
    manifests = kustomize.build(wrappers.folder("k8s"), overlays)
    if settings.service_account:
        manifests = [each for each in manifests if each["kind"] != "ServiceAccount"]
    for manifest in manifests:
        manifest["metadata"].update(name=name, namespace=settings.namespace)
        manifest["metadata"]["labels"][RUN_LABEL] = name
    by_kind = {manifest["kind"]: manifest for manifest in manifests}

    by_kind["ConfigMap"]["data"]["config.yaml"] = _config_text(config)
    command = ["medray", *verb.split(), "/etc/medray/config.yaml", f"cluster.nodes={fewest}"]
    if launched_at is not None and verb in ("train", "tune"):
        command.append(f"--launched-at={launched_at}")
    _fill_job(by_kind["RayJob"], config, name, " ".join(["sh /etc/medray/run.sh", *command]))
    _fill_workers(by_kind["RayJob"], config, nodes, fewest)
    by_kind["RayJob"]["metadata"]["annotations"] = {CONTENT: _digest(manifests, launched_at)}
    # After the digest: a launch from another terminal has another environment, but must find the same job.
    variables, notes = k8s_environment.variables(config, environment)
    _fill_policy(by_kind["NetworkPolicy"], name, k8s_environment.ports(config, variables))
    for group in _groups(by_kind["RayJob"]):
        _fill_environment(group["template"]["spec"], config, variables)

    check_fields(manifests)
    check(by_kind["RayJob"])
    return Launch(name, settings.namespace, nodes.nodes, overlays, tuple(manifests), tuple(notes))


def _check_settings(config: Config) -> None:
    settings, gpus = config.launch.k8s, config.cluster.gpus_per_node or 0
    if not settings.image:
        raise InputError(
            "the pods need an image with medray and Ray",
            key="launch.k8s.image",
            fix="build an image from the Dockerfile, push it, and set launch.k8s.image=registry.example.org/medray:0.1.0",
        )
    if settings.overlay and (settings.overlay == "gpu") != bool(gpus):
        raise InputError(
            f"this overlay of k8s/overlays does not fit cluster.gpus_per_node = {gpus}",
            key="launch.k8s.overlay",
            value=settings.overlay,
            fix="remove launch.k8s.overlay, and set cluster.gpus_per_node to the number of GPUs per node",
        )
    if settings.scheduler == "kueue" and not settings.queue:
        raise InputError(
            "Kueue needs the name of a queue",
            key="launch.k8s.queue",
            fix="set launch.k8s.queue=NAME to a LocalQueue of the namespace (`kubectl get localqueues` lists them)",
        )
    if settings.scheduler == "none" and settings.queue:
        raise InputError(
            "a queue needs a scheduler, but launch.k8s.scheduler is none",
            key="launch.k8s.queue",
            value=settings.queue,
            fix="set launch.k8s.scheduler to kueue or volcano, or remove launch.k8s.queue",
        )
    if settings.autoscaling and isinstance(config.cluster.workers, int):
        raise InputError(
            f"an autoscaler needs a range of workers, but cluster.workers is {config.cluster.workers}",
            key="launch.k8s.autoscaling",
            fix=f"set cluster.workers=[1,{max(2, config.cluster.workers)}] or launch.k8s.autoscaling=false",
        )
    parcel.check_seen(
        config,
        lambda path: _on_claim(settings, path),
        where="a pod",
        fix=f"or use a path below {settings.mount_path}, where the claim {settings.volume_claim} is mounted"
        if settings.volume_claim
        else f"or set launch.k8s.volume_claim to a ReadWriteMany claim, and use a path below {settings.mount_path}",
    )


def _on_claim(settings: K8sLaunch, path: str) -> bool:
    inside = PurePosixPath(path)
    return (
        bool(settings.volume_claim)
        and inside.is_relative_to(settings.mount_path)
        and ".." not in inside.parts
    )


def _check_tracking(config: Config, environment: Environment) -> None:
    """Refuse a tracking URI on a pod's own disk: the metrics would be lost with the pod."""
    key, uri = "tracking.uri", config.tracking.uri
    if uri is None:
        key, uri = TRACKING_URI, environment.plain.get(TRACKING_URI)
    if not config.tracking.enabled or uri is None:
        return
    scheme, mark, rest = uri.partition("://")
    local = not mark or scheme.partition("+")[0] in ("sqlite", "file")
    path = uri if not mark else rest.removeprefix("/") if scheme.startswith("sqlite") else rest
    if local and not _on_claim(config.launch.k8s, path):
        raise InputError(
            f"{path} is a path on this machine or on a pod's own disk, which is lost with the pod",
            key=key,
            fix="use an MLflow server, such as tracking.uri=http://mlflow:5000, or set tracking.enabled=false: the run's "
            "files have the metrics too",
        )


def _shape(config: Config) -> Shape:
    """Return the worker pods. An autoscaler adds and removes whole pods, so on CPUs each worker gets its own pod."""
    settings, cluster = config.launch.k8s, config.cluster
    if settings.autoscaling and not cluster.nodes and not cluster.gpus_per_node:
        alone = cluster.model_copy(update={"nodes": cluster.most_workers})
        config = config.model_copy(update={"cluster": alone})
    return shape(config, settings.cpus_per_node)


def _fewest_nodes(config: Config, nodes: Shape) -> int:
    """Return the number of nodes that a run starts with: all, or with an autoscaler those of the fewest workers."""
    if not config.launch.k8s.autoscaling:
        return nodes.nodes
    return min(nodes.nodes, ceil(config.cluster.fewest_workers / nodes.workers))


def _overlays(config: Config) -> tuple[str, ...]:
    settings = config.launch.k8s
    chosen = {
        "gpu": bool(config.cluster.gpus_per_node),
        "cpu": not config.cluster.gpus_per_node,
        "s3": not settings.volume_claim,
        "autoscaling": settings.autoscaling,
        "kueue": settings.scheduler == "kueue",
        "volcano": settings.scheduler == "volcano",
    }
    return tuple(name for name, wanted in chosen.items() if wanted)


def _config_text(config: Config) -> str:
    text = parcel.config_text(parcel.without_unused_root(config))
    if len(text.encode()) > LARGEST_FILE:
        raise InputError(
            f"the config has {len(text.encode()):,} bytes when all paths are absolute, but the pod reads at most "
            f"{LARGEST_FILE:,}",
            key="data.train",
            fix="use patterns (s3://bucket/part-*.jsonl) instead of long lists of files",
        )
    return text


def _digest(manifests: list[Manifest], launched_at: int | None) -> str:
    text = json.dumps(manifests, sort_keys=True).replace(f" --launched-at={launched_at}", "")
    return hashlib.sha256(text.encode()).hexdigest()


def _groups(job: Manifest) -> list[Manifest]:
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _pods(job: Manifest) -> list[Manifest]:
    """Return the templates of the three kinds of pods."""
    return [*(group["template"] for group in _groups(job)), job["spec"]["submitterPodTemplate"]]


def _fill_job(job: Manifest, config: Config, name: str, entrypoint: str) -> None:
    settings, spec = config.launch.k8s, job["spec"]
    labels, cluster = job["metadata"]["labels"], spec["rayClusterSpec"]
    for label in (KUEUE, VOLCANO):
        if label in labels and settings.queue:
            labels[label] = settings.queue
    spec.update(
        entrypoint=entrypoint,
        jobId=name,
        backoffLimit=settings.retries,
        activeDeadlineSeconds=settings.deadline_seconds,
        ttlSecondsAfterFinished=settings.keep_seconds,
    )
    cluster["rayVersion"] = importlib.metadata.version("ray")
    if settings.token_secret:
        cluster["authOptions"]["secretName"] = settings.token_secret
    for template in _pods(job):
        template["metadata"]["labels"][RUN_LABEL] = name
        pod = template["spec"]
        pod["serviceAccountName"] = settings.service_account or name
        if settings.image_pull_secrets:
            pod["imagePullSecrets"] = [{"name": each} for each in settings.image_pull_secrets]
        for container in pod["containers"]:
            container["image"] = settings.image
            for mount in container["volumeMounts"]:
                if mount["name"] == "storage":
                    mount["mountPath"] = settings.mount_path
            for variable in container["env"]:
                if variable["name"] == "JOB_ID":
                    variable["value"] = name
        for volume in pod["volumes"]:
            if "persistentVolumeClaim" in volume:
                volume["persistentVolumeClaim"]["claimName"] = settings.volume_claim
            elif "configMap" in volume:
                volume["configMap"]["name"] = name
            elif volume["name"] == "ray-logs":
                volume["emptyDir"]["sizeLimit"] = settings.disk_per_node
    _resize(cluster["headGroupSpec"], {"memory": settings.head_memory})


def _fill_workers(job: Manifest, config: Config, nodes: Shape, fewest: int) -> None:
    settings = config.launch.k8s
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    workers.update(replicas=fewest, minReplicas=fewest, maxReplicas=nodes.nodes)
    sizes = {"cpu": str(nodes.cpus), "memory": settings.memory_per_node}
    pod = workers["template"]["spec"]
    if nodes.gpus:
        for each in pod["containers"][0]["resources"].values():
            del each[_GPU]
        sizes[settings.gpu_resource] = str(nodes.gpus)
        for toleration in pod["tolerations"]:
            if toleration["key"] == _GPU:
                toleration["key"] = settings.gpu_resource
    _resize(workers, sizes)


def _resize(group: Manifest, sizes: Mapping[str, str]) -> None:
    """Set requests and limits of the group's Ray container, and the size of /dev/shm to match."""
    pod = group["template"]["spec"]
    for each in pod["containers"][0]["resources"].values():
        each.update(sizes)
    for volume in pod["volumes"]:
        if volume["name"] == "shared-memory":
            volume["emptyDir"]["sizeLimit"] = shared_memory(sizes["memory"])


def _fill_environment(pod: Manifest, config: Config, variables: Mapping[str, str]) -> None:
    container = pod["containers"][0]
    ours = {each["name"] for each in container["env"]}
    container["env"] += [
        {"name": name, "value": value} for name, value in variables.items() if name not in ours
    ]
    del container["envFrom"]
    if secrets := config.launch.k8s.secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in secrets]


def _fill_policy(policy: Manifest, name: str, ports: list[int]) -> None:
    spec = policy["spec"]
    peers = [peer for rule in spec["ingress"] for peer in rule.get("from", ())]
    peers += [peer for rule in spec["egress"] for peer in rule.get("to", ())]
    for selector in (spec["podSelector"], *(peer.get("podSelector", {}) for peer in peers)):
        if RUN_LABEL in selector.get("matchLabels", {}):
            selector["matchLabels"][RUN_LABEL] = name
    tcp = spec["egress"][-1]["ports"]
    known = {each["port"] for each in tcp}
    tcp += [{"protocol": "TCP", "port": port} for port in ports if port not in known]


class _Dumper(yaml.SafeDumper):
    """A YAML writer that puts text of several lines into a block, and quotes text that a reader may take for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if re.match(r"[0-9.+-]", text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(tree: Manifest) -> str:
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))
