"""Reasoning before an answer: rows are rendered as the template itself renders such messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chains
import pytest
from encoding import chat, distill, ids_of, prompt_of, spec, targets_of, trained

from medray.config.columns import ColumnsConfig
from medray.config.method import MethodConfig
from medray.config.method_specs import spec_of
from medray.data.encode.encoder import Encoder
from medray.data.encode.template_checks import template_problems
from medray.data.index.membership import SplitIndex
from medray.data.inspect.checks import Check, SampledRow, checks
from medray.data.reasoning import CLOSE, OPEN
from medray.data.records import BadRowError
from medray.data.schemas import parse
from medray.data.shards.token_split import TokenSet
from medray.data.tokenizer import thinks
from medray.errors import InputError
from medray.evaluate.metrics import Reference, score

# Like Qwen3's template: reasoning is shown only after the last question, and an empty one means none.
QWEN = (
    "{%- set ns = namespace(last=0) -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'assistant' -%}"
    "{%- set content = m.content -%}{%- set thought = '' -%}"
    "{%- if m.reasoning_content is string -%}{%- set thought = m.reasoning_content -%}"
    "{%- elif '</think>' in content -%}"
    "{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') -%}{%- endif -%}"
    "{%- if loop.index0 > ns.last and (loop.last or thought) -%}"
    "{{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') -}}"
    "{%- else -%}{{- '<|im_start|>assistant\n' + content -}}{%- endif -%}"
    "{%- else -%}{{- '<|im_start|>' + m.role + '\n' + m.content -}}{%- endif -%}"
    "{{- '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}"
    "{%- endif -%}"
)
# As DeepSeek-R1's: reasoning is cut out of every answer.
FORGETS = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] + '<|im_end|>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
THOUGHT = "<think>\nbecause\n</think>\n\nmild fever"
LABEL: dict[str, Any] = {"tasks": ("label",), "prompts": {"label": ""}}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = chains.chat_tokenizer(tmp_path_factory.mktemp("qwen"), template=QWEN)
    from tokenizers import AddedToken, pre_tokenizers

    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_tokens([AddedToken(text, special=False) for text in ("<think>", "</think>")])
    return made


def encode(tokenizer: Any, record: Any, **changes: Any) -> Any:
    return Encoder(tokenizer, spec(**{**LABEL, **changes})).encode([record])["label"]


def rendered(tokenizer: Any, turns: list[dict[str, str]], **options: Any) -> Any:
    text = tokenizer.apply_chat_template(turns, tokenize=False, **options)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "answer",
    [THOUGHT, "<think>because</think>mild fever", "\n<think>\n\nbecause\n\n</think>\nmild fever"],
)  # fmt: skip
def test_an_answer_with_reasoning_is_what_the_template_makes_of_it(qwen: Any, answer: str) -> None:
    columns = encode(qwen, chat("knee pain", answer))
    question = {"role": "user", "content": "knee pain"}
    said = {"role": "assistant", "content": "mild fever", "reasoning_content": "because"}
    assert ids_of(columns) == rendered(qwen, [question, said], enable_thinking=True)[:-1]
    asked = rendered(qwen, [question], enable_thinking=True, add_generation_prompt=True)
    assert prompt_of(columns) == asked
    assert qwen.decode(trained(columns)[0]) == f"{THOUGHT}<|im_end|>"
    assert qwen.decode(ids_of(columns)).count("<think>") == 1
    assert template_problems(qwen, spec(**LABEL)) == []


def test_a_label_may_have_reasoning_too(qwen: Any) -> None:
    columns = encode(qwen, distill("knee pain", THOUGHT))
    assert qwen.decode(trained(columns)[0]) == f"{THOUGHT}<|im_end|>"


def test_a_row_without_reasoning_is_as_before(qwen: Any) -> None:
    turns = [{"role": "user", "content": "knee pain"}, {"role": "assistant", "content": "rash"}]
    for answer in ("rash", "<think>\n\n</think>\n\nrash"):
        columns = encode(qwen, chat("knee pain", answer))
        assert ids_of(columns) == rendered(qwen, turns, enable_thinking=False)[:-1]
        assert qwen.decode(trained(columns)[0]) == "rash<|im_end|>"
    assert qwen.decode(prompt_of(columns)).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("last", ["rash", THOUGHT])
def test_earlier_answers_are_as_inference_shows_them_and_carry_no_loss(qwen: Any, last: str) -> None:
    """The template shows them without the reasoning that generation started with, empty or not."""
    columns = encode(qwen, chat("knee", THOUGHT, "cough", last))
    thinks = last == THOUGHT
    turns = [{"role": "user", "content": "knee"}, {"role": "assistant", "content": "mild fever"},
             {"role": "user", "content": "cough"}]  # fmt: skip
    asked = rendered(qwen, turns, enable_thinking=thinks, add_generation_prompt=True)
    assert prompt_of(columns) == asked
    assert [qwen.decode(ids) for ids in trained(columns)] == [f"{last}<|im_end|>"]


def test_an_answer_that_mentions_the_closing_mark_is_plain_text(qwen: Any) -> None:
    said = "it ends at </think> and then goes on"
    columns = encode(qwen, chat("knee pain", said))
    assert qwen.decode(trained(columns)[0]) == f"{said}<|im_end|>"
    assert score(["accuracy"], [said], [Reference(said)]) == {"accuracy": 1.0}
    assert score(["accuracy"], ["so</think>\nyes"], [Reference("yes")]) == {"accuracy": 1.0}


# Marks of its own around a key of the message, as Mistral's and others' templates have them.
OWN = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.KEY -%}{{- 'OPEN' + m.KEY + 'CLOSE' -}}{%- endif -%}{{- m.content + '<|im_end|>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def own(key: str, opening: str, closing: str) -> str:
    return OWN.replace("KEY", key).replace("OPEN", opening).replace("CLOSE", closing)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_gets_the_marks_of_the_template(tmp_path: Path, key: str) -> None:
    made = chains.chat_tokenizer(tmp_path, template=own(key, "[THINK]", "[/THINK]"))
    columns = encode(made, chat("knee pain", THOUGHT))
    said = {"role": "assistant", "content": "mild fever", key: "because"}
    whole = rendered(made, [{"role": "user", "content": "knee pain"}, said])
    assert ids_of(columns) == whole[: len(ids_of(columns))]
    assert made.decode(trained(columns)[0]).replace(" ", "") == "[THINK]because[/THINK]mildfever<|im_end|>"
    plain = encode(made, chat("knee pain", "mild fever"))
    assert made.decode(trained(plain)[0]) == "mild fever<|im_end|>"
    with pytest.raises(InputError, match=r"data\.template.*earlier answer of a row has reasoning"):
        encode(made, chat("knee", THOUGHT, "cough", "rash"))


def test_marks_that_are_control_tokens_are_refused_by_name(tmp_path: Path) -> None:
    made = chains.chat_tokenizer(tmp_path, template=own("thinking", "<|im_start|>analysis", "<|im_end|>"))
    assert encode(made, chat("knee", "rash")).cut.tolist() == [False]
    with pytest.raises(InputError, match=r"data\.template.*a row has reasoning.*control tokens"):
        encode(made, chat("knee", THOUGHT))


def test_earlier_answers_of_other_templates_are_trained(tmp_path: Path) -> None:
    made = chains.chat_tokenizer(tmp_path)
    columns = encode(made, chat("knee", "rash", "cough", THOUGHT))
    assert [made.decode(ids) for ids in trained(columns)] == ["rash<|im_end|>", f"{THOUGHT}<|im_end|>"]
    assert template_problems(made, spec(**LABEL)) == []


def test_a_template_that_drops_reasoning_is_refused_by_name(tmp_path: Path) -> None:
    made = chains.chat_tokenizer(tmp_path, template=FORGETS)
    assert encode(made, chat("knee", "rash")).cut.tolist() == [False]
    with pytest.raises(InputError, match=r"data\.template.*leaves such reasoning out"):
        encode(made, chat("knee", THOUGHT))


def test_an_encoder_decoder_writes_reasoning_as_text(tmp_path: Path) -> None:
    made = chains.chat_tokenizer(tmp_path)
    columns = encode(made, distill("knee", THOUGHT), architecture="seq2seq")
    assert made.decode(targets_of(columns), skip_special_tokens=True).strip() == THOUGHT


def test_a_long_reasoning_is_cut_at_the_limit_of_the_answer(qwen: Any) -> None:
    columns = encode(qwen, chat("knee", f"<think>{'pain ' * 50}</think>rash"), limits={"label": 12})
    assert columns.cut.tolist() == [True]
    [ids] = trained(columns)
    assert len(ids) == 12
    assert qwen.decode(ids).endswith("<|im_end|>")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_the_reasoning_of_a_message_is_kept(key: str) -> None:
    def made(**more: Any) -> Any:
        answer = {"role": "assistant", "content": "mild fever", **more}
        row = {"messages": [{"role": "user", "content": "knee"}, answer]}
        return parse(row, ColumnsConfig(), source="s", number=1)

    assert made(**{key: " because\n"}).messages == chat("knee", THOUGHT).messages
    assert made(**{key: None}).messages[-1].content == "mild fever"
    with pytest.raises(BadRowError, match=r"turn 2 .* reasoning"):
        made(**{key: "because", "content": ""})


def test_inspection_says_which_mode_rows_are_in(qwen: Any, tmp_path: Path) -> None:
    def said(tokenizer: Any, *targets: str) -> list[Check]:
        rows: Any = {
            ("train", "label"): [SampledRow("knee", target, False, 0, True, 0) for target in targets]
        }
        sets: Any = {
            "train": TokenSet(folder="", tokenizer="", spec=spec(**LABEL), index=SplitIndex(shards=()))
        }
        return [
            check
            for check in checks(spec_of(MethodConfig()), sets, {}, rows, tokenizer)
            if check.name == "reasoning"
        ]

    [mixed] = said(qwen, f"{THOUGHT}", "rash", "cough")
    assert (mixed.verdict, mixed.said[:24]) == ("note", "1 of 3 sampled answers h")
    assert "thinking mode" in mixed.said
    [alike] = said(qwen, "rash")
    assert alike.verdict == "ok"
    assert said(chains.chat_tokenizer(tmp_path), THOUGHT) == []


def test_only_shards_of_templates_with_reasoning_are_made_again(qwen: Any, tmp_path: Path) -> None:
    qwen.save_pretrained(tmp_path / "qwen")
    chains.chat_tokenizer(tmp_path).save_pretrained(tmp_path / "plain")
    assert thinks("chat", str(tmp_path / "qwen"))
    assert not thinks("chat", str(tmp_path / "plain"))
    assert not thinks("chatml", str(tmp_path / "qwen"))
    assert thinks(f"jinja:{own('reasoning', '[R]', '[/R]')}", str(tmp_path / "plain"))
    assert thinks(f"jinja:{QWEN}", str(tmp_path / "plain"))


def test_answers_are_compared_without_their_reasoning() -> None:
    got = score(
        ["accuracy"], ["<think>so</think>yes", "<think>\nso", "yes"], [Reference(f"{OPEN}why{CLOSE} yes")] * 3
    )
    assert got == {"accuracy": pytest.approx(2 / 3)}
