"""Lengths of answers, in words and optionally in tokens, and the share of empty answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medray.evaluate.metrics.measured import Measured, Numbers, ratio
from medray.evaluate.metrics.rows import MetricError, Rows, Settings
from medray.evaluate.words import words


def length(rows: Rows, settings: Settings) -> Measured:
    """Return mean lengths of predictions and references, their ratio, and the share of predictions without text.

    The ratio is that of the sums. Words are those of ROUGE. Tokens are counted with `settings.tokenizer`, without special
    tokens. Numbers that need references are left out without them.
    """
    columns = [np.array([len(words(text)) for text in rows.said], np.float64)]
    names = ["length_words"]
    if rows.references is not None:
        columns.append(np.array([len(words(truth.text)) for truth in rows.truths], np.float64))
        names.append("length_reference_words")
    if settings.tokenizer is not None:
        columns.append(_tokens(rows.said, settings.tokenizer))
        names.append("length_tokens")
        if rows.references is not None:
            columns.append(_tokens([truth.text for truth in rows.truths], settings.tokenizer))
            names.append("length_reference_tokens")
    columns.append(np.array([not text.strip() for text in rows.said], np.float64))
    names.append("length_empty")

    def numbers(sums: np.ndarray) -> Numbers:
        found = {name: ratio(sums[..., place], sums[..., -1]) for place, name in enumerate(names)}
        if rows.references is not None:
            found["length_ratio"] = ratio(sums[..., 0], sums[..., 1])
        return found

    return Measured(statistics=np.column_stack([*columns, np.ones(len(rows))]), numbers=numbers)


def _tokens(texts: tuple[str, ...] | list[str], folder: str) -> np.ndarray:
    if not Path(folder).is_dir():
        raise MetricError(
            f"there is no tokenizer in the folder {folder}",
            "use --tokenizer FOLDER with the files that tokenizer.save_pretrained writes",
        )
    from medray.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    return np.array(
        [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts], np.float64
    )
