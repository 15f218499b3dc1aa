"""How an endpoint goes on with an answer that was begun (`prefill`): found out once, by a probe.

llama.cpp, Ollama and others go on with a last turn of the assistant, some of them giving it back
with the rest; vLLM does so only where the request says so; others, such as OpenAI, begin a new
turn, and are told in words how to begin.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from bezoar.chat.types import Message
from bezoar.llm.types import Reply, Request

# the begun answer is a last turn of the assistant; such a turn, with FLAGS; or a sentence
Way = Literal["turn", "flags", "words"]
# keys of a vLLM request that has its last turn gone on with
FLAGS = {"continue_final_message": True, "add_generation_prompt": False}
PROBED: tuple[Way, ...] = ("turn", "flags")
FOUND: dict[Way, str] = {
    "turn": "goes on with answers that are begun for it",
    "flags": "goes on with answers that are begun for it where continue_final_message says so",
    "words": "cannot go on with an answer that is begun for it: it is asked to begin so, and an"
    " answer that begins otherwise counts as failed",
}
"""What is told of a server once its way is found."""
# cut where every tokenizer has a border; a new turn cannot begin with what is missing
_LINE, _BEGUN, _MISSING = "[A] [B] [C] [D] [E] [F] [G] [H]", "[A] [B] [C] [D", "] [E"
# a new turn of so few tokens cannot come to what is missing, however its tokenizer cuts
_NUM_TOKENS = 4


def probe(way: Way) -> Request:
    """A question whose answer tells whether the server goes on in this way."""
    asked = Message("user", f"Repeat this line exactly, and nothing else: {_LINE}")
    # the seed, which is not sent without sampling, makes two questions of the two ways
    seed = int(way == "flags")
    return Request((asked, Message("assistant", _BEGUN)), max_tokens=_NUM_TOKENS, seed=seed)


def stored_probes(
    identity: str, stored: Callable[[Collection[str]], Mapping[str, Reply]]
) -> dict[Way, Reply]:
    """What is `stored` (by key) of the probes of a backend."""
    keys = {way: probe(way).key(identity) for way in PROBED}
    found = stored(keys.values())
    return {way: found[key] for way, key in keys.items() if key in found}


def find_way(known: Mapping[Way, Reply], ask: Callable[[Way], Reply]) -> Way:
    """The first way in which the server goes on; `ask` sends a probe that is not `known`."""
    ways = sorted(PROBED, key=lambda way: way not in known)
    goes_on = (_MISSING, _BEGUN + _MISSING)
    found = (way for way in ways if (known.get(way) or ask(way)).text.startswith(goes_on))
    return next(found, "words")
