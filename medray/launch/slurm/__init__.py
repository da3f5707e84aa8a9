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
from medray.launch.slurm.options import check_passed, passes, without_ours

SCRIPT = "medray.sbatch"
# Of the shell that submits: where programs and the home folder are. `--export` with names leaves out all else.
SHELL = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL")
NAME = re.compile(
    r"[A-Za-z_][A-Za-z0-9_]*"
)  # of a variable: a comma in it would be read as a second one by sbatch
# What sbatch says where it may be SLURM that fails, and where the job may be in the queue all the same.
NO_ANSWER = re.compile(
    r"unable to contact|timed out|zero bytes|connect failure|connection (refused|failure)", re.I
)
UNSURE = re.compile(r"timed out|zero bytes", re.I)
ANSWER_SECONDS = 300
_JOB = re.compile(r"^(?:Submitted batch job )?(\d+)(?:;\S+)?\s*$", re.M)


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What would run.

    command: of sbatch. variables: that the script reads. names: further variables of this environment that the job gets;
    their values may be secret. folder: made with mode 0700, gets `files` by name. log: as sbatch reads it, with %j
    where the job's id will be and %% for %.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str]
    names: tuple[str, ...]
    folder: Path
    files: Mapping[str, str]
    log: str

    def log_of(self, job: str) -> str:
        """The path of the log of a job."""
        return re.sub(r"%([%j])", lambda found: "%" if found[1] == "%" else job, self.log)

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
    folder: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Submission:
    """Computes what to submit; nothing is written or run.

    passed: further options for sbatch. folder: where launch folders are made; default: launch/ in run.storage.
    Raises InputError where an option or the storage does not fit.
    """
    check_passed(passed)
    _check_time(config)
    slurm = config.launch.slurm
    nodes = shape(config, slurm.cpus_per_node, key="launch.slurm.cpus_per_node")
    here = (
        _base(config, folder) / f"{config.run.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    )
    files = {"config.yaml": config_text(config)}
    if slurm.setup:
        files["setup.sh"] = "".join(f"{line}\n" for line in slurm.setup)
    variables = {
        "MEDRAY_CONFIG": str(here / "config.yaml"),
        "MEDRAY_VERB": verb,
        "MEDRAY_PYTHON": slurm.python or ("python" if slurm.container else sys.executable),
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
    allowed_names = {*found.plain, *found.secret, *(name for name in SHELL if name in environ)}
    names = tuple(sorted(filter(NAME.fullmatch, allowed_names)))
    log = str(here).replace("%", "%%") + "/slurm-%j.log"
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


def _base(config: Config, folder: str | None) -> Path:
    where = config.run.storage if folder is None else folder
    if is_url(where):
        name = "run.storage" if folder is None else "--folder"
        raise InputError(
            f"the job needs a folder that all nodes see, for its config, token and log, and {name} is a bucket",
            key="--folder",
            value=folder,
            fix="--folder /a/shared/folder",
        )
    if folder is None:
        return Path(where) / "launch"
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError as error:  # ~name of nobody
        raise InputError(
            str(error).lower().rstrip("."), key="--folder", value=folder, fix="give the whole path"
        ) from None


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
            fix="hours:minutes:seconds of at least twice the warning, or a warning from 60 s on",
        )


def seconds(limit: str) -> int:
    """Seconds of [days-]hours:minutes[:seconds], or of minutes:seconds, as SLURM reads it without days."""
    days, dash, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if len(parts) == 2:
        parts = [*parts, 0] if dash else [0, *parts]
    return int(days or 0) * 86_400 + parts[0] * 3600 + parts[1] * 60 + parts[2]


def submit(submission: Submission, environ: Mapping[str, str] = os.environ) -> str | None:
    """Submits and returns the job's id; None where sbatch was told to test only.

    Raises InputError where there is no sbatch or it refuses, RunFailedError where SLURM does not answer. The launch folder
    stays wherever a job may be in the queue.
    """
    _make_folder(submission)
    try:
        done = _sbatch(submission.command, {**without_ours(environ), **submission.variables})
    except FileNotFoundError:
        storage.remove_tree(submission.folder)
        raise InputError(
            "sbatch is not on PATH: this machine is no login node of a SLURM cluster",
            key="sbatch",
            fix="run the command on a login node, or see what would run with --dry-run",
        ) from None
    look = f"squeue --me says whether the job is there; if not, {submission.folder} can be removed"
    if done is None:
        raise RunFailedError(f"sbatch did not answer within {ANSWER_SECONDS} s: {look}")
    sys.stderr.write(done.stderr)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = lines[-1][:300] if lines else f"sbatch ended with {done.returncode}"
        if UNSURE.search(said):
            raise RunFailedError(f"{said}: {look}")
        storage.remove_tree(submission.folder)
        if NO_ANSWER.search(said):
            raise RunFailedError(
                f"{said}: SLURM's controller does not answer. Try again later (scontrol ping)"
            )
        raise InputError(
            said,
            key="sbatch",
            fix="correct launch.slurm (partition, account, qos, time, ...) or what follows --; sinfo lists partitions",
        )
    if job := _JOB.search(done.stdout):  # a site's own sbatch may say more
        return job[1]
    if passes(submission.command, "--test-only"):
        storage.remove_tree(submission.folder)
        return None
    raise RunFailedError(f"sbatch ended well and named no job: {look}")


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
            fix="--folder with a shared folder that you may write to",
        ) from None


def _sbatch(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str] | None:
    """None where it has not ended in time."""
    try:
        return subprocess.run(
            command,
            env=dict(environ),
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
