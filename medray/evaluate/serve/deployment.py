"""Ray Serve under the application: one proxy, and one or more replicas that each load the model.

Ray's access logs are off, and its other logs contain errors only, because a request may have text in its path or in a
header. An answer that is being written is finished before a replica ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medray.errors import InputError, RunFailedError, printable
from medray.evaluate.asking import AskedModel
from medray.evaluate.serve.limits import Limits

APP = "medray"
PRIVATE = 0o077  # the umask: logs of Ray may name paths
START_SECONDS, POLL_SECONDS = 60.0, 0.2
FINISH_SECONDS = 600.0  # longest time that answers have to be finished when the server ends
LOGGING = {"enable_access_log": False, "log_level": "ERROR"}
ONGOING = 512  # requests that a replica reads at once; the batcher refuses more than Limits.waiting of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """The model that is served, and the address.

    name: the name of the model in requests. token: digest of the bearer token, None for none. cpus, gpus: what
    each replica gets. private: whether the cluster is of this command only and ends with it.
    """

    asked: AskedModel
    name: str
    limits: Limits
    token: str | None
    host: str
    port: int
    replicas: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    private: bool = True


class Replica:
    """The application with its model, in a process of Ray Serve."""

    def __init__(self, serving: Serving) -> None:
        import torch
        from transformers.utils import logging as of_transformers

        from medray.evaluate.asking import Answerer
        from medray.evaluate.serve.model import ServedModel

        os.umask(PRIVATE)
        if serving.private:
            _only_loopback()
        of_transformers.disable_progress_bar()
        of_transformers.set_verbosity_error()
        if not serving.gpus:
            torch.set_num_threads(max(int(serving.cpus), 1))
        self._token = serving.token
        self._model = ServedModel(serving.name, Answerer(serving.asked), serving.limits)

    def check_health(self) -> None:
        """Raise RuntimeError if the model does not answer any more. Ray then starts the replica again."""
        if not self._model.healthy:
            raise RuntimeError("the model does not answer")

    def __serve_build_asgi_app__(self) -> Any:
        """Return the application. Ray calls this after the constructor."""
        from medray.evaluate.serve.app import application

        return application(self._model, self._token)


def _only_loopback() -> None:
    """Let the replica of this process listen on loopback for calls of other replicas.

    Ray starts this gRPC server after the constructor of a replica, on all addresses of the machine. It unpickles what
    it receives. Ray's token protects it, but nobody outside this machine needs it.
    """
    import ray.serve._private.replica

    of_ray: Any = ray.serve._private.replica
    own = of_ray.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> int:
        return int(own(server, address.replace("[::]", "127.0.0.1")))

    of_ray.add_port_to_grpc_server = on_loopback


def share_of_replica(replicas: int, cpus: int) -> tuple[float, float]:
    """Return the CPUs and GPUs of each replica in the connected cluster: one GPU if there are any, else these CPUs.

    Raises InputError if the cluster is too small for all replicas.
    """
    import ray

    have = ray.cluster_resources()
    if gpus := have.get("GPU", 0):
        kind, each, total = "GPU", 1, gpus
    else:
        kind, each, total = "CPUs", cpus, have.get("CPU", 0)
    if replicas * each > total:
        raise InputError(
            f"each replica uses {each} {kind}, and the cluster has {total:g}",
            key="--replicas",
            value=replicas,
            fix=f"use --replicas {max(int(total // each), 1)} or fewer"
            + ("" if gpus or each == 1 else ", or a smaller --cpus"),
        )
    return (1.0, 1.0) if gpus else (float(cpus), 0.0)


def check_free(host: str, port: int) -> None:
    """Raise InputError if nothing on this machine can listen at this address."""
    if not 1 <= port <= 65535:
        raise InputError("a port is between 1 and 65535", key="--port", value=port, fix="use --port 8000")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen at this address ({error.strerror})",
            key="--host, --port",
            value=f"{host}:{port}",
            fix="use an address of this machine, such as 127.0.0.1, and a port that is free and above 1023",
        ) from None


@contextlib.contextmanager
def served(serving: Serving) -> Iterator[None]:
    """Serve in the block, on the connected cluster. When it ends, answers that are being written are finished.

    Raises InputError if the cluster serves something already, and RunFailedError if the model or the address cannot be
    used.
    """
    from ray import serve

    _refuse_second()
    deployment = serve.deployment(
        name=APP,
        num_replicas=serving.replicas,
        max_ongoing_requests=ONGOING,
        ray_actor_options={"num_cpus": serving.cpus, "num_gpus": serving.gpus},
        graceful_shutdown_timeout_s=FINISH_SECONDS,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=LOGGING,
    )(serve.ingress()(Replica))
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)  # the user reads medray's messages
    try:
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": serving.host, "port": serving.port},
                logging_config=LOGGING,
            )
            serve.run(deployment.bind(serving), name=APP, route_prefix="/", logging_config=LOGGING)
        except Exception as error:
            raise _start_error(error) from None
        _wait_for_proxy(serving)
        yield
    finally:
        _end(private=serving.private)


def _end(*, private: bool) -> None:
    """Finish the answers that are being written, then end the proxy and the connections to it."""
    from ray import serve

    with contextlib.suppress(Exception):
        serve.delete(APP, _blocking=False)
        limit = time.monotonic() + FINISH_SECONDS
        while APP in serve.status().applications and time.monotonic() < limit:
            time.sleep(POLL_SECONDS)
    if not private:  # the end of a private cluster ends the rest, and without a warning of Ray about it
        serve.shutdown()


def _wait_for_proxy(serving: Serving) -> None:
    from ray import serve

    limit = time.monotonic() + START_SECONDS
    while not (found := serve.status().proxies) or any(each != "HEALTHY" for each in found.values()):
        if time.monotonic() > limit:
            raise RunFailedError(
                f"Ray Serve's proxy does not listen at {serving.host}:{serving.port} of the head node. "
                "Fix: use an address of that machine and a free port"
            )
        time.sleep(POLL_SECONDS)


def _refuse_second() -> None:
    import ray

    if any(actor["namespace"] == "serve" for actor in ray.util.list_named_actors(all_namespaces=True)):
        raise InputError(
            "this Ray cluster serves something already, and it has one proxy for all",
            key="RAY_ADDRESS",
            fix="end it, with `serve shutdown` if it has no terminal; or remove RAY_ADDRESS to use this machine",
        )


def _start_error(error: Exception) -> RunFailedError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "unknown")
    return RunFailedError(
        f"the model could not be served: {printable(reason[:300])}. Fix: try `medray chat` with the same model first"
    )
