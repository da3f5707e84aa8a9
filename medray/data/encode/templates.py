"""Templates, which render the messages of a conversation as one text.

| name | what it is |
|---|---|
| chat | the tokenizer's own chat template; `plain` if it has none |
| chatml | `<\\|im_start\\|>role`, line end, content, `<\\|im_end\\|>` |
| alpaca | headings for instruction (the system message), input and response |
| plain | the texts with blank lines between them, the end token after an answer |
| legacy/gemma, llama, llama3, mistral | published prompts byte for byte, with the mistakes they were trained with |
| legacy/taiyi, adelie | Gemma's turns as the DFPO system wrote them: the system message and the begin token before every \
question, one end token after the last answer; taiyi shows the first question and answer only |
| a file ending in .jinja or .j2 | a chat template of the user's |
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from medray.config.data import DFPO_TEMPLATES, TEMPLATE_FILES, TEMPLATES
from medray.errors import InputError

TRIAL_SECONDS = 20.0  # of CPU time; a real template takes a thousandth of a second
_READ = "jinja:"  # prefix of the text of a Jinja file that has been read

_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_PLAIN = "{% for m in messages %}{{ m['content'] + (eos_token if m['role'] == 'assistant' else '\n\n') }}{% endfor %}"
_ALPACA = (
    "{% set paired = messages[0]['role'] == 'system' %}"
    "{{ 'Below is an instruction that describes a task' + (', paired with an input that provides further context'"
    " if paired else '') + '. Write a response that appropriately completes the request.\n\n' }}"
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}{{ '### Response:\n' + m['content'] + eos_token + '\n\n' }}"
    "{% else %}{{ ('### Input:\n' if paired and loop.index0 == 1 else '### Instruction:\n') + m['content'] + '\n\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
# An encoder-decoder's source: one question unchanged, several turns as lines with their speaker.
_SOURCE = (
    "{% set one = messages | rejectattr('role', 'equalto', 'system') | list | length == 1 %}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}"
    "{% elif one %}{{ m['content'] }}"
    "{% else %}{{ ('\n' if not loop.first and messages[loop.index0 - 1]['role'] != 'system' else '')"
    " + m['role'] | capitalize + ': ' + m['content'] }}{% endif %}{% endfor %}"
)
# The tokens are written out, as published: the begin token of another tokenizer would be a different text.
_DFPO_TURN_END = "<end_of_turn>\n"
_DFPO = (
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '<bos><start_of_turn>user\n' + system + m['content'] + '<end_of_turn>\n<start_of_turn>model\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '<end_of_turn>\n' }}{% endif %}{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)
_BUILT_IN = {"chatml": _CHATML, "alpaca": _ALPACA, "plain": _PLAIN, **dict.fromkeys(DFPO_TEMPLATES, _DFPO)}


def read_template(template: str) -> str:
    """Return the name of a built-in template, or the text of a Jinja file, so that workers need no file.

    Raises InputError for an unknown name, and for a file that cannot be read.
    """
    if template in TEMPLATES or template.startswith(_READ):
        return template
    if not template.endswith(TEMPLATE_FILES):
        raise InputError(
            "there is no such template",
            key="data.template",
            value=template,
            fix=f"use one of {', '.join(TEMPLATES)}, or a file ending in {' or '.join(TEMPLATE_FILES)}",
        )
    try:
        return _READ + Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the file is not UTF-8"
        raise InputError(
            f"the template cannot be read: {reason}",
            file=template,
            key="data.template",
            fix="use the path of a Jinja file that you can read",
        ) from None


class UnfitMessagesError(ValueError):
    """The error if a template cannot show certain messages, for example two turns of the user in a row."""


class _TooLongError(BaseException):
    """A template computed for too long. It is a BaseException, so that no `except Exception` catches it on its way."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _TooLongError in the block after `seconds` of CPU time.

    A signal ends the endless loops that a template from the Hub may have; Jinja's sandbox does not. Signals reach the
    main thread only, so other threads have no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class Template:
    """A template that renders messages as text.

    system: whether it can show a system message. legacy: family of a template that is no Jinja text, else "". turn_end: text
    after every answer, if a model is trained to write all of it; otherwise it writes the first control token.
    """

    def __init__(self, tokenizer: Any, template: str, architecture: Literal["causal", "seq2seq"]) -> None:
        self._tokenizer, self.name = tokenizer, template
        template = read_template(template)
        published = template in TEMPLATES and template not in _BUILT_IN
        self.legacy = template.partition("/")[2] if published else ""
        self.turn_end = _DFPO_TURN_END if template in DFPO_TEMPLATES else ""
        if architecture == "seq2seq":
            if template not in ("chat", "plain"):
                raise InputError(
                    "an encoder-decoder reads plain text; only causal models use templates",
                    key="data.template",
                    value=self.name,
                    fix="remove data.template, or use a causal model",
                )
            self._jinja: str | None = _SOURCE
        elif template == "chat":
            self._jinja = None if tokenizer.chat_template else _PLAIN
        else:
            self._jinja = _BUILT_IN.get(template, template.removeprefix(_READ))
        self.system = self._has_system()

    @property
    def source(self) -> str | None:
        """Return the Jinja text that renders rows; None for the tokenizer's own template and for the legacy ones."""
        return None if self.legacy else self._jinja

    def render(
        self,
        messages: Sequence[tuple[str, str]],
        *,
        ask: bool = False,
        thinking: bool = False,
        reasoning: str | None = None,
        field: str = "reasoning_content",
    ) -> str:
        """Render (role, content) messages as text.

        ask: add what the template writes before an answer of the assistant. thinking: use the template's thinking
        mode, if it has one. reasoning: the reasoning of the last answer, passed as the key `field` of its message.
        If the template cannot show a system message, the text of that message precedes the first one of the user, with
        a blank line between.
        Raises UnfitMessagesError if the template refuses these messages, InputError if it cannot show any.
        """
        if messages and messages[0][0] == "system" and not self.system:
            (_, system), *rest = messages
            first = next((at for at, (role, _) in enumerate(rest) if role == "user"), None)
            if first is None:
                rest.insert(0, ("user", system))
            else:
                rest[first] = ("user", f"{system}\n\n{rest[first][1]}")
            messages = rest
        return (
            self._legacy(messages, ask)
            if self.legacy
            else self._render(messages, ask, thinking, reasoning, field)
        )

    def _render(
        self,
        messages: Sequence[tuple[str, str]],
        ask: bool,
        thinking: bool,
        reasoning: str | None,
        field: str,
    ) -> str:
        from jinja2 import TemplateError

        turns = [{"role": role, "content": content} for role, content in messages]
        if reasoning is not None:
            next(turn for turn in reversed(turns) if turn["role"] == "assistant")[field] = reasoning
        try:
            # Switch off the thinking mode of a template, unless the answer has reasoning.
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    chat_template=self._jinja,
                    tokenize=False,
                    add_generation_prompt=ask,
                    enable_thinking=thinking,
                )
            )
        except (RecursionError, MemoryError, _TooLongError) as error:
            reasons: dict[type[BaseException], str] = {
                RecursionError: "a macro calls itself endlessly",
                MemoryError: "the rendered text is larger than the memory",
            }
            reason = reasons.get(type(error), f"rendering takes more than {TRIAL_SECONDS:.0f} s")
            raise self.broken(reason) from None
        except (
            TemplateError,
            ArithmeticError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            RuntimeError,
        ) as error:
            raise UnfitMessagesError(f"{type(error).__name__}: {error}") from None

    def broken(self, reason: str) -> InputError:
        """Return the error for a template that cannot show any conversation."""
        return InputError(
            f"the chat template cannot be used: {reason}",
            key="data.template",
            value=self.name.partition("\n")[0][:80],
            fix="use data.template: chatml, plain, or a Jinja file that renders messages",
        )

    def _legacy(self, messages: Sequence[tuple[str, str]], ask: bool) -> str:
        texts = dict(messages)
        if len(texts) < len(messages) or "user" not in texts or ("assistant" in texts) == ask:
            raise UnfitMessagesError("a template named legacy/… can show only one question and one answer")
        answer = "\u2402answer\u2403" if ask else texts["assistant"]
        text = render(self.legacy, texts.get("system", ""), texts["user"], answer)
        # The blank before the answer is part of its first token, so the prompt of generation must not end with it.
        return text.partition(answer)[0].rstrip(" ") if ask else text

    def _has_system(self) -> bool:
        self.system = True
        try:
            with _time_limit(TRIAL_SECONDS):
                text = self.render(
                    [("system", "\u2402s\u2403"), ("user", "\u2402u\u2403"), ("assistant", "\u2402a\u2403")]
                )
        except UnfitMessagesError:
            return False
        return text.count("\u2402s\u2403") == 1


_TEMPLATES = {
    "mistral": ("<s>[INST] ", " This is the question: ", r" [/INST] \n ", "</s>"),
    "llama": ("[s][INST] ", " This is the question: ", r" [/INST] \n ", "[/s]"),
    "llama3": (
        "<|start_header_id|>system<|end_header_id|> ",
        "<|eot_id|><|start_header_id|>user<|end_header_id|> This is the question: ",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|> ",
        "<|eot_id|>",
    ),
    "gemma": (
        "<start_of_turn>user ",
        " This is the question: ",
        r"<end_of_turn> \n <start_of_turn>model ",
        "<end_of_turn>model",
    ),
}
_TEMPLATES["llama2"] = _TEMPLATES["llama"]


def render(family: str, instruction: str, input: str, output: str) -> str:
    """Render one row of a published instruct set, as in its `prompt` column.

    family: gemma, llama (also called llama2), llama3 or mistral.
    """
    before, between, answer, end = _TEMPLATES[family]
    return f"{before}{instruction}{between}{input}{answer}{output}{end}"
