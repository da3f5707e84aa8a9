"""A client of a Ray cluster's job server.

Every request has a time limit, and every failure becomes an error of medray.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medray.config.loading.credentials import has_credentials
from medray.errors import InputError, RunFailedError

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"  # Ray's variable
ADDRESS_KEY = "launch.job.address"
CONNECT_SECONDS, ANSWER_SECONDS = 10, 120  # the head answers an upload only after storing it
# Keys of Ray's job metadata that mark a job as medray's.
RUN, STORAGE, VERB, VERSION = "medray_run", "medray_storage", "medray_verb", "medray_version"
ACTIVE = ("PENDING", "RUNNING")


class UnreachableError(RunFailedError):
    """The error if the job server does not answer, or asks for the request to be repeated later."""


class UnknownJobError(RunFailedError):
    """The error if the cluster does not know a job."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that medray launched, as the job server describes it.

    exit_code: exit code of the driver, if Ray knows it. started, ended: seconds since the epoch.
    """

    id: str
    run: str
    storage: str
    verb: str
    status: str
    exit_code: int | None
    message: str
    started: float | None
    ended: float | None

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


@dataclass(frozen=True)
class Address:
    """The address of a job server. key: the option, config key or variable that gave it, for messages."""

    url: str
    key: str = ADDRESS_KEY

    @property
    def loopback(self) -> bool:
        host = urlsplit(self.url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")


def address_of(given: str | None, configured: str | None, environ: Mapping[str, str]) -> Address:
    """Return the address of the job server: from the option, else from the config, else from Ray's environment variable.

    Raises InputError if there is none, or if it is not an http(s) URL without credentials.
    """
    sources = (
        (given, "--address"),
        (configured, ADDRESS_KEY),
        (environ.get(ADDRESS_VARIABLE), ADDRESS_VARIABLE),
    )
    text, key = next(((text, key) for text, key in sources if text), (None, ADDRESS_KEY))
    if text is None:
        raise InputError(
            "no address of a job server is given",
            key=key,
            fix=f"set {ADDRESS_KEY}=http://HOST:8265 in the config or the site file, use --address, or set "
            f"{ADDRESS_VARIABLE} in the environment; HOST is the head node",
        )
    file = "environment" if key == ADDRESS_VARIABLE else None
    if has_credentials(text):
        raise InputError(
            "the URL contains a user name or a password",
            file=file,
            key=key,
            fix="remove the user name and password; if the cluster requires a token, set RAY_AUTH_TOKEN_PATH",
        )
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InputError(
            "this is not the address of a job server",
            file=file,
            key=key,
            value=text[:200],
            fix="use the address of the dashboard, http://HOST:8265; ray:// and port 6379 are for drivers",
        )
    return Address(url.rstrip("/"), key)


class JobServer:
    """A connection to a job server.

    Creating it raises InputError if no server answers or the token is wrong; later calls raise UnreachableError.
    """

    def __init__(self, address: Address) -> None:
        self.address = address.url
        # Otherwise `requests` uses a proxy from the environment for this machine's own ports too.
        self._proxies = {"no_proxy": urlsplit(address.url).hostname or ""} if address.loopback else {}
        self._origin = {"key": address.key, "value": address.url}
        if address.key == ADDRESS_VARIABLE:
            self._origin["file"] = "environment"
        try:
            with self._errors():
                self._client = _client(address.url, self._proxies)
        except UnreachableError as error:
            raise InputError(
                f"{error}{self._by_proxy()}",
                **self._origin,
                fix="start the head with its dashboard (ray start --head), forward its port (ssh -L 8265:localhost:8265 HOST), "
                "or correct the address",
            ) from None

    def submit(
        self, job_id: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> None:
        with self._errors():
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env, metadata=metadata
            )

    def jobs(self) -> list[Job]:
        """Return the jobs on the server that medray launched, oldest first."""
        with self._errors():
            found = self._client.list_jobs()
        ours = [_job(each) for each in found if each.submission_id and RUN in (each.metadata or {})]
        return sorted(ours, key=lambda job: (job.started or 0.0, job.id))

    def job(self, job_id: str) -> Job:
        with self._errors():
            return _job(self._client.get_job_info(job_id))

    def stop(self, job_id: str) -> None:
        with self._errors():
            self._client.stop_job(job_id)

    def remove(self, job_id: str) -> None:
        with self._errors():
            self._client.delete_job(job_id)

    def log(self, job_id: str) -> str:
        with self._errors():
            return str(self._client.get_job_logs(job_id))

    def tail(self, job_id: str) -> AsyncIterator[str]:
        """Yield the log of a job from its beginning, as it grows.

        The stream may end at any time, and raise any error.
        """
        log: AsyncIterator[str] = self._client.tail_job_logs(job_id)
        return log

    def versions(self) -> tuple[str, str]:
        """Return the versions of Python and Ray on the head node; "" for an unknown one."""
        try:
            found = self._get("/api/v0/cluster_metadata")
        except (UnreachableError, UnknownJobError):
            return "", ""
        return str(found.get("pythonVersion", "")), str(found.get("rayVersion", ""))

    def hosts(self) -> frozenset[str]:
        """Return the host names of the living nodes; empty if the head does not tell."""
        try:
            found = self._get("/nodes?view=hostNameList")
        except (UnreachableError, UnknownJobError):
            return frozenset()
        names = found.get("hostNameList", ())
        return frozenset(map(str, names)) if isinstance(names, list) else frozenset()

    def _get(self, path: str) -> dict[str, Any]:
        with self._errors():
            response = self._client._do_request("GET", path)
            if response.status_code != 200:
                self._client._raise_error(response)
            data = response.json().get("data")
            return data if isinstance(data, dict) else {}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise self._refused(str(error)) from None
        except requests.exceptions.SSLError:
            raise InputError(
                "the server's certificate is not signed by an authority that this machine trusts",
                **self._origin,
                fix="set REQUESTS_CA_BUNDLE to a file with the certificate of the authority",
            ) from None
        except (requests.ConnectionError, requests.Timeout, ConnectionError):
            raise UnreachableError(f"no job server answers at {self.address}") from None
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 500
            raise self._answer(status, "") from None
        except RuntimeError as error:
            found = re.search(r"status code (\d+): ?(.*)", str(error), re.DOTALL)
            if not found:
                raise self._no_job_server(str(error).partition("\n")[0]) from None
            raise self._answer(int(found[1]), found[2]) from None
        except (ValueError, KeyError, TypeError, requests.RequestException) as error:
            raise self._no_job_server(type(error).__name__) from None

    def _answer(self, status: int, text: str) -> RunFailedError | InputError:
        if "already exists" in text:  # the submission id
            return InputError(
                "a job with this id exists already", key="run.name", fix="wait a second and launch again"
            )
        if status == 404:
            return UnknownJobError(
                f"the cluster at {self.address} does not know this job. Fix: see its jobs with `medray launch job --list`"
            )
        last = text.strip().splitlines()[-1][:300] if text.strip() else ""
        what = f"the job server at {self.address} answered {status}{': ' if last else ''}{last}"
        refused = (
            f"{what}. Fix: check that the address is right and that the cluster runs this version of Ray"
        )
        return RunFailedError(refused) if status < 500 else UnreachableError(what)

    def _no_job_server(self, why: str) -> InputError:
        return InputError(
            f"the server at this address is not a job server of Ray ({why[:200]})",
            **self._origin,
            fix="use the address of the dashboard, http://HOST:8265",
        )

    def _by_proxy(self) -> str:
        """Return a hint if the request went through a proxy, else an empty string."""
        from requests.utils import get_environ_proxies

        host = urlsplit(self.address).hostname or ""
        asked = get_environ_proxies(self.address, no_proxy=self._proxies.get("no_proxy"))
        return f" (the request went through a proxy; NO_PROXY={host} avoids it)" if asked else ""

    def _refused(self, text: str) -> InputError:
        """Return the error for a refused token. `text`, Ray's message, is not shown: it may contain part of a token."""
        if text.startswith("Authentication failed"):
            what = f"the cluster refuses the token of this machine{self._by_proxy()}"
        else:
            what = "the cluster requires a token, but none was sent"
        return InputError(
            what,
            **self._origin,
            fix="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file (mode 0600) with the token that the head was "
            "started with, or RAY_AUTH_TOKEN to the token",
        )


def _client(address: str, proxies: dict[str, str]) -> Any:
    """Return Ray's client with a time limit for every request.

    Ray's address variables are hidden from it meanwhile: it would prefer them to `address`.
    """
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # the user reads medray's messages instead

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            options.setdefault("timeout", (CONNECT_SECONDS, ANSWER_SECONDS))
            return super()._do_request(method, endpoint, proxies=proxies, **options)

    hidden = {name: os.environ.pop(name, None) for name in (ADDRESS_VARIABLE, "RAY_ADDRESS")}
    try:
        return Client(address, verify=_certificates())
    finally:
        os.environ.update({name: value for name, value in hidden.items() if value is not None})


def _certificates() -> str | bool:
    """Return the file of certificates for Ray's client: `requests` finds it by itself, but the log's stream does not."""
    file = os.environ.get("REQUESTS_CA_BUNDLE")
    return file if file and Path(file).exists() else True


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id,
        run=metadata.get(RUN, ""),
        storage=metadata.get(STORAGE, ""),
        verb=metadata.get(VERB, ""),
        status=getattr(details.status, "value", str(details.status)),
        exit_code=details.driver_exit_code,
        message=details.message or "",
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
    )
