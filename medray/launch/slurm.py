"""A config on SLURM: what sbatch is told, by its command line, the job's environment and files in a private folder.

slurm/medray.sbatch is static. Options of sbatch are on its command line, where everybody may read them; all else reaches the
script by names of variables (`--export=NAME,…`), so no value is on a command line.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medray import storage
from medray.config import Config
from medray.config.load import is_url
from medray.errors import InputError, RunFailedError
from medray.launch import wrappers
from medray.launch.environment import allowed
from medray.launch.parcel import config_text, paths
from medray.launch.shape import shape

SCRIPT = "medray.sbatch"
# Of the shell that submits: where programs and the home folder are. `--export` with names leaves out all else.
SHELL = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL")
# Options that medray sets itself, or that contradict what it has computed, and what to use in their place.
OURS = {
    "--export": "name the variables in launch.env",
    "--array": "launch once for each run, each with a run.name of its own",
    "--nodes": "cluster.nodes=2",
    "--ntasks": "cluster.workers=2; a node has one task, which is Ray",
    "--ntasks-per-node": "cluster.workers=2; a node has one task, which is Ray",
    "--cpus-per-task": "launch.slurm.cpus_per_node=8",
    "--gpus-per-node": "cluster.gpus_per_node=4",
    "--time": "launch.slurm.time=8:00:00",
    "--signal": "launch.slurm.warning_seconds=300",
    "--wrap": "leave it out: medray has a script",
    "--wait": "--follow, which stands before --",
}
SHORT = {
    "-a": "--array",
    "-N": "--nodes",
    "-n": "--ntasks",
    "-c": "--cpus-per-task",
    "-t": "--time",
    "-W": "--wait",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What would run.

    command: of sbatch. variables: that the script reads. names: further variables of this environment that the job gets;
    their values may be secret. folder: made with mode 0700, gets `files` by name. log: with %j where the job's id will be.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str]
    names: tuple[str, ...]
    folder: Path
    files: Mapping[str, str]
    log: str

    def text(self) -> str:
        """All of it for a reader, as the shell would take it."""
        lines = [f"# folder {self.folder} (mode 0700), made when the job is submitted, with:"]
        for name, content in self.files.items():
            lines += [f"# {name}:", *(f"#   {line}" for line in content.splitlines())]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.variables.items()]
        if self.names:
            lines.append(f"# and by name, from this environment: {' '.join(self.names)}")
        return "\n".join([*lines, shlex.join(self.command)])


def prepare(
    config: Config,
    *,
    verb: str = "train",
    passed: Sequence[str] = (),
    folder: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Submission:
    """Computes what to submit; nothing is written or run.

    passed: further options for sbatch. folder: where launch folders are made; default: launch/ in run.storage.
    Raises InputError where an option or the storage does not fit.
    """
    _check_passed(passed)
    _check_time(config)
    slurm, nodes = config.launch.slurm, shape(config, config.launch.slurm.cpus_per_node)
    here = (
        _base(config, folder) / f"{config.run.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    )
    files = {"config.yaml": config_text(config)}
    if slurm.setup:
        files["setup.sh"] = "".join(f"{line}\n" for line in slurm.setup)
    variables = {
        "MEDRAY_CONFIG": str(here / "config.yaml"),
        "MEDRAY_VERB": verb,
        "MEDRAY_PYTHON": slurm.python or ("python" if slurm.setup or slurm.container else sys.executable),
        "MEDRAY_FOLDER": str(here),
        "MEDRAY_START_TIMEOUT": str(config.cluster.start_timeout_seconds),
        "MEDRAY_MAX_RESTARTS": str(slurm.max_restarts),
        "MEDRAY_LAUNCHED_AT": str(int(time.time())),
    }
    if slurm.setup:
        variables["MEDRAY_SETUP"] = str(here / "setup.sh")
    if slurm.container:
        variables["MEDRAY_CONTAINER"] = slurm.container
        variables["MEDRAY_CONTAINER_RUNTIME"] = slurm.container_runtime
        variables["MEDRAY_CONTAINER_MOUNTS"] = ",".join(_mounts(config))
    found = allowed(config.launch.env, environ)
    names = tuple(sorted({*found.plain, *found.secret, *(name for name in SHELL if name in environ)}))
    log = str(here / "slurm-%j.log")
    options = {
        "--job-name": f"medray-{config.run.name}",
        "--nodes": str(nodes.nodes),
        "--ntasks-per-node": "1",
        "--cpus-per-task": str(nodes.cpus),
        "--gpus-per-node": f"{slurm.gpu_type}:{nodes.gpus}"
        if slurm.gpu_type and nodes.gpus
        else nodes.gpus or None,
        "--mem": slurm.memory_per_node,
        "--time": slurm.time,
        "--signal": f"B:USR1@{slurm.warning_seconds}",
        "--partition": slurm.partition,
        "--account": slurm.account,
        "--qos": slurm.qos,
        "--output": log,
        "--export": ",".join([*variables, *names]),
    }
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    flags = ["--requeue", "--open-mode=append", *(["--exclusive"] if slurm.exclusive else [])]
    script = str(wrappers.folder("slurm") / SCRIPT)
    return Submission(
        command=("sbatch", "--parsable", *flags, *given, *passed, script),
        variables=variables,
        names=names,
        folder=here,
        files=files,
        log=log,
    )


def _base(config: Config, folder: Path | None) -> Path:
    if folder is not None:
        return folder.absolute()
    if is_url(config.run.storage):
        raise InputError(
            "the job needs a folder that all nodes see, for its config, token and log, and run.storage is a bucket",
            key="--folder",
            mend="--folder /a/shared/folder",
        )
    return Path(config.run.storage) / "launch"


def _mounts(config: Config) -> list[str]:
    """Folders of the config's own paths, and what the user mounts; the script adds the launch folder."""
    found = dict.fromkeys(config.launch.slurm.container_mounts)
    for key, path in paths(config):
        if not is_url(path):
            folder = (
                path
                if key in ("run.storage", "data.root", "model.name", "model.adapter")
                else str(Path(path).parent)
            )
            found[f"{folder}:{folder}"] = None
    return list(found)


def _check_time(config: Config) -> None:
    slurm = config.launch.slurm
    if seconds(slurm.time) < 2 * slurm.warning_seconds:
        raise InputError(
            f"of {seconds(slurm.time)} s, launch.slurm.warning_seconds = {slurm.warning_seconds} leaves too little to train",
            key="launch.slurm.time",
            value=slurm.time,
            mend="hours:minutes:seconds of at least twice the warning, or a warning from 60 s on",
        )


def seconds(limit: str) -> int:
    """Seconds of [days-]hours:minutes[:seconds], or of minutes:seconds, as SLURM reads it without days."""
    days, dash, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if len(parts) == 2:
        parts = [*parts, 0] if dash else [0, *parts]
    return int(days or 0) * 86_400 + parts[0] * 3600 + parts[1] * 60 + parts[2]


def _check_passed(passed: Sequence[str]) -> None:
    for word in passed:
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        name = SHORT.get(name, name)
        if name in OURS:
            raise InputError(
                "medray sets this option of sbatch itself", key=f"-- {word}"[:80], mend=f"use {OURS[name]}"
            )
    words = [word for word in passed if not word.startswith("-")]
    if passed and not passed[0].startswith("-"):
        raise InputError(
            "what follows -- are options of sbatch",
            key=f"-- {words[0]}"[:80],
            mend="as in -- --mail-type=END --dependency=singleton",
        )


def submit(submission: Submission, environ: Mapping[str, str] = os.environ) -> str | None:
    """Submits and returns the job's id; None where sbatch was told to test only.

    Raises InputError where there is no sbatch or it refuses, and leaves no folder then.
    """
    _make_folder(submission)
    # Inside another job its variables would be taken for those of the new one.
    clean = {
        name: value
        for name, value in environ.items()
        if not name.startswith("SLURM_") or name == "SLURM_CONF"
    }
    try:
        said = _sbatch(submission.command, {**clean, **submission.variables})
    except BaseException:
        storage.remove_tree(submission.folder)
        raise
    job = re.fullmatch(r"(\d+)(;\S+)?", said.strip().rpartition("\n")[2])
    if not job:
        storage.remove_tree(submission.folder)
        return None
    return job[1]


def _make_folder(submission: Submission) -> None:
    folder = submission.folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        for name, text in submission.files.items():
            storage.write(folder / name, text)
    except OSError as error:
        raise InputError(
            f"cannot make the launch folder ({error.strerror})",
            key="--folder",
            value=str(folder),
            mend="--folder with a shared folder that you may write to",
        ) from None


def _sbatch(command: Sequence[str], environ: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            command,
            env=dict(environ),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            check=False,
        )
    except FileNotFoundError:
        raise InputError(
            "sbatch is not on PATH: this machine is no login node of a SLURM cluster",
            key="sbatch",
            mend="run the command on a login node, or see what would run with --dry-run",
        ) from None
    except subprocess.TimeoutExpired:
        raise RunFailedError(
            "sbatch did not answer within 300 s; squeue says whether the job is there"
        ) from None
    sys.stderr.write(done.stderr)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise InputError(
            lines[-1].strip()[:300] if lines else f"sbatch ended with {done.returncode}",
            key="sbatch",
            mend="correct launch.slurm (partition, account, qos, time, ...) or what follows --; sinfo lists partitions",
        )
    return done.stdout
