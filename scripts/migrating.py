"""Writes docs/migrating.md from medray/config/loading/former_flags.toml.

python scripts/migrating.py            # writes the page
python scripts/migrating.py --check    # exit code 1 where the page is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "migrating.md"
if str(ROOT) not in sys.path:  # a script knows its own folder alone
    sys.path.insert(0, str(ROOT))

from medray.config.loading.former_flags import Flag, Table, is_planned, tables  # noqa: E402

HEAD = """# Migrating from the reference systems

medray does the work of five published systems, the reference systems: Distilling Step-by-Step (with its healthcare fork),
MeDistill (T5, and its successor with decoders), a synthesis of medical dialogues for instruction tuning, RAG-ICL with DFPO
(retrieved examples, and two fine-tunings around a preference stage), and QLoRA on medical questions with 7B chat models.
Here is every flag of theirs, and every setting that stood in a cell or a constant, with what does the same in medray.

**not yet** stands where a feature is being built; everything else works today. A flag's name that is written as a YAML key is
refused with the name to use. Any key can be given on the command line too: `medray train run.yaml method.alpha=0.8`.
Recipes with the published values are in [configs/](../configs/README.md).
"""
FOOT = "\n<!-- Written by: python scripts/migrating.py -->\n"


def page() -> str:
    """The whole page as text."""
    return HEAD + "".join(map(section, tables())) + FOOT


def section(table: Table) -> str:
    rows = "".join(map(row, table.flags))
    return f"\n## {table.title}\n\n| there | in medray | what it does |\n|---|---|---|\n{rows}"


def row(flag: Flag) -> str:
    there = ", ".join(name if " " in name else f"`--{name}`" for name in flag.names)
    here = ", ".join(
        f"`{entry}`" + (" (not yet)" if is_planned(entry) and not flag.planned else "")
        for entry in flag.medray
    )
    here = f"{here or 'none'}" + (" **not yet**" if flag.planned else "")
    return f"| {there} | {here} | {flag.text} |\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes docs/migrating.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, say whether the page is this")
    text = page()
    if parser.parse_args(argv).check:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
