"""A finished run's weights in a form to use elsewhere: written beside the target, checked, then put in its place."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from medray import storage
from medray.config.model import PACKAGED_MODELS
from medray.config.peft import PROMPT_TYPES
from medray.data.membership import SplitIndex
from medray.data.shard_seal import DamagedShardError
from medray.data.shards import ShardStore
from medray.errors import InputError, RunFailedError
from medray.models import gguf_file
from medray.models.export import base_of, class_of, load_export
from medray.models.merge import Merged, merge_folder
from medray.models.packaged import ensure
from medray.models.quantized import load_nf4, write_nf4
from medray.models.verify import ROWS, Comparison, Reference, TokenRow, compare, made_up, reference
from medray.storage import StoragePath
from medray.train.finished_run import FinishedRun, local_export
from medray.train.model_card import Made, base_of_run, model_card
from medray.train.run_records import write_records

CPU = torch.device("cpu")
# Of an export what `merge_folder` writes anew; the rest is the tokenizer's with its template, and generation_config.json,
# which says what ends an answer.
WEIGHTS = ("adapter_*", "*.safetensors", "*.safetensors.index.json", "config.json")
NOT_THE_TOKENIZERS = (*WEIGHTS, "quantization_config.json", "README.md")
TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
NF4_NOTE = "4 bits are lossy: what these weights write must be measured anew"
QLORA_NOTE = "the adapter was trained beside 4-bit weights and is merged into the base's own, which those were rounded from"
LOCAL_BASE_NOTE = "base_model_name_or_path in adapter_config.json is a folder of the machine that made this: give it the base's place"
RANDOM_BASE_NOTE = "the weights under the adapter were drawn at random and lie in the folder base"
NO_CHECK = "not made: --no-verify"


@dataclass(frozen=True)
class Wanted:
    """As the options of `medray export`. dtype: None keeps the base's. gguf: kind of the file."""

    format: str
    dtype: str | None = None
    shard_bytes: int = 200_000_000
    gguf: str = "q8_0"
    verify: bool = True


@dataclass(frozen=True)
class Released:
    """comparison: None where the user asked for none. files: bytes of each file of the folder itself."""

    folder: StoragePath
    comparison: Comparison | None
    checked: str
    notes: tuple[str, ...]
    files: dict[str, int]


def check_wanted(run: FinishedRun, wanted: Wanted, target: StoragePath) -> None:
    """Raises InputError for what this run, or this machine, cannot give; nothing has been read or written then."""
    kind = run.adapter_type
    if wanted.format == "adapter" and kind is None:
        raise InputError(
            "this run trained all weights and has no adapter",
            file=run.folder,
            key="--format",
            value="adapter",
            mend="--format merged",
        )
    if wanted.format != "adapter" and kind in PROMPT_TYPES:
        raise InputError(
            f"a {kind} is virtual tokens beside the model, not a change of its weights: nothing can be merged",
            file=run.folder,
            key="--format",
            value=wanted.format,
            mend="--format adapter: peft loads it beside the model",
        )
    if wanted.format == "nf4":
        from medray.models.quantized import check_package

        check_package("--format")
    if wanted.format == "gguf":
        gguf_file.check_package()
        if not isinstance(target, Path) and (lacking := gguf_file.missing(wanted.gguf)):
            raise InputError(
                f"{lacking} of llama.cpp is not on PATH, and the merged model would lie in a bucket",
                key="--to",
                value=str(target),
                mend="get llama.cpp, or --to a folder of this machine",
            )
    if target == run.folder or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise InputError(
            "is there, and not an empty folder",
            file=target,
            key="--to",
            mend="--to a new folder, or remove that one",
        )


def release(
    run: FinishedRun, wanted: Wanted, target: StoragePath, say: Callable[[str, str], None]
) -> Released:
    """Writes the weights, their tokenizer, card and the run's records to `target`, as a whole or not at all.

    say: told what goes on. Raises RunFailedError where the weights that were written are not those of the run, and
    InputError for what cannot be made; for GGUF without its converter `target` then holds the merged model.
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
    if wanted.format == "gguf" and (lacking := gguf_file.missing(wanted.gguf)):
        assert isinstance(target, Path)
        merged = target / "merged"
        steps = gguf_file.commands(merged, merged.parent / f"model-{wanted.gguf}.gguf", wanted.gguf)
        raise InputError(
            f"{lacking} of llama.cpp is not on PATH; the merged model is in {merged}",
            key="--format",
            value="gguf",
            mend=f"get llama.cpp, and run: {gguf_file.shown(steps)}",
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
        self.rows, self.source = self._rows()

    def run(self, target: StoragePath) -> Released:
        """Fills the folder; target: where it will be, for the card alone."""
        form = self.wanted.format
        self.say("export", f"{self.run_.config.run.name} as {form}")
        comparison, stored, checked = getattr(self, f"_{form}")()
        if comparison is not None:
            checked = comparison.line()
            self.say("check", checked)
        write_records(self.run_, self.folder)
        base = base_of_run(self.run_, base_of(self.export))
        made = Made(form, stored, checked, tuple(self.notes))
        (self.folder / "README.md").write_text(model_card(self.run_, base, made), encoding="utf-8")
        for note in self.notes:
            self.say("note", note)
        return Released(target, comparison, checked, tuple(self.notes), {})

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
        self.notes.append(NF4_NOTE)
        return self._compared(lambda: load_nf4(self.folder), "nf4"), "nf4", NO_CHECK

    def _gguf(self) -> tuple[Comparison | None, str, str]:
        merged, kind = self.folder / "merged", self.wanted.gguf
        done = self._merge_into(merged)
        comparison = self._compared_merged(merged, done)
        if gguf_file.missing(kind) is None:
            self.say("export", f"to GGUF {kind}")
            self.notes.append(gguf_file.convert(merged, self.folder / f"model-{kind}.gguf", kind))
            shutil.rmtree(merged)
        return comparison, kind, NO_CHECK

    def _merge_into(self, folder: Path) -> Merged:
        folder.mkdir(exist_ok=True)
        adapter = None if self.run_.adapter is None else self.export
        done = merge_folder(
            self.base, adapter, folder, dtype=self.wanted.dtype, shard_bytes=self.wanted.shard_bytes
        )
        self._copy_rest(folder)
        if done.note:
            self.notes.append(done.note)
        if (self.export / "quantization_config.json").exists():
            self.notes.append(QLORA_NOTE)
        self.say("export", f"{done.shards} files of weights in {done.dtype}")
        return done

    def _copy_rest(self, folder: Path) -> None:
        """The tokenizer with its template, and the terms that the base's weights come under."""
        for file in sorted(path for path in self.export.iterdir() if path.is_file()):
            if not any(fnmatch.fnmatch(file.name, pattern) for pattern in NOT_THE_TOKENIZERS):
                shutil.copyfile(file, folder / file.name)
        for file in sorted(path for pattern in TERMS for path in self.base.glob(pattern) if path.is_file()):
            shutil.copyfile(file, folder / file.name)

    def _compared_merged(self, folder: Path, done: Merged) -> Comparison | None:
        return self._compared(lambda: load_export(folder, CPU, dtype=torch.float32), done.dtype)

    def _compared(self, load: Callable[[], object], dtype: str) -> Comparison | None:
        """Raises RunFailedError where the weights are not those of the run, or the tokenizer is another one."""
        if not self.wanted.verify:
            return None
        wanted: Reference = reference(
            lambda: load_export(self.export, CPU, quantized=False, base=self.base, dtype=torch.float32),
            self.rows,
        )
        found = compare(wanted, load, self.rows, self.source, dtype)
        if not found.passed:
            raise RunFailedError(f"the weights that were written are not those of the run: {found.line()}")
        return found

    def _rows(self) -> tuple[list[TokenRow], str]:
        """Of the validation split, where its tokens are still there, and where from in words."""
        folder = self.run_.tokens
        rows: list[TokenRow] = []
        if folder is not None and "validation" in self.run_.manifests:
            with suppress(OSError, InputError, DamagedShardError):  # a cache: made-up rows do as well
                rows = list(self._validation_rows(folder / "validation"))
        if rows:
            return rows, f"{len(rows)} rows of the validation split"
        return made_up(self.vocabulary, self.seq2seq), f"{ROWS} rows of made-up ids"

    def _validation_rows(self, folder: StoragePath) -> Iterator[TokenRow]:
        store, places = ShardStore(folder), SplitIndex.read(folder / "index.json").places()
        for shard, row in islice(places, ROWS):
            if not store.has(shard):  # nobody makes it any more
                return
            ids, target = store.example(shard, row, "label")
            if len(ids):
                yield TokenRow(ids, target if self.seq2seq else None).cut()


def base_folder(run: FinishedRun, export: Path) -> Path:
    """The folder of the weights under the adapter, or of all weights without one. Raises InputError where it is gone."""
    if run.adapter is None:
        return export
    place = base_of(export)
    if run.config.model.init == "pretrained" and run.config.model.name in PACKAGED_MODELS:
        return ensure(str(run.config.model.name))
    if Path(place).is_dir():
        return Path(place)
    try:
        from huggingface_hub import snapshot_download

        wanted = ["*.safetensors", "*.json", *TERMS]
        return Path(snapshot_download(place, allow_patterns=wanted))
    except Exception as error:  # its text may hold a token of the user's
        raise InputError(
            f"the base model cannot be had ({type(error).__name__})",
            file=export / "adapter_config.json",
            key="base_model_name_or_path",
            value=place,
            mend="bring the folder back, or download the model first",
        ) from None
