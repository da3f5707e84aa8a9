"""A config determines the tokens: its prompts are published or its own, and its fingerprint differs with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from medray.config import Config, read
from medray.config.columns import ColumnsConfig
from medray.config.run import RESERVED
from medray.data.corpora import published
from medray.data.corpora.multiclinsum import LANGUAGES
from medray.data.encode.encoder import Encoder
from medray.data.encode.render import reading
from medray.data.index.row_index import records
from medray.data.index.sources import sources
from medray.data.records import BadRowError, Record
from medray.data.shards.fingerprint import membership_key
from medray.data.shards.preparation import (
    INDEX,
    Preparation,
    encode_spec,
    is_whole,
    prompts_said,
    read_indexes,
)
from medray.data.shards.seal import MANIFEST
from medray.data.shards.shard_file import shard_path
from medray.data.shards.split_summary import read_manifest, summarize
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import load_tokenizer
from medray.storage import json_files

PUBLISHED = {
    "en": "Summarize clinical text",
    "es": "Resumir el texto clínico",
    "fr": "Résumer le texte clinique",
    "pt": "Resumir texto clínico",
}


def config(folder: Path, **data: Any) -> Config:
    for lang in LANGUAGES:
        rows = [{"input": f"{lang} {n}", "output": "x", "rationale": "r"} for n in range(20)]
        (folder / f"multiclinsum_gs_{lang}.json").write_text(json.dumps(rows))
    tree: dict[str, Any] = {
        "run": {"storage": str(folder / "runs")},
        "model": {"name": None, "init": "random", "preset": "llama-tiny"},
        "method": {"name": "distill"},
        "data": {"dataset": "multiclinsum", "root": str(folder), "tokenizer": "train"} | data,
    }
    return Config.model_validate(tree)


def membership(columns: dict[str, Any], **split: Any) -> str:
    made = Config.model_validate({"data": {"train": "a.jsonl", "split": split}})
    shapes = {"train": [["auto", ColumnsConfig.model_validate(columns).decisive()]]}
    return membership_key(made, {"train": ["0"]}, {"shapes": shapes})


def test_keys_of_composed_rows_leave_the_fingerprints_of_older_configs_as_they_are() -> None:
    plain = {"input": "dialogue", "label": "note"}
    # Computed by the version before these keys existed.
    older = "5e5a9e933be76fa581797b6704aec788345624299925470676a3b168213fadad"
    assert membership(plain, validation=0.2) == older
    changed = (
        plain | {"input": "{dialogue}"},
        plain | {"input": ["dialogue"]},
        plain | {"label_names": ["no", "yes"]},
        plain | {"label_names": ["yes", "no"]},
        plain | {"label_options": ["a", "b"]},
    )
    assert len({older, *(membership(columns, validation=0.2) for columns in changed)}) == 1 + len(changed)


def test_other_ids_of_validation_change_the_fingerprint_and_their_path_does_not(tmp_path: Path) -> None:
    tiny.write_jsonl(tmp_path / "a.jsonl", [{"id": "1", "input": "a", "label": "b"}])
    found = []
    for name, text in (("one", "1"), ("moved", "1"), ("other", "2")):
        (tmp_path / name).write_text(text)
        made = config(
            tmp_path, dataset=None, train=str(tmp_path / "a.jsonl"), tokenizer="smollm2-135m-instruct"
        )
        made = made.override({"method.name": "sft", "data.split.validation_ids": str(tmp_path / name)})
        found.append(Preparation(made, "causal", None).folder)
    assert found[0] == found[1] != found[2]


def first_of_each_language(made: Config) -> dict[str, Record]:
    (source,) = sources(made, "train")
    found: dict[str, Record] = {}
    for *_, record in records(source):
        assert not isinstance(record, BadRowError)
        found.setdefault(record.origin.lang, record)
    return found


def test_no_run_can_have_the_name_of_a_shared_folder(tmp_path: Path) -> None:
    layout = Preparation(config(tmp_path), "causal", None)
    shared = [Path(str(path)).relative_to(tmp_path / "runs") for path in (layout.folder, layout.tokenizer)]
    assert RESERVED.issuperset(path.parts[0] for path in shared)


@pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
def test_multiclinsum_has_prompts_in_the_language_of_the_row(tmp_path: Path, architecture: str) -> None:
    made = config(tmp_path)
    rows, spec = first_of_each_language(made), encode_spec(made, architecture)
    assert set(rows) == set(LANGUAGES)
    tokenizer = load_tokenizer(str(tiny.tokenizer(tmp_path)))
    columns = Encoder(tokenizer, spec).encode(list(rows.values()))["label"]
    begin = 0
    for lang, end in zip(rows, columns.input_ends.tolist(), strict=True):
        text = tokenizer.decode(columns.input_ids[begin:end].tolist())
        assert [each for each in LANGUAGES if f"{PUBLISHED[each]}:" in text] == [lang]
        begin = end


def test_a_prompt_of_the_config_is_for_every_language(tmp_path: Path) -> None:
    spec = encode_spec(config(tmp_path, prompts={"label": "Note"}), "causal")
    assert {spec.prompt("label", lang) for lang in ("", *LANGUAGES)} == {"Note"}


def test_other_prompts_of_a_language_change_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(tmp_path)
    folder = Preparation(made, "causal", None).folder
    assert Preparation(made, "causal", None).folder == folder
    corpus = published.CORPORA["multiclinsum"]
    other = {**corpus.prompts_by_lang, "es": corpus.prompts_by_lang["pt"]}
    monkeypatch.setitem(published.CORPORA, "multiclinsum", replace(corpus, prompts_by_lang=other))
    assert Preparation(made, "causal", None).folder != folder


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        ({}, "List every entity that the text names, as a JSON list of strings"),
        (
            {"extraction": {"types": ["Chemical", "Disease"]}},
            "List every Chemical and Disease that the text names, as a JSON list of strings",
        ),
        (
            {"extraction": {"answer": "relations"}},
            "List every pair of entities that the text relates, as a JSON list of [first, second]",
        ),
        (
            {"extraction": {"answer": "relations", "types": ["CID"]}},
            "List every pair of entities that the text relates by CID, as a JSON list of [first, second]",
        ),
        ({"prompts": {"label": "Name the drugs"}}, "Name the drugs"),
        (
            {"prompts": {"system": "Be exact."}},
            "List every entity that the text names, as a JSON list of strings",
        ),
    ],
)
@pytest.mark.parametrize("form", ["pubtator", "conll"])
def test_a_document_with_entities_has_the_prompt_for_them(
    tmp_path: Path, form: str, data: dict[str, Any], asked: str
) -> None:
    (tmp_path / "a.pubtator").write_text("7|t|Aspirin\n7|a|It helps.\n7\t0\t7\tAspirin\tChemical\tD1\n\n")
    (tmp_path / "a.conll").write_text("Aspirin B-Chemical\nhelps O\n\n")
    tiny.write_jsonl(tmp_path / "b.jsonl", tiny.rows(1))
    files = [str(tmp_path / f"a.{form}"), str(tmp_path / "b.jsonl")]
    made = config(tmp_path, dataset=None, train=files, **data)
    spec = encode_spec(made, "causal")
    first, second = (next(iter(records(source)))[3] for source in sources(made, "train"))
    assert not isinstance(first, BadRowError)
    assert not isinstance(second, BadRowError)
    found, other = (reading(record, "label", spec) for record in (first, second))
    assert found is not None
    assert found.turns[-1].lead == f"{asked}:\n"
    assert other is not None
    own = data.get("prompts", {}).get("label")
    assert other.turns[-1].lead == (f"{own}:\n" if own else ""), "the input alone"


class TestPrompts:
    """A config without prompts has none: questions of an exam do not get the prompt of dialogues."""

    @staticmethod
    def first(folder: Path, architecture: str = "causal", **sections: Any) -> dict[str, str | None]:
        """Return the text before the input of the first row, by task."""
        tiny.write_jsonl(folder / "a.jsonl", tiny.keyed_rows(1))
        tree = {"data": {"train": str(folder / "a.jsonl")}} | sections
        (folder / "run.yaml").write_text(json.dumps(tree))
        made = read(folder / "run.yaml")
        spec = encode_spec(made, architecture)
        record = next(iter(records(sources(made, "train")[0])))[3]
        assert not isinstance(record, BadRowError)
        found = {task: reading(record, task, spec) for task in spec.tasks}
        return {task: each.turns[-1].lead for task, each in found.items() if each is not None}

    @pytest.mark.parametrize("architecture", ["causal", "seq2seq"])
    def test_the_input_of_own_columns_is_the_prompt(self, architecture: str, tmp_path: Path) -> None:
        assert self.first(tmp_path, architecture) == {"label": ""}

    def test_a_rationale_and_a_label_have_different_prompts(self, tmp_path: Path) -> None:
        distill = {"name": "distill"}
        assert self.first(tmp_path, "seq2seq", method=distill) == {"label": "", "rationale": "Explain: "}
        keyed = self.first(tmp_path, method=distill | {"variant": "hierarchical"})
        assert keyed.pop("label") == ""
        assert keyed
        assert all(lead == f"Extract the {task.partition('/')[2]}:\n" for task, lead in keyed.items())

    def test_corpora_keep_prompts_that_the_config_does_not_replace(self, tmp_path: Path) -> None:
        spec = encode_spec(config(tmp_path, prompts={"system": "Be exact."}), "causal")
        assert (spec.system, spec.prompt("label", "es")) == ("Be exact.", PUBLISHED["es"])
        (tmp_path / "run.yaml").write_text(json.dumps({"data": {"dataset": "clinic"}}))
        assert encode_spec(read(tmp_path / "run.yaml"), "causal").prompts == {
            "label": "Summarize this dialogue"
        }

    @pytest.mark.parametrize(
        ("tree", "said"),
        [
            ({"data": {"train": "a"}}, "label: none, the input alone (data.prompts.label)"),
            ({"data": {"train": "a", "prompts": {"label": "SECRET"}}}, "label: as data.prompts.label says"),
            (
                {"data": {"train": "a"}, "method": {"name": "distill"}},
                "rationale: 'Explain', a default (data.prompts.rationale)",
            ),
            ({"data": {"dataset": "clinic"}}, "label: 'Summarize this dialogue', a default"),
        ],
    )
    def test_the_console_says_what_the_prompt_is(
        self, tree: dict[str, Any], said: str, tmp_path: Path
    ) -> None:
        (tmp_path / "run.yaml").write_text(json.dumps(tree))
        found = prompts_said(read(tmp_path / "run.yaml"))
        assert said in found
        assert "SECRET" not in found


def earlier(folder: Path) -> TokenSet:
    """Return a split of an earlier run."""
    tokens = tiny.token_set(folder, tiny.rows(9), name="train")
    json_files.write_sealed(Path(tokens.folder) / MANIFEST, summarize(tokens))
    tokens.index.write(Path(tokens.folder) / INDEX)
    (folder / "train").symlink_to(tokens.folder)
    return tokens


def test_damaged_shards_of_an_earlier_run_are_found_before_workers_start(tmp_path: Path) -> None:
    tokens = earlier(tmp_path)
    assert is_whole(tokens)
    path = shard_path(Path(tokens.folder), tokens.index.shards[-1].index)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    assert not is_whole(tokens)
    assert path.with_name(f"{path.name}.damaged").exists()
    assert not path.exists(), "the pipeline makes it again"
    assert read_manifest(Path(tokens.folder)) is None


def test_no_flipped_bit_of_an_index_or_a_manifest_changes_a_value(tmp_path: Path) -> None:
    folder = Path(earlier(tmp_path).folder)
    index, manifest = read_indexes(folder.parent), read_manifest(folder)
    assert list(index) == ["train"]
    assert manifest
    for name in (INDEX, MANIFEST):
        whole = (folder / name).read_bytes()
        for byte in range(len(whole)):
            changed = bytearray(whole)
            changed[byte] ^= 1 << byte % 8
            (folder / name).write_bytes(changed)
            assert read_indexes(folder.parent) in ({}, index)
            found = read_manifest(folder)  # a flipped key of the hash is a key too many
            assert found is None or found.items() >= manifest.items()
        (folder / name).write_bytes(whole)


def test_an_index_without_a_hash_from_an_earlier_version_is_accepted(tmp_path: Path) -> None:
    folder = Path(earlier(tmp_path).folder)
    index, tree = read_indexes(folder.parent), json.loads((folder / INDEX).read_text())
    del tree["sha256"]
    (folder / INDEX).write_text(json.dumps(tree))
    assert read_indexes(folder.parent) == index
    (folder / INDEX).write_text(json.dumps(tree | {"duplicates": "3"}))
    assert read_indexes(folder.parent) == {}
