"""The config of `medray synth`. It is a file of its own: synthesis needs neither a model to train nor its data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from medray.config.backends import BackendConfig, PriceConfig
from medray.config.run import RunConfig
from medray.config.section import Section, key


class SynthRunConfig(RunConfig):
    """The folder of a synthesis, and its seed."""

    name: str = key("synth", "Folder of this synthesis inside the storage; the same name resumes it.")
    seed: int = key(0, "Seed of all draws; the same seed gives the same requests on any machine.", ge=0)


class SynthPromptsConfig(Section):
    """The requests for opening questions, and how replies to them become questions."""

    resources: str | None = key(
        None,
        "Folder of your own lists; a file in it replaces medray's list of the same name. Relative to the config file.",
    )
    parts: tuple[Literal[1, 2, 3], ...] = key(
        (1, 2, 3),
        "1: specialties x domains; 2: tasks x subtopics; 3: tasks x specialties, with patients and answer styles.",
    )
    sample: int | None = key(
        None, "Number of requests of each part, drawn by seed; null: the whole grid.", ge=1
    )
    questions_per_request: int = key(
        4, "Questions of one request of part 3, each about another patient.", ge=1, le=26
    )
    max_tokens_per_question: int = key(500, "Longest reply of part 3, in tokens per question.", ge=1)
    use_setting: bool = key(
        False, "Name a resource setting in each request, drawn from medical_settings.json."
    )
    near_duplicates: float | None = key(
        0.8,
        "Drop questions at least this similar to an earlier one (Jaccard similarity of word sequences); null: keep all.",
        gt=0,
        le=1,
    )
    strip_quotes: bool = key(True, "Remove quotation marks that enclose a whole question.")

    @field_validator("parts")
    @classmethod
    def _each_part_once(cls, parts: tuple[int, ...]) -> tuple[int, ...]:
        if not parts or len(set(parts)) < len(parts):
            raise ValueError("name at least one part, and each part once", "set prompts.parts: [1, 2, 3]")
        return tuple(sorted(parts))


class SynthChatConfig(Section):
    """The chats that follow the opening questions."""

    history: Literal["messages", "flat"] = key(
        "messages",
        "How a model sees the chat: messages, one per message of the chat; or flat, one message with (user) and (chatbot), as published.",
    )
    max_tokens: int = key(1000, "Longest message of a chat, in tokens.", ge=1)
    temperature: float = key(1.0, "Temperature of questions and chats.", ge=0, le=2)
    retries: int = key(
        2,
        "Times that a reply is asked for again after one that was rejected; then the chat is dropped.",
        ge=0,
        le=20,
    )
    most: int | None = key(
        None, "Number of chats, drawn from the questions by seed; null: all questions.", ge=1
    )


class SynthFilesConfig(Section):
    """The request files that are written if no backend is set: the format of the OpenAI Batch API."""

    model: str = key("model", "Name of the model in each request.", min_length=1)
    most_requests: int = key(50_000, "Most requests in one file.", ge=1)
    most_megabytes: float = key(200.0, "Largest size of one file, in megabytes.", gt=0)
    price: PriceConfig | None = key(None, "Your prices, for the estimate and the budget; null: free.")


class SynthInputsConfig(Section):
    """Files of earlier work, instead of medray's own prompts. Relative to the config file."""

    questions: tuple[str, ...] = key(
        (), "Files of opening questions: lists of {id, prompt, context}, or JSON lines."
    )
    situations: tuple[str, ...] = key(
        (), "Files of situations, JSON lines as published; they are not drawn again."
    )
    chats: tuple[str, ...] = key((), "Files of chats in progress: JSON lines of {id, conversation}.")


class SynthCleanConfig(Section):
    """The training data that finished chats become, and what is left out."""

    chats: tuple[str, ...] = key(
        (), "Files of finished chats, relative to the config file; empty: those of this synthesis."
    )
    validation: float = key(0.1, "Share of the opening questions whose chats are for validation.", ge=0, lt=1)
    near_duplicates: float | None = key(
        0.8,
        "Drop chats whose opening question is at least this similar to that of an earlier one; null: keep all. Two answer "
        "styles of one question are kept.",
        gt=0,
        le=1,
    )
    languages: tuple[str, ...] = key(
        (), "Allowed languages of opening questions, as two-letter codes such as en; empty: all."
    )
    pii: Literal["drop", "mask", "keep"] = key(
        "drop",
        "Chats with an e-mail address, telephone number, date of birth or record number: drop them, mask it as [EMAIL] and so "
        "on, or keep them. All are counted.",
    )
    shortest_answer: int = key(1, "Fewest characters of each answer.", ge=1)
    longest_chat: int | None = key(None, "Most characters of a chat; null: no limit.", ge=1)
    dose_warning: bool = key(
        False, "Drop chats in which an answer names a dose without (dosages should be verified)."
    )
    decontaminate: tuple[str, ...] = key(
        (),
        "Benchmark files, relative to the config file; chats that share 13 consecutive words with them are dropped.",
    )


class SynthConfig(Section):
    """The config of one synthesis."""

    run: SynthRunConfig = Field(default_factory=SynthRunConfig)
    prompts: SynthPromptsConfig = Field(default_factory=SynthPromptsConfig)
    inputs: SynthInputsConfig = Field(default_factory=SynthInputsConfig)
    chat: SynthChatConfig = Field(default_factory=SynthChatConfig)
    clean: SynthCleanConfig = Field(default_factory=SynthCleanConfig)
    backend: BackendConfig | None = key(
        None, "Who answers; null: requests are written to files, and replies are read from files."
    )
    files: SynthFilesConfig = Field(default_factory=SynthFilesConfig)
    budget: float | None = key(
        None,
        "Most that replies may cost, in the currency of the prices; no request is sent that could exceed it.",
        gt=0,
    )
