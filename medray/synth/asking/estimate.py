"""The cost of what is left, before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from medray.backends.price import CHARACTERS_PER_TOKEN, TOKENS_PER_MESSAGE, Estimate, cost
from medray.config.backends import PriceConfig
from medray.synth.asking.steps import CHAT_STEPS, steps_of
from medray.synth.asking.store import Store
from medray.synth.chat.situations import Situation

# Mean tokens of a reply until there are replies of this synthesis: published means of a chatbot's turn and of a question.
MEAN_TOKENS = {"c": 340.0, "u": 55.0, "q": 55.0}
FEWEST_REPLIES = 20  # for a mean of this synthesis
_SAMPLE = 1000  # chats whose prompts are measured


def mean_tokens(store: Store, kind: str) -> float:
    """Return the mean tokens of a reply. kind: q question, u user, c chatbot."""
    seen = store.tokens[kind]
    return seen.completion / seen.replies if seen.replies >= FEWEST_REPLIES else MEAN_TOKENS[kind]


def of_chats(
    names: Iterable[str],
    get: Callable[[str], Situation],
    replies: Callable[[str], int],
    store: Store,
    price: PriceConfig | None,
    max_tokens: int,
) -> Estimate:
    """Return the estimate of the steps that chats still need.

    replies: number of accepted replies of a chat. The prompts of at most 1,000 chats are measured, spread over all.
    """
    left = list(names)
    chosen = left[:: max(1, len(left) // _SAMPLE)]
    means = {kind: min(mean_tokens(store, kind), max_tokens) for kind in "uc"}
    requests = prompt = completion = 0.0
    for name in chosen:
        for sent, written in _steps(get(name), replies(name), means):
            requests, prompt, completion = requests + 1, prompt + sent, completion + written
    scale = len(left) / len(chosen) if chosen else 0.0
    count, tokens, written = round(requests * scale), round(prompt * scale), round(completion * scale)
    return Estimate(
        requests=count,
        prompt_tokens=tokens,
        completion_tokens=written,
        cost=cost(price, tokens, written),
        most_cost=cost(price, tokens, count * max_tokens),
    )


def _steps(situation: Situation, done: int, means: dict[str, float]) -> Iterator[tuple[float, float]]:
    """Yield (tokens of the prompt, tokens of the reply) of the steps that are left."""
    history = len(situation.initial_prompt) / CHARACTERS_PER_TOKEN + TOKENS_PER_MESSAGE
    steps = steps_of(situation.turns)
    for step in islice(CHAT_STEPS, done):
        history += means[step[-1]] + TOKENS_PER_MESSAGE
    for step in steps[done:]:
        system = situation.system_user if step.endswith("u") else situation.system_chatbot
        yield len(system) / CHARACTERS_PER_TOKEN + TOKENS_PER_MESSAGE + history, means[step[-1]]
        history += means[step[-1]] + TOKENS_PER_MESSAGE
