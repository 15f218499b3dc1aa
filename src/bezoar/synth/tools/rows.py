"""Conversations with tools, written from a catalogue without a model."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from bezoar.chat.types import Message, Messages, ToolCall
from bezoar.synth.tools import wording
from bezoar.synth.tools.catalogue import Function
from bezoar.synth.tools.phrase import filled
from bezoar.synth.tools.values import Said, draw

Category = Literal[
    "single",
    "multiple",
    "parallel",
    "parallel_multiple",
    "irrelevance",
    "chat",
    "missing",
    "conversation",
]
Maker = Callable[[Function, random.Random], tuple[list[Function], Messages]]
MOST_TOOLS = 4


@dataclass(frozen=True)
class Wanted:
    """What a user asks for, and the calls that do it."""

    clauses: tuple[str, ...]
    calls: tuple[tuple[Function, ToolCall], ...]

    def text(self, rng: random.Random) -> str:
        """The request."""
        if len(self.clauses) == 1:
            return wording.request(self.clauses[0], rng)
        return wording.joined(self.clauses, rng)

    @property
    def message(self) -> Message:
        """The answer with the calls."""
        return Message("assistant", "", tuple(call for _, call in self.calls))


@dataclass(frozen=True)
class Writer:
    """Writes conversations of each category; `chats` are questions that need no tool, and `far`
    takes what no function fits from other domains."""

    functions: Sequence[Function]
    chats: Sequence[tuple[str, str]]
    far: bool = False

    def write(
        self, category: Category, rng: random.Random, shared: random.Random | None = None
    ) -> tuple[Messages, list[str]]:
        """A conversation, its tools on the system message, and the functions that it calls.

        Conversations of equal `shared` have one function and one system message in common, which
        are all that is offered where a single, a parallel or no call is wanted.
        """
        makers: dict[Category, Maker] = {
            "single": self._single,
            "multiple": self._multiple,
            "parallel": self._parallel,
            "parallel_multiple": self._parallel_multiple,
            "irrelevance": partial(self._irrelevance, alone=shared is not None),
            "chat": self._chat,
            "missing": self._missing,
            "conversation": self._conversation,
        }
        alike = shared or rng
        functions, turns = makers[category](alike.choice(self.functions), rng)
        tools = [function.tool for function in functions]
        rng.shuffle(tools)
        # most requests come without words of a system message, some with one
        words = alike.choice(wording.SYSTEMS) if alike.random() < 0.3 else ""
        called = [call.name for message in turns for call in message.tool_calls]
        return (Message("system", words, tools=tuple(tools)), *turns), called

    def _single(self, function: Function, rng: random.Random) -> tuple[list[Function], Messages]:
        return [function], self._asked(ask(function, rng), rng)

    def _multiple(self, function: Function, rng: random.Random) -> tuple[list[Function], Messages]:
        return self._among([function], rng), self._asked(ask(function, rng), rng)

    def _parallel(self, function: Function, rng: random.Random) -> tuple[list[Function], Messages]:
        return [function], self._asked(ask_several(function, rng), rng)

    def _parallel_multiple(
        self, function: Function, rng: random.Random
    ) -> tuple[list[Function], Messages]:
        functions = self._with(function, rng.choice((1, 1, 2)), rng)
        wanted = both([ask(function, rng) for function in functions])
        return self._among(functions, rng), self._asked(wanted, rng)

    def _irrelevance(
        self, function: Function, rng: random.Random, *, alone: bool
    ) -> tuple[list[Function], Messages]:
        if self.far:
            asked = rng.choice([f for f in self.functions if f.domain != function.domain])
        else:
            [asked] = self._others([function], 1, rng)
        # one tool that does not fit tempts more than several, so it is the usual case
        num = 0 if alone else rng.choice((0, 0, 1, 2))
        taken = asked.domain if self.far else ""
        offered = [function, *self._others([asked, function], num, rng, no_domain=taken)]
        answer = wording.no_tool([tool.description for tool in offered], rng)
        return offered, (Message("user", ask(asked, rng).text(rng)), Message("assistant", answer))

    def _chat(self, function: Function, rng: random.Random) -> tuple[list[Function], Messages]:
        question, answer = rng.choice(self.chats)
        offered = self._among([function], rng, least=1)
        return offered, (Message("user", question), Message("assistant", answer))

    def _missing(self, function: Function, rng: random.Random) -> tuple[list[Function], Messages]:
        """A question back, and in half of the cases what follows on it."""
        phrase = rng.choice(function.requests)
        while not (lacking := phrase.can_lack(function.required)):
            function = rng.choice(self.functions)
            phrase = rng.choice(function.requests)
        lack, drawn = rng.choice(lacking), function.draw(rng)
        parts = phrase.choose(function.required, rng, lack)
        clause = filled(parts, {gap: said.words for gap, said in drawn.items()})
        question = wording.ask_back(function.describing[lack], rng)
        turns = [Message("user", wording.request(clause, rng)), Message("assistant", question)]
        # the parts of an object are not asked for one by one
        if lack in drawn and rng.random() < 0.5:
            call = function.call(parts, drawn)
            named = {**call.arguments, lack: drawn[lack].value}
            ordered = {name: named[name] for name in function.describing if name in named}
            turns.append(Message("user", wording.giving(drawn[lack].words, rng)))
            turns.append(Message("assistant", "", (ToolCall(function.name, ordered),)))
        return self._among([function], rng, least=1), tuple(turns)

    def _conversation(
        self, function: Function, rng: random.Random
    ) -> tuple[list[Function], Messages]:
        """Calls, their results and an answer, once or twice."""
        functions = self._with(function, rng.choice((0, 0, 1)), rng)
        turns: list[Message] = []
        for number, function in enumerate(functions):
            wanted = ask_several(function, rng) if rng.random() < 0.25 else ask(function, rng)
            text = wanted.text(rng)
            turns.append(Message("user", wording.going_on(text, rng) if number else text))
            turns += [wanted.message, *run_calls(wanted, rng)]
        return self._among(functions, rng, least=len(functions)), tuple(turns)

    def _asked(self, wanted: Wanted, rng: random.Random) -> Messages:
        return Message("user", wanted.text(rng)), wanted.message

    def _with(self, function: Function, num: int, rng: random.Random) -> list[Function]:
        others = [other for other in self.functions if other is not function]
        return [function, *rng.sample(others, num)]

    def _among(
        self, functions: list[Function], rng: random.Random, least: int = 2
    ) -> list[Function]:
        """The functions, and others beside them: at least `least` in all."""
        low = max(least, len(functions))
        num = rng.randint(low, max(low, MOST_TOOLS))
        return functions + self._others(functions, num - len(functions), rng)

    def _others(
        self, functions: list[Function], num: int, rng: random.Random, *, no_domain: str = ""
    ) -> list[Function]:
        """Functions that do something else, half of them of the same domain where there are; none
        of `no_domain`."""
        # tools of the same domain are the harder ones to tell apart
        domains = {function.domain for function in functions}
        able = [f for f in self.functions if f.domain != no_domain]
        near = [f for f in able if f.domain in domains and f not in functions]
        chosen: list[Function] = []
        while len(chosen) < num:
            pool = near if near and rng.random() < 0.5 else able
            function = rng.choice(pool)
            if function not in functions and function not in chosen:
                chosen.append(function)
            elif len(chosen) + sum(f in able for f in functions) >= len(able):
                break
        return chosen


def ask(function: Function, rng: random.Random) -> Wanted:
    """One call."""
    parts = rng.choice(function.requests).choose(function.required, rng)
    drawn = function.draw(rng)
    clause = filled(parts, {gap: said.words for gap, said in drawn.items()})
    return Wanted((clause,), ((function, function.call(parts, drawn)),))


def both(wishes: Sequence[Wanted]) -> Wanted:
    """Several wishes as one."""
    clauses = tuple(clause for wish in wishes for clause in wish.clauses)
    return Wanted(clauses, tuple(call for wish in wishes for call in wish.calls))


def ask_several(function: Function, rng: random.Random) -> Wanted:
    """Two to four different calls of one function: by a list in one request, or by several."""
    num = rng.choice((2, 2, 3, 3, 4))
    listable = [phrase for phrase in function.requests if phrase.listable]
    if listable and rng.random() < 0.6:
        phrase = rng.choice(listable)
        gap = phrase.listable
        drawn, parts = function.draw(rng), phrase.choose(function.required, rng)
        # a train from Lyon, Graz and Turin to Graz would not do
        taken = {str(said.value) for name, said in drawn.items() if name != gap}
        values: dict[str, Said] = {}
        for said in (draw(function.kinds[gap], rng) for _ in range(20)):
            if str(said.value) not in taken and len(values) < num:
                values.setdefault(str(said.value), said)
        words = {name: said.words for name, said in drawn.items()}
        texts = [said.words for said in values.values()]
        words[gap] = phrase.listed(texts)
        calls = [function.call(parts, {**drawn, gap: said}) for said in values.values()]
        return Wanted((filled(parts, words),), tuple((function, call) for call in calls))
    wishes: list[Wanted] = []
    while len(wishes) < num:
        wish = ask(function, rng)
        if all(wish.calls[0][1] != other.calls[0][1] for other in wishes):
            wishes.append(wish)
    return both(wishes)


def run_calls(wanted: Wanted, rng: random.Random) -> list[Message]:
    """The results of the calls, and the answer that tells them."""
    results, answers = [], []
    for function, call in wanted.calls:
        result = function.run(call.arguments)
        results.append(Message("tool", json.dumps(result, ensure_ascii=False)))
        if "error" in result:
            answers.append(wording.failed(result["error"], rng))
        else:
            answers.append(function.answer(call.arguments, result, rng))
    return [*results, Message("assistant", " ".join(answers))]
