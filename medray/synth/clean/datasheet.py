"""The datasheet of synthetic training data: how it was made, what it contains, and what was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medray import __version__
from medray.config.synth import SynthConfig

if TYPE_CHECKING:
    from medray.synth.clean.run import CleanSummary


def datasheet(config: SynthConfig, summary: CleanSummary) -> str:
    """Return the datasheet as Markdown. It contains counts and settings, and no text of a chat."""
    clean = config.clean
    lines = [
        f"# Datasheet of {config.run.name}",
        "",
        f"Synthetic chats of health workers with a medical assistant, written by a language model and cleaned by medray {__version__}.",
        "They describe no real patients, were not checked by clinicians, and may contain medical errors.",
        "",
        "## How it was made",
        "",
        f"- seed: {config.run.seed}; parts: {', '.join(map(str, config.prompts.parts))}; history: {config.chat.history}",
        f"- lists: {'your own' if config.prompts.resources else 'those of medray'}; resource settings: "
        f"{'drawn' if config.prompts.use_setting else 'not named'}",
        *(
            f"- model: {name or 'unknown'}, {count:,} accepted replies"
            for name, count in summary.models.items()
        ),
        "- licence: that of the model's outputs; check its terms before you publish the data",
        "",
        "## What it contains",
        "",
        *_table(("file", "rows"), summary.rows),
        "",
        *_table(("turns", "chats"), summary.turns),
        "",
        f"{clean.validation:.0%} of the opening questions are for validation. All chats of one question, with whatever answer style, "
        "are in the same split.",
        "",
        "## What was left out",
        "",
        f"{summary.kept:,} of {summary.chats:,} finished chats were kept.",
        "",
        *_table(("reason", "count"), summary.dropped),
        "",
        f"- near-duplicates from a similarity of {clean.near_duplicates}"
        if clean.near_duplicates
        else "- near-duplicates kept",
        f"- identifiers of persons (e-mail, telephone, date of birth, record number): {clean.pii}; found by patterns, names are not "
        "recognized",
        f"- allowed languages of questions: {', '.join(clean.languages) or 'all'}",
        f"- benchmark files compared by 13 consecutive words: {len(clean.decontaminate)}",
        "",
    ]
    return "\n".join(lines)


def _table(header: tuple[str, str], rows: dict[str, int]) -> list[str]:
    return [
        f"| {header[0]} | {header[1]} |",
        "|---|---|",
        *(f"| {name} | {count:,} |" for name, count in rows.items()),
    ]
