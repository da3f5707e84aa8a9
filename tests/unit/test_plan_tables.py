"""The tables of docs/plan.md are what `medray plan` says today, and `benchmarks/gpu_check.py` works."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
GPU_CHECK = ROOT / "benchmarks" / "gpu_check.py"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_that_the_command_writes() -> None:
    script = load(ROOT / "scripts" / "plan_tables.py")
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "python scripts/plan_tables.py"


def test_every_part_of_the_gpu_check_is_planned() -> None:
    script = load(GPU_CHECK)
    for tiny in (True, False):
        parts = script.parts(tiny=tiny)
        assert len({part.name for part in parts}) == len(parts) >= 9
        for part in parts:
            found = script.planned(part, on_gpu=True)
            assert 0 < found["bytes"] < (1e9 if tiny and part.stage is None else 80e9), part.name
            assert found["operations"] > 0


@pytest.mark.long
def test_the_gpu_check_runs_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = [sys.executable, str(GPU_CHECK), "--tiny", "--only", "LoRA, bf16", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found = json.loads(out.read_text())
    assert [one["part"] for one in found["parts"]] == ["LoRA, bf16", "LoRA, bf16, checkpointing"]
    for one in found["parts"]:
        assert one["seconds"] > 0
        assert one["learned"]
