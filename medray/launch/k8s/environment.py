"""Environment variables of this machine that the pods get, and the ports in them, which the network policy must allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from medray.config import Config
from medray.launch import parcel
from medray.launch.environment import Environment

# Hosts that a proxy cannot reach: the pod itself, and services of the cluster. Ray's connections use no proxy anyway.
INSIDE = ("127.0.0.1", "localhost", ".svc", ".cluster.local")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # in lower or upper case
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


def variables(config: Config, environment: Environment) -> tuple[dict[str, str], list[str]]:
    """Return the variables that go into the manifests, and messages about variables that do not."""
    settings, notes = config.launch.k8s, []
    mount = PurePosixPath(settings.mount_path)
    plain: dict[str, str] = {}
    local, unreadable = [], []
    for name, value in sorted(environment.plain.items()):
        if not _is_utf8(name + value):
            unreadable.append(name.encode(errors="replace").decode())
        elif value.startswith("/") and not PurePosixPath(value).is_relative_to(mount):
            local.append(name)
        else:
            plain[name] = value
    if local:
        notes.append(
            f"variables not sent, because pods cannot read paths of this machine: {', '.join(local)}"
        )
    if unreadable:
        notes.append(
            f"variables not sent, because their values are not UTF-8, as a manifest must be: {', '.join(unreadable)}"
        )
    if environment.secret:
        names = ", ".join(sorted(environment.secret))
        notes.append(
            f"variables not sent, because a secret is never part of a manifest: {names}. Fix: add these keys to the Secret "
            f"{' or '.join(settings.secrets)}"
            if settings.secrets
            else f"variables not sent, because a secret is never part of a manifest: {names}. Fix: create a Secret with these keys "
            "(docs/kubernetes.md) and add its name to launch.k8s.secrets"
        )
    if {name.lower() for name in (*plain, *environment.secret)} & {*_PROXIES, "no_proxy"}:
        plain |= _exceptions(plain)
    return plain, notes


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # Python represents other bytes of the environment by surrogates
        return False
    return True


def _exceptions(plain: Mapping[str, str]) -> dict[str, str]:
    """Return NO_PROXY in upper and in lower case, because a program that finds one may ignore the other."""
    small, large = plain.get("no_proxy"), plain.get("NO_PROXY")

    def widened(hosts: str) -> str:
        if hosts.strip() == "*":  # it means all hosts, but only if it is alone
            return hosts
        known = [each.strip() for each in hosts.split(",") if each.strip()]
        return ",".join([*known, *(each for each in INSIDE if each not in known)])

    return {"NO_PROXY": widened(large or small or ""), "no_proxy": widened(small or large or "")}


def ports(config: Config, variables: Mapping[str, str]) -> list[int]:
    """Return the ports of all addresses in the config and the environment, for the network policy."""
    texts = [*(path for _, path in parcel.paths(config)), config.tracking.uri or ""]
    for name, value in variables.items():
        # Most programs read HTTPS_PROXY=proxy:3128 as http://proxy:3128.
        bare = name.lower() in _PROXIES and value and "://" not in value
        texts.append(f"http://{value}" if bare else value)
    return sorted({port for text in texts for port in _port(text)})


def _port(text: str) -> Iterator[int]:
    if "://" in text:
        try:
            url = urlsplit(text)
            port = url.port or _PORTS.get(url.scheme.partition("+")[0])
        except ValueError:  # the port is not a number: the code that uses the address reports it
            return
        if port:
            yield port
