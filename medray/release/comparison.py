"""Comparison of written weights with those of the run, and the decision whether they are too different."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError, RunFailedError
from medray.models.adapters.merging import Merged
from medray.models.export import gguf as gguf_file
from medray.models.export import load_export
from medray.models.export.verify import LEAST_KEPT, Comparison, Reference, compare, reference
from medray.models.load import load_model
from medray.plan.model_config import model_config
from medray.release.sample import Sample
from medray.release.wanted import Wanted
from medray.train.run_folder.finished_run import FinishedRun

CPU = torch.device("cpu")


class WeightCheck:
    """Compares written weights with those of a run, which are measured once.

    sample: rows to compare on; None: nothing is compared. notes: gets a sentence if a type that the user chose loses
    part of what was trained.
    """

    def __init__(
        self,
        run: FinishedRun,
        wanted: Wanted,
        export: Path,
        base: Path,
        sample: Sample | None,
        notes: list[str],
    ) -> None:
        self.run, self.wanted, self.export, self.base = run, wanted, export, base
        self.sample, self.notes = sample, notes
        self._reference: Reference | None = None

    def merged(self, folder: Path, done: Merged) -> Comparison | None:
        return self.compare(lambda: load_export(folder, CPU, dtype=torch.float32), done.dtype)

    def compare(self, load: Callable[[], Any], dtype: str) -> Comparison | None:
        """Compare written weights with those of the run.

        Raises an error if they lose too much; returns None without a sample.
        """
        if self.sample is None:
            return None
        if self._reference is None:
            self._reference = reference(
                lambda: load_export(self.export, CPU, quantized=False, base=self.base, dtype=torch.float32),
                self.sample.rows,
                self.sample.loss,
                self._untuned,
            )
        found = compare(self._reference, load, self.sample.rows, self.sample.words, dtype, self.sample.loss)
        self._refuse(found)
        return found

    def _refuse(self, found: Comparison) -> None:
        """Raise InputError if the default type loses too much of the training, and RunFailedError if no type explains it."""
        kept = found.kept_percent
        lost = kept is not None and kept < LEAST_KEPT
        if lost and not self.wanted.asks_for_a_type and found.dtype != "fp32":
            is_gguf = found.dtype in gguf_file.KINDS
            option, finer = ("--gguf-type", "f16") if is_gguf else ("--dtype", "fp32")
            raise InputError(
                f"weights in {found.dtype} lose part of what training gained, and at least {LEAST_KEPT:g} % must be kept: "
                + found.loss_line(),
                key=option,
                value=found.dtype,
                fix=f"use {option} {finer}, or {option} {found.dtype} to accept the loss",
            )
        forgotten = found.nearer_to_base and not self.wanted.asks_for_a_type
        exact = found.dtype == "fp32"
        if not found.within_tolerance or forgotten or (exact and lost):
            raise RunFailedError(
                f"the written weights differ from those of the run: {found.line()}. Fix: run the command again; if this repeats, "
                "use another --format"
            )
        if lost:
            self.notes.append(f"{found.dtype} loses part of what training gained: {found.loss_line()}")

    def _untuned(self) -> Any:
        """Return the model before training; None if the run trained all weights and the model is not available."""
        if self.run.adapter is not None:
            return load_export(self.base, CPU, dtype=torch.float32)
        config = self.run.config
        try:
            values = model_config(config.model, config.data.vocab_size)
            tokenizer = load_tokenizer(str(self.export))
            return load_model(
                config.model, values, tokenizer, dtype=torch.float32, seed=config.run.seed
            ).eval()
        except (InputError, OSError, ValueError):
            return None
