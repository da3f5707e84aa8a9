"""What travels to a job server: config.yaml, medray's own package and, where asked, data files.

Files are linked into a private folder, which Ray then packs: nothing else of this machine can be in the package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import medray
from medray.config import Config
from medray.config.load import is_url
from medray.errors import InputError
from medray.launch.parcel import check_seen, config_text, paths

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

CONFIG_FILE = "config.yaml"
DATA_FOLDER = "data"
IGNORE_FILES = (".gitignore", ".rayignore")
IGNORE_GITIGNORE = "RAY_RUNTIME_ENV_IGNORE_GITIGNORE"  # Ray's own variable: 1 takes what .gitignore names
LARGEST_SHOWN = 3
MB = 10**6


@dataclass(frozen=True)
class Package:
    """folder: becomes the working directory of the job. modules: folder of medray's package, None where it stays here.

    sizes: of every file, in bytes before compression. config: text of config.yaml.
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
    """Link what the config needs into the folder `into`.

    seen: whether the cluster sees an absolute path of this machine. where: name of the cluster in messages.
    exclude: patterns, as in .gitignore, of files that stay here although a folder or a pattern of the config holds them.
    Raises InputError for a path that the cluster does not see, and for a package above launch.job.max_package_mb.
    """
    files: dict[str, Path] = {}
    if with_data:
        config = _with_data(config, seen, exclude, files)
    check_seen(
        config,
        lambda path: seen(path) or not os.path.isabs(path),
        where=where,
        fix="name a folder that every node sees in launch.job.shared_folders, or send data files with --with-data",
    )
    # Without a corpus the root is the config's folder on this machine, and every other path is whole by now.
    if config.data.dataset in (None, "clinic"):
        config = config.model_copy(update={"data": config.data.model_copy(update={"root": None})})
    text = config_text(config)
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
        link.symlink_to(path)  # Ray reads what a link leads to, so that no copy of a record is left here
    return Package(folder, modules / "medray" if config.launch.job.send_package else None, sizes, text)


def _own_files() -> Iterator[tuple[str, Path]]:
    """Files of the running medray, a checkout's or an installed one's, without caches."""
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
        fix="put large files into a bucket or a folder that every node sees, leave files out with --exclude PATTERN, or "
        "raise the limit (Ray takes 500 MB at most)",
    )


def _with_data(
    config: Config, seen: Callable[[str], bool], exclude: Sequence[str], files: dict[str, Path]
) -> Config:
    """The config with paths below DATA_FOLDER for what the cluster does not see; those files are added to `files`."""
    data = config.data

    def packed(key: str, path: str, number: int) -> str:
        if is_url(path) or seen(path):
            return path
        target = f"{DATA_FOLDER}/{number}"
        base, kept = _files_of(key, path, exclude)
        files.update({f"{target}/{file.relative_to(base).as_posix()}": file.resolve() for file in kept})
        below = Path(path).relative_to(base).as_posix()
        return target if below == "." else f"{target}/{below}"

    numbered = {key: (path, number) for number, (key, path) in enumerate(paths(config))}

    def moved(key: str, path: str) -> str:
        return packed(key, path, numbered[key][1]) if key in numbered else path

    update: dict[str, object] = {"template": moved("data.template", data.template)}
    if data.root and "data.root" in numbered:
        update["root"] = moved("data.root", data.root)
    for split in ("train", "validation"):
        update[split] = tuple(
            source.model_copy(update={"path": moved(f"data.{split}[{number}].path", source.path)})
            for number, source in enumerate(getattr(data, split))
        )
    update["decontaminate"] = tuple(
        moved(f"data.decontaminate[{number}]", file) for number, file in enumerate(data.decontaminate)
    )
    return config.model_copy(update={"data": data.model_copy(update=update)})


def _files_of(key: str, path: str, exclude: Sequence[str]) -> tuple[Path, list[Path]]:
    """The folder that names stay relative to, and the files that a path of the config names, as the run expands it."""
    from medray.data import files

    whole = Path(path)
    if key == "data.root":
        base, found = whole, _walk(whole, key)
    elif whole.is_file():
        base, found = whole.parent, [whole]
    elif whole.is_dir():
        base = whole
        expanded = [Path(each) for each in files.expand(path, key=key)]
        found = _walk(whole, key) if expanded == [whole] else expanded  # a data set that `datasets` saved
    else:
        found = [Path(each) for each in files.expand(path, key=key)]
        base = Path(os.path.commonpath([whole.parent, *(each.parent for each in found)]))
    ignored = Ignored(base, exclude)
    kept = [each for each in found if not ignored(each, named=each == whole)]
    if not kept:
        raise InputError(
            f"every file of {path} is left out by --exclude, .gitignore or .rayignore",
            key=key,
            value=path,
            fix=f"name the file itself, or change the patterns; {IGNORE_GITIGNORE}=1 takes what .gitignore names",
        )
    return base, kept


def _walk(folder: Path, key: str) -> list[Path]:
    from medray.data.files import MOST_ENTRIES

    found: list[Path] = []
    for parent, _, names in os.walk(folder):
        found += [Path(parent) / name for name in sorted(names)]
        if len(found) > MOST_ENTRIES:
            raise InputError(
                f"{folder} holds more than {MOST_ENTRIES:,} files",
                key=key,
                value=str(folder),
                fix="put it into a bucket or a folder that every node sees",
            )
    return found


class Ignored:
    """Whether a file below `base` stays here: by a pattern of --exclude, or by an ignore file between `base` and it.

    Ray reads the same files of a working directory. A file that the config names itself travels whatever they say, and
    only --exclude can leave it out.
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
