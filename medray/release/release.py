"""Release a finished run's weights: write them to a staging folder, check them, then move them to the target."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medray import storage
from medray.config.data import TEMPLATE_FILES
from medray.config.model import PACKAGED_MODELS
from medray.data.index.membership import SplitIndex
from medray.data.shards.preparation import encode_spec
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer
from medray.errors import InputError, RunFailedError
from medray.models.adapters.merging import Merged, merge_folder
from medray.models.export import base_of, class_of, load_export
from medray.models.export import gguf as gguf_file
from medray.models.export.usage import FILE, Usage, base_of_model, read_usage, usage, write_usage
from medray.models.export.verify import Comparison
from medray.models.quantized import load_nf4, write_nf4
from medray.plan.packaged import ensure
from medray.release.comparison import CPU, WeightCheck
from medray.release.sample import Sample
from medray.release.wanted import Wanted
from medray.storage import StoragePath
from medray.train.export.model_card import Made, model_card
from medray.train.run_folder.finished_run import FinishedRun, local_export
from medray.train.run_folder.results import write_records

# The files of an export that `merge_folder` writes again. The rest are those of the tokenizer with its template, and
# generation_config.json, which contains the end tokens of an answer.
WEIGHTS = ("adapter_*", "*.safetensors", "*.safetensors.index.json", "config.json")
NOT_THE_TOKENIZERS = (*WEIGHTS, "quantization_config.json", "README.md", FILE)
TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
QLORA_NOTE = "the adapter was trained on a base rounded to 4 bits, but it is merged into the base's original weights; the answers may differ slightly"
LOCAL_BASE_NOTE = "base_model_name_or_path in adapter_config.json is a folder of the machine that wrote it: set it to your copy of the base"
RANDOM_BASE_NOTE = "the adapter's base model was initialized at random and exists only in the subfolder base: keep it together with the adapter"
NO_CHECK = "not measured: --no-verify"


@dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """The result of a release: a folder of weights.

    comparison: None if the user disabled it. checked: a line about the check. files: size in bytes of each file
    directly in the folder.
    """

    folder: StoragePath
    comparison: Comparison | None
    checked: str
    notes: tuple[str, ...]
    files: dict[str, int]


def release(
    run: FinishedRun, wanted: Wanted, target: StoragePath, say: Callable[[str, str], None]
) -> Released:
    """Write the weights, their tokenizer, model card and the run's records to `target`, completely or not at all.

    say: called with messages about the progress. Raises RunFailedError if the written weights differ from those of the
    run, and InputError if the format cannot be made. For GGUF without its converter, `target` then contains the merged
    model.
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
        raise RunFailedError(
            f"the weights cannot be read or written: {storage.summary(error)}. Fix: check the run's storage and the folder "
            "of --to, then run the command again"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if wanted.format == "gguf" and (lacking := gguf_file.missing(wanted.gguf_kind)):
        assert isinstance(target, Path)
        merged = target / "merged"
        steps = gguf_file.commands(merged, merged.parent / f"model-{wanted.gguf_kind}.gguf", wanted.gguf_kind)
        raise InputError(
            f"the program {lacking} of llama.cpp is not on PATH; the merged model is in {merged}",
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

    def run(self, target: StoragePath) -> Released:
        """Fill the staging folder. target: the final path, which is only reported."""
        form = self.wanted.format
        self.say("export", f"{self.run_.config.run.name} as {form}")
        self._check_tokenizer()
        sample = None
        if self.wanted.verify:
            sample = Sample(self.run_, vocabulary=self.vocabulary, seq2seq=self.seq2seq)
        self.check = WeightCheck(self.run_, self.wanted, self.export, self.base, sample, self.notes)
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
        found = self.check.compare(
            lambda: load_export(
                self.folder, CPU, quantized=False, base=self.base, dtype=torch.float32
            ),
            "fp32",
        )  # fmt: skip
        return found, "adapter", NO_CHECK

    def _merged(self) -> tuple[Comparison | None, str, str]:
        done = self._merge_into(self.folder)
        return self.check.merged(self.folder, done), done.dtype, NO_CHECK

    def _nf4(self) -> tuple[Comparison | None, str, str]:
        merged = self.folder / "merged"
        self._merge_into(merged)
        self.say("export", "to 4 bits")
        write_nf4(merged, self.folder, self.wanted.shard_bytes)
        shutil.rmtree(merged)
        self._copy_rest(self.folder)
        return self.check.compare(lambda: load_nf4(self.folder), "nf4"), "nf4", NO_CHECK

    def _gguf(self) -> tuple[Comparison | None, str, str]:
        merged, kind = self.folder / "merged", self.wanted.gguf_kind
        done = self._merge_into(merged)
        if gguf_file.missing(kind) is not None:
            return self.check.merged(merged, done), kind, NO_CHECK
        self.say("export", f"to GGUF {kind}")
        file = self.folder / f"model-{kind}.gguf"
        self.notes.append(gguf_file.convert(merged, file, kind))
        comparison, checked = None, NO_CHECK
        if self.wanted.verify:
            try:
                comparison = self.check.compare(lambda: gguf_file.load(file, self.seq2seq), kind)
            except gguf_file.NotLoadedError as error:
                # Check the merged model instead, so that only the conversion is unchecked.
                self.check.merged(merged, done)
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
                "the tokenizer of the run cannot be loaded, because one of its files is damaged",
                file=file,
                fix="remove the folder export of the run, and run `medray train` with its config to export again",
            ) from None


def base_folder(run: FinishedRun, export: Path) -> Path:
    """Return the folder of the base model's weights; without an adapter, the export.

    Raises InputError if it is not available.
    """
    if run.adapter is None:
        return export
    source = base_of(export)
    if run.config.model.init == "pretrained" and run.config.model.name in PACKAGED_MODELS:
        return ensure(str(run.config.model.name))
    # A base that was moved, or that is in a bucket, is found by the config.
    for where in (source, run.config.model.name or ""):
        if storage.is_remote(where):
            return storage.local(where)
        if where and Path(where).is_dir():
            return Path(where)
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
