"""Refuse a CUDA build of torch on a machine without a GPU, before gigabytes are downloaded.

    python scripts/check_torch.py [--index-url URL] SPEC

pip resolves SPEC without installing it (`--dry-run`) and without fetching the wheel (`fast-deps` reads the metadata
out of a remote wheel by HTTP ranges) and reports what it would install. A build is a CUDA build if its version has a
local suffix other than `+cpu`, or if its metadata asks for NVIDIA's packages or triton on this platform. An installed
torch that satisfies SPEC gives an empty report, without a question to the index.

Exit codes: 0 go on; 1 refused or not to be had, said in one line. Standard library only: it runs before anything else
is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_REQUIREMENT = re.compile(r"(nvidia|cuda|pytorch[-_.]triton|triton)\b", re.IGNORECASE)
LINUX_ONLY = re.compile(r"""(platform_system\s*==\s*["']Linux["']|sys_platform\s*==\s*["']linux["'])""")


def cuda_build(report: Mapping[str, Any]) -> str | None:
    """Why what pip would install is a CUDA (or other accelerator) build of torch; None if it is none.

    report: the JSON of `pip install --report`. Nothing to install is no CUDA build.
    """
    system = report.get("environment", {}).get("platform_system", "Linux")
    for item in report.get("install", []):
        metadata = item["metadata"]
        if metadata["name"].lower() != "torch":
            continue
        version = metadata["version"]
        _, _, suffix = version.partition("+")
        if suffix and not suffix.startswith("cpu"):
            return f"torch {version} is built for {suffix}"
        if suffix:
            return None
        names = (_cuda_package(requirement, system) for requirement in metadata.get("requires_dist") or [])
        needs = [name for name in names if name is not None]
        if needs:
            return f"torch {version} brings {len(needs)} CUDA packages ({needs[0]}, …)"
    return None


def _cuda_package(requirement: str, system: str) -> str | None:
    """The name in a requirement if it is NVIDIA's or triton's, belongs to no extra, and applies on `system`."""
    text, _, marker = requirement.partition(";")
    if not CUDA_REQUIREMENT.match(text.strip()) or re.search(r"\bextra\b", marker):
        return None
    if system != "Linux" and LINUX_ONLY.search(marker):
        return None
    return re.split(r"[\s\[<>=!~(]", text.strip(), maxsplit=1)[0]


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU with a driver: its device files, or `nvidia-smi -L` naming one."""
    if Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists():
        return True
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return False
    try:
        listing = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU" in listing.stdout


def pip_report(spec: str, index_url: str | None) -> dict[str, Any]:
    """What `pip install SPEC` would install, its dependencies aside; raises RuntimeError with pip's last error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--dry-run", "--no-deps", "--use-feature=fast-deps", "--report", str(path), spec]
        command += ["--index-url", index_url] if index_url else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise RuntimeError((errors or done.stderr.splitlines() or ["pip said nothing"])[-1])
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return report


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec", help="for example torch==2.13.0")
    parser.add_argument(
        "--index-url", default=None, help="where to look; pip's configured index if not given"
    )
    arguments = parser.parse_args(argv)
    if has_gpu():
        return 0
    try:
        report = pip_report(arguments.spec, arguments.index_url or None)
    except RuntimeError as error:
        print(f"{arguments.spec} cannot be had from this index: {error}", file=sys.stderr)
        return 1
    reason = cuda_build(report)
    if reason is None:
        return 0
    print(
        f"{reason}, gigabytes for a GPU that this machine lacks: "
        f"make TORCH_INDEX={CPU_INDEX} takes the CPU build, ALLOW_CUDA=1 this one",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
