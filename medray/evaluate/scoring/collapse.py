"""Signs in generated texts that a model is probably useless: no text, one text for all, the prompt again, endless loops.

Each rule reads the answers and returns one sentence, or None. No sentence contains text of a record. `medray train` applies
the rules to its own predictions (`train/export/collapse.py`), `medray predict` to those that it wrote, `medray eval` to any
file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from medray.evaluate.words import words

MOST = 0.5  # share of the rows above which a rule about predictions applies
ONE_ANSWER = 0.9  # share of the rows with the same prediction
FEW_ROWS = 5  # fewer rows may get the same answer by chance
COPIED = 0.8  # share of a reference's words that also occur in its prompt
LOOP_WORDS, LOOP_DISTINCT = 20, 0.2  # number of words of a prediction, and the share of distinct ones
ENDED = {"stop": True, "length": False}  # the column `finish` of predictions → `Answer.ended`


@dataclass(frozen=True)
class Answer:
    """A generated text, with its prompt as the model read it and its reference answer.

    prompt: "" if it is not known. reference: None if there is none. ended: whether generation ended with an end token;
    None if that is not known.
    """

    prompt: str
    reference: str | None
    prediction: str
    ended: bool | None = None


def warnings(answers: Sequence[Answer]) -> list[dict[str, str]]:
    """Return `{"name", "text"}` for each rule that applies, in the order of RULES."""
    found = ((name, rule(answers)) for name, rule in RULES.items())
    return [{"name": name, "text": text} for name, text in found if text]


def empty_predictions(answers: Sequence[Answer]) -> str | None:
    asked = [answer for answer in answers if answer.reference is None or answer.reference.strip()]
    empty = sum(not answer.prediction.strip() for answer in asked)
    return f"{empty} of {len(asked)} predictions are empty" if asked and empty >= MOST * len(asked) else None


def same_prediction(answers: Sequence[Answer]) -> str | None:
    given = [answer.prediction.strip() for answer in answers]
    wanted = [answer.reference.strip() for answer in answers if answer.reference is not None]
    if len(given) < 2:
        return None
    [(text, count)] = Counter(given).most_common(1)
    if len(wanted) < len(given):  # without references, only a clear case counts
        clear = bool(text) and len(given) >= FEW_ROWS and count >= ONE_ANSWER * len(given)
        return f"{count} of {len(given)} predictions are the same text" if clear else None
    if len(set(wanted)) < 2:
        return None
    [(_, common)] = Counter(wanted).most_common(1)
    all_but_few = count >= ONE_ANSWER * len(given) and common < MOST * len(wanted)
    if not text or not (count == len(given) or all_but_few):
        return None
    right = sum(one == other for one, other in zip(given, wanted, strict=True))
    if right > MOST * len(given) or (
        right and len(given) < FEW_ROWS
    ):  # most rows of a corpus may have the same class
        return None
    return f"{count} of {len(given)} predictions are the same text, although the references differ"


def echoed_prompts(answers: Sequence[Answer]) -> str | None:
    return _of_most(answers, _echoes, "predictions repeat their prompt")


def repeating_predictions(answers: Sequence[Answer]) -> str | None:
    return _of_most(
        answers,
        lambda answer: _loops(answer.prediction) and not _loops(answer.reference or ""),
        "predictions repeat a few words over and over",
    )


def no_end_token(answers: Sequence[Answer]) -> str | None:
    known = [answer.ended for answer in answers if answer.ended is not None]
    open_ended = known.count(False)
    if not known or open_ended < MOST * len(known):
        return None
    return (
        f"{open_ended} of {len(known)} predictions reached the longest length without an end token. Generate more tokens, "
        "or check that training teaches the end of an answer"
    )


RULES: dict[str, Callable[[Sequence[Answer]], str | None]] = {
    rule.__name__: rule
    for rule in (empty_predictions, same_prediction, echoed_prompts, repeating_predictions, no_end_token)
}


def _of_most(answers: Iterable[Answer], is_so: Callable[[Answer], bool], what: str) -> str | None:
    asked = list(answers)
    count = sum(map(is_so, asked))
    if not asked or count < MOST * len(asked):
        return None
    known = all(answer.reference is not None for answer in asked)
    return f"{count} of {len(asked)} {what}" + (", but the references do not" if known else "")


def _echoes(answer: Answer) -> bool:
    """Return whether the prediction copies most of the prompt, and the reference does not.

    If the reference also consists mostly of the prompt's words, this is False: in a corpus of corrections, a good answer
    repeats much of its prompt.
    """
    prompt, said, wanted = (
        text.strip() for text in (answer.prompt, answer.prediction, answer.reference or "")
    )
    if not said or said == wanted or said not in prompt or len(said) < MOST * len(prompt):
        return False
    asked, found = set(words(prompt)), words(wanted)
    repeats = sum(word in asked for word in found) >= COPIED * len(found)
    return not (found and repeats and len(wanted) >= MOST * len(prompt))


def _loops(text: str) -> bool:
    words = text.split()
    return len(words) >= LOOP_WORDS and len(set(words)) <= LOOP_DISTINCT * len(words)
