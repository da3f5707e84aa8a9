"""Documents in BigBio's KB form, which PubTator, CoNLL and BioC are read into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from medray.data.records import BadRowError


class Passage(NamedTuple):
    """start: of its text in the document, in characters."""

    type: str
    start: int
    text: str


class Mention(NamedTuple):
    """offsets: [start, end) in the document, several where it has gaps. concepts: ids it is normalised to.

    id: how relations of the file name this mention, where they do.
    """

    type: str
    text: str
    offsets: Sequence[tuple[int, int]]
    concepts: Sequence[str] = ()
    id: str | None = None


class Relation(NamedTuple):
    """first, second: ids of mentions, or of concepts."""

    type: str
    first: str
    second: str


def document(
    document_id: str,
    passages: Sequence[Passage],
    mentions: Sequence[Mention],
    relations: Sequence[Relation] = (),
) -> dict[str, Any]:
    """The row of a document.

    BigBio's relations join mentions. One that joins concepts, as in PubTator, becomes one between the first mention
    of each; all ids of concepts stay under "normalized". Raises BadRowError for a mention whose offsets hold another
    text, and for a relation whose end is not in the document.
    """
    entities = []
    by_id: dict[str, str] = {}
    by_concept: dict[str, str] = {}
    for number, mention in enumerate(mentions, 1):
        _check(passages, mention, number)
        name = f"T{number}"
        if mention.id is not None:
            by_id.setdefault(mention.id, name)
        for concept in mention.concepts:
            by_concept.setdefault(concept, name)
        entities.append(
            {
                "id": name,
                "type": mention.type,
                "text": [mention.text],
                "offsets": [list(offset) for offset in mention.offsets],
                "normalized": [_normalized(concept) for concept in mention.concepts],
            }
        )
    found = []
    for number, relation in enumerate(relations, 1):
        ends = [by_id.get(end) or by_concept.get(end) for end in (relation.first, relation.second)]
        if None in ends:
            raise BadRowError(f"relation {number} names what the document does not mention")
        found.append({"id": f"R{number}", "type": relation.type, "arg1_id": ends[0], "arg2_id": ends[1]})
    return {
        "document_id": document_id,
        "passages": [
            {"type": kind, "text": [text], "offsets": [[start, start + len(text)]]}
            for kind, start, text in passages
        ],
        "entities": entities,
        "relations": found,
    }


def _check(passages: Sequence[Passage], mention: Mention, number: int) -> None:
    """A mention with gaps is checked by its places alone: how its text is joined differs from corpus to corpus."""
    pieces = []
    for start, end in mention.offsets:
        piece = next(
            (
                text[start - begin : end - begin]
                for _, begin, text in passages
                if begin <= start < end <= begin + len(text)
            ),
            None,
        )
        if piece is None:
            raise BadRowError(f"the offsets of entity {number} lie outside of the text")
        pieces.append(piece)
    if not pieces or (len(pieces) == 1 and pieces[0] != mention.text):
        raise BadRowError(f"the offsets of entity {number} hold another text than the entity")


def _normalized(concept: str) -> dict[str, str]:
    database, _, name = concept.rpartition(":")
    return {"db_name": database, "db_id": name}
