"""The corpora in a folder or at a URL are found."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec

from medray.data.corpora.discover import Discovered, discover

ROW = json.dumps({"input": "a", "label": "b"})


def test_a_url_is_looked_through_like_a_folder(tmp_path: Path) -> None:
    names = ("svamp/svamp_train.json", "svmap/train.json", "esnli/notes.txt", "loose_train.json")
    memory = fsspec.filesystem("memory")
    root = f"/discover-{tmp_path.name}"
    for name in names:
        memory.pipe(f"{root}/{name}", ROW.encode())
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(ROW)
    skipped = {
        "esnli": "the folder has no file of the train split of esnli",
        "svmap": "medray knows no corpus with a folder of this name; did you mean SVAMP?",
    }
    for source in (str(tmp_path), f"file://{tmp_path}", f"memory:/{root}"):
        assert discover(source) == Discovered({"svamp": f"{source}/svamp"}, skipped)
    memory.rm(root, recursive=True)
