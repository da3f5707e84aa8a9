"""A client of a Kubernetes API server, which creates the objects of a launch, follows its RayJob and deletes the objects.

Only the status of the RayJob decides whether the run has ended. The log of the submitter's pod is only shown:
following it may end early (ray#57002).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from medray.errors import InputError, RunFailedError, printable
from medray.launch.k8s import CONTENT, RUN_LABEL, Launch, Manifest
from medray.launch.k8s.log import PodLog, exit_code_in

RAYJOB = ("ray.io", "v1")
# The objects of a launch besides the RayJob: kind, API, name in its methods. A volume claim is never among them.
_OTHERS = (
    ("ConfigMap", "core", "config_map"),
    ("NetworkPolicy", "networking", "network_policy"),
    ("ServiceAccount", "core", "service_account"),
)
ENDED = ("Complete", "Failed", "ValidationFailed")
WATCH_SECONDS = 60  # duration of one watch; after it the job is read again, in case the watch missed a change
PATIENCE_SECONDS = 600  # how long the API server may be silent
REQUEST_SECONDS = 30
HINT_SECONDS = 45
BUSY = 429
GONE = 410  # the server no longer has the version that the watch starts from


@dataclass(frozen=True)
class Status:
    """The status of a RayJob, from which `follow` knows whether the run has ended.

    job: Ray's status. deployment: the status that the operator sets. failed: number of Ray clusters of this job that failed.
    """

    job: str = ""
    deployment: str = ""
    reason: str = ""
    message: str = ""
    failed: int = 0
    workers: str = ""
    suspended: bool = False

    @classmethod
    def of(cls, job: Manifest) -> Status:
        status = job.get("status") or {}
        cluster = status.get("rayClusterStatus") or {}
        desired = cluster.get("desiredWorkerReplicas")
        return cls(
            job=status.get("jobStatus") or "",
            deployment=status.get("jobDeploymentStatus") or "",
            reason=status.get("reason") or "",
            message=status.get("message") or "",
            failed=status.get("failed") or 0,
            workers=f"{cluster.get('readyWorkerReplicas', 0)} of {desired}" if desired else "",
            suspended=bool((job.get("spec") or {}).get("suspend")),
        )

    @property
    def ended(self) -> bool:
        return self.deployment in ENDED

    def line(self, retries: int) -> str:
        """Return the status as one line for the user."""
        text = self.deployment or (
            "suspended: waiting for its queue" if self.suspended else "waiting for the operator"
        )
        if self.job and self.job != self.deployment:
            text += f", Ray job {self.job}"
        if self.workers and not self.ended:
            text += f", workers ready: {self.workers}"
        if self.failed:
            text += f", clusters that failed: {self.failed} of at most {retries + 1}"
        return text + (f", {self.reason}" if self.reason else "")


def outcome_code(status: Status, driver: int | None) -> int:
    """Return the exit code of `medray launch` for a job that has ended.

    driver: the exit code of the run, if it is known. If it is not, a Ray job with the status STOPPED was stopped by
    somebody, or by its own script after exit code 2 (k8s/base/config.yaml).
    """
    if status.deployment == "Complete" and status.job == "SUCCEEDED":
        return 76 if driver == 76 else 0
    if driver is None:
        driver = exit_code_in(status.message)
    return driver if driver in (2, 75, 76) else 1


class Cluster:
    """A connection to the Kubernetes API server of the current kubeconfig, or of the pod in which this process runs."""

    def __init__(self, namespace: str, context: str | None = None) -> None:
        try:
            import kubernetes
        except ModuleNotFoundError:
            raise InputError(
                "is not installed",
                file="the Python package kubernetes",
                fix="run `pip install 'medray[k8s]'`, or print the manifests with --dry-run and apply them with "
                "`kubectl apply -f`",
            ) from None
        configuration = _configuration(context)
        configuration.retries = 2
        client = kubernetes.client.ApiClient(configuration)
        self.namespace, self.host = namespace, configuration.host
        self.core = kubernetes.client.CoreV1Api(client)
        self._apis = {"core": self.core, "networking": kubernetes.client.NetworkingV1Api(client)}
        self._custom = kubernetes.client.CustomObjectsApi(client)

    def job(self, name: str) -> Manifest | None:
        """Return the RayJob with this name, or None."""
        try:
            found: Manifest = self._call(
                self._custom.get_namespaced_custom_object, *RAYJOB, self.namespace, "rayjobs", name
            )
            return found
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def read(self, what: str, name: str) -> Any:
        """Read an object of the core API by its kind and name. Raises ApiError."""
        return self._call(getattr(self.core, f"read_namespaced_{what}"), name, self.namespace)

    def start(self, launch: Launch) -> bool:
        """Create the objects of a launch. Return False if the same job already exists and has not ended.

        Objects of an earlier launch of the run are deleted first. Raises InputError if another job has the name.
        """
        found = self.job(launch.name)
        if found is not None:
            labels = found["metadata"].get("labels") or {}
            if labels.get(RUN_LABEL) != launch.name:
                raise self._taken(
                    f"the RayJob {launch.name} in {self.namespace} exists already, not created by medray"
                )
            if not Status.of(found).ended:
                annotations = found["metadata"].get("annotations") or {}
                if annotations.get(CONTENT) == launch.job["metadata"]["annotations"][CONTENT]:
                    return False
                raise InputError(
                    f"the RayJob {launch.name} in {self.namespace} already exists with another config, and is "
                    f"{Status.of(found).deployment or 'waiting'}",
                    key="run.name",
                    fix="stop the existing run with `medray stop`, end it with --delete, or use another run.name",
                )
        self.delete(launch.name)
        for manifest in launch.manifests:
            try:
                self._create(manifest)
            except ApiError as error:
                if error.status == 409:
                    raise self._taken(
                        f"the {manifest['kind']} {launch.name} in {self.namespace} exists already, not created by medray"
                    ) from None
                if error.status == 404 and manifest is launch.job:
                    raise RunFailedError(
                        f"the cluster {self.host} does not support RayJobs. Fix: install the KubeRay operator, version 1.7 or "
                        "later"
                    ) from None
                raise
        return True

    def delete(self, name: str, say: Callable[[str], None] = lambda text: None) -> list[str]:
        """Delete all objects that launches of this name created, the RayJob first. Return their kinds and names."""
        deleted = []
        job = self.job(name)
        if job is not None and (job["metadata"].get("labels") or {}).get(RUN_LABEL) == name:
            deleted.append(f"RayJob {name}")
            self._ignoring_404(
                self._custom.delete_namespaced_custom_object,
                *RAYJOB,
                self.namespace,
                "rayjobs",
                name,
                propagation_policy="Foreground",
            )
            self._wait_until_gone(name, say)
        for kind, api, what in _OTHERS:
            found = self._call(
                getattr(self._apis[api], f"list_namespaced_{what}"),
                self.namespace,
                label_selector=f"{RUN_LABEL}={name}",
            )
            for each in found.items:
                if (each.metadata.labels or {}).get(RUN_LABEL) == name:
                    self._ignoring_404(
                        getattr(self._apis[api], f"delete_namespaced_{what}"),
                        each.metadata.name,
                        self.namespace,
                    )
                    deleted.append(f"{kind} {each.metadata.name}")
        return deleted

    def follow(
        self,
        name: str,
        say: Callable[[str], None],
        log: Callable[[str], None],
        *,
        retries: int,
        seconds: float,
    ) -> tuple[Status, int | None]:
        """Follow a RayJob until it has ended.

        Return its status and the run's exit code, None if the log does not have it.

        say: called with a line whenever the status changes. log: called with each line of the driver's log. Raises
        RunFailedError if the job has not ended after `seconds`, if it is deleted, and if the server stops answering.
        """
        pods = PodLog(self.core, self.namespace, name, log)
        pods.start()
        shown, last, began = "", Status(), time.monotonic()
        try:
            for last in self._states(name, time.monotonic() + seconds):
                if (line := last.line(retries)) != shown:
                    say(f"RayJob {name}: {line}")
                    shown = line
                elif not (last.deployment or last.suspended) and began + HINT_SECONDS < time.monotonic():
                    say(
                        "no operator has handled the job yet: check that KubeRay runs on this cluster and watches this "
                        "namespace"
                    )
                    began += 10 * HINT_SECONDS
                if last.ended:
                    break
        finally:
            pods.end()
        return last, pods.exit_code

    def _states(self, name: str, deadline: float) -> Iterator[Status]:
        """Yield the status now and after every change until `deadline`, reconnecting when a connection breaks."""
        import kubernetes
        import urllib3

        answered = time.monotonic()
        while (now := time.monotonic()) < deadline:
            try:
                job = self.job(name)
                answered = now
                if job is None:
                    raise RunFailedError(
                        f"somebody deleted the RayJob {name} in the namespace {self.namespace}. Fix: launch the config again to resume"
                    )
                yield Status.of(job)
                stream = kubernetes.watch.Watch().stream(
                    self._custom.list_namespaced_custom_object,
                    *RAYJOB,
                    self.namespace,
                    "rayjobs",
                    field_selector=f"metadata.name={name}",
                    resource_version=job["metadata"].get("resourceVersion"),
                    timeout_seconds=WATCH_SECONDS,
                    _request_timeout=(REQUEST_SECONDS, WATCH_SECONDS + REQUEST_SECONDS),
                )
                for event in stream:
                    answered = time.monotonic()
                    if event["object"]["metadata"]["name"] == name and event["type"] != "DELETED":
                        yield Status.of(event["object"])
                if time.monotonic() - now < 1:  # pause, in case the server ends every watch at once
                    time.sleep(1)
            except ApiError as error:
                if error.status < 500 and error.status != BUSY:
                    raise
                self._be_patient(answered, name)
            except kubernetes.client.ApiException as error:
                if error.status not in (GONE, BUSY) and error.status < 500:
                    raise RunFailedError(
                        f"the cluster {self.host} refuses access to the RayJob {name}: {error.reason}. Fix: check the rights of this "
                        "user in the namespace"
                    ) from None
                self._be_patient(answered, name)
            except (_UnreachableError, urllib3.exceptions.HTTPError, OSError):
                self._be_patient(answered, name)
        raise RunFailedError(
            f"the RayJob {name} has not ended in time. Fix: run the same command again to follow it"
        )

    def _be_patient(self, answered: float, name: str) -> None:
        if time.monotonic() - answered > PATIENCE_SECONDS:
            raise RunFailedError(
                f"the cluster {self.host} has not answered for {PATIENCE_SECONDS} s. The RayJob {name} may still be running. "
                "Fix: run the same command again to follow it"
            )
        time.sleep(1)

    def _create(self, manifest: Manifest) -> None:
        if manifest["kind"] == "RayJob":
            self._call(
                self._custom.create_namespaced_custom_object, *RAYJOB, self.namespace, "rayjobs", manifest
            )
            return
        api, what = next((api, what) for kind, api, what in _OTHERS if kind == manifest["kind"])
        self._call(getattr(self._apis[api], f"create_namespaced_{what}"), self.namespace, manifest)

    def _wait_until_gone(self, name: str, say: Callable[[str], None]) -> None:
        """Wait until the operator has let the driver save and has removed its finalizer from the job."""
        end, said = time.monotonic() + 300, False
        while self.job(name) is not None:
            if time.monotonic() > end:
                raise RunFailedError(
                    f"the RayJob {name} still exists after 300 s. Fix: check whether the KubeRay operator runs"
                )
            if not said:
                say(f"waiting for the operator to end the RayJob {name}")
            said = True
            time.sleep(1)

    def _ignoring_404(self, method: Callable[..., Any], *args: Any, **options: Any) -> None:
        try:
            self._call(method, *args, **options)
        except ApiError as error:
            if error.status != 404:
                raise

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        import kubernetes
        import urllib3

        try:
            return method(*args, **options, _request_timeout=REQUEST_SECONDS)
        except kubernetes.client.ApiException as error:
            raise ApiError(self.host, error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _UnreachableError(self.host, error) from None

    def _taken(self, what: str) -> InputError:
        return InputError(what, key="run.name", fix="use another run.name, or delete that object")


def _configuration(context: str | None) -> Any:
    """Return the server and the credentials of the kubeconfig; without one, those that Kubernetes gives to a pod."""
    import kubernetes

    # The client hardly checks the file: wrong content raises any of these errors.
    unusable = (
        kubernetes.config.ConfigException,
        OSError,
        TypeError,
        ValueError,
        AttributeError,
        yaml.YAMLError,
    )
    configuration = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_kube_config(
            os.environ.get("KUBECONFIG") or None, context, client_configuration=configuration
        )
    except unusable as error:
        try:
            if context is not None:
                raise
            kubernetes.config.load_incluster_config(client_configuration=configuration)
        except unusable:
            raise InputError(
                f"no Kubernetes cluster is configured here ({printable(' '.join(str(error).split()))[:200]})",
                file="kubeconfig",
                key="--context" if context else None,
                value=context,
                fix="set KUBECONFIG=FILE to a kubeconfig and --context to one of its contexts, or print the manifests with "
                "--dry-run and apply them on another machine",
            ) from None
    return configuration


class ApiError(RunFailedError):
    """The error for an error response of the API server. status: its HTTP status."""

    def __init__(self, host: str, error: Any) -> None:
        self.status: int = error.status or 0
        super().__init__(
            f"the cluster {host} answers {error.status} {printable(str(error.reason))[:500]}. Fix: check the namespace, and "
            "the rights of this user in it"
        )


class _UnreachableError(RunFailedError):
    def __init__(self, host: str, error: Exception) -> None:
        super().__init__(
            f"the cluster {host} does not answer ({printable(str(error))[:200]}). Fix: check the network and the kubeconfig"
        )
