"""Corpora of documents with entities and relations: those of RAG-ICL, in BigBio's KB form or as processed files.

Published files are read as BigBio's JSON, JSONL or Parquet, or as PubTator, BioC or CoNLL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from medray.data import files
from medray.data.corpora.locate import ROWS, WORDS, File, Names, absent, folders, look, rows_of, split_names
from medray.data.corpora.published import CORPORA, CorpusOptions, CorpusRow
from medray.data.records import BadRowError

Task = Literal["ner", "re"]
_CDR_SETS = {"train": "TrainingSet", "validation": "DevelopmentSet", "test": "TestSet"}
_NCBI_SETS = {"train": "train", "validation": "develop", "test": "test"}
_PUBTATOR = ("pubtator", "PubTator", "PubTator.txt", "pubtator.txt", "txt")
_BIOC = ("bioc.xml", "BioC.xml", "BioC.XML", "bioc", "bioc.json", "BioC.json", "xml")
_CONLL = ("tsv", "conll", "iob", "bio")


def task_of(name: str) -> Task:
    """Return the task of an extraction corpus: ner (entities) or re (relations)."""
    return "re" if CORPORA[name].presets.extraction.answer == "relations" else "ner"


def find(name: str, root: str, split: str) -> list[str]:
    """Return the files of a split. Raises InputError if they are absent."""
    return [file.path for file in _sources(name, root, split)]


def rows(
    name: str, root: str, split: str, options: CorpusOptions, dropped: Counter[str] | None = None
) -> Iterator[CorpusRow]:
    """Yield the documents of a split as rows in BigBio's form, with the document's id.

    dropped: counter of rows left out, by reason. Entities of types that the corpus does not use are left out. For a
    corpus of relations, documents without entities are left out too.
    """
    types, task = CORPORA[name].presets.extraction.types, task_of(name)
    seen: set[str] = set()
    for number, each in enumerate(rows_of(_sources(name, root, split))):
        try:
            if isinstance(each.row, BadRowError):
                raise each.row
            made = _of_types(_checked(each.row), types if task == "ner" else ())
            document = str(each.row.get("document_id") or f"{name}-{split}-{number}")
            if document in seen:
                raise BadRowError("an earlier document has the same document_id")
        except BadRowError as reason:
            yield each._replace(row=reason)
            continue
        seen.add(document)
        if task == "re" and not made["entities"]:
            if dropped is not None:
                dropped["a document without entities"] += 1
            continue
        yield each._replace(row={**made, "id": document, "document_id": document})


def processed(
    rows: Iterable[Mapping[str, Any]], task: Task, types: tuple[str, ...] = ()
) -> dict[str, list[Any]]:
    """Convert documents to {document_id: [text, answers]}, the form that the published scripts write.

    rows: as from `rows`. ner: text is the first string of the first and of the last passage; answers are the distinct
    texts of entities, of which the spelling with an upper-case first letter is preferred. re: text is all strings of
    all passages; answers are the distinct [first, second] texts of relations; documents without entities are left out.
    types: the entity types to use; empty for all.
    """
    made = {}
    for row in rows:
        passages = [_strings(passage["text"]) for passage in row["passages"]]
        kept = _of_types(row, types) if task == "ner" else row
        if task == "re" and not kept["entities"]:
            continue
        answers: list[Any]
        if task == "ner":
            ends = passages if len(passages) < 2 else [passages[0], passages[-1]]
            text, answers = " ".join(strings[0] for strings in ends if strings), _names(kept)
        else:
            text = " ".join(string for strings in passages for string in strings)
            answers = _pairs(kept, types)
        made[str(row.get("document_id") or row["id"])] = [text, answers]
    return made


def rich(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a document to {id, text, entities, relations}, with everything that the processed form loses.

    Offsets refer to `text`.
    """
    text = ""
    for passage in row["passages"]:
        strings, offsets = _strings(passage["text"]), passage.get("offsets") or ()
        for place, string in enumerate(strings):
            start = offsets[place][0] if place < len(offsets) else len(text) + bool(text)
            text = f"{text.ljust(start)}{string}"
    named = ("id", "type", "text", "offsets", "normalized")
    return {
        "id": str(row.get("document_id") or row["id"]),
        "text": text,
        "entities": [{key: entity[key] for key in named if key in entity} for entity in row["entities"]],
        "relations": [
            {key: relation[key] for key in ("id", "type", "arg1_id", "arg2_id") if key in relation}
            for relation in row.get("relations") or ()
        ],
    }


def _names(row: Mapping[str, Any]) -> list[str]:
    found: dict[str, str] = {}
    for entity in row["entities"]:
        name = next(iter(_strings(entity["text"])), "")
        earlier = found.setdefault(name.lower(), name)
        if name[:1].isupper() and not earlier[:1].isupper():
            found[name.lower()] = name
    return [name for name in found.values() if name]


def _pairs(row: Mapping[str, Any], types: tuple[str, ...]) -> list[list[str]]:
    names = {entity["id"]: next(iter(_strings(entity["text"])), "") for entity in row["entities"]}
    pairs = [
        (names[relation["arg1_id"]], names[relation["arg2_id"]])
        for relation in row.get("relations") or ()
        if relation["arg1_id"] in names
        and relation["arg2_id"] in names
        and (not types or relation.get("type") in types)
    ]
    return [list(pair) for pair in dict.fromkeys(pairs)]


def _of_types(row: Mapping[str, Any], types: tuple[str, ...]) -> dict[str, Any]:
    """Return the row with only the entities of these types and the relations between them."""
    if not types:
        return dict(row)
    entities = [entity for entity in row["entities"] if entity.get("type") in types]
    ids = {entity["id"] for entity in entities}
    relations = [
        relation
        for relation in row.get("relations") or ()
        if relation["arg1_id"] in ids and relation["arg2_id"] in ids
    ]
    return {**row, "entities": entities, "relations": relations}


def _checked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row. Raises BadRowError if it is not in BigBio's form."""
    for column, keys in (
        ("passages", ("text",)),
        ("entities", ("id", "text")),
        ("relations", ("arg1_id", "arg2_id")),
    ):
        items = row.get(column, () if column == "relations" else None) or ([] if column in row else None)
        if items is None and column == "relations":
            continue
        if not isinstance(items, list) or not all(
            isinstance(item, Mapping) and all(key in item for key in keys) for item in items
        ):
            raise BadRowError(f"column {column!r} does not have the structure of BigBio's KB form")
    if not any(_strings(passage["text"]) for passage in row["passages"]):
        raise BadRowError("no passage has a text")
    return row


def _strings(value: object) -> list[str]:
    found = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else []
    if not all(isinstance(item, str) for item in found):
        raise BadRowError("the text of a passage or entity is not text")
    return found


def _sources(name: str, root: str, split: str) -> list[File]:
    corpus = CORPORA[name].documents
    places = folders(root, *CORPORA[name].folders)
    # biorelex has no test split, so its validation split is used as the test split.
    wanted = _wanted(corpus, "validation" if corpus == "biorelex" and split == "test" else split)
    if corpus == "nlm_gene" and (listed := _listed(places, split)):
        return listed
    found = look(places, wanted)
    if not found:
        raise absent(name, split, places, wanted)
    return found


def _wanted(corpus: str, split: str) -> list[Names]:
    hub = split_names(corpus, f"{corpus}_bigbio_kb", split=split)
    own: list[Names] = []
    if corpus == "bc5cdr":
        stem = f"CDR_{_CDR_SETS[split]}"
        own = [Names(stem, _PUBTATOR, "pubtator"), Names(stem, _BIOC[:6], "bioc")]
    elif corpus == "ncbi_disease":
        own = [Names(f"NCBI{_NCBI_SETS[split]}set_corpus", ("txt",), "pubtator")]
    rows = [Names(names.stem, tuple(end for end in names.endings if end != "csv")) for names in hub]
    plain = [names.stem for names in hub if names.endings == ROWS]
    others = [(_PUBTATOR, "pubtator"), (_BIOC, "bioc"), (_CONLL, "conll")]
    return [*own, *rows, *(Names(stem, endings, kind) for endings, kind in others for stem in plain)]


def _listed(places: Iterable[str], split: str) -> list[File]:
    """Return the files of NLM-Gene, which has one file per document, and a list of documents per split."""
    for place in places:
        for folder in (place, f"{place}/Corpus"):
            found = (
                look([folder], [Names(f"Pmidlist.{WORDS[split][0].capitalize()}", ("txt",), "text")])
                if split in WORDS
                else []
            )
            if found:
                with files.open_binary(found[0].path) as stream:
                    ids = stream.read().decode("utf-8-sig").split()
                paths = [f"{folder}/FINAL/{document}.BioC.XML" for document in ids]
                return [File(path, "bioc", path.rsplit("/", 1)[-1]) for path in paths]
    return []
