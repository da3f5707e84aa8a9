"""The package that is sent to a job server: config.yaml, medray itself and, if wanted, data files.

The files are linked into a private folder, which Ray then packs, so that no other file of this machine gets into the
package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medray
from medray.config import Config
from medray.config.data import DataConfig
from medray.config.loading.load import is_url
from medray.errors import InputError
from medray.launch.parcel import check_seen, config_text, paths, without_unused_root

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

CONFIG_FILE = "config.yaml"
DATA_FOLDER = "data"
IGNORE_FILES = (".gitignore", ".rayignore")
IGNORE_GITIGNORE = (
    "RAY_RUNTIME_ENV_IGNORE_GITIGNORE"  # Ray's variable: with 1, files in .gitignore are sent too
)
LARGEST_SHOWN = 3
MB = 10**6


@dataclass(frozen=True)
class Package:
    """The files that are sent with a job. folder: the working directory of the job.

    modules: folder of medray, None if it is not sent. sizes: size of every file, in bytes before compression. config:
    text of config.yaml.
    """

    folder: Path
    modules: Path | None
    sizes: dict[str, int]
    config: str

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


def pack(
    config: Config,
    into: Path,
    *,
    seen: Callable[[str], bool],
    where: str,
    with_data: bool = False,
    exclude: Sequence[str] = (),
) -> Package:
    """Link everything that a job needs into the folder `into`, and return it as a package.

    seen: function that says whether the cluster can read an absolute path of this machine. where: name of the cluster
    for messages. exclude: .gitignore patterns of files that are not sent, although a folder or a pattern of the config
    contains them. Raises InputError for a path that the cluster cannot read, and for a package larger than
    launch.job.max_package_mb.
    """
    files: dict[str, Path] = {}
    if with_data:
        config = _with_data(config, seen, exclude, files)
    check_seen(
        config,
        lambda path: seen(path) or not os.path.isabs(path),
        where=where,
        fix="add a folder that every node sees to launch.job.shared_folders, or send data files with --with-data",
    )
    text = config_text(without_unused_root(config))
    if config.launch.job.send_package:
        files |= {f"medray/{name}": path for name, path in _own_files()}
    sizes = {CONFIG_FILE: len(text.encode()), **{name: path.stat().st_size for name, path in files.items()}}
    _check_size(sizes, config.launch.job.max_package_mb)

    folder, modules = into / "job", into / "modules"
    for each in (folder, modules):
        each.mkdir(mode=0o700)
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    for name, path in files.items():
        link = (modules if name.startswith("medray/") else folder) / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)  # Ray follows links, so no copy of a record is left on this machine
    return Package(folder, modules / "medray" if config.launch.job.send_package else None, sizes, text)


def _own_files() -> Iterator[tuple[str, Path]]:
    """Yield the files of the running medray, from a checkout or an installation, without caches."""
    root = Path(medray.__file__).resolve().parent
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        hidden = any(part == "__pycache__" or part.startswith(".") for part in relative.parts)
        if path.is_file() and not hidden:
            yield relative.as_posix(), path


def _check_size(sizes: dict[str, int], limit_mb: int) -> None:
    total = sum(sizes.values())
    if total <= limit_mb * MB:
        return
    largest = sorted(sizes, key=lambda name: -sizes[name])[:LARGEST_SHOWN]
    shown = ", ".join(f"{name} ({sizes[name] / MB:,.1f} MB)" for name in largest)
    raise InputError(
        f"the package has {total / MB:,.1f} MB before compression; its largest files are {shown}",
        key="launch.job.max_package_mb",
        value=limit_mb,
        fix="put large files into a bucket or a folder that every node sees, exclude files with --exclude PATTERN, or "
        "raise the limit (Ray allows at most 500 MB)",
    )


def _with_data(
    config: Config, seen: Callable[[str], bool], exclude: Sequence[str], files: dict[str, Path]
) -> Config:
    """Move the paths that the cluster does not see below DATA_FOLDER. Returns the config and adds the files to `files`."""
    numbered = {path: (number, key) for number, (key, path) in enumerate(paths(config))}

    def moved(path: str) -> str:
        if path not in numbered or is_url(path) or seen(path):
            return path
        number, key = numbered[path]
        target = f"{DATA_FOLDER}/{number}"
        base, kept = _files_of(key, path, exclude)
        files.update({f"{target}/{file.relative_to(base).as_posix()}": file.resolve() for file in kept})
        below = Path(path).relative_to(base).as_posix()
        return target if below == "." else f"{target}/{below}"

    data = _moved_data(config.data.model_dump(mode="json", exclude_unset=True), moved)
    stages = [
        stage.model_copy(update={"data": _moved_data(stage.data, moved)} if stage.data else {})
        for stage in config.stages
    ]
    return config.model_copy(
        update={"data": DataConfig.model_validate(data)} | ({"stages": tuple(stages)} if stages else {})
    )


def _moved_data(data: Mapping[str, Any], moved: Callable[[str], str]) -> dict[str, Any]:
    """Return the keys of a section `data` as `read` leaves them, with other paths."""
    tree = dict(data)
    for name in ("root", "template"):
        if tree.get(name):
            tree[name] = moved(tree[name])
    for split in ("train", "validation"):
        if split in tree:
            tree[split] = [source | {"path": moved(source["path"])} for source in tree[split]]
    if (tree.get("split") or {}).get("validation_ids"):
        tree["split"] = tree["split"] | {"validation_ids": moved(tree["split"]["validation_ids"])}
    if "decontaminate" in tree:
        tree["decontaminate"] = [moved(file) for file in tree["decontaminate"]]
    return tree


def _files_of(key: str, path: str, exclude: Sequence[str]) -> tuple[Path, list[Path]]:
    """Return the files that a path of the config names, expanded as the run expands it, after their base folder.

    The names of the sent files are relative to the base folder.
    """
    from medray.data import files

    whole = Path(path)
    if key.endswith("data.root"):
        base, found = whole, _walk(whole, key)
    elif whole.is_file():
        base, found = whole.parent, [whole]
    elif whole.is_dir():
        base = whole
        expanded = [Path(each) for each in files.expand(path, key=key)]
        found = (
            _walk(whole, key) if expanded == [whole] else expanded
        )  # the first: a data set saved by `datasets`
    else:
        found = [Path(each) for each in files.expand(path, key=key)]
        base = Path(os.path.commonpath([whole.parent, *(each.parent for each in found)]))
    ignored = Ignored(base, exclude)
    kept = [each for each in found if not ignored(each, named=each == whole)]
    if not kept:
        raise InputError(
            f"--exclude, .gitignore or .rayignore exclude every file of {path}",
            key=key,
            value=path,
            fix=f"set this key to the path of the file itself, change the patterns, or set {IGNORE_GITIGNORE}=1 to ignore .gitignore",
        )
    return base, kept


def _walk(folder: Path, key: str) -> list[Path]:
    from medray.data.files import MOST_ENTRIES

    found: list[Path] = []
    for parent, _, names in os.walk(folder):
        found += [Path(parent) / name for name in sorted(names)]
        if len(found) > MOST_ENTRIES:
            raise InputError(
                f"{folder} contains more than {MOST_ENTRIES:,} files",
                key=key,
                value=str(folder),
                fix="put the folder into a bucket, or on a file system that every node sees",
            )
    return found


class Ignored:
    """A function that says whether --exclude or an ignore file on the way to it excludes a file below `base`.

    Ray reads the same ignore files in a working directory. They do not exclude a file that the config names itself;
    only --exclude does.
    """

    def __init__(self, base: Path, exclude: Sequence[str]) -> None:
        from pathspec import GitIgnoreSpec

        self._base = base
        self._excluded = GitIgnoreSpec.from_lines(exclude)
        self._of_folder: dict[Path, GitIgnoreSpec] = {}

    def __call__(self, file: Path, *, named: bool) -> bool:
        if self._excluded.match_file(file.relative_to(self._base).as_posix()):
            return True
        if named:
            return False
        folders = [folder for folder in file.parents if folder == self._base or self._base in folder.parents]
        return any(self._spec(folder).match_file(file.relative_to(folder).as_posix()) for folder in folders)

    def _spec(self, folder: Path) -> GitIgnoreSpec:
        from pathspec import GitIgnoreSpec

        if folder not in self._of_folder:
            names = [
                name
                for name in IGNORE_FILES
                if name != ".gitignore" or os.environ.get(IGNORE_GITIGNORE) != "1"
            ]
            lines = [
                line
                for name in names
                if (folder / name).is_file()
                for line in (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
            ]
            self._of_folder[folder] = GitIgnoreSpec.from_lines(lines)
        return self._of_folder[folder]
