"""scripts/check_torch.py: which reports of pip are a CUDA build, and what is said of one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_torch.py"


@pytest.fixture(scope="module")
def check_torch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_torch", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(version: str, *requires: str, system: str = "Linux") -> dict[str, Any]:
    """pip's report of one torch, with the fields that the check reads."""
    item = {"metadata": {"name": "torch", "version": version, "requires_dist": ["filelock", *requires]}}
    return {"version": "1", "install": [item], "environment": {"platform_system": system}}


# Requirements as torch 2.13.0, 2.11.0 and their CPU builds state them.
CUDA_TOOLKIT = 'cuda-toolkit[cublas,cudart]==13.0.3; platform_system == "Linux"'
CUDNN = 'nvidia-cudnn-cu13==9.20.0.48; platform_system == "Linux"'
TRITON = 'triton==3.7.1; platform_system == "Linux" and python_version < "3.15"'
OPTIONAL = 'pytorch-triton==3.0; extra == "triton"'


@pytest.mark.parametrize(
    ("given", "cuda"),
    [
        (report("2.13.0", CUDA_TOOLKIT, CUDNN, TRITON), True),
        (report("2.11.0", TRITON), True),
        (report("2.13.0+cu130"), True),
        (report("2.13.0+rocm7.1"), True),
        (report("2.13.0+cpu"), False),
        (report("2.13.0+cpu.cxx11.abi", TRITON), False),
        (report("2.13.0", "sympy>=1.13.3"), False),
        (report("2.13.0", OPTIONAL), False),
        (report("2.13.0", CUDA_TOOLKIT, CUDNN, TRITON, system="Darwin"), False),
        ({"version": "1", "install": [], "environment": {}}, False),
    ],
)
def test_cuda_build(check_torch: ModuleType, given: dict[str, Any], cuda: bool) -> None:
    assert (check_torch.cuda_build(given) is not None) == cuda


def test_reason_names_the_version_and_what_it_brings(check_torch: ModuleType) -> None:
    reason = check_torch.cuda_build(report("2.13.0", CUDA_TOOLKIT, CUDNN, TRITON))
    assert reason == "torch 2.13.0 brings 3 CUDA packages (cuda-toolkit, …)"


def run(check_torch: ModuleType, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], gpu: bool) -> int:
    monkeypatch.setattr(check_torch, "pip_report", lambda spec, index_url: given)
    monkeypatch.setattr(check_torch, "has_gpu", lambda: gpu)
    code = check_torch.main(["--index-url", "", "torch==2.13.0"])
    assert isinstance(code, int)
    return code


def test_refusal_is_one_line_with_the_fix(
    check_torch: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(check_torch, monkeypatch, report("2.13.0", CUDNN), gpu=False) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cpu" in err


def test_a_machine_with_a_gpu_may_have_cuda(
    check_torch: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(check_torch, monkeypatch, report("2.13.0", CUDNN), gpu=True) == 0
    assert run(check_torch, monkeypatch, report("2.13.0+cpu"), gpu=False) == 0
    assert capsys.readouterr() == ("", "")


def test_pip_reports_nothing_to_install_for_what_is_there(check_torch: ModuleType) -> None:
    """A real pip: an installed distribution that satisfies the request makes an empty report."""
    found = check_torch.pip_report("pytest>=1", None)
    assert found["install"] == []
    assert check_torch.cuda_build(found) is None


def test_pip_that_finds_nothing_is_one_line(
    check_torch: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A real pip, looking in an empty folder only."""
    monkeypatch.setattr(check_torch, "has_gpu", lambda: False)
    assert (
        check_torch.main(
            ["--index-url", tmp_path.as_uri(), f"{tmp_path.as_uri()}/torch-9.9-py3-none-any.whl"]
        )
        == 1
    )
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "cannot be had" in err
