"""The MLflow settings of a run, and the sending of what MLflow still lacks of a finished run."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import medray
from medray import storage
from medray.config import Config
from medray.config.tracking import TRACKING_URI
from medray.errors import InputError
from medray.storage import StoragePath
from medray.tracking import Ledger, ParentRun, TrackingSpec
from medray.tracking.mlflow_names import without_userinfo
from medray.tracking.mlflow_run import UNSENT_FILE, DatasetOfSplit
from medray.train.run_folder import lock
from medray.train.run_folder.changes import flat
from medray.train.run_folder.files import RunResult, folder_of

GIT_SECONDS = 5  # enough for a repository on a slow disk; a tag is not worth more


def tracking_spec(
    config: Config, config_file: str | Path | None = None, parent: ParentRun | None = None
) -> TrackingSpec:
    """Return where the metrics of this run are sent, and under which names.

    config_file: the YAML file; if it is in a git repository, the commit becomes a tag. parent: the run that this one is a
    part of.
    """
    tracking, run = config.tracking, config.run
    # The config of a run on S3 must have a URI: config/checks/__init__.py
    uri = (
        tracking.uri
        or os.environ.get(TRACKING_URI)
        or f"sqlite:///{Path(run.storage).resolve() / 'mlflow.db'}"
    )
    tags = {"medray.version": medray.__version__}
    commit = git_commit(Path(config_file).absolute().parent) if config_file and tracking.enabled else None
    if commit:
        # The second is the name under which MLflow's page shows a commit.
        tags |= {"medray.git_commit": commit, "mlflow.source.git.commit": commit}
    return TrackingSpec(
        enabled=tracking.enabled,
        uri=uri,
        experiment=tracking.experiment,
        run_name=tracking.run_name or run.name,
        tags=tags | dict(tracking.tags),
        params=flat(_params(config)),
        show_text=tracking.show_text,
        datasets=_datasets(config) if tracking.enabled else (),
        parent=parent,
        register=None if config.stages or config.tune else tracking.register_as,
    )


def _params(config: Config) -> dict[str, Any]:
    """Return the config as a tree, with the keys of each stage under the number and name of the stage."""
    tree = config.model_dump(mode="json")
    if config.stages:
        tree["stages"] = {
            f"{number}-{stage.name}": stage.model_dump(mode="json", exclude_unset=True, exclude={"name"})
            for number, stage in enumerate(config.stages, 1)
        }
    return tree


def git_commit(folder: Path) -> str | None:
    """Return the commit that is checked out in `folder`, or None if git cannot tell."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--verify", "HEAD"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    said = done.stdout.decode("ascii", "replace").strip()
    return said if done.returncode == 0 and re.fullmatch("[0-9a-f]{40,64}", said) else None


def _datasets(config: Config) -> tuple[DatasetOfSplit, ...]:
    """Return the splits that a run reads, from data.json in its folder; () if it has none."""
    try:
        tokens = str(json.loads((folder_of(config) / "data.json").read_text())["tokens"]).rstrip("/")
    except (OSError, ValueError, LookupError, TypeError):
        return ()
    both = tokens.rpartition("/")[0]
    fingerprint = both.rpartition("/")[2]
    if not fingerprint:
        return ()
    found = [DatasetOfSplit(_dataset_name(config, "train"), fingerprint, "training")]
    with suppress(OSError):
        if (storage.at(both) / "validation").is_dir():
            found.append(DatasetOfSplit(_dataset_name(config, "validation"), fingerprint, "validation"))
    return tuple(found)


def _dataset_name(config: Config, split: str) -> str:
    """Return the name of the published data set, or those of the files, without a URL's query: it may hold credentials.

    A split that was taken from the training files has their names and its own.
    """
    data = config.data
    own = getattr(data, split)
    paths = [without_userinfo(entry.path).partition("?")[0] for entry in own or data.train]
    files = [path.rstrip("/").rpartition("/")[2] for path in paths]
    name = data.dataset or ", ".join(files) or "data"
    return name if own or split == "train" else f"{name}, {split}"


def artifacts(folder: StoragePath, *, report: bool = True) -> list[str]:
    """Return the files of a run folder that MLflow gets at the end of the run. report: the run has one."""
    names = ("config.yaml", "summary.json", *(["report.html"] if report else []))
    return [str(folder / name) for name in names]


def send_unsent(
    config: Config,
    done: RunResult,
    phase: Callable[[str, str], None],
    config_file: str | Path | None = None,
    parent: ParentRun | None = None,
) -> None:
    """Send MLflow what it lacks of a finished run, and say so. Does not need Ray.

    phase: prints a name and a sentence. config_file, parent: as `tracking_spec` has them. Failures of MLflow or storage
    raise nothing: the next start tries again.
    """
    try:
        if not config.tracking.enabled or not (done.folder / UNSENT_FILE).exists():
            return
        with lock.held(done.folder, lambda text: phase("lock", text)):
            phase("tracking", "MLflow lacks a part of this run: sending it")
            ledger = Ledger(str(done.folder), tracking_spec(config, config_file, parent))
            sent = ledger.send_unsent(done.summary, artifacts(done.folder, report=not config.stages))
    except InputError as error:
        phase("tracking", f"MLflow lacks a part of this run, which is not sent now: {error.what}")
        return
    except OSError as error:
        phase("tracking", f"what MLflow lacks of this run could not be read: {storage.summary(error)}")
        return
    for record in ledger.poll(0):
        phase("tracking", record["text"])
    if sent:
        phase("tracking", "MLflow has all of this run now")
