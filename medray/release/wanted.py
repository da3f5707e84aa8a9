"""The options of `medray export`, and the check that a run and this machine support them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medray.config.peft import PROMPT_TYPES
from medray.errors import InputError
from medray.models.export import gguf as gguf_file
from medray.storage import StoragePath
from medray.train.run_folder.finished_run import FinishedRun

DEFAULT_GGUF = "q8_0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The options of `medray export`: what weights the user wants.

    dtype: type of merged weights; None: the precision of the run. shard_bytes: maximum size of a file. gguf: kind of
    the GGUF file; None: DEFAULT_GGUF. verify: whether to compare the written weights with the run's.
    """

    format: str
    dtype: str | None = None
    shard_bytes: int = 200_000_000
    gguf: str | None = None
    verify: bool = True

    @property
    def gguf_kind(self) -> str:
        return self.gguf or DEFAULT_GGUF

    @property
    def asks_for_a_type(self) -> bool:
        """Return whether the user chose the type of the weights and so accepts a loss of precision. nf4 is such a
        choice.
        """
        return self.dtype is not None or self.gguf is not None or self.format == "nf4"


def check_wanted(run: FinishedRun, wanted: Wanted, target: StoragePath) -> None:
    """Raise InputError if this run or this machine does not support the options, before anything is read or written."""
    kind = run.adapter_type
    if wanted.format == "adapter" and kind is None:
        raise InputError(
            "this run trained all weights and has no adapter",
            file=run.folder,
            key="--format",
            value="adapter",
            fix="use --format merged",
        )
    if wanted.format != "adapter" and kind in PROMPT_TYPES:
        raise InputError(
            f"a {kind} adapter adds virtual tokens and does not change the model's weights, so it cannot be merged",
            file=run.folder,
            key="--format",
            value=wanted.format,
            fix="use --format adapter: peft loads it together with the model",
        )
    if wanted.format == "nf4":
        from medray.models.quantized import check_package

        check_package("--format")
    if wanted.format == "gguf":
        gguf_file.check_package()
        if not isinstance(target, Path) and (lacking := gguf_file.missing(wanted.gguf_kind)):
            raise InputError(
                f"the program {lacking} of llama.cpp is not on PATH, and a later conversion by hand cannot read a model in a bucket",
                key="--to",
                value=str(target),
                fix="install llama.cpp, or use --to with a folder of this machine",
            )
    if target == run.folder or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise InputError(
            "the target exists and is not an empty folder",
            file=target,
            key="--to",
            fix="use --to with a new folder, or remove this folder",
        )
