"""Judges that are rules: they compare an answer with its gold and need no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from medray.backends.protocol import Request
from medray.errors import InputError
from medray.evaluate.judge.items import Item, parts


def rules(items: Sequence[Item]) -> Mapping[str, Callable[[Request], str]]:
    """Return the rules by name, for these items.

    exact: correct if answer and gold are equal, ignoring case, blanks and the order of a list; else incorrect.
    overlap: the same, but partially_correct if the two lists share an entry. A rule raises InputError for an item without
    gold.
    """
    by_id = {item.id: item for item in items}

    def compared(request: Request, *, partly: bool) -> str:
        item = by_id[request.key.rpartition("#")[0]]
        if item.gold is None:
            raise InputError(
                "a judge that is a rule needs the right answer of every item, but an item has none",
                key="columns.gold",
                fix="add the field gold to all items, or use another type of judge",
            )
        answer, gold = parts(item.answer), parts(item.gold)
        verdict = "correct" if answer == gold else "incorrect"
        if partly and verdict == "incorrect" and answer & gold:
            verdict = "partially_correct"
        return json.dumps({"verdict": verdict, "reason": f"{len(answer & gold)} of {len(gold)} entries"})

    return {
        "exact": lambda request: compared(request, partly=False),
        "overlap": lambda request: compared(request, partly=True),
    }
