"""A Kubernetes API server that keeps objects in memory (kmock), in a thread, with the resources that a launch uses.

By itself, `python tests/support/kubernetes_server.py`, it serves until Ctrl-C, and plays an operator for whom each RayJob
succeeds after some seconds: docs/kubernetes.md.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp.web
import kmock
import yaml

NAMESPACE = "default"
RAYJOBS = "ray.io/v1/rayjobs"
RESOURCES = (
    "v1/configmaps", "v1/serviceaccounts", "v1/secrets", "v1/pods", "v1/persistentvolumeclaims",
    "networking.k8s.io/v1/networkpolicies",
)  # fmt: skip


class _Emulator(kmock.KubernetesEmulator):
    """A kmock that fits the Python client: `watch=True` is a watch, as it is for a real server."""

    async def __call__(self, raw_request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        if raw_request.query.get("watch") == "True":
            raw_request = raw_request.clone(rel_url=raw_request.rel_url.update_query(watch="true"))
        return await super().__call__(raw_request)


class KubernetesServer:
    """The server. Enter it as a context. kmock: the emulator, for faults and for the requests that were made."""

    def __init__(self, folder: Path, *, kuberay: bool = True) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self._kuberay = kuberay
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    def __enter__(self) -> KubernetesServer:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    async def _serve(self) -> None:
        async with _Emulator() as self.kmock, kmock.Server(self.kmock) as server:
            for resource in (*RESOURCES, *([RAYJOBS] if self._kuberay else [])):
                self.kmock.resources[resource] = kmock.ResourceInfo()
            self.kubeconfig.write_text(_kubeconfig(str(server.url).rstrip("/")))
            self._ready.set()
            await self._stop.wait()

    def __call__(self, work: Callable[[], Any]) -> Any:
        """Do `work` in the server's own thread, where its state may be changed."""

        async def do() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(30)

    def put(self, resource: str, name: str, tree: dict[str, Any]) -> None:
        """Make an object as if it had always been there."""
        tree = {**tree, "metadata": {"name": name, "namespace": NAMESPACE, **tree.get("metadata", {})}}
        self(lambda: self.kmock.objects.__setitem__((resource, NAMESPACE, name), tree))

    def set_status(self, name: str, **status: Any) -> None:
        """Change a RayJob's status as the operator does, so that whoever watches sees it."""
        path = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayjobs/{name}"

        async def patch() -> None:
            answer = await self.kmock.patch(path, json={"status": status})
            assert answer.status == 200

        asyncio.run_coroutine_threadsafe(patch(), self._loop).result(30)

    def names(self) -> set[tuple[str, str]]:
        """Return (plural, name) of all objects."""
        return self(  # type: ignore[no-any-return]
            lambda: {
                (key[0].plural, key[2]) for key, value in self.kmock.objects.items() if not value.deleted
            }
        )

    def get(self, resource: str, name: str) -> dict[str, Any]:
        return self(lambda: dict(self.kmock.objects[resource, NAMESPACE, name].raw))  # type: ignore[no-any-return]


def _kubeconfig(url: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "test", "user": {"token": "token-of-a-test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
    )


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="medray-kubernetes-"))
    steps = (
        {"jobDeploymentStatus": "Initializing"},
        {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
        {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"},
    )
    with KubernetesServer(folder) as server:
        print(
            f"an emulated cluster, until Ctrl-C. In another terminal:\nexport KUBECONFIG={server.kubeconfig}",
            flush=True,
        )
        try:
            while True:
                time.sleep(2)
                for plural, name in server.names():
                    if plural == "rayjobs":
                        now = server.get(RAYJOBS, name).get("status") or {}
                        if now != steps[-1]:
                            server.set_status(name, **steps[steps.index(now) + 1 if now else 0])
        except KeyboardInterrupt:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
