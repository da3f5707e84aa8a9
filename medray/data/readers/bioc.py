"""The reader of BioC, as XML or JSON: collections of documents with passages, annotations and relations."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element

from medray.data.readers import json_text
from medray.data.readers.bigbio import Mention, Passage, Relation, document
from medray.data.readers.json_lines import BLANK_BYTES
from medray.data.readers.xml_elements import elements
from medray.data.records import BadRowError, Row

_TYPE_KEYS = ("type", "relation", "relation type")
_CONCEPT_KEYS = ("identifier", "MESH", "NCBI Gene", "NCBIGENE", "OMIM", "SPECIES", "concept_id")


def read(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, Row]]:
    """Read the documents of a BioC file: yield (line, row in BigBio's form).

    All documents of a JSON file have its first line.

    A relation names its ends by refid of annotations, or by concepts in its infons, as in BioCreative.
    """
    if stream.peek(64).lstrip(BLANK_BYTES)[:1] in (b"{", b"["):
        for found in json_text.read(stream, name, 0, None, 1):
            for each in _documents(found.row):
                yield found.line, _row(each)
    else:
        for line, element, _ in elements(stream, name, "document"):
            yield line, _row(element)


def _documents(value: Row) -> list[Any]:
    """Return the documents of a collection or of PubTator's {"PubTator3": [...]}, or the single document."""
    if isinstance(value, dict):
        for name in ("documents", "PubTator3"):
            if isinstance(value.get(name), list):
                return list(value[name])
    return [value]


def _row(value: Any) -> Row:
    if isinstance(value, BadRowError):
        return value
    try:
        return _document(_from_xml(value) if isinstance(value, Element) else value)
    except BadRowError as error:
        return error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return BadRowError(f"this is not a BioC document ({type(error).__name__})")


def _document(value: dict[str, Any]) -> dict[str, Any]:
    passages: list[Passage] = []
    mentions: list[Mention] = []
    relations: list[Relation] = []
    _gather(value, mentions, relations)
    for passage in value["passages"]:
        kind = str(passage.get("infons", {}).get("type", ""))
        sentences = passage.get("sentences") or []
        for part in (passage, *sentences):
            if part.get("text"):
                passages.append(Passage(kind, int(part["offset"]), part["text"]))
            _gather(part, mentions, relations)
    if not passages:
        raise BadRowError("no passage has a text")
    mentions.sort(key=lambda mention: mention.offsets[0] if mention.offsets else (0, 0))
    return document(str(value["id"]), passages, mentions, relations)


def _gather(part: dict[str, Any], mentions: list[Mention], relations: list[Relation]) -> None:
    for annotation in part.get("annotations") or ():
        infons = annotation.get("infons", {})
        offsets = [
            (int(place["offset"]), int(place["offset"]) + int(place["length"]))
            for place in annotation["locations"]
        ]
        concepts = [
            each
            for key in _CONCEPT_KEYS
            for each in re.split(r"[|;,+]", str(infons.get(key) or ""))
            if each not in ("", "-", "-1")
        ]
        mentions.append(
            Mention(str(infons.get("type", "")), annotation["text"], offsets, concepts, str(annotation["id"]))
        )
    relations += [_relation(relation) for relation in part.get("relations") or ()]


def _relation(relation: dict[str, Any]) -> Relation:
    infons = relation.get("infons", {})
    kind = next((infons[key] for key in _TYPE_KEYS if infons.get(key)), "")
    ends = [node["refid"] for node in relation.get("nodes") or ()]
    if len(ends) < 2:
        roles = [infons[key] for key in ("role1", "role2") if key in infons]
        named = roles or [value for key, value in infons.items() if key not in _TYPE_KEYS]
        ends = [each["identifier"] if isinstance(each, dict) else each for each in named]
    if len(ends) != 2:
        raise BadRowError("a relation does not connect two entities")
    return Relation(str(kind), str(ends[0]), str(ends[1]))


def _from_xml(element: Element) -> dict[str, Any]:
    """Return the JSON form of a document, passage, sentence, annotation or relation."""
    found: dict[str, Any] = {
        "infons": {infon.get("key", ""): infon.text or "" for infon in element.findall("infon")},
        "id": element.findtext("id", element.get("id")),
        "locations": [dict(place.attrib) for place in element.findall("location")],
        "nodes": [dict(node.attrib) for node in element.findall("node")],
    }
    for name in ("offset", "text"):
        if (value := element.findtext(name)) is not None:
            found[name] = value
    for name in ("passage", "sentence", "annotation", "relation"):
        found[f"{name}s"] = [_from_xml(each) for each in element.findall(name)]
    return found
