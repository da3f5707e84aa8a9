"""Writes docs/reference.md and the JSON schemas in configs/ from the pydantic models of medray/config/.

python scripts/reference.py            # writes the files
python scripts/reference.py --check    # exit code 1 where a file is not what would be written
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference.md"
SCHEMA = ROOT / "configs" / "medray.schema.json"
if str(ROOT) not in sys.path:  # Python adds only the folder of a script
    sys.path.insert(0, str(ROOT))

from medray.config.reference import ENTRY, FILES, KeyFacts, all_keys, schema  # noqa: E402

HEAD = """# Every key of a config

The sections of a YAML file and their keys. `medray config KEY` prints one of them, with the source files that read it. All
keys have defaults, except where the column says *required*. Any key can be given on the command line:
`medray train run.yaml train.max_steps=100`.

- **resume** says whether the key may change when a run resumes from its checkpoints. A key without "yes" must keep its
  value; medray names it and refuses to resume otherwise (`--overwrite` starts the run from the beginning).
- A name with `[]` is a key of each entry of a list: `data.train[].path` is `path` in `data: {train: [{path: …}]}`.
- `null` as a default means "decided by medray", as the meaning says.

For completion and checks in an editor, use the JSON schema in
[`configs/medray.schema.json`](../configs/medray.schema.json): the first line of each recipe names it, and
`medray config schema` prints it. It knows types and limits; which keys fit together is checked by `medray train`.
"""
OWN_HEAD = """
## The file of `{verb}`

{meaning}

| key | type | default | meaning |
|---|---|---|---|
"""
FOOT = "\n<!-- Written by: python scripts/reference.py -->\n"
LONGEST_DEFAULT = 60


def page() -> str:
    """Return the whole page as text."""
    parts, keys = [HEAD], list(all_keys())
    for facts in keys:
        if "." not in facts.key and ENTRY not in facts.key:
            own = (f"{facts.key}.", f"{facts.key}{ENTRY}.")
            inside = [each for each in keys if each.key.startswith(own) and _is_shown(each)]
            rows = "".join(map(_row, inside))
            table = f"| key | type | default | meaning | resume |\n|---|---|---|---|---|\n{rows}"
            parts.append(f"\n## {facts.key}\n\n{facts.meaning}\n\n{table}")
    parts += [_own_file(file) for file in FILES if file != "run"]
    return "".join(parts) + FOOT


def _own_file(file: str) -> str:
    """Return the part about the file of another verb, without the keys that a run's config has too."""
    known = {facts.key for facts in all_keys()}
    rows = "".join(_row(facts, resume=False) for facts in all_keys(file) if facts.key not in known)
    verb = "medray data annotate" if file == "annotate" else f"medray {file}"
    return OWN_HEAD.format(verb=verb, meaning=" ".join(str(FILES[file].__doc__).split())) + rows


def _is_shown(facts: KeyFacts) -> bool:
    """Leave out the keys of validation sources and of columns of one source: they repeat others."""
    return not facts.key.startswith((f"data.validation{ENTRY}", f"data.train{ENTRY}.columns."))


def _row(facts: KeyFacts, *, resume: bool = True) -> str:
    default = (
        facts.default if len(facts.default) <= LONGEST_DEFAULT else f"{facts.default[:LONGEST_DEFAULT]}…"
    )
    shown = f"`{default}`" if default else ("" if facts.type == "section" else "*required*")
    cells = [f"`{facts.key}`", facts.type, shown, facts.meaning]
    cells += ["yes" if facts.resumable else ""] if resume else []
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def schema_text(file: str = "run") -> str:
    """Return a JSON schema as the text of its file. file: a name in FILES."""
    return json.dumps(schema(file), indent=1, ensure_ascii=False) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes docs/reference.md and the JSON schemas in configs/.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit with 1 where a file differs"
    )
    files = {PAGE: page(), SCHEMA: schema_text()}
    files |= {SCHEMA.with_name(f"{file}.schema.json"): schema_text(file) for file in FILES if file != "run"}
    if parser.parse_args(argv).check:
        return int(
            any(not file.is_file() or file.read_text(encoding="utf-8") != files[file] for file in files)
        )
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
