"""The check that a namespace has the objects that a launch needs, such as Secrets.

Without them, the pods would wait and say little about why.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from medray.config.launch import K8sLaunch
from medray.errors import InputError
from medray.launch.k8s.client import ApiError, Cluster

TOKEN_KEY = "auth_token"  # key in the Secret that the operator reads Ray's token from


def check_needs(cluster: Cluster, settings: K8sLaunch, secret_variables: Iterable[str]) -> list[str]:
    """Check that the namespace has the Secrets, claim and service account that `launch.k8s` names.

    Raises InputError if not.

    Objects that the user may not read are assumed to exist. Only the keys of a Secret are read. secret_variables:
    names of this machine's variables that must not be in a manifest. Returns messages about variables that no Secret
    has.
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
                fix=f"add the key {TOKEN_KEY} to the Secret, or remove launch.k8s.token_secret: the operator then creates a "
                "token for each cluster",
            )
    if settings.service_account:
        _read(cluster, "service_account", settings.service_account, "launch.k8s.service_account")
    if settings.volume_claim:
        claim = _read(cluster, "persistent_volume_claim", settings.volume_claim, "launch.k8s.volume_claim")
        if claim is not None and "ReadWriteMany" not in (claim.spec.access_modes or ()):
            raise InputError(
                f"the volume claim is {', '.join(claim.spec.access_modes or ())}, but pods on several nodes must mount it",
                key="launch.k8s.volume_claim",
                value=settings.volume_claim,
                fix="use a ReadWriteMany claim, as in k8s/storage/claim.yaml, or a bucket as run.storage",
            )
    lacking = sorted(set(secret_variables) - keys)
    if lacking and settings.secrets and not unread:
        return [
            f"the pods will lack {', '.join(lacking)}, because no Secret in launch.k8s.secrets has these keys; add them to one"
        ]
    return []


def _read(cluster: Cluster, what: str, name: str, key: str) -> Any:
    """Return the object, or None if the user may not read it."""
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
            fix="create it first (docs/kubernetes.md), or use one that `kubectl get` lists in the namespace",
        ) from None
