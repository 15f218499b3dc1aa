"""One evolution of an instruction (Evol-Instruct): its prompt, and the rules that eliminate it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from bezoar.chat.types import Chat, Dropped, Message, Messages
from bezoar.data.files import locate_file
from bezoar.data.near_duplicates import words
from bezoar.errors import RecipeError
from bezoar.io import read_jsonl
from bezoar.llm.types import Ask, Reply, Request
from bezoar.prompts import fill, read_prompt, seal
from bezoar.rng import rng_for
from bezoar.synth.examples import clean
from bezoar.verdicts.own_words import own_words

Op = Literal["constraints", "deepen", "concretise", "reasoning", "complicate", "breadth"]
OPS: tuple[Op, ...] = ("constraints", "deepen", "concretise", "reasoning", "complicate", "breadth")
NUM_WORKED = 3
_PUNCTUATION = " .?!:"

Equality = Literal["equal", "not equal", "unparsed"]
# The order counts: scores are log p of the first less that of the second.
EQUALITY = ("Equal", "Not Equal")
MAX_SORRY_WORDS = 80
COPIED = ("given prompt", "rewritten prompt")
_EQUALITY = re.compile(r"\b(not\s++|un|in)?equal\b", re.IGNORECASE)
# "Not Equal" in quotation marks is the answer, not a quotation.
_TWO_WORDS = re.compile(r"\W*+\w++(?:\W++\w++)?+\W*+")


@dataclass(frozen=True)
class Lineage:
    """A seed and its latest text; `steps` are the operations that survived, each with its round."""

    seed: str
    text: str
    seed_meta: dict[str, Any]
    steps: tuple[tuple[int, Op], ...] = ()

    @property
    def id(self) -> str:
        """The id of the last evolution."""
        return f"evol-{self.seed}-r{self.steps[-1][0]}"

    @property
    def op(self) -> Op:
        """The last operation."""
        return self.steps[-1][1]


@dataclass(frozen=True)
class Wording:
    """The prompt of each operation, with {prompt} left to fill, and its worked rewritings."""

    prompts: dict[Op, str]
    worked: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Texts before and after, by operation."""

    def messages(self, lineage: Lineage, seed: int) -> Messages:
        """The request for the last operation, after up to three worked rewritings as turns."""
        # Earlier turns show a weak teacher the form of a reply better than an instruction does.
        prompt, worked = self.prompts[lineage.op], self.worked.get(lineage.op, [])
        shown = rng_for(seed, "worked", lineage.id).sample(worked, min(NUM_WORKED, len(worked)))
        turns: list[Message] = []
        for before, after in shown:
            turns += [Message("user", fill(prompt, prompt=before)), Message("assistant", after)]
        return (*turns, Message("user", fill(prompt, prompt=lineage.text)))

    def opening(self, lineage: Lineage) -> str:
        """How the evolved text is made to begin.

        Worked rewritings that repeat the old text and go on with the same words ("Also,"): the
        first paragraph of the old text and these words; other worked rewritings: its first word.
        None: its first paragraph and ", and", for breadth its first two words.
        """
        head = lineage.text.partition("\n\n")[0].rstrip()
        worked = self.worked.get(lineage.op, [])
        # Only if every rewriting repeats the old text is that the way of the operation.
        if worked:
            added = [after[len(before) :] for before, after in worked if after.startswith(before)]
            shared = _shared_words(added) if len(added) == len(worked) else ""
            ending = "" if head[-1:] in _PUNCTUATION else "."
            return f"{head}{ending} {shared}" if shared else head.split()[0]
        head = head.rstrip(_PUNCTUATION)
        return " ".join(head.split()[:2]) if lineage.op == "breadth" else f"{head}, and"


def read_wording(
    ops: Sequence[Op], *, depth: str, breadth: str, methods: str, worked: str
) -> Wording:
    """The wording in prompt files. RecipeError for a missing placeholder or operation."""
    depth_prompt = read_prompt(depth, "method", "prompt")
    method_of = {row["op"]: row["text"] for row in _read_rows(methods, "op", "text")}
    prompts: dict[Op, str] = {}
    for op in ops:
        if op == "breadth":
            prompts[op] = read_prompt(breadth, "prompt")
        elif op in method_of:
            prompts[op] = fill(depth_prompt, method=method_of[op])
        else:
            raise RecipeError(f"{methods}: no line for the operation {op}; add one or change ops.")
    pairs: dict[str, list[tuple[str, str]]] = {}
    for row in _read_rows(worked, "op", "before", "after") if worked else []:
        pairs.setdefault(row["op"], []).append((row["before"], row["after"]))
    return Wording(prompts, pairs)


def _read_rows(ref: str, *columns: str) -> list[dict[str, str]]:
    path = locate_file(ref, Path(), f"prompt {ref}")
    rows: list[dict[str, str]] = []
    for line, row in read_jsonl(path):
        if not all(isinstance(row.get(name), str) for name in columns) or row["op"] not in OPS:
            raise RecipeError(
                f"{path}:{line}: a line has {', '.join(columns)} as texts, op one of"
                f" {', '.join(OPS)}; mend the line."
            )
        rows.append(row)
    return rows


def evolved_text(lineage: Lineage, prefill: str, reply: str) -> str:
    """The evolved text, of which `reply` follows `prefill`; "" if nothing was written.

    After a prefill the paragraphs of the old text behind the first stay, except in breadth.
    """
    # Without a prefill the model may have put a label or quotes around the text.
    if not prefill or not reply.strip():
        return clean(reply)
    rest = lineage.text.partition("\n\n")[2] if lineage.op != "breadth" else ""
    return prefill + reply.rstrip() + (f"\n\n{rest}" if rest else "")


def _shared_words(texts: Sequence[str]) -> str:
    """The words with which all texts begin."""
    columns = zip(*(text.split() for text in texts), strict=False)
    shared = takewhile(lambda column: len(set(column)) == 1, columns)
    return " ".join(column[0] for column in shared)


@dataclass(frozen=True)
class Comparer:
    """Rule 1: whether an evolved instruction is equal to the one before it.

    `logprob`: with d(a, b) = log p(Equal) - log p(Not Equal), an evolution b of a is equal if
    d(a, b) >= d(a, a), so that a liking for one of the words has no effect. `information`: b is
    equal if a teacher that is to repeat a would write b with more than probability
    exp(-`min_nats`); an endpoint does not score whole texts, so this needs a local teacher.
    """

    by: Literal["text", "logprob", "information"]
    prompt: str
    """With {first} and {second}; with {first} only for `information`."""
    min_nats: float

    def judge(self, pairs: Sequence[tuple[str, str]], ask: Ask) -> list[tuple[Equality, str]]:
        """Verdict and ground for each (before, after); equal words are equal without a request."""
        # A teacher that changes only case or punctuation has not evolved anything.
        changed = [pair for pair in pairs if words(pair[0]) != words(pair[1])]
        verdicts = dict(zip(changed, self._ask(changed, ask) if changed else [], strict=True))
        return [verdicts.get(pair, ("equal", "no change")) for pair in pairs]

    def _ask(self, pairs: Sequence[tuple[str, str]], ask: Ask) -> list[tuple[Equality, str]]:
        if self.by == "text":
            replies = ask([Request(self._messages(*pair), max_tokens=16) for pair in pairs])
            return [(read_equality(r.text), r.error or r.text) for r in replies]
        if self.by == "information":
            # What is only to be repeated is not sealed.
            requests = [
                Request(_user(fill(self.prompt, first=before)), max_tokens=1, choices=(after,))
                for before, after in pairs
            ]
            replies = ask(requests)
            verdicts = [equality_by_information(reply, self.min_nats) for reply in replies]
            grounds = [r.error or f"{-sum(r.logprobs):.0f} nats" for r in replies]
            return list(zip(verdicts, grounds, strict=True))
        # Each text beside itself shows how much the teacher likes the word Equal as such.
        both = [*pairs, *((before, before) for before, _ in pairs)]
        prompts = [self._messages(*pair) for pair in both]
        replies = ask([Request(prompt, max_tokens=1, choices=EQUALITY) for prompt in prompts])
        compared = []
        for reply, itself in zip(replies[: len(pairs)], replies[len(pairs) :], strict=True):
            ground = f"{reply.logprobs} against {itself.logprobs}"
            verdict = equality_by_logprob(reply, itself)
            compared.append((verdict, reply.error or itself.error or ground))
        return compared

    def _messages(self, first: str, second: str) -> Messages:
        return _user(seal(self.prompt, first=first, second=second))


def _user(text: str) -> Messages:
    return (Message("user", text),)


def read_equality(text: str) -> Equality:
    """ "Equal" or "Not Equal" in the judge's own words; "unparsed" if it wrote both or neither."""
    matches = _EQUALITY.finditer(own_words(text, _TWO_WORDS))
    verdicts: set[Equality] = {"not equal" if match[1] else "equal" for match in matches}
    return verdicts.pop() if len(verdicts) == 1 else "unparsed"


def equality_by_logprob(reply: Reply, itself: Reply) -> Equality:
    """Equal if log p(Equal) - log p(Not Equal) is no lower than for a text beside itself."""
    if len(reply.logprobs) != 2 or len(itself.logprobs) != 2:
        return "unparsed"
    score = reply.logprobs[0] - reply.logprobs[1]
    return "equal" if score >= itself.logprobs[0] - itself.logprobs[1] else "not equal"


def equality_by_information(reply: Reply, min_nats: float) -> Equality:
    """Equal if the new text costs less than `min_nats` after the request to repeat the old one."""
    if len(reply.logprobs) != 1:
        return "unparsed"
    return "equal" if -reply.logprobs[0] < min_nats else "not equal"


def is_apology(answer: str) -> bool:
    """Rule 2: the answer contains "sorry" and has fewer than 80 words."""
    return "sorry" in answer.casefold() and len(answer.split()) < MAX_SORRY_WORDS


def says_nothing(answer: str) -> bool:
    """Rule 3: the answer holds only punctuation and stop words."""
    return all(word in _stop_words() for word in words(answer))


@cache
def _stop_words() -> frozenset[str]:
    return frozenset(words(read_prompt("bezoar:stop_words.txt")))


def copies_prompt(text: str) -> bool:
    """Rule 4: the evolved text holds words of the evolving prompt, such as "#Rewritten Prompt#"."""
    return any(phrase in text.casefold() for phrase in COPIED)


def check_answer(row: Chat) -> Chat | Dropped:
    """The row if its answer passes rules 2 and 3."""
    reason = "sorry" if is_apology(row.answer) else ""
    reason = reason or ("stop words" if says_nothing(row.answer) else "")
    shown = f"{row.prompt[-1].content[:300]} -> {row.answer[:300]}"
    return Dropped(row.id, reason, shown) if reason else row
