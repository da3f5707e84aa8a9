"""Detection of the format of a file, from its name alone."""

from __future__ import annotations

import os
import re

from medray.data.files.remote import shown
from medray.errors import InputError

COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".bz2": "bz2", ".xz": "xz"}
ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pubtator": "pubtator",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".xml": "medquad_xml",
    ".bioc": "bioc",
}

_ARCHIVE = ("an archive", "unpack it, and set the files in it")
_WORKBOOK = ("a workbook", "save the sheet as CSV (UTF-8)")
_DOCUMENT = ("a document", "write its text into a column of a CSV or JSON Lines file, one document per row")
_PICKLE = ("a pickle, which can run code when it is read", "write the data as Parquet or JSON Lines")
_BRAT = ("a file of BRAT annotations", "convert the folder to BioC or PubTator")
_ARROW = ("an Arrow file", "write it as Parquet, or set the folder that save_to_disk wrote")
# Endings of formats that medray does not read → what such a file is, and a fix.
UNSUPPORTED = {
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), _ARCHIVE),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods"), _WORKBOOK),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pdf", ".html", ".htm"), _DOCUMENT),
    **dict.fromkeys((".pkl", ".pickle", ".pt"), _PICKLE),
    **dict.fromkeys((".ann", ".a1", ".a2"), _BRAT),
    **dict.fromkeys((".arrow", ".feather"), _ARROW),
    ".txt": (
        "plain text, which has no rows",
        "write one JSON object per note, with its text and its label; for PubTator or CoNLL text, set the format of the "
        "source: {path: …, format: pubtator}",
    ),
}

SAVED_DATASET = ("dataset_dict.json", "state.json")  # files that datasets' save_to_disk writes into a folder


def format_of(path: str) -> str:
    """Return the format of a file, derived from its ending; endings such as .gz are removed first.

    A .json or .xml with the word BioC in its name is bioc, a .txt with PubTator in its name is pubtator, and a folder
    that datasets' save_to_disk wrote is huggingface. Raises InputError for every other name.
    """
    found = known_format(path)
    if found is None:
        ending = os.path.splitext(_plain_name(shown(path)))[1]
        if ending in COMPRESSIONS:
            raise InputError(
                "the endings of this file say that it is compressed twice",
                file=shown(path),
                fix="unpack it once",
            )
        if ending in UNSUPPORTED:
            what, fix = UNSUPPORTED[ending]
            raise InputError(f"medray does not read {ending}: this is {what}", file=shown(path), fix=fix)
        raise InputError(
            f"{ending} is not a known format"
            if ending
            else "the file name has no ending that shows its format",
            file=shown(path),
            fix=f"set the format of this source in the config ({{path: …, format: …}}), or use a file that ends in one of {', '.join(ENDINGS)} (also with {', '.join(COMPRESSIONS)})",
        )
    return found


def known_format(path: str) -> str | None:
    """Return the format of a file like `format_of`, but None if its name shows no format."""
    name = _plain_name(path)
    ending = os.path.splitext(name)[1]
    if ending in (".json", ".xml") and "bioc" in re.split(r"[^a-z0-9]", name):
        return "bioc"
    if ending == ".txt" and "pubtator" in name:
        return "pubtator"
    if ending in ENDINGS:
        return ENDINGS[ending]
    return "huggingface" if "://" not in path and is_saved_dataset(path) else None


def compression_of(path: str) -> str | None:
    """Return the compression that the ending of a path shows: gz, zst, bz2, xz, or None."""
    return COMPRESSIONS.get(os.path.splitext(_name(path))[1])


def _plain_name(path: str) -> str:
    """Return the last part of a path in lower case, without an ending of compression."""
    name = _name(path)
    stem, ending = os.path.splitext(name)
    return stem if ending in COMPRESSIONS else name


def _name(path: str) -> str:
    if path.startswith(("http://", "https://")):
        path = re.sub(r"[?#].*", "", path)
    return path.rstrip("/").rsplit("/", 1)[-1].lower()


def is_saved_dataset(path: str) -> bool:
    """Return whether this is a local folder that datasets' save_to_disk wrote."""
    return any(os.path.isfile(os.path.join(path, name)) for name in SAVED_DATASET)
