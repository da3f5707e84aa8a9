"""The board between a search and its trials: the search writes orders to stop, and trials write how far they are.

It is an actor without CPUs on the node of the search. Nothing depends on its survival: the search sends all orders again
several times a second, and a trial that cannot reach the board continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAUSE = "pause"  # the whole search stops: save, and continue with the next start of the search
News = dict[str, Any]


class Board:
    """The orders and the news, by the numbers of trials."""

    def __init__(self) -> None:
        self._orders: dict[int, str] = {}
        self._everyone: str | None = None
        self._news: dict[int, News] = {}

    def order(self, orders: Mapping[int, str], everyone: str | None) -> dict[int, News]:
        """Replace the orders, and return the newest news of each trial. everyone: an order to all trials."""
        self._orders, self._everyone = dict(orders), everyone
        return self._news

    def tell(self, number: int, news: News) -> str | None:
        """Replace the news of a trial, and return the order to it: PAUSE, why it was stopped early, or None."""
        self._news[number] = news
        return self._everyone or self._orders.get(number)


def start() -> Any:
    """Start the board on this node, and return its handle."""
    import ray

    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return ray.remote(Board).options(num_cpus=0, max_restarts=-1, label_selector=here).remote()
