"""Page and terminal show an inspection's numbers: the page without scripts or links, the terminal in 100 columns."""

from __future__ import annotations

import base64
import copy
import hashlib
import re
from typing import Any

import html_page
import pytest

from medray.report.inspection_page import inspection_page
from medray.report.inspection_text import WIDTH, Look, inspection_text

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def task(split: str, name: str) -> dict[str, Any]:
    return {
        "split": split, "task": name, "rows": 1171, "without": 28, "tokens": 1234567, "loss_tokens": 308641,
        "p50": 140.0, "p90": 367.4, "p99": 373.0, "max": 4373, "truncated": 264, "bin_tokens": 16,
        "histogram": [0, 3, 9, 27, *([1] * 19), 81],
    }  # fmt: skip


def padding(name: str, share: float, pack: int | None = None) -> dict[str, Any]:
    return {"name": name, "share": share, "tokens": 9, "computed": 10, "steps": 200, "whole_epoch": name == "random",
            "rows": 8, "pack_tokens": pack}  # fmt: skip


FACTS: dict[str, Any] = {
    "architecture": "causal",
    "tasks": [task("train", "label"), task("validation", "rationale")],
    "splits": [
        {
            "split": "train",
            "rows": 1199,
            "rejected": [{"reason": "column 'label' is empty", "rows": 17, "places": ["a<b>.jsonl:3", "a.jsonl:90"]}],
            "dropped": {"in validation too": 2},
            "duplicates": 31,
            "repeated_ids": 0,
        }
    ],
    "padding": [padding("random", 0.254), padding("plan", 0.107), padding("packed", 0.005, 2048)],
    "classes": [{"split": "train", "rows": [70, 30], "majority": 0.7, "unseen": 0, "names": []}],
    "rationales": [{"split": "train", "empty": 0.023, "words": 20.8, "overlap": 0.295, "sampled": 971}],
    "checks": [
        {"name": "template", "verdict": "problem", "said": "the text has 2 begin tokens; one is what it needs"},
        {"name": "limits", "verdict": "note", "said": "cut to fit: " + "264 of 1,199 train label, " * 6},
        {"name": "copies", "verdict": "ok", "said": "none"},
    ],
    "sampled": {"train": 1000, "validation": 100},
    "length": {"rows": 1199, "steps_per_epoch": 150, "tokens": 436008, "loss_tokens": 90331, "steps": 50,
               "epochs": 0.3333, "passes": [1.5, 0.25]},
    "near_duplicates": {"threshold": 0.8, "compared": {"train": 1199, "validation": 100},
                        "repeated": {"train": 4, "validation": 0}, "across": 1,
                        "pairs": [{"train": "t<1>", "validation": "v-1", "similarity": 0.913}]},
}  # fmt: skip
NAMES = {"train": ["<b>malignant</b>", "benign"]}


def piece(text: str, loss: bool = False, special: bool = False) -> dict[str, Any]:
    return {"text": text, "number": 7, "special": special, "loss": loss}


SAMPLE = {
    "split": "train",
    "id": "row-<5>",
    "tasks": [
        {
            "task": "label",
            "cut": True,
            "parts": [
                (
                    "sequence",
                    [
                        *(piece("<|im_start|>", special=True), piece("<script>alert(1)</script>"), piece("\x1b[31mred\n")),
                        *(piece(""), piece("  knee\u202e", loss=True), piece(" pain", loss=True)),
                        piece("</s>", loss=True, special=True),
                    ],
                )
            ],
        },
        {"task": "rationale", "cut": False, "parts": [("source", [piece("ask")]), ("target", [piece("told", loss=True)])]},
    ],
}  # fmt: skip


class Page(html_page.Page):
    """The parser of pages, which also keeps the bold text."""

    bold = ""

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if "b" in self.open:
            self.bold += data


def page(**changes: Any) -> str:
    return inspection_page("my run", FACTS | changes, names=NAMES, samples=[SAMPLE])


def terminal(look: Look, *, samples: Any = (SAMPLE,), names: Any = NAMES, **changes: Any) -> str:
    return inspection_text("my run", FACTS | changes, names=names, samples=samples, look=look)


def test_the_page_has_no_scripts_and_no_links() -> None:
    html = page()
    found = Page(html)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "img", "iframe", "form", "a", "base"})
    assert not [
        name
        for _, attrs in found.tags
        for name in attrs
        if name.startswith("on") or name in ("style", "src", "href")
    ]
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html


def test_the_policy_allows_the_pages_own_style_alone() -> None:
    html = page()
    style = html.split("<style>")[1].split("</style>")[0]
    assert ".tokens b" in style
    assert "prefers-color-scheme: dark" in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = next(attrs["content"] for tag, attrs in Page(html).tags if attrs.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy


def test_the_page_shows_the_numbers() -> None:
    text = Page(page()).text
    for shown in ("1,234,567", "308,641", "25.0 %", "264 (22.0 %)", "10.7 %", "column 'label' is empty", "a<b>.jsonl:3",
                  "2 begin tokens", "20.8", "29.5 %", "4 of 1,199 rows", "t<1>", "0.91", "436,008", "70.0 %", "1.50, 0.25",
                  "the first 200 steps", "pack_tokens: 2,048"):  # fmt: skip
        assert shown in text, shown


def test_text_of_records_is_shown_as_text_and_only_where_it_is_given() -> None:
    found = Page(page())
    assert "<script>alert(1)</script>" in found.text
    assert "<b>malignant</b>" in found.text
    assert "row-<5>" in found.text
    assert found.bold == "  knee\ufffd pain</s>told"  # only tokens with loss
    bare = Page(inspection_page("my run", FACTS, names={}, samples=[]))
    assert not [word for word in ("malignant", "benign", "knee", "Samples") if word in bare.text]
    assert "class 1" in bare.text


@pytest.mark.parametrize(
    ("verdict", "pill"), [("problem", "problems"), ("note", "worth a look"), ("ok", "all well")]
)
def test_the_worst_verdict_is_on_top(verdict: str, pill: str) -> None:
    checks = [{"name": "a", "verdict": "ok", "said": "b"}, {"name": "c", "verdict": verdict, "said": "d"}]
    assert f">{pill}</span>" in page(checks=checks)


def test_missing_parts_are_left_out() -> None:
    few = {
        "near_duplicates": None,
        "rationales": [],
        "classes": [],
        "splits": [],
        "padding": FACTS["padding"][:2],
    }
    for text in (Page(page(**few)).text, terminal(Look(), **few)):
        assert not [title for title in ("Near-duplicates", "Rationales", "Classes") if title in text]
        assert "nothing" in text
    empty = copy.deepcopy(FACTS["tasks"][0]) | {"rows": 0, "without": 0, "tokens": 0, "histogram": [0] * 24}
    assert Page(page(tasks=[empty])).text
    assert terminal(Look(), tasks=[empty])


@pytest.mark.parametrize("look", [Look(), Look(colour=True), Look(blocks=False)])
def test_the_terminal_shows_the_numbers_in_its_columns(look: Look) -> None:
    text = ANSI.sub("", terminal(look))
    assert max(map(len, text.splitlines())) <= WIDTH
    for shown in ("1,234,567", "308,641", "25.0 %", "(22.0 %)", "10.7 %", "column 'label' is empty", "a.jsonl:90", "benign",
                  "20.8", "29.5 %", "4 of 1,199 rows", "v-1", "0.91", "150 steps, 436,008 tokens", "pack_tokens: 2,048"):  # fmt: skip
        assert shown in text, shown


def test_without_colours_tokens_with_loss_are_between_marks() -> None:
    text = terminal(Look())
    assert "\x1b" not in text
    assert "⟦  knee\ufffd pain</s>⟧" in text
    assert "⟦told⟧" in text
    assert text.count("⟦") == text.count("⟧") == 3  # and the legend
    plain = terminal(Look(blocks=False))
    assert "[[  knee" in plain
    assert not set(plain.replace("\ufffd", "").replace("␛", "")) - set(map(chr, range(10, 127)))


def test_with_colours_loss_is_green_and_bold_and_no_control_character_of_a_record_gets_through() -> None:
    text = terminal(Look(colour=True))
    assert "\x1b[1;32m pain\x1b[0m" in text
    assert "\x1b[36m<|im_start|>\x1b[0m" in text
    assert "\x1b[2m␛[31mred↵\x1b[0m" in text
    assert "\x1b[1;31mproblem\x1b[0m" in text
    assert "\u202e" not in text
    assert "⟦" not in text


def test_long_rows_are_broken_between_tokens() -> None:
    tokens = [piece(f" token{n}", loss=n > 50) for n in range(100)]
    sample = SAMPLE | {"tasks": [{"task": "label", "cut": False, "parts": [("sequence", tokens)]}]}
    for look in (Look(), Look(colour=True)):
        lines = ANSI.sub("", terminal(look, samples=[sample])).splitlines()
        shown = [line for line in lines if "token1" in line or " token" in line]
        assert max(map(len, lines)) <= WIDTH
        text = "".join(line[6:] for line in shown).replace("⟦", "").replace("⟧", "")
        assert "".join(one["text"] for one in tokens) in text
        assert "label: 100 tokens, 49 with loss" in "\n".join(lines)


def test_without_text_the_terminal_shows_none() -> None:
    text = terminal(Look(), samples=[], names={})
    assert not [word for word in ("malignant", "benign", "knee", "Samples") if word in text]
    assert "class 2" in text


def test_a_comparison_of_only_the_first_rows_is_stated() -> None:
    near = FACTS["near_duplicates"] | {"compared": {"train": 900, "validation": 100}}
    for text in (Page(page(near_duplicates=near)).text, terminal(Look(), near_duplicates=near)):
        assert "4 of the first 900 rows" in text
