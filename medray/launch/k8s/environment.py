"""What of the launching machine's environment goes into the pods, and the ports that it and the config name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from medray.config import Config
from medray.launch import parcel
from medray.launch.environment import Environment

# What no proxy reaches: the pod itself, and services of the cluster. Ray's own connections between pods ask no proxy.
INSIDE = ("127.0.0.1", "localhost", ".svc", ".cluster.local")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # in small or large letters
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


def variables(config: Config, environment: Environment) -> tuple[dict[str, str], list[str]]:
    """What of the environment goes into the manifests, and what is to be said of the rest."""
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
        notes.append(f"not sent, as pods do not see paths of this machine: {', '.join(local)}")
    if unreadable:
        notes.append(f"not sent, as a manifest is UTF-8 and their values are not: {', '.join(unreadable)}")
    if environment.secret:
        names = ", ".join(sorted(environment.secret))
        notes.append(
            f"{names} must be keys of {' or '.join(settings.secrets)}: a secret is never part of a manifest"
            if settings.secrets
            else f"{names} will be missing in the pods: a secret is never part of a manifest. Make a Secret with these "
            "keys (docs/kubernetes.md) and name it in launch.k8s.secrets"
        )
    if {name.lower() for name in (*plain, *environment.secret)} & {*_PROXIES, "no_proxy"}:
        plain |= _exceptions(plain)
    return plain, notes


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps other bytes of the environment as surrogates
        return False
    return True


def _exceptions(plain: Mapping[str, str]) -> dict[str, str]:
    """NO_PROXY under both of its names, as a program that finds one may not look for the other."""
    small, large = plain.get("no_proxy"), plain.get("NO_PROXY")

    def widened(hosts: str) -> str:
        if hosts.strip() == "*":  # everything; in a list it is no longer understood
            return hosts
        known = [each.strip() for each in hosts.split(",") if each.strip()]
        return ",".join([*known, *(each for each in INSIDE if each not in known)])

    return {"NO_PROXY": widened(large or small or ""), "no_proxy": widened(small or large or "")}


def ports(config: Config, variables: Mapping[str, str]) -> list[int]:
    """Ports of the addresses that the config and the environment name, for the network policy."""
    texts = [*(path for _, path in parcel.paths(config)), config.tracking.uri or ""]
    for name, value in variables.items():
        # HTTPS_PROXY=proxy:3128 is understood by most programs as http://proxy:3128.
        bare = name.lower() in _PROXIES and value and "://" not in value
        texts.append(f"http://{value}" if bare else value)
    return sorted({port for text in texts for port in _port(text)})


def _port(text: str) -> Iterator[int]:
    if "://" in text:
        try:
            url = urlsplit(text)
            port = url.port or _PORTS.get(url.scheme.partition("+")[0])
        except ValueError:  # a port that is no number: who uses the address says so
            return
        if port:
            yield port
