"""Documents in BigBio's KB form, the common row form of PubTator, CoNLL and BioC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from medray.data.records import BadRowError


class Passage(NamedTuple):
    """A passage of a document, such as its title or abstract. start: index of its first character in the document."""

    type: str
    start: int
    text: str


class Mention(NamedTuple):
    """A mention of an entity in a document.

    offsets: [start, end) in characters of the document, several if the mention has gaps. concepts: ids of a vocabulary
    that the mention is linked to. id: the name that relations of the file use for this mention, if any.
    """

    type: str
    text: str
    offsets: Sequence[tuple[int, int]]
    concepts: Sequence[str] = ()
    id: str | None = None


class Relation(NamedTuple):
    """A relation between two entities. first, second: ids of mentions or of concepts."""

    type: str
    first: str
    second: str


def document(
    document_id: str,
    passages: Sequence[Passage],
    mentions: Sequence[Mention],
    relations: Sequence[Relation] = (),
) -> dict[str, Any]:
    """Return a document as a row in BigBio's form.

    BigBio's relations connect mentions. A relation between concepts, as in PubTator, becomes a relation between the
    first mentions of the two; all ids of concepts are kept under "normalized". Raises BadRowError for a mention whose
    text differs from the text at its offsets, and for a relation with an end that is not in the document.
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
            raise BadRowError(f"relation {number} refers to an entity that the document does not mention")
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
    """Check a mention. With gaps, only its offsets are checked: corpora differ in how they join its text."""
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
            raise BadRowError(f"the offsets of entity {number} are outside the text")
        pieces.append(piece)
    if not pieces or (len(pieces) == 1 and pieces[0] != mention.text):
        raise BadRowError(f"the text at the offsets of entity {number} differs from the entity")


def _normalized(concept: str) -> dict[str, str]:
    database, _, name = concept.rpartition(":")
    return {"db_name": database, "db_id": name}
