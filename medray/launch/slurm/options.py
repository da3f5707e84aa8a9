"""Options of sbatch that a user passes, and variables of the environment that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medray.errors import InputError

# Options that medray sets itself, or that contradict what it has computed, and what to use in their place.
OURS = {
    "--export": "name the variables in launch.env",
    "--export-file": "name the variables in launch.env",
    "--array": "launch once for each run, each with a run.name of its own",
    "--nodes": "use cluster.nodes=2",
    "--ntasks": "use cluster.workers=2; a node has one task, which is Ray",
    "--ntasks-per-node": "use cluster.workers=2; a node has one task, which is Ray",
    "--cpus-per-task": "use launch.slurm.cpus_per_node=8",
    "--gpus": "use cluster.gpus_per_node=4",
    "--gpus-per-node": "use cluster.gpus_per_node=4",
    "--time": "use launch.slurm.time=8:00:00",
    "--signal": "use launch.slurm.warning_seconds=300",
    "--wrap": "leave it out: medray has a script",
    "--wait": "use --follow, which stands before --",
}
OTHERS = ("--output", "--test-only", "--wait-all-nodes")  # that are asked for here, or begin as one of ours
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
WITHOUT_VALUE = "hHIkOQsuvVW"  # short options that others may follow in one word
# Of OURS, by the names of SLURM's manual. What the command line says anyway (time, signal, export) takes precedence.
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
    """The options of OURS and OTHERS that sbatch may take `word` for: it knows shortened names, and short ones in a row."""
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
    """Raises InputError for an option that medray sets itself, and for a word that is none."""
    for word in passed:
        if word == ":":
            raise InputError("this begins a second job", key="-- :", fix="launch once for each run")
        for name in named(word):
            if name in OURS:
                what = "medray sets this option of sbatch itself"
                if not word.startswith((name, "-" + name[2])):
                    what = f"sbatch may take it for {name}, and {what}"
                raise InputError(what, key=f"-- {word}"[:80], fix=OURS[name])
    if passed and not passed[0].startswith("-"):
        raise InputError(
            "what follows -- are options of sbatch",
            key=f"-- {passed[0]}"[:80],
            fix="as in -- --mail-type=END --dependency=singleton",
        )


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of sbatch: without variables of another job, inside which it may run, and those for options of ours."""
    return {
        name: value
        for name, value in environ.items()
        if name not in VARIABLES and (not name.startswith("SLURM_") or name == "SLURM_CONF")
    }
