"""The reader of MedQuAD's XML gives questions with an answer."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest

from medray.data.readers import read
from medray.data.records import BadRowError
from medray.errors import InputError

XML = """<?xml version="1.0" encoding="UTF-8"?>
<Document id="0000559" source="GHR" url="https://example.org/x">
<Focus>keratoderma with
   woolly hair</Focus>
<FocusAnnotations><Category>Disease</Category></FocusAnnotations>
<QAPairs>
  <QAPair pid="1">
    <Question qid="0000559-1" qtype="information">What is (are) keratoderma ?</Question>
    <Answer>A group of conditions.
       Key Points
         - These   affect &lt;skin&gt;.</Answer>
  </QAPair>
  <QAPair pid="2"><Question qid="0000559-2" qtype="frequency">How many?</Question><Answer/></QAPair>
  <QAPair pid="3"><Question qid="0000559-3" qtype="causes">Why?</Question></QAPair>
  <QAPair pid="4"><Question qtype="outlook">And then?</Question><Answer>Unknown.</Answer></QAPair>
  <QAPair pid="5"><Answer>Of nothing.</Answer></QAPair>
</QAPairs>
</Document>
"""


def written(folder: Path, text: str) -> str:
    (folder / "0000559.xml").write_text(text, encoding="utf-8")
    return str(folder / "0000559.xml")


def test_pairs_with_an_answer_are_rows_and_the_others_are_counted(tmp_path: Path) -> None:
    reading = read(written(tmp_path, XML), "medquad_xml")
    first, second, third = list(reading)
    common = {"source": "GHR", "url": "https://example.org/x", "focus": "keratoderma with woolly hair"}
    assert first.row == {
        **common,
        "id": "0000559-1",
        "qtype": "information",
        "question": "What is (are) keratoderma ?",
        "answer": "A group of conditions. Key Points - These affect <skin>.",
    }
    assert second.row == {
        **common,
        "id": "0000559-4",
        "qtype": "outlook",
        "question": "And then?",
        "answer": "Unknown.",
    }
    assert isinstance(third.row, BadRowError)
    assert [each.line for each in (first, second, third)] == [7, 15, 16]
    assert reading.skipped == 2


@pytest.mark.parametrize("cut", ["</Document>", "pid=", "<Focus>"])
def test_a_file_that_is_cut_off_is_named_with_the_line(cut: str, tmp_path: Path) -> None:
    text = XML[: XML.index(cut)]
    with pytest.raises(
        InputError, match=rf"0000559\.xml: the XML is not well-formed at line {text.count(chr(10)) + 1}, "
    ):
        list(read(written(tmp_path, text), "medquad_xml"))


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert list(read(written(tmp_path, ""), "medquad_xml")) == []


def test_other_xml_is_refused(tmp_path: Path) -> None:
    """A file without pairs must not be treated like a file whose pairs have no answer."""
    with pytest.raises(InputError, match=r"the XML has no element Focus or QAPair\n.*bioc"):
        list(read(written(tmp_path, "<collection><document/></collection>"), "medquad_xml"))
    with pytest.raises(InputError, match="the XML has no element document"):
        list(read(written(tmp_path, XML), "bioc"))


def test_entities_that_grow_are_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY a "SECRET"><!ENTITY b "&a;&a;&a;">]>' + XML.split("\n", 1)[1].replace(
        "?", "&b;", 1
    )
    with pytest.raises(InputError, match="declares entities") as caught:
        list(read(written(tmp_path, bomb), "medquad_xml"))
    assert "SECRET" not in str(caught.value)


def test_millions_of_levels_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a.xml.gz"
    file.write_bytes(gzip.compress(b"<a>" * 2_000_000, 1))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="nested more than 10000 levels deep at line 1"):
            list(read(str(file), "medquad_xml"))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
