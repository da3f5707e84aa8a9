"""Pydantic models of the manifests: they find a misspelt field or a wrong type before the manifests are sent to a server.

They have the fields of KubeRay 1.7 and of Kubernetes that k8s/ uses, and further fields that a site may add to its k8s/.
Fields that only the operator's rules (rules.py) need are plain trees.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from medray.errors import InputError

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Resources = dict[str, Quantity]
Labels = dict[str, str]
Tree = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Metadata(_Part):
    name: str
    namespace: str | None = None
    labels: Labels = Field(default_factory=dict)
    annotations: Labels = Field(default_factory=dict)


class PodMetadata(_Part):
    labels: Labels = Field(default_factory=dict)
    annotations: Labels = Field(default_factory=dict)


class Named(_Part):
    name: str


class SeccompProfile(_Part):
    type: Literal["RuntimeDefault", "Unconfined", "Localhost"]


class PodSecurity(_Part):
    run_as_non_root: bool
    run_as_user: int
    run_as_group: int | None = None
    fs_group: int | None = None
    fs_group_change_policy: Literal["OnRootMismatch", "Always"] | None = None
    supplemental_groups: list[int] = Field(default_factory=list)
    seccomp_profile: SeccompProfile


class Capabilities(_Part):
    drop: list[str]
    add: list[str] = Field(default_factory=list)


class ContainerSecurity(_Part):
    allow_privilege_escalation: bool
    read_only_root_filesystem: bool
    capabilities: Capabilities
    privileged: bool = False


class ContainerResources(_Part):
    requests: Resources
    limits: Resources


class ContainerPort(_Part):
    name: str
    container_port: int


class Variable(_Part):
    name: str
    value: str | None = None
    value_from: Tree | None = None


class SecretReference(_Part):
    name: str
    optional: bool = False


class VariablesFrom(_Part):
    secret_ref: SecretReference


class VolumeMount(_Part):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str | None = None


class Container(_Part):
    name: str
    image: str
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    command: list[str] = Field(default_factory=list)
    args: list[str] = Field(default_factory=list)
    security_context: ContainerSecurity
    resources: ContainerResources
    ports: list[ContainerPort] = Field(default_factory=list)
    env: list[Variable] = Field(default_factory=list)
    env_from: list[VariablesFrom] = Field(default_factory=list)
    volume_mounts: list[VolumeMount] = Field(default_factory=list)


class EmptyDir(_Part):
    medium: Literal["Memory"] | None = None
    size_limit: Quantity


class Claim(_Part):
    claim_name: str
    read_only: bool = False


class Volume(_Part):
    name: str
    empty_dir: EmptyDir | None = None
    persistent_volume_claim: Claim | None = None
    config_map: Tree | None = None
    secret: Tree | None = None
    csi: Tree | None = None
    nfs: Tree | None = None


class Toleration(_Part):
    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] | None = None


class PodSpec(_Part):
    restart_policy: Literal["Never", "OnFailure", "Always"] | None = None
    service_account_name: str
    automount_service_account_token: bool
    image_pull_secrets: list[Named] = Field(default_factory=list)
    security_context: PodSecurity
    volumes: list[Volume] = Field(default_factory=list)
    containers: list[Container]
    tolerations: list[Toleration] = Field(default_factory=list)
    node_selector: Labels = Field(default_factory=dict)
    affinity: Tree | None = None
    topology_spread_constraints: list[Tree] = Field(default_factory=list)
    priority_class_name: str | None = None
    scheduler_name: str | None = None
    runtime_class_name: str | None = None
    termination_grace_period_seconds: int | None = None
    host_network: Literal[False] = False


class PodTemplate(_Part):
    metadata: PodMetadata = Field(default_factory=PodMetadata)
    spec: PodSpec


class Group(_Part):
    ray_start_params: Labels = Field(default_factory=dict)
    resources: Labels = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    template: PodTemplate


class WorkerGroup(Group):
    group_name: str
    replicas: int
    min_replicas: int | None = None
    max_replicas: int | None = None
    num_of_hosts: int = 1
    idle_timeout_seconds: int | None = None
    priority: int | None = None
    suspend: bool | None = None


class AutoscalerOptions(_Part):
    version: Literal["v1", "v2"] | None = None
    idle_timeout_seconds: int | None = None
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"] | None = None
    security_context: ContainerSecurity
    resources: ContainerResources
    env: list[Variable] = Field(default_factory=list)
    volume_mounts: list[VolumeMount] = Field(default_factory=list)


class AuthOptions(_Part):
    mode: Literal["disabled", "token"]
    secret_name: str | None = None
    enable_k8s_token_auth: bool | None = Field(None, alias="enableK8sTokenAuth")


class RayCluster(_Part):
    ray_version: str | None = None
    enable_in_tree_autoscaling: bool = False
    autoscaler_options: AutoscalerOptions | None = None
    auth_options: AuthOptions | None = None
    gcs_fault_tolerance_options: Tree | None = None
    network_policy: Tree | None = None
    tls_options: Tree | None = None
    history_server_options: Tree | None = None
    upgrade_strategy: Tree | None = None
    head_group_spec: Group
    worker_group_specs: list[WorkerGroup]


class SubmitterConfig(_Part):
    backoff_limit: int | None = None


class RayJobSpec(_Part):
    entrypoint: str
    job_id: str | None = None
    submission_mode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = "K8sJobMode"
    submitter_config: SubmitterConfig | None = None
    submitter_pod_template: PodTemplate | None = None
    backoff_limit: int = 0
    active_deadline_seconds: int | None = None
    pre_running_deadline_seconds: int | None = None
    shutdown_after_job_finishes: bool = False
    ttl_seconds_after_finished: int = 0
    deletion_strategy: Tree | None = None
    suspend: bool | None = None
    managed_by: str | None = None
    cluster_selector: Labels = Field(default_factory=dict)
    runtime_env_yaml: str | None = Field(None, alias="runtimeEnvYAML")
    metadata: Labels = Field(default_factory=dict)
    ray_cluster_spec: RayCluster | None = None


class RayJob(_Part):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


class ConfigMap(_Part):
    api_version: Literal["v1"]
    kind: Literal["ConfigMap"]
    metadata: Metadata
    data: dict[str, str]


class ServiceAccount(_Part):
    api_version: Literal["v1"]
    kind: Literal["ServiceAccount"]
    metadata: Metadata
    automount_service_account_token: Literal[False]


class PolicyPort(_Part):
    protocol: Literal["TCP", "UDP"]
    port: int = Field(ge=1, le=65_535)


class Ingress(_Part):
    from_: list[Tree] = Field(default_factory=list, alias="from")
    ports: list[PolicyPort] = Field(default_factory=list)


class Egress(_Part):
    to: list[Tree] = Field(default_factory=list)
    ports: list[PolicyPort] = Field(default_factory=list)


class PolicySpec(_Part):
    pod_selector: Tree
    policy_types: list[Literal["Ingress", "Egress"]]
    ingress: list[Ingress]
    egress: list[Egress]


class NetworkPolicy(_Part):
    api_version: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    metadata: Metadata
    spec: PolicySpec


KINDS: dict[str, type[_Part]] = {
    model.__name__: model for model in (RayJob, ConfigMap, ServiceAccount, NetworkPolicy)
}


def check_fields(manifests: Iterable[dict[str, Any]]) -> None:
    """Check the fields of manifests.

    Raises InputError for a field that is misspelt or has a wrong type, and for another kind.
    """
    for manifest in manifests:
        kind = str(manifest.get("kind"))
        if kind not in KINDS:
            raise InputError(
                f"the kind {kind} is not one that medray sends to a cluster",
                file="k8s/",
                key="kind",
                fix=f"use only {', '.join(KINDS)}, and apply other objects yourself",
            )
        try:
            KINDS[kind].model_validate(manifest)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            raise InputError(
                f"{first['msg'][:1].lower()}{first['msg'][1:]}",
                file="k8s/",
                key=".".join(map(str, (kind, *first["loc"]))),
                fix="correct the field in k8s/, or restore the files with `git checkout k8s`",
            ) from None
