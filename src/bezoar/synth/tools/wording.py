"""Sentences around what a catalogue says: requests made polite or joined, and plain replies."""

import random
from collections.abc import Sequence

from bezoar.synth.tools.values import listed

_POLITE = (
    "Please {}.",
    "Could you {}?",
    "Can you {}?",
    "I need you to {}.",
    "I would like you to {}.",
    "Would you please {}?",
    "Hello! Please {}.",
)
_ASKING = ("Hi, {}", "Quick question: {}", "Hello, {}", "One question: {}")
_THEN = (("Also, ", "And "), ("After that, ", "Finally, "), ("Then ", "Besides, "))
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant with access to functions. Use them where they help.",
    "Answer briefly.",
    "You are an assistant that calls functions on behalf of the user.",
)
_NO_TOOL = (
    "None of my functions can do that.",
    "I am sorry, but I have no function for this.",
    "I cannot do that with the functions that I was given.",
    "The functions available to me do not fit this request, so I cannot help with it.",
    "That is not something that I have a function for.",
)
_CAN = ("What I can do is this: {}.", "I can only {}.", "My functions can {}.")
_ASK_BACK = (
    "Could you tell me {}?",
    "I can do that, but I still need to know {}.",
    "Before I can do that, please tell me {}.",
    "To do this I need one more thing. Can you tell me {}?",
)
_GIVING = ("{}", "{}.", "It is {}.", "{}, please.", "Sorry, I forgot: {}.")
_FAILED = (
    "I am sorry, that did not work: {}",
    "That failed with this message: {}",
    "It could not be done. {}",
    "Unfortunately I got an error: {}",
)
_NEXT = ("Thanks! {}", "Thank you. {}", "Great. {}", "{}", "And one more thing. {}")


def request(clause: str, rng: random.Random) -> str:
    """A sentence of a clause, which is an imperative, a question ("?") or a statement (".")."""
    # statements stand alone: "Could you I am making bread" would be no sentence
    if clause.endswith(".") or ". " in clause:
        return clause if clause.endswith((".", "?")) else clause + "."
    if clause.endswith("?"):
        return rng.choice(_ASKING).format(_low(clause)) if rng.random() < 0.2 else clause
    if rng.random() < 0.45:
        return clause + ("." if rng.random() < 0.8 else "")
    return rng.choice(_POLITE).format(_low(clause))


def joined(clauses: Sequence[str], rng: random.Random) -> str:
    """Several requests as one text."""
    # only imperatives can share one sentence
    plain = all(not clause.endswith((".", "?")) and ". " not in clause for clause in clauses)
    style = rng.random()
    if style < 0.15:
        lines = [f"{number}. {_closed(clause)}" for number, clause in enumerate(clauses, 1)]
        return "\n".join([rng.choice(("Please do the following:", "I need these:")), *lines])
    if plain and style < 0.5:
        first, *others = clauses
        text = ", then ".join([first, *map(_low, others[:-1])])
        return request(
            f"{text}{rng.choice((' and ', ', and also ', ', and then '))}{_low(others[-1])}", rng
        )
    first, *others = clauses
    links = rng.choice(_THEN)
    texts = [_closed(request(first, rng))]
    for number, clause in enumerate(others):
        link = links[1] if number == len(others) - 1 and len(others) > 1 else links[0]
        asks = not clause.endswith(".") and ". " not in clause
        texts.append(link + _low(_closed(clause)) if asks else _closed(clause))
    return " ".join(texts)


def no_tool(descriptions: Sequence[str], rng: random.Random) -> str:
    """A reply where no tool fits, with what the tools can do in half of the cases."""
    text = rng.choice(_NO_TOOL)
    if rng.random() < 0.5:
        can = listed([_low(words.rstrip(".")) for words in descriptions])
        text += " " + rng.choice(_CAN).format(can)
    return text


def ask_back(description: str, rng: random.Random) -> str:
    """A question for an argument, by its description: `The name of the dish.`"""
    what = description.rstrip(".").split(" as ")[0].split(", such")[0]
    return rng.choice(_ASK_BACK).format(_low(what))


def giving(words: str, rng: random.Random) -> str:
    """The reply to such a question."""
    return rng.choice(_GIVING).format(words)


def failed(error: str, rng: random.Random) -> str:
    """A final answer that tells an error."""
    return rng.choice(_FAILED).format(error)


def going_on(text: str, rng: random.Random) -> str:
    """A request after an earlier one was answered."""
    return rng.choice(_NEXT).format(text)


def _closed(clause: str) -> str:
    return clause if clause.endswith((".", "?")) else clause + "."


def _low(text: str) -> str:
    """With a small first letter, unless the first word is a name or `I`."""
    return text if text.startswith(("I ", "My ")) else text[:1].lower() + text[1:]
