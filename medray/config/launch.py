from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from medray.config.section import Section, key

# What a run may need of the environment that starts it, by the libraries' own names. A trailing * stands for any rest.
ENVIRONMENT = (
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "AWS_*",
    "MLFLOW_TRACKING_*",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "NCCL_*",
    "GLOO_SOCKET_IFNAME",
)


def _form(pattern: str, says: str, longest: int = 200) -> AfterValidator:
    """Text of a form: whatever goes into a command line or a manifest is bounded and has no control characters."""

    def check(value: str) -> str:
        if len(value) > longest or not re.fullmatch(pattern, value):
            raise ValueError(f"use {says}, at most {longest} characters")
        return value

    return AfterValidator(check)


OneLine = Annotated[str, _form(r"[^\x00-\x1f\x7f]+", "one line of text", 1000)]
Word = Annotated[str, _form(r"[A-Za-z0-9._,:@/+=-]+", "letters, digits and . _ , : @ / + = -")]
Variable = Annotated[
    str, _form(r"[A-Za-z_][A-Za-z0-9_]*\*?", "the name of a variable, or its beginning with *")
]
Folder = Annotated[str, _form(r"/[A-Za-z0-9._/-]*", "an absolute path of letters, digits and . _ - /")]
_DNS = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
DnsLabel = Annotated[str, _form(_DNS, "small letters, digits and '-'", 63)]
DnsName = Annotated[str, _form(rf"{_DNS}(\.{_DNS})*", "small letters, digits, '-' and single '.'", 253)]
QueueName = Annotated[
    str, _form(rf"{_DNS}(\.{_DNS})*", "small letters, digits, '-' and single '.'", 63)
]  # a label's value
Image = Annotated[
    str,
    _form(
        r"([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?",
        "an image by its tag or digest, as registry.example.org/medray:0.1.0",
        1000,
    ),
]
Device = Annotated[
    str,
    _form(
        rf"{_DNS}(\.{_DNS})*/[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?",
        "the name of a device with its domain, as nvidia.com/gpu",
    ),
]
Quantity = Annotated[
    str, _form(r"[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?", "a quantity of Kubernetes, as 16Gi", 20)
]


class JobLaunch(Section):
    """`medray launch job`: a Ray cluster that runs already."""

    address: OneLine | None = key(
        None,
        "The cluster's dashboard, http://HOST:8265; default: RAY_API_SERVER_ADDRESS of the environment.",
        resumable=True,
    )
    send_package: bool = key(
        True, "Send medray's own package along; false where the cluster has it installed.", resumable=True
    )
    shared_folders: tuple[Folder, ...] = key(
        (),
        "Folders that every node of the cluster sees under the same path, for run.storage and data.",
        resumable=True,
    )
    max_package_mb: int = key(
        50, "Refuse to upload more than this many MB (before compression).", ge=1, le=500, resumable=True
    )
    python: Word = key(
        "python", "Python of the head node, which has what medray needs; a name or a path.", resumable=True
    )


class SlurmLaunch(Section):
    """`medray launch slurm`: what sbatch is asked for."""

    partition: Word | None = key(None, "Partition; default: the site's.", resumable=True)
    account: Word | None = key(None, "Account that is charged.", resumable=True)
    qos: Word | None = key(None, "Quality of service.", resumable=True)
    time: str = key("24:00:00", "Limit of one start: [days-]hours:minutes:seconds.", resumable=True)
    warning_seconds: int = key(
        300,
        "How long before the limit the run saves, ends with 75 and is put into the queue again.",
        ge=60,
        le=65_535,
        resumable=True,
    )
    cpus_per_node: int | None = key(
        None,
        "CPUs asked of each node; default: those of its workers, and one for data.",
        ge=1,
        resumable=True,
    )
    memory_per_node: Word | None = key(None, "sbatch --mem, as 64G; 0 is all of it.", resumable=True)
    exclusive: bool = key(False, "Ask for whole nodes.", resumable=True)
    gpu_type: Word | None = key(None, "Type in --gpus-per-node=TYPE:NUMBER.", resumable=True)
    max_restarts: int = key(20, "How often a run is put into the queue again.", ge=0, resumable=True)
    setup: tuple[OneLine, ...] = key(
        (),
        "Shell lines before anything else on the first node: modules, a virtual environment.",
        resumable=True,
    )
    python: OneLine | None = key(
        None,
        "Python that has medray on the nodes; default: the one that submits, in a container its `python`.",
        resumable=True,
    )
    container: OneLine | None = key(None, "Image in which head, workers and driver run.", resumable=True)
    container_runtime: Literal["pyxis", "apptainer"] = key(
        "pyxis", "What starts the container.", resumable=True
    )
    container_mounts: tuple[OneLine, ...] = key(
        (), "Folders seen in the container, as /data:/data.", resumable=True
    )

    @field_validator("time")
    @classmethod
    def _duration(cls, value: str) -> str:
        if not re.fullmatch(r"(\d+-)?\d{1,3}:\d{2}(:\d{2})?", value):
            raise ValueError("use [days-]hours:minutes:seconds, in quotes", 'launch.slurm.time: "24:00:00"')
        return value


# Folders of the image (/opt holds medray), of the kernel, of Kubernetes (/var/run), and what k8s/ mounts.
SYSTEM_FOLDERS = {
    "bin",
    "dev",
    "etc",
    "lib",
    "lib64",
    "opt",
    "proc",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "var",
}


class K8sLaunch(Section):
    """`medray launch k8s`: a RayJob of the KubeRay operator."""

    namespace: DnsLabel = key("default", "Namespace of everything that is made.", resumable=True)
    image: Image | None = key(
        None, "Image with medray and Ray, by tag or digest (the Dockerfile makes one).", resumable=True
    )
    image_pull_secrets: tuple[DnsName, ...] = key((), "Secrets that pull the image.", resumable=True)
    overlay: Literal["cpu", "gpu"] | None = key(
        None, "Overlay of k8s/; default: gpu where cluster.gpus_per_node is above 0.", resumable=True
    )
    scheduler: Literal["none", "kueue", "volcano"] = key("none", "Who admits the job.", resumable=True)
    queue: QueueName | None = key(None, "Queue of Kueue or Volcano.", resumable=True)
    autoscaling: bool = key(
        False, "Let the autoscaler of Ray add and remove workers within cluster.workers.", resumable=True
    )
    volume_claim: DnsName | None = key(
        None, "ReadWriteMany claim that head and workers mount; default: storage in a bucket.", resumable=True
    )
    mount_path: Folder = key("/medray", "Where the claim is mounted.", resumable=True)
    secrets: tuple[DnsName, ...] = key(
        (), "Secrets whose keys become environment variables of head and workers.", resumable=True
    )
    token_secret: DnsName | None = key(
        None,
        "Secret whose key auth_token is Ray's token; default: the operator makes one for each cluster.",
        resumable=True,
    )
    service_account: DnsName | None = key(
        None, "Service account of the pods; default: one without rights is made.", resumable=True
    )
    cpus_per_node: int | None = key(
        None, "CPUs of a worker pod; default: those of its workers, and one for data.", ge=1, resumable=True
    )
    memory_per_node: Quantity = key("16Gi", "Memory of a worker pod.", resumable=True)
    head_memory: Quantity = key("8Gi", "Memory of the head pod, at least 5Gi.", resumable=True)
    disk_per_node: Quantity = key(
        "50Gi",
        "Most that a pod may write of logs and spilled objects to the disk of its node.",
        resumable=True,
    )
    gpu_resource: Device = key("nvidia.com/gpu", "Name of the GPU resource.", resumable=True)
    retries: int = key(
        3, "New clusters after a failed one; the run resumes on each.", ge=0, le=100, resumable=True
    )
    deadline_seconds: int = key(
        7 * 24 * 3600, "Life of one cluster: a retry begins anew.", ge=60, resumable=True
    )
    keep_seconds: int = key(
        600, "How long the cluster stays after the job has ended, for its logs.", ge=0, resumable=True
    )

    @field_validator("mount_path")
    @classmethod
    def _free(cls, value: str) -> str:
        _, top, *rest = [*value.split("/"), ""]
        if not top or top in SYSTEM_FOLDERS or {".", ".."} & {top, *rest}:
            raise ValueError(
                "the claim would hide what the pod itself has there", "launch.k8s.mount_path: /medray"
            )
        return value


class LaunchConfig(Section):
    """Where `medray launch` runs the config. Nothing here changes what a run computes."""

    env: tuple[Variable, ...] = key(
        ENVIRONMENT,
        "Variables of the environment that a launched run gets where they are set; AWS_* stands for all that begin so.",
        resumable=True,
    )
    job: JobLaunch = Field(default_factory=JobLaunch)
    slurm: SlurmLaunch = Field(default_factory=SlurmLaunch)
    k8s: K8sLaunch = Field(default_factory=K8sLaunch)
