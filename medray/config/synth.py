"""The config of `medray synth`. It is a file of its own: synthesis needs neither a model to train nor its data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

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


class SynthConfig(Section):
    """The config of one synthesis."""

    run: SynthRunConfig = Field(default_factory=SynthRunConfig)
    prompts: SynthPromptsConfig = Field(default_factory=SynthPromptsConfig)
