"""The wrappers are found in a checkout and in an environment that has the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from medray.launch import wrappers

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["slurm", "configs"])
def test_a_checkout_has_one_copy(name: str) -> None:
    assert wrappers.folder(name) == ROOT / name


@pytest.mark.long
def test_a_wheel_carries_the_wrappers(tmp_path: Path) -> None:
    """Built from a copy, so that the checkout gets no build folder, and installed into an environment of its own."""
    kept = ("medray", "slurm", "k8s", "configs", "pyproject.toml", "LICENSE", "README.md", "Dockerfile")
    (tmp_path / "source").mkdir()
    for path in (ROOT / name for name in kept if (ROOT / name).exists()):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / "source" / path.name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build: list[str | Path] = [
        *pip,
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        tmp_path / "source",
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("medray-*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([*pip, f"--python={python}", "install", "--quiet", "--no-deps", wheel], check=True)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # all but medray is taken from here
    for name in ("slurm", "configs"):
        code = f"from medray.launch import wrappers; print(wrappers.folder({name!r}))"
        done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        found = Path(done.stdout.strip())
        assert found.is_relative_to(tmp_path / "env")
        assert {file.name: file.read_bytes() for file in found.iterdir()} == {
            file.name: file.read_bytes() for file in (ROOT / name).iterdir()
        }
    code = "from medray.config.loading.former_flags import hint; print(hint('cos_sim'))"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "did you mean method.variant: cosine?\n"
    (tmp_path / "run.yaml").write_text("run: {storage: runs}\ndata: {dataset: clinic}\n")
    launch: list[str | Path] = [
        tmp_path / "env" / "bin" / "medray",
        "launch",
        "slurm",
        "run.yaml",
        "--dry-run",
    ]
    said = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.rstrip().endswith(f"{tmp_path}/env/share/medray/slurm/medray.sbatch")
