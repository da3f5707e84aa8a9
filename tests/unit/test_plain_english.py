"""The rules of plain English that a program can check: docstrings are sentences, messages use the field's words.

    python tests/unit/test_plain_english.py medray/ROOM ...

prints what a folder or file breaks. A room that is done joins `ROOMS`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = (
    "medray/__init__.py",
    "medray/__main__.py",
    "medray/errors.py",
    "medray/storage",
    "medray/config",
    "medray/plan",
    "medray/backends",
    "medray/tracking",
    "medray/report",
    "medray/clinic",
    "medray/data",
    "medray/methods",
    "medray/models",
    "medray/evaluate",
    "medray/train",
    "medray/release",
    "medray/stages",
    "medray/icl",
    "medray/pairs",
    "medray/launch",
    "medray/synth",
    "medray/tune",
    "medray/cli",
    "configs",
    "k8s",
    "slurm",
    "Dockerfile",
    "Makefile",
)
# Files whose strings are content: texts of a corpus, prompts, fixtures. Their docstrings and comments are checked.
CONTENT = ("medray/clinic/", "medray/data/corpora/")

# A docstring starts with a verb or a noun. These words begin a clause that hangs on what is below, or a fragment.
NEVER_FIRST = re.compile(
    r"(?:about|after|and|as|at|because|before|beside|besides|between|but|by|during|for|from|how|if|in|into|"
    r"it|its|of|on|or|so|such|than|that|their|them|they|those|to|under|until|upon|what|whatever|when|"
    r"where|whether|which|who|whoever|whose|why|with|within|without)",
    re.I,
)
# A fix is an instruction. These words begin a noun, a condition or a bare command line.
NO_INSTRUCTION = re.compile(
    r"(?:a|an|another|any|as|at|either|fewer|folders|for|hours:minutes:seconds|ids|if|in|it|its|kubectl|"
    r"medray|more|no|null|one|org/name|pip|relative|rows|some|such|that|the|this|to|two|with|without)",
    re.I,
)
# What the docs of PyTorch, httpx or Ray would not say, and what they would.
WORDS = {
    r"(?<!-)places?(?! ?holder)": "path, position, index, machine, …",
    r"stands?(?!-)|standing": "is",
    r"lies?(?!-)": "is",
    r"beside|behind": "next to, after, in front of, …",
    r"alike": "the same, in all cases",
    r"anew": "again, from the start",
    r"shall": "should, must, will",
    r"(?:be|is|was|been) had": "cannot load, is not available",
    r"(?:go|goes|going|gone|went) on(?! to)": "resume, continue",
    r"mend(?:s|ed|ing)?": "fix",
    r"so many": "this many, N",
    r"an? \w+ each": "one … per …",
    r"for ever": "forever",
    r"whole of|thereof|whereof|hereby": "say it plainly",
}
BANNED = re.compile(
    r"\b(?:" + "|".join(f"(?P<w{i}>{pattern})" for i, pattern in enumerate(WORDS)) + r")\b", re.I
)
# Code, and terms of the field.
USUAL = re.compile(r"`[^`\n]*`|\bin[ -]place\b(?! of)|\bdecimal places?\b", re.I)


def problems(path: Path | str) -> list[str]:
    """Return what a file, or every file of a folder, breaks, as 'file:line: what'."""
    path = Path(path).resolve()
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)
        return [one for file in files for one in problems(file)]
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []
    found = _python(text, name) if path.suffix == ".py" else _comments_of_text(text)
    return [f"{name}:{line}: {what}" for line, what in sorted(found)]


def _python(text: str, name: str) -> Iterator[tuple[int, str]]:
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node)
        if docstring is not None:
            value = node.body[0].value  # type: ignore[attr-defined]
            docstrings.add(value)
            yield from ((value.lineno, what) for what in _docstring(docstring))
            yield from _banned(docstring, value.lineno)
    content = name.startswith(CONTENT)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            if not content and re.search(r"[A-Za-z] [a-z]", node.value):  # more than one word: prose
                yield from _banned(node.value, node.lineno)
        elif isinstance(node, ast.keyword) and node.arg == "fix":
            yield from ((node.value.lineno, what) for what in _fix(node.value))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from _banned(token.string, token.start[0])


def _docstring(text: str) -> Iterator[str]:
    """Yield how a docstring breaks rule 1: a capital word that is a verb or a noun first, a sentence mark last."""
    first = text.split()[0] if text.split() else ""
    if not re.match(r"[A-Z]", first):
        yield f"docstring starts with {first!r}: start with a verb or a noun, capitalized"
    elif NEVER_FIRST.fullmatch(re.sub(r"\W+$", "", first)):
        yield f"docstring starts with {first!r}: start with a verb, or a noun and its article"
    paragraph = text.strip().split("\n\n")[0]
    if not re.search(r"[.:!?][)\]\"'`”]*$", paragraph):
        yield "the first paragraph of a docstring ends without a sentence mark"


def _fix(value: ast.expr) -> Iterator[str]:
    """Yield how the text of `fix=` breaks rule 5; texts that a program puts together are not read."""
    if isinstance(value, ast.JoinedStr) and value.values:
        value = value.values[0]
    if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
        first = value.value.split()[0]
        if re.match(r"[-\W]", first) or re.search(r"[:=]$|=.", first) or NO_INSTRUCTION.fullmatch(first):
            yield f"fix starts with {first!r}: start with an instruction (use, set, remove, …)"


def _comments_of_text(text: str) -> Iterator[tuple[int, str]]:
    """Yield banned words of the comments of YAML, shell and Docker files."""
    for line, content in enumerate(text.splitlines(), 1):
        comment = re.search(r"(?:^|\s)#(.*)", content)
        if comment:
            yield from _banned(comment[1], line)


def _banned(text: str, line: int) -> Iterator[tuple[int, str]]:
    plain = USUAL.sub(lambda found: "·" * len(found[0]), text)
    for found in BANNED.finditer(plain):
        assert found.lastgroup is not None
        instead = list(WORDS.values())[int(found.lastgroup[1:])]
        yield line + plain.count("\n", 0, found.start()), f"{found[0]!r}: say {instead}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_keeps_the_rules(room: str) -> None:
    assert problems(ROOT / room) == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('"""Of a run: its folder."""', ["docstring starts with 'Of'"]),
        ('"""the folder of a run."""', ["docstring starts with 'the'"]),
        ('"""Return the folder of a run"""', ["sentence mark"]),
        ('"""Return the folder.\n\nshape: as given"""', []),
        ('"""Modify the mask in place."""', []),
        ('"""Use zeros in place of the mask."""', ["'place'"]),
        ('x = 1  # the rows stand behind it', ["'behind'", "'stand'"]),
        ('f"{x}: go on with the run"', ["'go on'"]),
        ('raise InputError("bad", fix="a smaller value")', ["fix starts with 'a'"]),
        ('raise InputError("bad", fix=f"run.name: {x}")', ["fix starts with 'run.name:'"]),
        ('raise InputError("bad", fix="use a smaller value")', []),
        ('"""Return the `place` of a row."""', []),
        ('x = "place"', []),
    ],
)  # fmt: skip
def test_the_lint_finds_what_breaks_a_rule(tmp_path: Path, source: str, words: list[str]) -> None:
    file = tmp_path / "example.py"
    file.write_text(source)
    found = problems(file)
    assert len(found) == len(words)
    assert all(word in one for word, one in zip(words, found, strict=True)), found


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(*problems(each), sep="\n")
