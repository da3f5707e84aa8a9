"""Tests of `medray launch slurm` without a SLURM: what would be submitted, what is refused, and the script as text."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import until

from medray.cli import progress, ray_node
from medray.cli.main import main
from medray.config import read
from medray.launch import slurm
from medray.launch.slurm import jobs

ROOT = Path(__file__).parents[4]
SCRIPT = ROOT / "slurm" / "medray.sbatch"
CONFIG = """
run: {storage: runs, name: knee}
model: {name: null, init: random, preset: llama-tiny}
data: {train: train.jsonl, tokenizer: train}
cluster: {workers: 8, gpus_per_node: 4, cpus_per_worker: 2, start_timeout_seconds: 77}
launch:
  env: [HF_TOKEN, HF_HOME]
  slurm: {partition: gpu, account: med-1, time: "8:00:00", memory_per_node: 64G, gpu_type: a100, max_restarts: 3}
"""
SECRET = "hf_correct-horse"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))  # no site file of whoever runs the tests
    (tmp_path / "train.jsonl").write_text('{"input": "a", "label": "b"}\n')
    (tmp_path / "run.yaml").write_text(CONFIG)
    return tmp_path / "run.yaml"


def dry_run(config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["launch", "slurm", str(config), "--dry-run", "--json", *words]) == 0
    said = capsys.readouterr().out
    assert SECRET not in said
    told: dict[str, Any] = json.loads(said)
    told["options"] = dict(word.partition("=")[::2] for word in told["command"][1:-1])
    return told


def refused(config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["launch", "slurm", str(config), *words]) == 2
    return capsys.readouterr().err


def test_the_command_line_asks_for_nodes_of_the_workers_and_a_cpu_for_data(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = dry_run(config, capsys)
    options = told["options"]
    assert told["command"][0] == "sbatch"
    assert told["command"][-1] == str(SCRIPT)
    wanted = {
        "nodes": "2",
        "ntasks-per-node": "1",
        "cpus-per-task": "9",
        "gpus-per-node": "a100:4",
        "mem": "64G",
    }
    wanted |= {"time": "8:00:00", "partition": "gpu", "account": "med-1", "job-name": "medray-knee"}
    wanted |= {
        "signal": "B:USR1@300",
        "requeue": "",
        "open-mode": "append",
        "output": told["log"],
        "parsable": "",
    }
    assert {f"--{name}": value for name, value in wanted.items()}.items() <= options.items()
    assert not {"--exclusive", "--qos"} & options.keys()


def test_values_reach_the_job_by_names_of_variables(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = dry_run(config, capsys, "launch.slurm.setup=[module load cuda, source /v/bin/activate]")
    variables = told["environment"]
    names = told["options"]["--export"].split(",")
    assert set(names) == {*variables, *told["exported"]}
    assert "HF_TOKEN" in names
    assert "HF_HOME" not in names, "a variable that is not set"
    assert (variables["MEDRAY_START_TIMEOUT"], variables["MEDRAY_MAX_RESTARTS"]) == ("77", "3")
    assert variables["MEDRAY_PYTHON"] == sys.executable, "set-up lines may load modules only"
    assert told["files"]["setup.sh"] == "module load cuda\nsource /v/bin/activate\n"
    folder = Path(told["folder"])
    assert variables["MEDRAY_CONFIG"] == f"{folder}/config.yaml"
    assert folder.parent == config.parent / "runs" / "launch"
    assert not folder.parent.exists(), "a dry run writes nothing"


def test_the_text_of_a_dry_run_can_be_given_to_a_shell(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", "slurm", str(config), "--dry-run", "launch.slurm.python=/opt/my env/python"]) == 0
    said = capsys.readouterr().out
    assert SECRET not in said
    shown = subprocess.run(
        ["bash", "-c", f'sbatch() {{ printf \'%s\\n\' "$MEDRAY_PYTHON" "$@"; }}\n{said}'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines()[0] == "/opt/my env/python"
    assert shown.stdout.splitlines()[1:] == shlex.split(said.splitlines()[-1])[1:]


def test_the_config_that_travels_is_the_same_run(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = dry_run(config, capsys, "run.seed=9")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "config.yaml").write_text(told["files"]["config.yaml"])
    assert read(elsewhere / "config.yaml") == read(config, ["run.seed=9"])


def test_options_after_the_dashes_go_to_sbatch(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passed = ["--dependency=singleton", "--mail-type=END,FAIL", "-Hp", "gpu", "--wait-all-nodes=1"]
    assert dry_run(config, capsys, "--", *passed)["command"][-6:-1] == passed


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("--export=ALL", "launch.env"),
        ("--array=0-3", "launch each run by itself"),
        ("-a0-3", "launch each run by itself"),
        ("--arra=0-3", "launch each run by itself"),
        ("-Ha0-3", "launch each run by itself"),
        ("--wra=id", "medray submits its own script"),
        ("--export-f=vars", "launch.env"),
        ("-G4", "cluster.gpus_per_node"),
        ("--", "sbatch may read this word as the option"),
        (":", "launch each run by itself"),
        ("-N", "cluster.nodes=2"),
        ("--signal=USR1@60", "launch.slurm.warning_seconds"),
        ("partition", "options of sbatch"),
    ],
)
def test_an_option_that_would_contradict_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], option: str, instead: str
) -> None:
    assert instead in refused(config, capsys, "--dry-run", "--", option)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["launch.slurm.cpus_per_node=1"],
            "its nodes would have 2\n  Fix: set launch.slurm.cpus_per_node: 9, or",
        ),
        (["cluster.gpus_per_node=0", "cluster.gpus=true"], "cluster.gpus_per_node=4 for nodes with 4 GPUs"),
        (["cluster.gpus=false"], "cluster.gpus_per_node=0 to train on CPUs"),
        (["cluster.workers=3", "train.global_batch_size=8", "train.micro_batch_size=4"], "remove both"),
        (["data.train=absent.jsonl"], "absent.jsonl"),
    ],
)
def test_what_could_fail_only_after_the_queue_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert says in refused(config, capsys, "--dry-run", *words)


def test_fewer_cpus_than_by_default_are_taken_where_the_run_can_do_with_them(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("cluster.gpus_per_node=0", "cluster.cpus_per_worker=null", "cluster.workers=2")
    assert (
        dry_run(config, capsys, *words, "launch.slurm.cpus_per_node=2")["options"]["--cpus-per-task"] == "2"
    )


def test_a_time_limit_that_is_too_short_for_the_warning_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(config, capsys, "--dry-run", "launch.slurm.time='8:00'")
    assert (
        "limit of 480 s leaves too little time to train before SLURM's warning to save, which comes 300 s"
        in said
    )
    assert [slurm.seconds(text) for text in ("2-1:00", "1:00:01", "90:00")] == [176_400, 3601, 5400]


def test_a_bucket_as_storage_needs_a_shared_folder(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run.storage=s3://bucket/runs", "tracking.enabled=false", "--dry-run")
    assert "--folder /a/shared/folder" in refused(config, capsys, *words)
    told = dry_run(config, capsys, *words, "--folder", "/shared")
    assert told["folder"].startswith("/shared/knee-")


def test_without_sbatch_the_fix_is_named_and_no_files_are_left(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(config.parent))
    said = refused(config, capsys)
    assert "sbatch is not on PATH" in said
    assert "--dry-run" in said
    assert list((config.parent / "runs" / "launch").iterdir()) == []


@pytest.mark.parametrize(("folder", "says"), [("s3://b/x", "--folder is a bucket"), ("~no-body/x", "home")])
def test_a_folder_that_is_none_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], folder: str, says: str
) -> None:
    assert says in refused(config, capsys, "--dry-run", "--folder", folder)
    home = dry_run(config, capsys, "--folder", "~/x")["folder"]
    assert home.startswith(str(Path("~/x").expanduser()))


def sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    """Install a stand-in for sbatch that writes its environment to the file that is returned."""
    (folder / "bin").mkdir()
    (folder / "bin" / "sbatch").write_text(f"#!/bin/bash\nenv >{folder}/env\n{text}\n")
    (folder / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")
    return folder / "env"


@pytest.mark.parametrize(
    ("program", "words", "code", "says", "stays"),
    [
        ("echo 'budget: 3 h'; echo '7;main'; echo 'thank you'", [], 0, "job 7 of", True),
        ("echo Submitted batch job 7", [], 0, "job 7 of", True),
        (
            "echo 'sbatch: Job 9 to start at noon' >&2",
            ["--", "--test"],
            0,
            "sbatch did not create a job",
            False,
        ),
        ("echo thank you", [], 1, "did not print the id of the job. Fix: check with `squeue --me`", True),
        ("echo 'sbatch: error: invalid partition' >&2; exit 1", [], 2, "correct launch.slurm", False),
        ("echo 'failed: Unable to contact slurm controller' >&2; exit 1", [], 1, "scontrol ping", False),
        ("echo 'failed: Socket timed out on send/recv' >&2; exit 1", [], 1, "squeue --me", True),
        ("exec sleep 60", [], 1, "did not answer within 1 s. Fix: check with `squeue --me`", True),
    ],
)
def test_the_folder_is_kept_if_a_job_may_be_in_the_queue(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    words: list[str],
    code: int,
    says: str,
    stays: bool,
) -> None:
    sbatch(config.parent, monkeypatch, program)
    monkeypatch.setattr(slurm, "ANSWER_SECONDS", 1)
    assert main(["launch", "slurm", str(config), *words]) == code
    assert says in capsys.readouterr().err
    assert bool(list((config.parent / "runs" / "launch").iterdir())) == stays


def test_variables_that_stand_for_options_of_ours_do_not_reach_sbatch(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = sbatch(config.parent, monkeypatch, "echo 7")
    for name in ("SBATCH_WAIT", "SBATCH_ARRAY_INX", "SLURM_JOB_ID", "SLURM_CONF", "SBATCH_RESERVATION"):
        monkeypatch.setenv(name, "1")
    assert main(["launch", "slurm", str(config)]) == 0
    names = {line.partition("=")[0] for line in got.read_text().splitlines()}
    assert {"SLURM_CONF", "SBATCH_RESERVATION", "MEDRAY_CONFIG"} <= names
    assert not {"SBATCH_WAIT", "SBATCH_ARRAY_INX", "SLURM_JOB_ID"} & names


def test_names_of_variables_and_folders_that_sbatch_would_read_otherwise(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_X,ALL", "1")
    monkeypatch.setenv("AWS_REGION", "eu")
    words = ("launch.env=['AWS_*']", "run.storage=100%j/a%%b")
    options = dry_run(config, capsys, *words)["options"]
    assert "AWS_REGION" in options["--export"].split(",")
    assert not {"ALL", "AWS_X"} & set(options["--export"].split(","))
    assert options["--output"].startswith(f"{config.parent}/100%%j/a%%%%b/launch/")
    sbatch(config.parent, monkeypatch, "echo 7")
    assert main(["launch", "slurm", str(config), *words]) == 0
    (log,) = re.findall(r"log +(.+)", capsys.readouterr().err)
    assert log.startswith(f"{config.parent}/100%j/a%%b/launch/")
    assert log.endswith("/slurm-7.log")


def test_containers_are_of_all_steps_and_see_the_configs_paths(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test test_containers_in_the_script shows that the script uses them for all three kinds of steps."""
    words = ["launch.slurm.container=/images/medray.sif", "launch.slurm.container_runtime=apptainer"]
    variables = dry_run(config, capsys, *words, "launch.slurm.container_mounts=[/scratch:/scratch]")[
        "environment"
    ]
    here = config.parent
    assert variables["MEDRAY_PYTHON"] == "python"
    assert variables["MEDRAY_CONTAINER"] == "/images/medray.sif"
    mounts = variables["MEDRAY_CONTAINER_MOUNTS"].split(",")
    assert {"/scratch:/scratch", f"{here}/runs:{here}/runs", f"{here}:{here}"} == set(mounts)


STANDINS = r"""#!/bin/bash
# Stand-ins for SLURM's commands: srun prints how it was called, and the head's srun writes the address.
stay() { trap "exit $1" "$2"; touch "$CALLS.$2"; while :; do sleep 0.2; done; } # bash may miss a signal on its way into wait
echo "${0##*/} $*" >>"$CALLS"
case "${0##*/} $*" in
  *hostnames*) printf 'a1\na2\n' ;;
  *requeue*) kill -TERM $PPID ;;  # as SLURM does
  *" head "*) echo 10.0.0.1:20000 >"$MEDRAY_FOLDER/address"; stay 0 USR2 ;;
  *" worker"*) stay 0 USR2 ;;
  *progress*) echo "$STEP" ;;
  *"medray train"*)
    [[ -z $SIGNALLED ]] || stay "$CODE" USR1
    until grep -q '^srun .* worker' "$CALLS"; do sleep 0.05; done # both are started at once
    exit "$CODE" ;;
esac
"""


@pytest.fixture
def standins(tmp_path: Path) -> dict[str, str]:
    """Return the environment of the script in a job of two nodes, with stand-ins for SLURM's programs."""
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(STANDINS)
        (tmp_path / name).chmod(0o755)
    return {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "CALLS": str(tmp_path / "calls"),
        "CODE": "3",
        "SIGNALLED": "",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "a[1-2]",
        "SLURM_CPUS_PER_TASK": "3",
        "SLURM_GPUS_ON_NODE": "2",
        "MEDRAY_CONFIG": "/shared/run.yaml",
        "MEDRAY_FOLDER": str(tmp_path / "launch"),
        "MEDRAY_LAUNCHED_AT": "1700000000",
    }


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
def test_containers_in_the_script(tmp_path: Path, standins: dict[str, str], runtime: str) -> None:
    """The test checks how srun is called. Pyxis and Apptainer are not installed, so they are not run."""
    standins |= {
        "MEDRAY_CONTAINER": "/images/medray.sif",
        "MEDRAY_CONTAINER_RUNTIME": runtime,
        "MEDRAY_CONTAINER_MOUNTS": "/data:/data",
    }
    done = subprocess.run(
        ["bash", SCRIPT], env=standins, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3, done.stdout + done.stderr
    calls = [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("srun ")]
    assert len(calls) == 3, "head, workers and driver"
    mounted = f"{tmp_path}/launch"
    for call in calls:
        if runtime == "pyxis":
            image = f" --container-image=/images/medray.sif --container-mounts={mounted}:{mounted},/data:/data python "
            assert image in call
        else:
            assert f" apptainer exec --nv --bind {mounted},/data:/data /images/medray.sif python " in call
    assert not (tmp_path / "launch").exists(), "token and address are removed, and then the folder"


@pytest.mark.parametrize(
    ("by", "code", "step", "restarts", "again"),
    [
        ("USR1", 75, 12, 0, True),
        ("USR1", 75, 10, 0, False),  # no step since the last start, which ended at 10
        ("USR1", 75, 12, 3, False),  # the limit
        ("USR1", 76, 12, 0, False),  # asked to stop meanwhile
        ("USR1", 1, 12, 0, False),
        ("TERM", 75, 12, 0, False),
        ("TERM USR1", 75, 12, 0, False),
        ("", 75, 12, 0, False),
        ("", 2, 12, 0, False),
    ],
)
def test_what_goes_back_into_the_queue(
    tmp_path: Path, standins: dict[str, str], by: str, code: int, step: int, restarts: int, again: bool
) -> None:
    """The table of decisions; tests/system/test_slurm.py shows some of them on a SLURM."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "step").write_text("10\n")
    standins |= {"CODE": str(code), "STEP": str(step), "SLURM_RESTART_COUNT": str(restarts), "SIGNALLED": by}
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            ["bash", SCRIPT], env=standins | {"MEDRAY_MAX_RESTARTS": "3"}, stdout=log, stderr=log
        )
    if by:
        until(lambda: (tmp_path / "calls.USR1").exists(), "the driver", driver=job)
        for name in by.split():
            job.send_signal(getattr(signal, f"SIG{name}"))
    assert job.wait(60) == code, (tmp_path / "log").read_text()
    assert ("scontrol requeue 7" in (tmp_path / "calls").read_text().splitlines()) == again
    assert (tmp_path / "launch" / "step").read_text() == (f"{step}\n" if again else "10\n")
    assert [path.name for path in (tmp_path / "launch").iterdir()] == ["step"]


def test_by_hand_a_job_counts_as_launched_from_its_first_start(
    tmp_path: Path, standins: dict[str, str]
) -> None:
    """A stop that is requested while the job waits to start again is obeyed."""
    launched = tmp_path / "launch" / "launched"
    launched.parent.mkdir()
    launched.write_text("5\n")  # of another job of this number
    del standins["MEDRAY_LAUNCHED_AT"]
    said = []
    for restarts, code in ((0, 75), (1, 75), (2, 0)):
        standins |= {"SLURM_RESTART_COUNT": str(restarts), "CODE": str(code)}
        if restarts == 1:
            launched.write_text(f"{int(launched.read_text()) - 60}\n")
        done = subprocess.run(
            ["bash", SCRIPT], env=standins, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        said += re.findall(r"driver on .* --launched-at (\d+)", done.stdout)
        assert launched.exists() == (code == 75)
    first, second, third = map(int, said)
    assert abs(first - time.time()) < 600
    assert second == third == first - 60


def test_a_set_up_line_that_fails_ends_the_job(tmp_path: Path, standins: dict[str, str]) -> None:
    (tmp_path / "setup.sh").write_text("echo $UNSET\nfalse\necho not reached\n")
    standins["MEDRAY_SETUP"] = str(tmp_path / "setup.sh")
    done = subprocess.run(
        ["bash", SCRIPT], env=standins, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert f"a line of {tmp_path}/setup.sh failed" in done.stdout
    assert "not reached" not in done.stdout
    assert "srun" not in (tmp_path / "calls").read_text()


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, "--norc", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# What bash has got after 4.4, the bash of RHEL 8 (its NEWS file, 5.0 to 5.3), and `wait -n`, which 4.4 has without ids.
NEWER = re.compile(
    r"""wait\s+-[a-z]*[npf] | \bEPOCH(SECONDS|REALTIME)\b | \bSRANDOM\b | \bBASH_(ARGV0|REMATCH_ALL|MONOSECONDS|TRAPSIG)\b
    | \$\{[^}]*@[UuLKk]\} | \$\{[ |] | (local|declare)\s+-[a-zA-Z]*I | \bread\s+-[a-z]*E | \bGLOBSORT\b
    | shopt\s+-s\s+\w*(assoc_expand_once|localvar_inherit|globskipdots|patsub_replacement|varredir_close)
    | printf\s+-v\s+\S+\[@\] | \bunset\s+\S+\[@\] | \bulimit\s+-[a-zA-Z]*R""",
    re.VERBOSE,
)


def test_the_script_needs_no_bash_newer_than_4_4() -> None:
    code = [re.sub(r"(^|\s)#.*", "", line) for line in SCRIPT.read_text().splitlines()]
    assert [line for line in code if NEWER.search(line)] == []
    newer = [
        "wait -n -p done",
        "wait -n",
        "now=$EPOCHSECONDS",
        "echo ${name@U}",
        "local -I x",
        "x=${ date; }",
    ]
    assert all(map(NEWER.search, newer))


@pytest.mark.parametrize(
    ("said", "state", "code", "restarts"),
    [
        (
            "JobId=1 JobState=FAILED Reason=NonZeroExitCode Restarts=0 ExitCode=76:0 StdOut=/a b.log Power=",
            "FAILED",
            76,
            0,
        ),
        ("JobId=1 JobState=COMPLETED Restarts=2 ExitCode=0:0 StdOut=/a b.log Power=", "COMPLETED", 0, 2),
        ("JobId=1 JobState=CANCELLED Restarts=0 ExitCode=0:0 StdOut=/a b.log Power=", "CANCELLED", 1, 0),
        ("JobId=1 JobState=FAILED Restarts=0 ExitCode=0:9 StdOut=/a b.log Power=", "FAILED", 137, 0),
    ],
)
def test_a_jobs_exit_code_is_as_a_shell_gives_it(said: str, state: str, code: int, restarts: int) -> None:
    job = jobs.parse(said)
    assert (job.state, job.code, job.restarts, job.log, job.ended) == (
        state,
        code,
        restarts,
        "/a b.log",
        True,
    )


def test_progress_is_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    assert progress.newest_step(tmp_path) == 0
    for name, whole in (("step-00000010-0a", True), ("step-00000200-0b", True), ("step-00000300-0b", False)):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        if whole:
            (tmp_path / "checkpoints" / name / "manifest.json").write_text("{}")
    assert progress.newest_step(tmp_path) == 200


def test_two_jobs_of_one_number_do_not_share_ports() -> None:
    """Job ids 2,500 apart begin with the same ports, and continue with different ones."""
    first = next(ray_node.free_ports(41))
    with socket.socket() as taken:
        taken.bind(("", first[1]))
        taken.listen()
        second, third = (next(ray_node.free_ports(41 + 2_500 * times)) for times in (1, 2))
    assert not set(first) & set(second)
    assert not set(second) & set(third)
    assert next(ray_node.free_ports(41)) == first


def test_a_node_offers_ray_what_the_job_has_and_no_more() -> None:
    """A GPU that SLURM did not give to the job may be another user's."""
    given = {"SLURM_GPUS_ON_NODE": "2", "SLURM_MEM_PER_NODE": "8000"}  # the second in MiB
    assert {"--num-cpus=5", "--num-gpus=2", f"--memory={(8000 - 256) * 1024**2}"} < set(
        ray_node.size(5, given)
    )
    alone = ray_node.size(5, {})
    assert "--num-gpus=0" in alone
    assert not [option for option in alone if option.startswith("--memory")]
