"""A published corpus into plain files: rows of each split, rejects, and an account of where they came from.

All files are written beside their place and moved there together at the end, import.json last.
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
    """Of an instruct set. mode: slices (the published short set) or sample (`rows` of them, drawn with `seed`)."""

    mode: str
    rows: int = instruct.SHORT_ROWS
    seed: int = 0


@dataclass
class SplitAccount:
    """Rows written, rows rejected, and rows left out on purpose, a reason each; published: how many there should be.

    The three together are the rows that were read. without_rationale: of those written, rows whose rationale is blank
    or absent; None where a corpus has none at all. teacher: a TeacherReport of the rows written, with its accuracy;
    None where the words are the corpus's own, which are right by definition.
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
    """Writes {split}.jsonl, rejects.jsonl and import.json into `target`; returns what import.json holds.

    Extraction corpora also get collate/{ner,re}/NAME/NAME_{split}_processed.json and the same with everything in it
    as _rich.jsonl; multiclinsum its test split a language. Raises InputError where files are there and `force` is
    not given, and where a split has no rows.
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
    """Writes the published instruct sets, PUBLISHED_NAME/train.jsonl each, and rejects.jsonl and import.json.

    subset: rows that are chosen of every set; None: all of a set, the published slices of a short one.
    `splits` of the account counts the rows written of each set; `sources` the usable rows of what they are made of.
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
    """As import_corpus, with the chosen rows of an instruct corpus alone."""
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
            f"the {split} split of {name} has no usable row: {account.rejected} are bad, "
            f"{sum(account.dropped.values())} left out",
            file=files.shown(source),
            fix="name the folder or file as it was published",
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
    """The usable rows; the others go to `rejects`, and all are counted in `account`."""
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
    """A folder whose files move to `target` once all of them are written."""
    if not force and (target / ACCOUNT).exists():
        raise InputError("an import is there already", file=target, fix="another folder, or --force")
    fresh = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=target, prefix=".import-"))
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror})", file=target, fix="name a folder that you may write to"
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
            f"{len(there)} of the files are there already, such as {there[0]}",
            file=target,
            fix="another folder, or --force",
        )
    (target / ACCOUNT).unlink(missing_ok=True)  # it must never tell of files that are not the ones there
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
    # Half of a surrogate pair has no UTF-8: written as an escape, it is read again as it was.
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
