"""Release a finished run's weights: write them to a staging folder, check them, then move them to the target."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medray import storage
from medray.config.data import TEMPLATE_FILES
from medray.config.model import PACKAGED_MODELS
from medray.config.peft import PROMPT_TYPES
from medray.data.index.membership import SplitIndex
from medray.data.shards.preparation import encode_spec
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError, RunFailedError
from medray.models.adapters.merging import Merged, merge_folder
from medray.models.export import base_of, class_of, load_export
from medray.models.export import gguf as gguf_file
from medray.models.export.usage import FILE, Usage, base_of_model, read_usage, usage, write_usage
from medray.models.export.verify import LEAST_KEPT, Comparison, Reference, compare, reference
from medray.models.load import load_model
from medray.models.quantized import load_nf4, write_nf4
from medray.plan.model_config import model_config
from medray.plan.packaged import ensure
from medray.release.sample import Sample
from medray.storage import StoragePath
from medray.train.export.model_card import Made, model_card
from medray.train.run_folder.finished_run import FinishedRun, local_export
from medray.train.run_folder.results import write_records

CPU = torch.device("cpu")
# The files of an export that `merge_folder` writes again. The rest are those of the tokenizer with its template, and
# generation_config.json, which contains the end tokens of an answer.
WEIGHTS = ("adapter_*", "*.safetensors", "*.safetensors.index.json", "config.json")
NOT_THE_TOKENIZERS = (*WEIGHTS, "quantization_config.json", "README.md", FILE)
TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
QLORA_NOTE = "the adapter was trained on 4-bit weights; it is merged into the base's weights before their rounding to 4 bits"
LOCAL_BASE_NOTE = "base_model_name_or_path in adapter_config.json is a folder of the machine that wrote it: set it to your copy of the base"
RANDOM_BASE_NOTE = "the base of the adapter has random weights, which are in the folder base"
NO_CHECK = "not measured: --no-verify"
DEFAULT_GGUF = "q8_0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The options of `medray export`.

    dtype: type of merged weights; None: the precision of the run. shard_bytes: maximum size of a file. gguf: kind of the
    GGUF file; None: DEFAULT_GGUF. verify: compare the written weights with the run's.
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
        """Return whether the user chose the precision of the weights, and so accepts its loss. nf4 is such a choice."""
        return self.dtype is not None or self.gguf is not None or self.format == "nf4"


@dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """The result of a release.

    comparison: None if the user disabled it. checked: a line about the check. files: bytes of each file directly in the
    folder.
    """

    folder: StoragePath
    comparison: Comparison | None
    checked: str
    notes: tuple[str, ...]
    files: dict[str, int]


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
                f"{lacking} of llama.cpp is not on PATH, and it could not read the merged model from a bucket later",
                key="--to",
                value=str(target),
                fix="install llama.cpp, or use --to with a folder of this machine",
            )
    if target == run.folder or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise InputError(
            "exists and is not an empty folder",
            file=target,
            key="--to",
            fix="use --to with a new folder, or remove this one",
        )


def release(
    run: FinishedRun, wanted: Wanted, target: StoragePath, say: Callable[[str, str], None]
) -> Released:
    """Write the weights, their tokenizer, model card and the run's records to `target`, completely or not at all.

    say: called with messages about the progress. Raises RunFailedError if the written weights differ from those of the
    run, and InputError if the format cannot be made. For GGUF without its converter, `target` then holds the merged model.
    """
    local = isinstance(target, Path)
    staging = (
        target.with_name(f".{target.name}.part") if isinstance(target, Path) else storage.temporary_folder()
    )
    try:
        if local:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        work = _Release(run, wanted, staging, say)
        released = work.run(target)
        storage.put_tree(staging, target)
    except OSError as error:
        raise RunFailedError(f"the weights cannot be read or written: {storage.summary(error)}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if wanted.format == "gguf" and (lacking := gguf_file.missing(wanted.gguf_kind)):
        assert isinstance(target, Path)
        merged = target / "merged"
        steps = gguf_file.commands(merged, merged.parent / f"model-{wanted.gguf_kind}.gguf", wanted.gguf_kind)
        raise InputError(
            f"{lacking} of llama.cpp is not on PATH; the merged model is in {merged}",
            key="--format",
            value="gguf",
            fix=f"install llama.cpp, and run: {gguf_file.shown(steps)}",
        )
    return replace(released, files=storage.sizes(target))


class _Release:
    def __init__(
        self, run: FinishedRun, wanted: Wanted, folder: Path, say: Callable[[str, str], None]
    ) -> None:
        self.run_, self.wanted, self.folder, self.say = run, wanted, folder, say
        self.export = local_export(run)
        self.base = base_folder(run, self.export)
        self.notes: list[str] = []
        _, config = class_of(str(self.base))
        self.seq2seq, self.vocabulary = bool(config.is_encoder_decoder), int(config.vocab_size)
        self._reference: Reference | None = None

    def run(self, target: StoragePath) -> Released:
        """Fill the staging folder. target: the final path, which is only reported."""
        form = self.wanted.format
        self.say("export", f"{self.run_.config.run.name} as {form}")
        self._check_tokenizer()
        if self.wanted.verify:
            self.sample = Sample(self.run_, vocabulary=self.vocabulary, seq2seq=self.seq2seq)
        comparison, stored, checked = getattr(self, f"_{form}")()
        if comparison is not None:
            checked = comparison.line()
            self.say("check", checked)
        write_records(self.run_, self.folder)
        made = Made(form, stored, checked, tuple(self.notes), comparison, same=self._is_the_runs_own())
        asked = self._usage(stored)
        write_usage(self.folder, asked)
        file = f"model-{stored}.gguf" if form == "gguf" else None
        card = model_card(self.run_, asked.base, made, asked, file)
        (self.folder / "README.md").write_text(card, encoding="utf-8")
        for note in self.notes:
            self.say("note", note)
        return Released(
            folder=target, comparison=comparison, checked=checked, notes=tuple(self.notes), files={}
        )

    def _usage(self, stored: str) -> Usage:
        """Return how to prompt these weights, from the run's export, or from the config if an older export lacks it."""
        found = read_usage(self.export) or self._usage_of_config()
        base, form = found.base, self.wanted.format
        if form == "adapter":
            return found
        if base.kind == "folder":  # merged weights need no base, so its path on this machine is left out
            base = base.model_copy(update={"name": Path(base.name).name})
        return found.model_copy(update={"format": form, "dtype": stored, "adapter": None, "base": base})

    def _usage_of_config(self) -> Usage:
        run, config = self.run_, self.run_.config
        if config.data.template.endswith(
            TEMPLATE_FILES
        ):  # the tokenizer of the export has it; the file may be gone
            config = config.model_copy(update={"data": config.data.model_copy(update={"template": "chat"})})
        spec = encode_spec(config, "seq2seq" if self.seq2seq else "causal")
        tokens = None
        if run.tokens is not None:
            index = SplitIndex.read(run.tokens / "train" / "index.json")
            tokens = TokenSet(
                folder=str(run.tokens / "train"), tokenizer=str(self.export), spec=spec, index=index
            )
        generation = self.export / "generation_config.json"
        values = json.loads((self.base / "config.json").read_text())
        values |= json.loads(generation.read_text()) if generation.exists() else {}
        return usage(
            spec,
            load_tokenizer(str(self.export)),
            tokens,
            format="full" if run.adapter is None else "adapter",
            base=base_of_model(config.model, base_of(self.export)),
            dtype=run.precision,
            adapter=run.adapter_type,
            model=values,
            max_new_tokens=config.eval.generation.max_new_tokens,
            num_beams=config.eval.generation.num_beams,
        )

    def _is_the_runs_own(self) -> bool:
        """Return whether the weights are bit for bit those that the run itself evaluated."""
        whole = self.wanted.format == "merged" and self.run_.adapter is None and self.wanted.dtype is None
        return whole or self.wanted.format == "adapter"

    def _adapter(self) -> tuple[Comparison | None, str, str]:
        shutil.copytree(self.export, self.folder, dirs_exist_ok=True)
        if self.base.parent == self.export:
            self.notes.append(RANDOM_BASE_NOTE)
        elif Path(base_of(self.export)).is_dir():
            self.notes.append(LOCAL_BASE_NOTE)
        found = self._compared(
            lambda: load_export(
                self.folder, CPU, quantized=False, base=self.base, dtype=torch.float32
            ),
            "fp32",
        )  # fmt: skip
        return found, "adapter", NO_CHECK

    def _merged(self) -> tuple[Comparison | None, str, str]:
        done = self._merge_into(self.folder)
        return self._compared_merged(self.folder, done), done.dtype, NO_CHECK

    def _nf4(self) -> tuple[Comparison | None, str, str]:
        merged = self.folder / "merged"
        self._merge_into(merged)
        self.say("export", "to 4 bits")
        write_nf4(merged, self.folder, self.wanted.shard_bytes)
        shutil.rmtree(merged)
        self._copy_rest(self.folder)
        return self._compared(lambda: load_nf4(self.folder), "nf4"), "nf4", NO_CHECK

    def _gguf(self) -> tuple[Comparison | None, str, str]:
        merged, kind = self.folder / "merged", self.wanted.gguf_kind
        done = self._merge_into(merged)
        if gguf_file.missing(kind) is not None:
            return self._compared_merged(merged, done), kind, NO_CHECK
        self.say("export", f"to GGUF {kind}")
        file = self.folder / f"model-{kind}.gguf"
        self.notes.append(gguf_file.convert(merged, file, kind))
        comparison, checked = None, NO_CHECK
        if self.wanted.verify:
            try:
                comparison = self._compared(lambda: gguf_file.load(file, self.seq2seq), kind)
            except gguf_file.NotLoadedError as error:
                # Check the merged model instead, so that only the conversion is unchecked.
                self._compared_merged(merged, done)
                checked = f"not measured: transformers cannot load this GGUF file ({error})"
        shutil.rmtree(merged)
        return comparison, kind, checked

    def _merge_into(self, folder: Path) -> Merged:
        folder.mkdir(exist_ok=True)
        adapter = None if self.run_.adapter is None else self.export
        # A coarser type than the run's would lose small updates. The GGUF converter rounds by itself, so it gets fp32.
        exact = "fp32" if self.wanted.format == "gguf" else self.run_.precision
        dtype = self.wanted.dtype or (None if adapter is None else exact)
        done = merge_folder(self.base, adapter, folder, dtype=dtype, shard_bytes=self.wanted.shard_bytes)
        self._copy_rest(folder)
        if done.note:
            self.notes.append(done.note)
        if (self.export / "quantization_config.json").exists():
            self.notes.append(QLORA_NOTE)
        self.say("export", f"{done.shards} files of weights in {done.dtype}")
        return done

    def _copy_rest(self, folder: Path) -> None:
        """Copy the tokenizer with its template, and the license files of the base's weights."""
        for file in sorted(path for path in self.export.iterdir() if path.is_file()):
            if not any(fnmatch.fnmatch(file.name, pattern) for pattern in NOT_THE_TOKENIZERS):
                shutil.copyfile(file, folder / file.name)
        for file in sorted(path for pattern in TERMS for path in self.base.glob(pattern) if path.is_file()):
            shutil.copyfile(file, folder / file.name)

    def _check_tokenizer(self) -> None:
        """Raise InputError if the tokenizer of the run, whose files are copied, cannot be loaded."""
        files = [self.run_.export / name for name in ("tokenizer.json", "tokenizer_config.json")]
        file = next((path for path in files if path.exists()), None)
        try:
            if file is not None:  # else the model has no tokenizer
                load_tokenizer(str(self.export))
        except InputError:
            raise InputError(
                "the tokenizer of the run cannot be loaded: a file of it is damaged",
                file=file,
                fix="remove the folder export of the run, and run `medray train` with its config to export again",
            ) from None

    def _compared_merged(self, folder: Path, done: Merged) -> Comparison | None:
        return self._compared(lambda: load_export(folder, CPU, dtype=torch.float32), done.dtype)

    def _compared(self, load: Callable[[], Any], dtype: str) -> Comparison | None:
        """Compare the written weights with the run's. Raises the errors of `_refuse`."""
        if not self.wanted.verify:
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
            raise RunFailedError(f"the written weights differ from those of the run: {found.line()}")
        if lost:
            self.notes.append(f"{found.dtype} loses part of what training gained: {found.loss_line()}")

    def _untuned(self) -> Any:
        """Return the model before training; None if the run trained all weights and the model is not available."""
        if self.run_.adapter is not None:
            return load_export(self.base, CPU, dtype=torch.float32)
        config = self.run_.config
        try:
            values = model_config(config.model, config.data.vocab_size)
            tokenizer = load_tokenizer(str(self.export))
            return load_model(
                config.model, values, tokenizer, dtype=torch.float32, seed=config.run.seed
            ).eval()
        except (InputError, OSError, ValueError):
            return None


def base_folder(run: FinishedRun, export: Path) -> Path:
    """Return the folder of the base's weights; without an adapter, the export. Raises InputError if it is not available."""
    if run.adapter is None:
        return export
    source = base_of(export)
    if run.config.model.init == "pretrained" and run.config.model.name in PACKAGED_MODELS:
        return ensure(str(run.config.model.name))
    if Path(source).is_dir():
        return Path(source)
    try:
        from huggingface_hub import snapshot_download

        wanted = ["*.safetensors", "*.json", *TERMS]
        return Path(snapshot_download(source, allow_patterns=wanted))
    except Exception as error:  # its text may contain the user's token
        raise InputError(
            f"cannot load the base model ({type(error).__name__})",
            file=export / "adapter_config.json",
            key="base_model_name_or_path",
            value=source,
            fix="restore the folder, or download the model first",
        ) from None
