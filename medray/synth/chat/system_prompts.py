"""The system prompts of the two roles. Bullets about length and style appear in the mode normal only."""

from __future__ import annotations

_GUIDELINES = (
    "Be courteous in every answer.",
    "Base what you say on evidence and on accepted guidelines.",
    "Be ethical and safe. If a question is unclear or rests on an error, say so and explain why.",
    "When you mention a medicine, give an approximate dose, followed by (dosages should be verified).",
    "If the health worker asks for a format, a length or a language, obey.",
    "Fit your advice to the geography, the resources, the level of care, the season and local epidemiology, and the specialty.",
)
_LENGTHS = {
    "short": "Keep each {what} short.",
    "long": "Write a long and detailed {what} each time.",
}
_STYLES = {
    "markdown": "Format your answers with Markdown.",
    "plain text": "Write plain text, without any markup.",
    "bullets": "Write your answers as bullet points.",
    "step by step": "Write your answers as numbered steps.",
}
_CHATBOT_SCIENCE = {
    "popularization": "Use everyday words that a reader without medical training understands.",
    "scientific": "Use the precise terms of scientific literature.",
}
_USER_SCIENCE = {
    "popularization": "Use everyday words, and few medical terms.",
    "scientific": "Use the precise terms of scientific literature.",
}


def chatbot(
    *, country: str, mode: str, length: str, sentences: int, style: str, science: str, setting: str | None
) -> str:
    """Return the system prompt of the assistant."""
    bullets = list(_GUIDELINES)
    if mode == "chat":
        bullets.append(
            "This is a quick chat: answer in a few sentences, and ask back if a question is unclear."
        )
    elif mode == "emergency":
        bullets.append(
            "This is an emergency: answer briefly and in a clear structure that can be read under stress, the most urgent "
            "step first."
        )
    else:
        bullets += _length(length, sentences, "answer")
        bullets += [_STYLES[style]] if style in _STYLES else []
    bullets += [_CHATBOT_SCIENCE[science]] if science in _CHATBOT_SCIENCE else []
    where = f" The resource setting is: {setting}." if setting else ""
    return (
        f"You are a medical chatbot that helps health workers in {country}.{where} Follow these rules:\n"
        + _bulleted(bullets)
        + "The whole conversation so far is given to you. You write the next message of the chatbot. Ask back only if "
        "information that you need is missing. Write the message alone, without a label for who speaks."
    )


def user(*, country: str, mode: str, length: str, sentences: int, science: str, specialty: str) -> str:
    """Return the system prompt of the health worker."""
    bullets = ["Ask follow-up questions that arise from the chatbot's answers."]
    if mode == "chat":
        bullets.append("This is a quick chat: write short messages, and ask if an answer is unclear.")
    elif mode == "emergency":
        bullets.append("This is an emergency: write briefly and in haste.")
    else:
        bullets += _length(length, sentences, "message")
    bullets += [_USER_SCIENCE[science]] if science in _USER_SCIENCE else []
    return (
        f"You play a health worker ({specialty}) in {country} who uses a medical chatbot. Your first question has been asked "
        "already. Follow these rules:\n"
        + _bulleted(bullets)
        + "You write the next message of the user, who wants the first question to be solved. Never answer as the chatbot. "
        "Write the message alone, without a label for who speaks."
    )


def _length(length: str, sentences: int, what: str) -> list[str]:
    if length == "exactly_n_sentences":
        return [f"Each {what} has exactly {sentences} sentence{'s' if sentences > 1 else ''}."]
    return [_LENGTHS[length].format(what=what)] if length in _LENGTHS else []


def _bulleted(bullets: list[str]) -> str:
    return "".join(f"- {bullet}\n" for bullet in bullets)
