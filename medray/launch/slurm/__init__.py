"""Submit a config to SLURM: the command line of sbatch, the job's environment, and files in a private folder.

slurm/medray.sbatch is static. The command line of sbatch, which everybody may read, has only sbatch's options. All other
values reach the script in environment variables that `--export=NAME,…` names, so that no value is on a command line.
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
from medray.config.loading.load import is_url
from medray.errors import InputError, RunFailedError
from medray.launch import wrappers
from medray.launch.environment import allowed
from medray.launch.parcel import config_text, paths
from medray.launch.shape import shape
from medray.launch.slurm.options import check_passed, passes, without_ours

SCRIPT = "medray.sbatch"
# Variables of the submitting shell that the job needs to find programs and the home folder: `--export` drops all others.
SHELL = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL")
NAME = re.compile(
    r"[A-Za-z_][A-Za-z0-9_]*"
)  # name of a variable: sbatch would read a comma in it as the start of a second name
# Messages of sbatch if SLURM may have failed (NO_ANSWER), and if the job may be in the queue all the same (UNSURE).
NO_ANSWER = re.compile(
    r"unable to contact|timed out|zero bytes|connect failure|connection (refused|failure)", re.I
)
UNSURE = re.compile(r"timed out|zero bytes", re.I)
ANSWER_SECONDS = 300
_JOB = re.compile(r"^(?:Submitted batch job )?(\d+)(?:;\S+)?\s*$", re.M)


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A SLURM job that is ready to be submitted.

    command: the command line of sbatch. variables: environment variables for the script. names: names of further
    variables of this environment that the job gets; their values may be secret. folder: private folder (mode 0700)
    that will contain `files` by name. log: path of the log in sbatch's notation, with %j for the job's id and %% for
    %.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str]
    names: tuple[str, ...]
    folder: Path
    files: Mapping[str, str]
    log: str

    def log_of(self, job: str) -> str:
        """Return the path of the log of the job with this id."""
        return re.sub(r"%([%j])", lambda found: "%" if found[1] == "%" else job, self.log)

    def text(self) -> str:
        """Return the whole submission as text that a shell could run. `--dry-run` prints it."""
        lines = [f"# folder {self.folder} (mode 0700), created when the job is submitted, with:"]
        for name, content in self.files.items():
            lines += [f"# {name}:", *(f"#   {line}" for line in content.splitlines())]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.variables.items()]
        if self.names:
            lines.append(f"# variables passed by name from this environment: {' '.join(self.names)}")
        return "\n".join([*lines, shlex.join(self.command)])


def prepare(
    config: Config,
    *,
    verb: str = "train",
    passed: Sequence[str] = (),
    folder: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Submission:
    """Prepare a submission without writing or running anything.

    passed: further options for sbatch. folder: parent of the launch folders; default: launch/ in run.storage. Raises
    InputError if an option or the storage does not fit.
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
            f"the job needs a folder that all nodes see, for its config, token and log, but {name} is a bucket",
            key="--folder",
            value=folder,
            fix="use --folder /a/shared/folder",
        )
    if folder is None:
        return Path(where) / "launch"
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError as error:  # ~name of an unknown user
        raise InputError(
            str(error).lower().rstrip("."), key="--folder", value=folder, fix="give the absolute path"
        ) from None


def _mounts(config: Config) -> list[str]:
    """Return the mounts: the user's, and the folders of the config's paths. The script adds the launch folder."""
    found = dict.fromkeys(config.launch.slurm.container_mounts)
    for key, path in paths(config):
        if not is_url(path):
            is_folder = key.endswith(
                ("run.storage", "run.begin_from", "data.root", "model.name", "model.adapter")
            )
            folder = path if is_folder else str(Path(path).parent)
            found[f"{folder}:{folder}"] = None
    return list(found)


def _check_time(config: Config) -> None:
    slurm = config.launch.slurm
    if seconds(slurm.time) < 2 * slurm.warning_seconds:
        raise InputError(
            f"the limit of {seconds(slurm.time)} s leaves too little time to train before SLURM's warning to save, which comes "
            f"{slurm.warning_seconds} s before the end (launch.slurm.warning_seconds)",
            key="launch.slurm.time",
            value=slurm.time,
            fix="set launch.slurm.time (hours:minutes:seconds) to at least twice the warning, or launch.slurm.warning_seconds "
            "to a smaller number, at least 60",
        )


def seconds(limit: str) -> int:
    """Convert a time limit of SLURM to seconds.

    Forms: [days-]hours:minutes:seconds, days-hours:minutes, minutes:seconds.
    """
    days, dash, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if len(parts) == 2:
        parts = [*parts, 0] if dash else [0, *parts]
    return int(days or 0) * 86_400 + parts[0] * 3600 + parts[1] * 60 + parts[2]


def submit(submission: Submission, environ: Mapping[str, str] = os.environ) -> str | None:
    """Submit the job and return its id; None if sbatch got --test-only.

    Raises InputError if sbatch is missing or refuses the job, RunFailedError if SLURM does not answer. The launch
    folder is kept whenever a job may be in the queue.
    """
    _make_folder(submission)
    try:
        done = _sbatch(submission.command, {**without_ours(environ), **submission.variables})
    except FileNotFoundError:
        storage.remove_tree(submission.folder)
        raise InputError(
            "sbatch is not on PATH: this machine is not a login node of a SLURM cluster",
            key="sbatch",
            fix="run the command on a login node, or add --dry-run to see what would be submitted",
        ) from None
    look = (
        f"Fix: check with `squeue --me` whether the job is in the queue; if not, remove {submission.folder}"
    )
    if done is None:
        raise RunFailedError(f"sbatch did not answer within {ANSWER_SECONDS} s. {look}")
    sys.stderr.write(done.stderr)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = lines[-1][:300] if lines else f"sbatch ended with {done.returncode}"
        if UNSURE.search(said):
            raise RunFailedError(f"{said}. {look}")
        storage.remove_tree(submission.folder)
        if NO_ANSWER.search(said):
            raise RunFailedError(
                f"{said}: SLURM's controller does not answer. Fix: try again when `scontrol ping` shows that it is up"
            )
        raise InputError(
            said,
            key="sbatch",
            fix="correct launch.slurm (partition, account, qos, time, ...) or the options after --; sinfo lists partitions",
        )
    if job := _JOB.search(done.stdout):  # the sbatch of a site may print other lines too
        return job[1]
    if passes(submission.command, "--test-only"):
        storage.remove_tree(submission.folder)
        return None
    raise RunFailedError(f"sbatch succeeded but did not print the id of the job. {look}")


def _make_folder(submission: Submission) -> None:
    folder = submission.folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        for name, text in submission.files.items():
            storage.write(folder / name, text)
    except OSError as error:
        raise InputError(
            f"cannot create the launch folder ({error.strerror})",
            key="--folder",
            value=str(folder),
            fix="use --folder with a shared folder that you may write to",
        ) from None


def _sbatch(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str] | None:
    """Run sbatch. Returns None if it has not ended in time."""
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
