"""Import of a published corpus into plain files: the rows of each split, the rejected rows, and a record of their origin.

All files are written to a temporary folder and moved to the target together at the end, import.json last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medray.data import corpora, files
from medray.data.corpora import extraction, instruct, multiclinsum
from medray.data.corpora.published import CORPORA, CorpusOptions
from medray.data.records import BadRowError
from medray.errors import InputError

ACCOUNT, REJECTS = "import.json", "rejects.jsonl"


@dataclass(frozen=True)
class Subset:
    """The rows to choose from an instruct set.

    mode: slices (the published short set) or sample (`rows` rows drawn with `seed`).
    """

    mode: str
    rows: int = instruct.SHORT_ROWS
    seed: int = 0


@dataclass
class SplitAccount:
    """The numbers of rows of a split that were written, rejected and left out on purpose; they add up to the rows read.

    dropped: rows left out, by reason. published: the published number of rows. without_rationale: written rows with a
    blank or absent rationale; None if the corpus has no rationales. teacher: a TeacherReport of the written rows, with
    the teacher's accuracy; None if the corpus itself provides labels and rationales, which are right by definition.
    """

    rows: int = 0
    rejected: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    published: int | None = None
    without_rationale: int | None = None
    teacher: dict[str, Any] | None = None


def import_corpus(
    name: str,
    source: str,
    target: Path,
    splits: Sequence[str],
    options: CorpusOptions,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Import a published corpus: write {split}.jsonl, rejects.jsonl and import.json into `target`.

    Returns the content of import.json. Extraction corpora also get collate/{ner,re}/NAME/NAME_{split}_processed.json
    and a complete form as _rich.jsonl; multiclinsum also gets one test file per language. Raises InputError if files
    exist and `force` is not given, or if a split has no rows.
    """
    accounts: dict[str, SplitAccount] = {}
    warnings: list[str] = []
    with _staged(target, force) as stage:
        with _writer(stage / REJECTS) as rejects:
            for split in splits:
                account = SplitAccount(published=corpora.counts(name).get(split))
                accounts[split] = account
                _write_split(name, source, split, options, stage, rejects, account)
                if CORPORA[name].kind == "steps" and _teacher(name, options) != "generic":
                    report = corpora.teacher_report(name, source, split, options)
                    account.teacher = {**asdict(report), "accuracy": report.accuracy} if report else None
                if CORPORA[name].kind in ("steps", "notes", "multiclinsum"):
                    account.without_rationale = sum(map(_unexplained, _rows(stage / f"{split}.jsonl")))
                if CORPORA[name].kind == "notes":
                    warning = corpora.corruption_warning(_rows(stage / f"{split}.jsonl"))
                    warnings += [f"{split}: {warning}"] if warning else []
        paths = dict.fromkeys(path for split in splits for path in corpora.find(name, source, split))
        return _finish(stage, name, accounts, options, paths, warnings)


def _teacher(name: str, options: CorpusOptions) -> str | None:
    return options.teacher or CORPORA[name].teacher


def import_versions(
    versions: Sequence[str], source: str, target: Path, subset: Subset | None, *, force: bool = False
) -> dict[str, Any]:
    """Import published instruct sets: write PUBLISHED_NAME/train.jsonl for each, and rejects.jsonl and import.json.

    subset: the rows to choose from every set; None: all rows of a set, or the published slices of a short set. In
    import.json, `splits` counts the written rows of each set, `sources` the usable rows of the source corpora.
    """
    wanted = {version: instruct.published_name(version) for version in versions}
    names = [name for name in ("wikidoc", "medquad") if any(name in instruct.sources_of(v) for v in versions)]
    sources = {name: SplitAccount(published=corpora.counts(name)["train"]) for name in names}
    accounts: dict[str, SplitAccount] = {}
    with _staged(target, force) as stage:
        tables: dict[str, list[dict[str, Any]]] = {}
        with _writer(stage / REJECTS) as rejects:
            for name in names:
                good = _good_rows(name, source, "train", CorpusOptions(), rejects, sources[name])
                tables[name] = list(good)
        for version, published in wanted.items():
            table = [row for name in instruct.sources_of(version) for row in tables[name]]
            chosen = instruct.with_prompt(_subset(table, version, subset), version.partition("/")[0])
            left = len(table) - len(chosen)
            accounts[published] = SplitAccount(
                len(chosen), dropped={"not in the subset": left} if left else {}
            )
            with _writer(stage / published / "train.jsonl") as stream:
                stream.writelines(map(_line, chosen))
        paths = dict.fromkeys(path for name in names for path in corpora.find(name, source, "train"))
        return _finish(stage, ", ".join(names), accounts, subset, paths, [], sources)


def import_subset(
    name: str, source: str, target: Path, subset: Subset, *, force: bool = False
) -> dict[str, Any]:
    """Import only chosen rows of an instruct corpus. Otherwise this is like `import_corpus`."""
    account = SplitAccount(published=corpora.counts(name)["train"])
    with _staged(target, force) as stage:
        with _writer(stage / REJECTS) as rejects:
            table = list(_good_rows(name, source, "train", CorpusOptions(), rejects, account))
        chosen = _subset(table, "", subset)
        account.dropped["not in the subset"] = len(table) - len(chosen)
        account.rows = len(chosen)
        with _writer(stage / "train.jsonl") as stream:
            stream.writelines(map(_line, chosen))
        paths = dict.fromkeys(corpora.find(name, source, "train"))
        return _finish(stage, name, {"train": account}, subset, paths, [])


def _subset(table: list[dict[str, Any]], version: str, subset: Subset | None) -> list[dict[str, Any]]:
    if subset is None:
        return instruct.short(table) if version.endswith("_short") else table
    if subset.mode == "slices":
        return instruct.short(table)
    return instruct.sample(table, subset.rows, subset.seed)


def _write_split(
    name: str,
    source: str,
    split: str,
    options: CorpusOptions,
    stage: Path,
    rejects: Any,
    account: SplitAccount,
) -> None:
    with _writer(stage / f"{split}.jsonl") as stream:
        stream.writelines(map(_line, _good_rows(name, source, split, options, rejects, account)))
    if not account.rows:
        raise InputError(
            f"the {split} split of {name} has no usable row (bad rows: {account.rejected}, "
            f"left out: {sum(account.dropped.values())})",
            file=files.shown(source),
            fix="use the folder or file of this corpus as it was published",
        )
    rows = stage / f"{split}.jsonl"
    if CORPORA[name].kind == "extraction":
        task = extraction.task_of(name)
        folder = stage / "collate" / task / name
        with _writer(folder / f"{name}_{split}_processed.json") as stream:
            stream.write(_line(extraction.processed(_rows(rows), task)))
        with _writer(folder / f"{name}_{split}_rich.jsonl") as stream:
            stream.writelines(_line(extraction.rich(row)) for row in _rows(rows))
    if name == "multiclinsum" and split == "test":
        for lang in multiclinsum.LANGUAGES:
            with _writer(stage / f"test_{lang}.jsonl") as stream:
                stream.writelines(_line(row) for row in _rows(rows) if row["lang"] == lang)


def _good_rows(
    name: str, source: str, split: str, options: CorpusOptions, rejects: Any, account: SplitAccount
) -> Iterator[dict[str, Any]]:
    """Yield the usable rows, write the others to `rejects`, and count all rows in `account`."""
    dropped: Counter[str] = Counter()
    for file, line, row in corpora.rows(name, source, split, options, dropped):
        if isinstance(row, BadRowError):
            account.rejected += 1
            rejects.write(
                _line({"corpus": name, "split": split, "file": file, "line": line, "reason": str(row)})
            )
        else:
            account.rows += 1
            yield row
    account.dropped.update(dropped)


def _unexplained(row: dict[str, Any]) -> bool:
    rationale = row.get("rationale")
    return not (rationale.strip() if isinstance(rationale, str) else rationale)


def _finish(
    stage: Path,
    name: str,
    accounts: dict[str, SplitAccount],
    options: CorpusOptions | Subset | None,
    paths: Iterable[str],
    warnings: list[str],
    sources: Mapping[str, SplitAccount] | None = None,
) -> dict[str, Any]:
    found = {
        "corpus": name,
        "splits": {split: asdict(account) for split, account in accounts.items()},
        "sources": {each: asdict(account) for each, account in (sources or {}).items()},
        "options": options and asdict(options),
        "licence": {each: CORPORA[each].licence for each in name.split(", ")},
        "warnings": warnings,
        "files": [
            {"path": files.shown(path), "bytes": files.size(path), "sha256": files.content_hash(path)}
            for path in paths
        ],
        "written": [
            {
                "path": str(file.relative_to(stage)),
                "bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            for file in sorted(stage.rglob("*"))
            if file.is_file()
        ],
    }
    (stage / ACCOUNT).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


@contextmanager
def _staged(target: Path, force: bool) -> Iterator[Path]:
    """Yield a temporary folder whose files move to `target` once all of them are written."""
    if not force and (target / ACCOUNT).exists():
        raise InputError(
            "this folder already contains an import",
            file=target,
            fix="use another folder, or add --force to overwrite it",
        )
    fresh = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=target, prefix=".import-"))
    except OSError as error:
        raise InputError(
            f"this folder cannot be written ({error.strerror})",
            file=target,
            fix="use a folder that you may write to",
        ) from None
    try:
        yield stage
        _move(stage, target, force)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if fresh and not any(target.iterdir()):
            target.rmdir()


def _move(stage: Path, target: Path, force: bool) -> None:
    made = [file.relative_to(stage) for file in stage.rglob("*") if file.is_file()]
    there = [str(file) for file in sorted(made) if (target / file).exists()]
    if there and not force:
        raise InputError(
            f"{len(there)} of the files to write exist already, such as {there[0]}",
            file=target,
            fix="use another folder, or add --force to overwrite them",
        )
    (target / ACCOUNT).unlink(
        missing_ok=True
    )  # the account must never describe other files than those in the folder
    for file in sorted(made, key=lambda file: str(file) == ACCOUNT):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage / file, target / file)


@contextmanager
def _writer(file: Path) -> Iterator[Any]:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", errors="surrogatepass") as stream:
        yield stream


def _line(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # An unpaired surrogate cannot be encoded as UTF-8; it is written as an escape, which restores it when read.
    return (text if text.isascii() or _encodes(text) else json.dumps(value)) + "\n"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
