"""Writes the tables of docs/plan.md: what `medray plan` says of T5 v1.1 XXL and Llama 3.1 70B on common clusters.

python scripts/plan_tables.py            # writes the tables into the page
python scripts/plan_tables.py --check    # exit code 1 if the page is not what would be written
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "plan.md"
if str(ROOT) not in sys.path:  # Python adds only the folder of a script
    sys.path.insert(0, str(ROOT))

from medray.cli.main import main as medray  # noqa: E402

# The sizes of the published config.json files.
XXL: dict[str, Any] = {
    "model_type": "t5", "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_70B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
SMALL = ("1xH100-80GB", "4xL40S", "8xA100-40GB", "8xA100-80GB", "8xH100-80GB", "8xH200", "8xMI300X", "8xB200")
LARGE = ("2x8xH100-80GB", "4x8xH100-80GB", "8x8xA100-80GB")
# Title → recipe, model, overrides, GPUs.
TABLES: dict[str, tuple[str, dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "T5 v1.1 XXL, every weight": ("distill_t5_xxl", XXL, (), SMALL),
    "T5 v1.1 XXL, LoRA": (
        "distill_t5_xxl",
        XXL,
        ("peft={type: lora, rank: 8, alpha: 8, targets: [q, v]}", "train.zero_stage=2"),
        ("1xL40S", "1xA100-40GB", "1xA100-80GB", "1xH100-80GB", "4xL40S", "8xH100-80GB"),
    ),
    "Llama 3.1 70B, every weight": ("sft_70b", LLAMA_70B, ("train.max_steps=1000",), SMALL[3:] + LARGE),
    "Llama 3.1 70B, LoRA": (
        "sft_70b",
        LLAMA_70B,
        ("train.max_steps=1000", "peft={type: lora, rank: 16, alpha: 32}"),
        (*SMALL[1:], *LARGE[:2]),
    ),
    "Llama 3.1 70B, LoRA on 4 bits": (
        "qlora_70b",
        LLAMA_70B,
        ("train.max_steps=1000",),
        ("1xL40S", "1xA100-80GB", "1xH100-80GB", "1xH200", "4xL40S", "8xA100-80GB", "8xH100-80GB"),
    ),
}
END = "<!-- end -->"
HEAD = (
    "| GPUs | the cheapest that fits | GB a GPU | host GB a node | rows at once | hours | GPU-hours |",
    "|---|---|---|---|---|---|---|",
)


def tables() -> dict[str, str]:
    """Return the Markdown of each table by its title."""
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, (recipe, model, overrides, gpus) in TABLES.items():
            place = Path(folder) / str(model["model_type"])
            place.mkdir(exist_ok=True)
            (place / "config.json").write_text(json.dumps(model), encoding="utf-8")
            shared = (*overrides, f"model.name={place}", f"data.root={folder}", f"run.storage={folder}")
            command = ["plan", str(ROOT / "configs" / f"{recipe}.yaml"), *shared]
            rows = [_row(each, _asked([*command, "--gpus", each, "--json"])) for each in gpus]
            shown = " ".join(f"'{each}'" if " " in each else each for each in overrides)
            head = f"`medray plan configs/{recipe}.yaml{' ' + shown if shown else ''} --gpus …`"
            made[title] = "\n".join((head, "", *HEAD, *rows))
    return made


def page() -> str:
    """Return the whole page with its tables."""
    text = PAGE.read_text(encoding="utf-8")
    for title, made in tables().items():
        begin = f"<!-- table: {title} -->"
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(END)
        if not found or not ended:
            raise SystemExit(f"{PAGE} has no place for the table {title!r}")
        text = f"{before}{begin}\n\n{made}\n\n{END}{after}"
    return text


def _asked(words: Sequence[str]) -> dict[str, Any]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as said:
        code = medray(words)
    if code:
        raise SystemExit(said.getvalue())
    found: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return found


def _row(gpus: str, found: dict[str, Any]) -> str:
    best, cost = found["cheapest"], found["cost"]
    if best is None:
        return f"| {gpus} | none | | | | | |"
    named = f"stage {best['zero_stage']}" + (", offload" if best["offload"] == "cpu" else "")
    rows = f"{best['rows']}, at most {best['largest_micro_batch']}"
    cells = (
        gpus,
        named,
        f"{best['device'] / 1e9:.0f}",
        f"{best['host_node'] / 1e9:,.0f}",
        rows,
        f"{cost['hours']:,.1f}",
        f"{cost['gpu_hours']:,.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes the tables of docs/plan.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if the page differs")
    made = page()
    if parser.parse_args(argv).check:
        return int(PAGE.read_text(encoding="utf-8") != made)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
