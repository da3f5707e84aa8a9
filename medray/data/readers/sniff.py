"""The check of what is probably wrong with a file of which no row can be used, from its first bytes."""

from __future__ import annotations

from medray.data import files
from medray.data.files.formats import compression_of
from medray.errors import InputError

_READ = 64 << 10  # bytes
_SIGNS = {";": "semicolons", "|": "bars", "\t": "tabs", ",": "commas"}
_NATIVE = {"csv": ",", "tsv": "\t", "tsv_quoted": "\t"}


def what_is_wrong(path: str, format: str) -> tuple[str, str] | None:
    """Return what is probably wrong with a file, and a fix; None if its first bytes do not show it.

    Only for files that are not compressed. The result contains no text of the file.
    """
    if format not in (*_NATIVE, "jsonl", "json") or compression_of(path) is not None:
        return None
    try:
        with files.open_binary(path) as stream:
            data = stream.read(_READ)
    except (OSError, InputError):
        return None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "the file is UTF-16", "save it as UTF-8: iconv -f UTF-16 -t UTF-8"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 4:  # not only a character that the end of the piece cuts
            return (
                "the file is not UTF-8; it is probably Windows-1252 (Latin-1), as Excel writes it",
                "save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8",
            )
        text = data[: error.start].decode("utf-8-sig")
    return _wrong_json(text) if format == "jsonl" else _wrong_table(text, _NATIVE.get(format))


def _wrong_json(text: str) -> tuple[str, str] | None:
    lines = [line.strip() for line in text.splitlines()[:20] if line.strip()]
    if not lines:
        return None
    if lines[0].startswith("["):
        return (
            "the file is a JSON array, but JSONL has one object in each line",
            "set the format of the source: {path: …, format: json}",
        )
    if lines[0].startswith("{") and all(line.endswith(",") for line in lines[:-1] or lines):
        objects = lines[0].endswith("},")
        what = "each line ends with a comma" if objects else "the objects are written over several lines"
        return what, "set the format of the source: {path: …, format: json}, which reads such files"
    if lines[0] == "{":
        return (
            "the objects are written over several lines",
            "set the format of the source: {path: …, format: json}, which reads such files",
        )
    return None


def _wrong_table(text: str, native: str | None) -> tuple[str, str] | None:
    header = text.splitlines()[0] if text.strip() else ""
    if native is None or native in header:
        return None
    for sign, name in _SIGNS.items():
        if sign != native and header.count(sign):
            other = {"\t": "format: tsv", ",": "format: csv"}.get(sign)
            return (
                f"the cells of its header are separated by {name}",
                f"set the format of the source: {{path: …, {other}}}"
                if other
                else f"save the file with {_SIGNS[native]} between the cells",
            )
    return None
