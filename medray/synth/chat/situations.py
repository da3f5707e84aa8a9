"""The situation of a chat: mode, number of turns, lengths and styles, drawn once per question by its id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medray.synth.chat import system_prompts
from medray.synth.draws import Draws
from medray.synth.lists.values import Lists
from medray.synth.prompts.grid import PART_1_TASK
from medray.synth.prompts.questions import EMERGENCY, LANGUAGE_TITLE, Question

MODES = ("chat", "normal", "emergency")
LENGTHS = ("no_specification", "short", "long", "exactly_n_sentences")
STYLES = ("no_specification", "markdown", "plain text", "bullets", "step by step")
SCIENCE = ("popularization", "standard", "scientific")
TRANSLATION = "Language Translation"
EMERGENCY_FIELD = "emergency medicine"
EMERGENCY_TASK = 11

# Weights of MODES by the zero-based number of the task: parts 1 and 2, and part 3.
_USUAL = ((0.4, 0.6, 0.0), (0.25, 0.75, 0.0))
_ACUTE = ((0.4, 0.5, 0.1), (0.25, 0.7, 0.05))
_MODE_WEIGHTS = {
    **dict.fromkeys((0, 2, 3, 7), _ACUTE),
    6: ((0.0, 1.0, 0.0), (0.0, 1.0, 0.0)),
    EMERGENCY_TASK: ((0.3, 0.3, 0.4), (0.2, 0.4, 0.4)),
    PART_1_TASK: ((0.35, 0.55, 0.1), (0.35, 0.55, 0.1)),
}
_TURNS = {"normal": (0.5, 0.3, 0.2), "chat": (0.2, 0.3, 0.5), "emergency": (0.2, 0.3, 0.5)}
_TURNS_OF_TRANSLATION = (0.8, 0.1, 0.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """The situation of one chat.

    n_sentences: of the chatbot and of the user, where the length is exactly_n_sentences. language: ISO 639-1 code that an
    answer style asks for.
    """

    id: str
    turns: int
    initial_prompt: str
    system_chatbot: str
    system_user: str
    mode: str
    chatbot_length: str
    chatbot_style: str
    chatbot_science: str
    user_length: str
    user_science: str
    user_specialty: str
    country: str | None = None
    n_chatbot: int | None = None
    n_user: int | None = None
    language: str | None = None
    seed: int | None = None
    context: Any = None
    style: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "nbr_of_turns": self.turns,
            "initial_prompt": self.initial_prompt,
            "system_prompt_chatbot": self.system_chatbot,
            "system_prompt_user": self.system_user,
            "multiturn_style_parameters": [
                self.mode,
                self.chatbot_length,
                self.chatbot_style,
                self.chatbot_science,
                self.user_length,
                self.user_science,
                self.user_specialty,
            ],
            "country": self.country,
            "n_sentences": [self.n_chatbot, self.n_user],
            "language": self.language,
            "seed": self.seed,
            "context": self.context,
            "style": self.style,
        }

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Situation:
        """Return the situation of a line of a situations file; the keys that medray adds may be absent.

        Raises LookupError, TypeError or ValueError for a line that is none.
        """
        drawn = row["multiturn_style_parameters"]
        mode, length, style, science, user_length, user_science, specialty = map(str, drawn)
        sentences = row.get("n_sentences") or (None, None)
        turns = row["nbr_of_turns"]
        texts = [row[key] for key in ("id", "initial_prompt", "system_prompt_chatbot", "system_prompt_user")]
        if turns not in (1, 2, 3) or not all(isinstance(text, str) for text in texts):
            raise ValueError("not a situation")
        return cls(
            id=texts[0],
            turns=int(turns),
            initial_prompt=texts[1],
            system_chatbot=texts[2],
            system_user=texts[3],
            mode=mode,
            chatbot_length=length,
            chatbot_style=style,
            chatbot_science=science,
            user_length=user_length,
            user_science=user_science,
            user_specialty=specialty,
            country=row.get("country"),
            n_chatbot=sentences[0],
            n_user=sentences[1],
            language=row.get("language"),
            seed=row.get("seed"),
            context=row.get("context"),
            style=row.get("style"),
        )


def task_of(question: Question) -> int:
    """Return the zero-based number of a question's task; part 1 has the pseudo task 20."""
    if question.style == EMERGENCY:
        return EMERGENCY_TASK
    if question.part == 1:
        return PART_1_TASK
    if question.part == 3 and not isinstance(question.context, str):
        return int(question.context[0]) - 1
    first = question.id.partition("-")[0]
    return int(first) if first.isdecimal() else -1


def draw(question: Question, lists: Lists, seed: int) -> Situation:
    """Return the situation of a question. It depends on the seed and the question's id only."""
    draws = Draws(seed, "situation", question.id)
    part_3 = question.part == 3
    mode = draws.weighted(MODES, _mode_weights(question))
    turns = _turns(question, mode, lists, draws)
    length = draws.weighted(LENGTHS, (0.6, 0.15, 0.2, 0.05) if part_3 else (0.4, 0.2, 0.3, 0.1))
    n_chatbot = draws.index(9) + 2
    style = draws.weighted(STYLES, (0.6, *(0.1,) * 4) if part_3 else (0.4, *(0.15,) * 4))
    science = draws.weighted(SCIENCE, (0.1, 0.8, 0.1))
    user_length = draws.weighted(LENGTHS, (0.4, 0.3, 0.2, 0.1))
    n_user = draws.index(10) + 1
    user_science = draws.weighted(SCIENCE, (0.1, 0.8, 0.1))
    country = question.country or draws.choice(lists.all_countries)
    exactly = LENGTHS[3]
    chatbot = system_prompts.chatbot(
        country=country,
        mode=mode,
        length=length,
        sentences=n_chatbot,
        style=style,
        science=science,
        setting=question.setting,
    )
    user = system_prompts.user(
        country=country,
        mode=mode,
        length=user_length,
        sentences=n_user,
        science=user_science,
        specialty=question.speaker,
    )
    return Situation(
        id=question.id,
        turns=turns,
        initial_prompt=question.prompt,
        system_chatbot=chatbot,
        system_user=user,
        mode=mode,
        chatbot_length=length,
        chatbot_style=style,
        chatbot_science=science,
        user_length=user_length,
        user_science=user_science,
        user_specialty=question.speaker,
        country=country,
        n_chatbot=n_chatbot if length == exactly else None,
        n_user=n_user if user_length == exactly else None,
        language=_language(question, lists),
        seed=seed,
        context=question.context,
        style=question.style,
    )


def _mode_weights(question: Question) -> Sequence[float]:
    if question.part == 1 and _is_emergency(question):
        return (0.0, 0.0, 1.0)
    return _MODE_WEIGHTS.get(task_of(question), _USUAL)[question.part == 3]


def _is_emergency(question: Question) -> bool:
    """Return whether specialty or domain is Emergency Medicine, in any case and with any blanks."""
    fields = str(question.context).split(",")[1:]  # without the profession
    return any(field.strip().casefold() == EMERGENCY_FIELD for field in fields)


def _turns(question: Question, mode: str, lists: Lists, draws: Draws) -> int:
    weights = _TURNS[mode]
    if question.part == 3 and not isinstance(question.context, str) and question.context[1] == TRANSLATION:
        weights = _TURNS_OF_TRANSLATION
    drawn = draws.weighted((1, 2, 3), weights)
    title = (question.style or "")[:-1]
    decided = next((each.turns for each in lists.styles if str(each.number) == title), None)
    return decided or drawn


def _language(question: Question, lists: Lists) -> str | None:
    style = question.style or ""
    title = next((each for each in lists.styles if str(each.number) == style[:-1]), None)
    if title is None or title.number != LANGUAGE_TITLE:
        return None
    return title.languages.get(style[-1:])
