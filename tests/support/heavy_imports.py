"""Which heavy modules a command imports: the command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import medray

HEAVY = (
    *(
        "torch",
        "ray",
        "transformers",
        "tokenizers",
        "peft",
        "deepspeed",
        "mlflow",
        "numpy",
        "pandas",
        "pyarrow",
    ),
    *("safetensors", "sklearn", "scipy", "rouge_score", "sentencepiece", "accelerate", "gguf", "requests"),
)
# The command itself, and at its end the heavy modules that it imported, in order of their names.
WATCHED = f"""
import json, sys
from medray.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(json.dumps([name for name in {sorted(HEAVY)!r} if name in sys.modules]), file=sys.stderr)
sys.exit(code)
"""


def run(*command: str, folder: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")
    }
    environment["PYTHONPATH"] = str(Path(medray.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        input=text,
        text=True,
        check=False,
        timeout=60,
    )
