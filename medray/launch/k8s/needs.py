"""What a run needs in the namespace before it is launched: without it, pods would wait until the deadline and say little."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from medray.config.launch import K8sLaunch
from medray.errors import InputError
from medray.launch.k8s.client import ApiError, Cluster

TOKEN_KEY = "auth_token"  # where the operator looks for Ray's token


def check_needs(cluster: Cluster, settings: K8sLaunch, secret_variables: Iterable[str]) -> list[str]:
    """Raises InputError for a Secret, claim or account that `launch.k8s` names and the namespace lacks.

    What the user may not read is taken to be there. secret_variables: names of variables that the launching machine has
    and a manifest may not hold. Returns what to say of those that no Secret has. Of a Secret only its keys are looked at.
    """
    keys: set[str] = set()
    unread = False
    for name in settings.secrets:
        secret = _read(cluster, "secret", name, "launch.k8s.secrets")
        keys |= set(secret.data or {}) if secret else set()
        unread = unread or secret is None
    for name in settings.image_pull_secrets:
        _read(cluster, "secret", name, "launch.k8s.image_pull_secrets")
    if settings.token_secret:
        token = _read(cluster, "secret", settings.token_secret, "launch.k8s.token_secret")
        if token is not None and TOKEN_KEY not in (token.data or {}):
            raise InputError(
                f"the Secret has no key {TOKEN_KEY}",
                key="launch.k8s.token_secret",
                value=settings.token_secret,
                fix="leave launch.k8s.token_secret out: the operator then makes a token for each cluster",
            )
    if settings.service_account:
        _read(cluster, "service_account", settings.service_account, "launch.k8s.service_account")
    if settings.volume_claim:
        claim = _read(cluster, "persistent_volume_claim", settings.volume_claim, "launch.k8s.volume_claim")
        if claim is not None and "ReadWriteMany" not in (claim.spec.access_modes or ()):
            raise InputError(
                f"the claim is {', '.join(claim.spec.access_modes or ())}, and head and workers on several nodes mount it",
                key="launch.k8s.volume_claim",
                value=settings.volume_claim,
                fix="a ReadWriteMany claim, as in k8s/storage/claim.yaml; or a bucket as run.storage",
            )
    lacking = sorted(set(secret_variables) - keys)
    if lacking and settings.secrets and not unread:
        return [f"no Secret of launch.k8s.secrets has {', '.join(lacking)}: the pods will not have it"]
    return []


def _read(cluster: Cluster, what: str, name: str, key: str) -> Any:
    """The object; None where it may not be read."""
    try:
        return cluster.read(what, name)
    except ApiError as error:
        if error.status in (401, 403):
            return None
        if error.status != 404:
            raise
        raise InputError(
            f"there is no {what.replace('_', ' ')} of this name in the namespace {cluster.namespace}",
            key=key,
            value=name,
            fix="make it first (docs/kubernetes.md), or name one that `kubectl get` shows there",
        ) from None
