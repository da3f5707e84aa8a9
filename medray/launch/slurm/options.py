"""Options of sbatch that a user passes after `--`, and environment variables that set the same options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medray.errors import InputError

# Options that medray sets itself or that contradict what it computes, and the instruction for what to use instead.
OURS = {
    "--export": "list the variables in launch.env",
    "--export-file": "list the variables in launch.env",
    "--array": "launch each run by itself, with its own run.name",
    "--nodes": "use cluster.nodes=2",
    "--ntasks": "use cluster.workers=2; a node has one task, which is Ray",
    "--ntasks-per-node": "use cluster.workers=2; a node has one task, which is Ray",
    "--cpus-per-task": "use launch.slurm.cpus_per_node=8",
    "--gpus": "use cluster.gpus_per_node=4",
    "--gpus-per-node": "use cluster.gpus_per_node=4",
    "--time": "use launch.slurm.time=8:00:00",
    "--signal": "use launch.slurm.warning_seconds=300",
    "--wrap": "remove it: medray submits its own script",
    "--wait": "use --follow, before --",
}
OTHERS = (
    "--output",
    "--test-only",
    "--wait-all-nodes",
)  # options that medray looks for, or that begin like one of OURS
SHORT = {
    "a": "--array",
    "G": "--gpus",
    "N": "--nodes",
    "n": "--ntasks",
    "c": "--cpus-per-task",
    "o": "--output",
    "t": "--time",
    "W": "--wait",
}
WITHOUT_VALUE = "hHIkOQsuvVW"  # short options without a value: others may follow in the same word
# The variables of OURS in SLURM's manual. The options on medray's command line (time, signal, export) take precedence.
VARIABLES = frozenset(
    [
        "SBATCH_ARRAY_INX",
        "SBATCH_WAIT",
        "SBATCH_EXPORT",
        "SBATCH_GET_USER_ENV",
        "SBATCH_GPUS",
        "SBATCH_GPUS_PER_NODE",
        "SBATCH_GPUS_PER_TASK",
        "SBATCH_SIGNAL",
        "SBATCH_TIMELIMIT",
    ]
)


def named(word: str) -> list[str]:
    """Return the options of OURS and OTHERS that `word` may set. sbatch accepts shortened names and joined short
    options.
    """
    if word.startswith("--"):
        name = word.partition("=")[0]
        known = [*OURS, *OTHERS]
        return [name] if name in known else [each for each in known if each.startswith(name)]
    found = []
    for letter in word[1:] if word.startswith("-") else "":
        if letter in SHORT:
            found.append(SHORT[letter])
        if letter not in WITHOUT_VALUE:
            break
    return found


def passes(passed: Sequence[str], option: str) -> bool:
    return any(option in named(word) for word in passed)


def check_passed(passed: Sequence[str]) -> None:
    """Raise InputError for an option that medray sets itself, and for a word that is not an option."""
    for word in passed:
        if word == ":":
            raise InputError(
                "a single : starts a second job in sbatch",
                key="-- :",
                fix="launch each run by itself, with its own command",
            )
        for name in named(word):
            if name in OURS:
                what = "medray sets this option of sbatch itself"
                if not word.startswith((name, "-" + name[2])):
                    what = f"sbatch may read this word as the option {name}, and {what}"
                raise InputError(what, key=f"-- {word}"[:80], fix=OURS[name])
    if passed and not passed[0].startswith("-"):
        raise InputError(
            "the words after -- must be options of sbatch",
            key=f"-- {passed[0]}"[:80],
            fix="start each word with -, for example: -- --mail-type=END --dependency=singleton",
        )


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for sbatch, without the variables of a surrounding job and without those that set OURS."""
    return {
        name: value
        for name, value in environ.items()
        if name not in VARIABLES and (not name.startswith("SLURM_") or name == "SLURM_CONF")
    }
