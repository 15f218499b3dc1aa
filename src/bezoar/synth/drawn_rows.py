"""Rows that are drawn without a model: each by its own generator, none twice."""

import random
from collections.abc import Callable

from bezoar.chat.types import Chat, Dropped, Filtered
from bezoar.rng import rng_for

_TRIES = 20


def draw_rows(
    name: str,
    num: int,
    seed: int,
    make: Callable[[int, random.Random], tuple[Chat, bool]],
    fault: Callable[[Chat], str],
) -> Filtered[Chat]:
    """`num` rows of `make(number, rng)`, which says of each whether it may repeat another's words.

    Dropped: "double", and what `fault` says; another draw takes the place of a dropped one, 20
    times at most.
    """
    seen: set[str] = set()
    results: list[Chat | Dropped] = []
    for number in range(num):
        # a catalogue of few values may have no other row left
        for attempt in range(_TRIES):
            chat, may_repeat = make(number, rng_for(name, seed, number, attempt))
            text = "\n".join(m.content for m in chat.messages if m.role == "user")
            reason = "double" if text in seen and not may_repeat else fault(chat)
            # also of those that fail: the same words would fail again
            seen.add(text)
            dropped = Dropped(f"{chat.id}.{attempt}", reason, text[:400])
            results.append(dropped if reason else chat)
            if not reason:
                break
    return Filtered.split(results)
