"""The file of ids that `data.split.validation_ids` names: an official split, given by the ids of its rows."""

from __future__ import annotations

import json
import re

import numpy as np

from medray.data import files
from medray.data.index.text_overlap import text_hash
from medray.errors import InputError

KEY = "data.split.validation_ids"
LARGEST = 256 << 20  # bytes; ten million ids


def read_ids(path: str) -> np.ndarray:
    """Return the hashes of the ids in a file, uint64, sorted and unique.

    The file is a JSON list of ids, a JSON object whose keys are ids (such as PubMedQA's ground truth, with an answer for
    each), or a text file with one id per line. Raises InputError for a file that is none of these or has no id.
    """
    try:
        with files.open_binary(path) as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise _refused(path, f"the file cannot be read ({error.strerror or type(error).__name__})") from None
    if len(data) > LARGEST:
        raise _refused(path, f"the file has more than {LARGEST:,} bytes, so it is not a list of ids")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(path, f"the file is not UTF-8 text (byte {error.start})") from None
    found = _from_json(text, path) if re.match(r"\s*[\[{]", text) else text.splitlines()
    ids = {each.strip() for each in found} - {""}
    if not ids:
        raise _refused(path, "the file has no id")
    return np.unique(np.array([text_hash(each) for each in ids], np.uint64))


def _from_json(text: str, path: str) -> list[str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _refused(path, "the file begins like JSON but cannot be parsed as JSON") from None
    found = list(value)
    if not all(isinstance(each, str | int) and not isinstance(each, bool) for each in found):
        raise _refused(path, "the JSON list has entries that are not ids")
    return [str(each) for each in found]


def _refused(path: str, what: str) -> InputError:
    return InputError(
        what,
        key=KEY,
        value=files.shown(path),
        fix="use a text file with one id per line, a JSON list of ids, or a JSON object whose keys are ids",
    )


def rows_with(ids: np.ndarray, of_rows: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, int]:
    """Return which rows have one of the ids, bool, and how many ids no good row has.

    of_rows: hash of the id of each row, 0 for a row without one. Raises InputError if no row has any of the ids, or if
    all good rows do.
    """
    chosen = good & np.isin(of_rows, ids)
    missing = int((~np.isin(ids, of_rows[chosen])).sum())
    if not chosen.any():
        raise InputError(
            f"none of the {len(ids):,} ids in the file is the id of a training row"
            + ("" if of_rows.any() else ", because no row has an id"),
            key=KEY,
            fix="set data.columns.id to the column with these ids, or use the file that belongs to this data",
        )
    if chosen.sum() == good.sum():
        raise InputError(
            f"the file has the ids of all {int(good.sum()):,} rows, so none is left for training",
            key=KEY,
            fix="use a file with the ids of the validation rows only",
        )
    return chosen, missing
