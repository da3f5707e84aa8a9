from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from medray.config.section import Section, key

# Environment variables that a run may need, by the libraries' own names. A trailing * matches any rest.
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
    """Return a validator of text that goes into a command line or a manifest: bounded, without control characters."""

    def check(value: str) -> str:
        if len(value) > longest or not re.fullmatch(pattern, value):
            raise ValueError(f"use {says}, at most {longest} characters")
        return value

    return AfterValidator(check)


OneLine = Annotated[str, _form(r"[^\x00-\x1f\x7f]+", "one line of text", 1000)]
Word = Annotated[str, _form(r"[A-Za-z0-9._,:@/+=-]+", "letters, digits and . _ , : @ / + = -")]
Variable = Annotated[
    str, _form(r"[A-Za-z_][A-Za-z0-9_]*\*?", "the name of a variable, or its first letters and *")
]
Folder = Annotated[str, _form(r"/[A-Za-z0-9._/-]*", "an absolute path of letters, digits and . _ - /")]
_DNS = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
DnsLabel = Annotated[str, _form(_DNS, "lower-case letters, digits and '-'", 63)]
DnsName = Annotated[str, _form(rf"{_DNS}(\.{_DNS})*", "lower-case letters, digits, '-' and single '.'", 253)]
QueueName = Annotated[
    str, _form(rf"{_DNS}(\.{_DNS})*", "lower-case letters, digits, '-' and single '.'", 63)
]  # must be valid as the value of a label
Image = Annotated[
    str,
    _form(
        r"([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?",
        "an image with tag or digest, such as registry.example.org/medray:0.1.0",
        1000,
    ),
]
Device = Annotated[
    str,
    _form(
        rf"{_DNS}(\.{_DNS})*/[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?",
        "the name of a device with its domain, such as nvidia.com/gpu",
    ),
]
Quantity = Annotated[
    str, _form(r"[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?", "a quantity of Kubernetes, such as 16Gi", 20)
]


class JobLaunch(Section):
    """Settings of `medray launch job`, which uses a running Ray cluster."""

    address: OneLine | None = key(
        None,
        "URL of the cluster's dashboard, http://HOST:8265; default: the environment variable RAY_API_SERVER_ADDRESS.",
        resumable=True,
    )
    send_package: bool = key(
        True, "Send the medray package with the job; false if the cluster has it installed.", resumable=True
    )
    shared_folders: tuple[Folder, ...] = key(
        (),
        "Folders that every node of the cluster has at the same path, for run.storage and data.",
        resumable=True,
    )
    max_package_mb: int = key(
        50, "Refuse to upload more than this many MB (before compression).", ge=1, le=500, resumable=True
    )
    python: Word = key(
        "python",
        "Python on the head node, as a name or a path; it must have the packages that medray needs.",
        resumable=True,
    )


class SlurmLaunch(Section):
    """Settings of `medray launch slurm`, most of which are options of sbatch."""

    partition: Word | None = key(None, "Partition; default: the site's.", resumable=True)
    account: Word | None = key(None, "Account to charge.", resumable=True)
    qos: Word | None = key(None, "Quality of service.", resumable=True)
    time: str = key("24:00:00", "Time limit of one start: [days-]hours:minutes:seconds.", resumable=True)
    warning_seconds: int = key(
        300,
        "Seconds before the time limit at which the run saves, ends with exit code 75 and is queued again.",
        ge=60,
        le=65_535,
        resumable=True,
    )
    cpus_per_node: int | None = key(
        None,
        "CPUs per node; default: those of its workers, and one for data.",
        ge=1,
        resumable=True,
    )
    memory_per_node: Word | None = key(
        None, "Memory per node for sbatch --mem, such as 64G; 0 means all of it.", resumable=True
    )
    exclusive: bool = key(False, "Use whole nodes.", resumable=True)
    gpu_type: Word | None = key(None, "Type in --gpus-per-node=TYPE:NUMBER.", resumable=True)
    max_restarts: int = key(20, "How often a run is queued again.", ge=0, resumable=True)
    setup: tuple[OneLine, ...] = key(
        (),
        "Shell lines to run first on the first node, such as modules or a virtual environment.",
        resumable=True,
    )
    python: OneLine | None = key(
        None,
        "Python on the nodes, with medray; default: the Python that submits, or `python` in a container.",
        resumable=True,
    )
    container: OneLine | None = key(None, "Image in which head, workers and driver run.", resumable=True)
    container_runtime: Literal["pyxis", "apptainer"] = key(
        "pyxis", "The program that starts the container.", resumable=True
    )
    container_mounts: tuple[OneLine, ...] = key(
        (), "Folders to mount in the container, such as /data:/data.", resumable=True
    )

    @field_validator("time")
    @classmethod
    def _duration(cls, value: str) -> str:
        if not re.fullmatch(r"(\d+-)?\d{1,3}:\d{2}(:\d{2})?", value):
            raise ValueError(
                "expected [days-]hours:minutes:seconds, in quotes", 'set launch.slurm.time: "24:00:00"'
            )
        return value


# Folders of the image (/opt contains medray), of the kernel and of Kubernetes (/var/run), and the mounts of k8s/.
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
    """Settings of `medray launch k8s`, which creates a RayJob of the KubeRay operator."""

    namespace: DnsLabel = key("default", "Namespace of everything that is created.", resumable=True)
    image: Image | None = key(
        None, "Image with medray and Ray, by tag or digest (the Dockerfile builds one).", resumable=True
    )
    image_pull_secrets: tuple[DnsName, ...] = key((), "Secrets for pulling the image.", resumable=True)
    overlay: Literal["cpu", "gpu"] | None = key(
        None, "Overlay of k8s/; default: gpu if cluster.gpus_per_node is above 0.", resumable=True
    )
    scheduler: Literal["none", "kueue", "volcano"] = key(
        "none", "The scheduler that admits the job.", resumable=True
    )
    queue: QueueName | None = key(None, "Queue of Kueue or Volcano.", resumable=True)
    autoscaling: bool = key(
        False, "Let the autoscaler of Ray add and remove workers within cluster.workers.", resumable=True
    )
    volume_claim: DnsName | None = key(
        None,
        "ReadWriteMany claim that head and workers mount; without it, run.storage must be in a bucket.",
        resumable=True,
    )
    mount_path: Folder = key("/medray", "Folder at which the claim is mounted.", resumable=True)
    secrets: tuple[DnsName, ...] = key(
        (), "Secrets whose keys become environment variables of head and workers.", resumable=True
    )
    token_secret: DnsName | None = key(
        None,
        "Secret whose key auth_token is Ray's token; default: the operator creates one for each cluster.",
        resumable=True,
    )
    service_account: DnsName | None = key(
        None, "Service account of the pods; default: a new one without rights.", resumable=True
    )
    cpus_per_node: int | None = key(
        None, "CPUs of a worker pod; default: those of its workers, and one for data.", ge=1, resumable=True
    )
    memory_per_node: Quantity = key("16Gi", "Memory of a worker pod.", resumable=True)
    head_memory: Quantity = key("8Gi", "Memory of the head pod, at least 5Gi.", resumable=True)
    disk_per_node: Quantity = key(
        "50Gi",
        "Largest size of logs and spilled objects that a pod may write to the disk of its node.",
        resumable=True,
    )
    gpu_resource: Device = key("nvidia.com/gpu", "Name of the GPU resource.", resumable=True)
    retries: int = key(
        3,
        "How often a failed cluster is replaced; the run resumes on the new one.",
        ge=0,
        le=100,
        resumable=True,
    )
    deadline_seconds: int = key(
        7 * 24 * 3600,
        "Longest life of one cluster; a retry starts with the full time.",
        ge=60,
        resumable=True,
    )
    keep_seconds: int = key(
        600,
        "Seconds for which the cluster is kept after the job has ended, for its logs.",
        ge=0,
        resumable=True,
    )

    @field_validator("mount_path")
    @classmethod
    def _free(cls, value: str) -> str:
        _, top, *rest = [*value.split("/"), ""]
        if not top or top in SYSTEM_FOLDERS or {".", ".."} & {top, *rest}:
            raise ValueError(
                "the claim would hide a folder of the pod itself", "set launch.k8s.mount_path: /medray"
            )
        return value


class LaunchConfig(Section):
    """Settings of `medray launch`, which runs the config elsewhere. No key here changes the results."""

    env: tuple[Variable, ...] = key(
        ENVIRONMENT,
        "Environment variables that are passed to a launched run if they are set; AWS_* matches all that begin with AWS_.",
        resumable=True,
    )
    job: JobLaunch = Field(default_factory=JobLaunch)
    slurm: SlurmLaunch = Field(default_factory=SlurmLaunch)
    k8s: K8sLaunch = Field(default_factory=K8sLaunch)
