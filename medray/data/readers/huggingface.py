"""The reader of Hugging Face data sets: a folder that save_to_disk wrote, or a name on the hub or in its local cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from medray import storage
from medray.data.files.formats import is_saved_dataset
from medray.data.printable import type_names
from medray.data.records import BadRowError, Row
from medray.errors import InputError

_BATCH_ROWS = 512
_INFO = "dataset_info.json"
_LARGEST_INFO = 64 << 20  # bytes


def read(path: str, split: str = "train", subset: str | None = None) -> Iterator[tuple[int, Row]]:
    """Read the rows of one split: yield (number from 1, row). Values are as stored, but a class label is its name.

    A class label without a name, such as the -1 of a test split, is null. A row with bytes, such as an image, is a bad row. No code of a data set is ever run. Raises InputError if there is
    no such data set or split, if there is neither a network nor a local copy, or if a file is damaged.
    """
    from medray.data.readers.parquet import rows

    data, number = _opened(path, split, subset).with_format("arrow"), 0
    classes = _classes(data.features)
    try:
        for table in data.iter(_BATCH_ROWS):
            # The file is mapped into memory unchecked, so validate every offset before it is used.
            table.validate(full=True)
            for row in rows(table):
                number += 1
                yield number, row if isinstance(row, BadRowError) else _with_names(row, classes)
    except Exception as error:  # errors of Arrow and datasets: KeyError, SystemError, OSError and more
        raise InputError(
            f"the data set is damaged after row {number} ({type(error).__name__})",
            file=path,
            fix="copy the data set again, or save it again with save_to_disk",
        ) from None


def _classes(features: Any) -> dict[str, list[str]]:
    """Return the names of the classes of each column that holds a class label, or a list of them."""
    import datasets

    found = {}
    for name, feature in features.items():
        of_items = getattr(feature, "feature", feature)
        if isinstance(of_items, datasets.ClassLabel):
            found[name] = list(of_items.names)
    return found


def _with_names(row: dict[str, Any], classes: dict[str, list[str]]) -> dict[str, Any]:
    return {**row, **{column: _named(row.get(column), names) for column, names in classes.items()}}


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def has_classes(path: str, split: str = "train", subset: str | None = None) -> bool:
    """Return whether a column holds class labels. A folder is asked without the library, whose import takes a second."""
    if not is_saved_dataset(path):
        return bool(_classes(_opened(path, split, subset).features))
    folder = storage.at(path)
    for file in (folder / split / _INFO, folder / _INFO):
        try:
            features = storage.read_json(file, limit_bytes=_LARGEST_INFO).get("features")
        except FileNotFoundError:
            continue
        except (OSError, InputError):
            return False  # a damaged folder is refused when its rows are read
        columns = features.values() if isinstance(features, dict) else ()
        return any(
            _is_class(each) or (isinstance(each, dict) and _is_class(each.get("feature"))) for each in columns
        )
    return False


def _is_class(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel"


def _opened(path: str, split: str, subset: str | None) -> Any:
    import datasets

    if os.path.isdir(path):
        if not is_saved_dataset(path):
            raise InputError(
                "the folder holds no data set",
                file=path,
                fix="use a folder that save_to_disk wrote, or a name on the hub",
            )
        found = _loaded(lambda: datasets.load_from_disk(path), path)
        if not isinstance(found, datasets.DatasetDict):
            if split != "train" and found.split is not None and str(found.split) != split:
                raise InputError(
                    "the data set in this folder has one split, and it is not this one",
                    file=path,
                    key="split",
                    value=split,
                    fix=f"remove split, or set it to {type_names([str(found.split)]) or 'the name in its state.json'}",
                )
            return found
        if split not in found:
            raise InputError(
                "the data set has no such split",
                file=path,
                key="split",
                value=split,
                fix=f"use one of {type_names(found) or 'the splits in its dataset_dict.json'}",
            )
        return found[split]
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise InputError(
            "this is neither a folder nor the name of a data set",
            file=path,
            fix="use a name such as org/name",
        )
    return _loaded(lambda: datasets.load_dataset(path, subset, split=split), path)


def _loaded(load: Any, path: str) -> Any:
    import datasets

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return load()
    except (
        Exception
    ) as error:  # errors of the hub, HTTP and builders, whose texts may quote data that was sent
        raise InputError(
            f"the data set cannot be loaded ({type(error).__name__})",
            file=path,
            fix="check name, subset and split; without a network, load it on a machine with one, call save_to_disk(folder) "
            "and use the folder, or copy the cache (HF_HOME)",
        ) from None
    finally:
        if shown:
            datasets.enable_progress_bars()


def fingerprint(path: str, split: str = "train", subset: str | None = None) -> str:
    """Return the fingerprint that the library `datasets` gives to the rows of a split."""
    return str(_opened(path, split, subset)._fingerprint)
