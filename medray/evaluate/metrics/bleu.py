"""BLEU over the corpus (Papineni et al. 2002), as sacrebleu computes it: exponential smoothing, one reference per row."""

from __future__ import annotations

from typing import Any

import numpy as np

from medray.evaluate.metrics.measured import Measured, Numbers
from medray.evaluate.metrics.rows import MetricError, Rows, Settings
from medray.evaluate.words import is_mostly_unspaced

TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none")
ORDER = 4


def bleu(rows: Rows, settings: Settings) -> Measured:
    """Return BLEU, 0 to 100.

    The tokenizer is sacrebleu's `13a`; if most letters of the references are of a script without spaces, such as Chinese,
    it is `char`. A row's own value is the BLEU of a corpus of this row.
    """
    references = [truth.text for truth in rows.truths]
    tokenizer = settings.bleu_tokenizer or ("char" if is_mostly_unspaced(references) else "13a")
    score = _scorer(tokenizer)
    found = [score.sentence_score(said, [wanted]) for said, wanted in zip(rows.said, references, strict=True)]
    counts = [[each.sys_len, each.ref_len, *each.counts, *each.totals] for each in found]
    return Measured(
        statistics=np.array(counts, np.float64).reshape(-1, 2 + 2 * ORDER),
        numbers=_numbers,
        notes=(f"BLEU splits words by sacrebleu's tokenizer {tokenizer}",),
    )


def _scorer(tokenizer: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    try:
        return BLEU(tokenize=tokenizer, effective_order=True)  # that is for single sentences; sums ignore it
    except (ImportError, RuntimeError) as error:
        raise MetricError(
            f"sacrebleu's tokenizer {tokenizer} is not installed ({type(error).__name__})",
            f"install it with `pip install 'sacrebleu[{tokenizer[:2]}]'`, or use --bleu-tokenizer char",
        ) from None


def _numbers(sums: np.ndarray) -> Numbers:
    """Return BLEU of summed counts [..., 10]: both lengths, then matches and totals of 1- to 4-grams."""
    said, wanted = sums[..., 0], sums[..., 1]
    correct, total = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    # The n-th order without a match that has n-grams counts as 1 / 2^k of a match, k = 1, 2, … (sacrebleu's "exp").
    lacking = (correct == 0) & (total > 0)
    matches = np.where(correct > 0, correct, 0.5 ** np.cumsum(lacking, axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(total > 0, np.log(matches / total), -np.inf).mean(axis=-1)
        brevity = np.where(said < wanted, np.exp(1 - wanted / said), 1.0)
    scored = correct.any(axis=-1) & (said > 0)
    return {"bleu": np.where(scored, 100 * np.exp(logs) * np.nan_to_num(brevity), 0.0)}
