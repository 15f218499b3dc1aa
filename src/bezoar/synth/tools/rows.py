"""Conversations with tools, written from a catalogue without a model."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """Writes conversations of each category; `chats` are questions that need no tool."""

    functions: Sequence[Function]
    chats: Sequence[tuple[str, str]]

    def write(self, category: Category, rng: random.Random) -> tuple[Messages, list[str]]:
        """A conversation, its tools on the system message, and the functions that it calls."""
        makers: dict[Category, Callable[[random.Random], tuple[list[Function], Messages]]] = {
            "single": self._single,
            "multiple": self._multiple,
            "parallel": self._parallel,
            "parallel_multiple": self._parallel_multiple,
            "irrelevance": self._irrelevance,
            "chat": self._chat,
            "missing": self._missing,
            "conversation": self._conversation,
        }
        functions, turns = makers[category](rng)
        tools = [function.tool for function in functions]
        rng.shuffle(tools)
        # most requests come without words of a system message, some with one
        words = rng.choice(wording.SYSTEMS) if rng.random() < 0.3 else ""
        called = [call.name for message in turns for call in message.tool_calls]
        return (Message("system", words, tools=tuple(tools)), *turns), called

    def _single(self, rng: random.Random) -> tuple[list[Function], Messages]:
        function = rng.choice(self.functions)
        return [function], self._asked(ask(function, rng), rng)

    def _multiple(self, rng: random.Random) -> tuple[list[Function], Messages]:
        function = rng.choice(self.functions)
        return self._among([function], rng), self._asked(ask(function, rng), rng)

    def _parallel(self, rng: random.Random) -> tuple[list[Function], Messages]:
        function = rng.choice(self.functions)
        return [function], self._asked(ask_several(function, rng), rng)

    def _parallel_multiple(self, rng: random.Random) -> tuple[list[Function], Messages]:
        functions = rng.sample(self.functions, rng.choice((2, 2, 3)))
        wanted = both([ask(function, rng) for function in functions])
        return self._among(functions, rng), self._asked(wanted, rng)

    def _irrelevance(self, rng: random.Random) -> tuple[list[Function], Messages]:
        # one tool that does not fit tempts more than several, so it is the usual case
        function = rng.choice(self.functions)
        offered = self._others([function], rng.choice((1, 1, 2, 3)), rng)
        text = ask(function, rng).text(rng)
        answer = wording.no_tool([other.description for other in offered], rng)
        return offered, (Message("user", text), Message("assistant", answer))

    def _chat(self, rng: random.Random) -> tuple[list[Function], Messages]:
        question, answer = rng.choice(self.chats)
        offered = self._others([], rng.randint(1, 3), rng)
        return offered, (Message("user", question), Message("assistant", answer))

    def _missing(self, rng: random.Random) -> tuple[list[Function], Messages]:
        """A question back, and in half of the cases what follows on it."""
        while True:
            function = rng.choice(self.functions)
            phrase = rng.choice(function.requests)
            if lacking := phrase.can_lack(function.required):
                break
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

    def _conversation(self, rng: random.Random) -> tuple[list[Function], Messages]:
        """Calls, their results and an answer, once or twice."""
        functions = rng.sample(self.functions, rng.choice((1, 1, 2)))
        turns: list[Message] = []
        for number, function in enumerate(functions):
            wanted = ask_several(function, rng) if rng.random() < 0.25 else ask(function, rng)
            text = wanted.text(rng)
            turns.append(Message("user", wording.going_on(text, rng) if number else text))
            turns += [wanted.message, *run_calls(wanted, rng)]
        return self._among(functions, rng, least=len(functions)), tuple(turns)

    def _asked(self, wanted: Wanted, rng: random.Random) -> Messages:
        return Message("user", wanted.text(rng)), wanted.message

    def _among(
        self, functions: list[Function], rng: random.Random, least: int = 2
    ) -> list[Function]:
        """The functions, and others beside them: at least `least` in all."""
        low = max(least, len(functions))
        num = rng.randint(low, max(low, MOST_TOOLS))
        return functions + self._others(functions, num - len(functions), rng)

    def _others(self, functions: list[Function], num: int, rng: random.Random) -> list[Function]:
        """Functions that do something else, half of them of the same domain where there are."""
        # tools of the same domain are the harder ones to tell apart
        domains = {function.domain for function in functions}
        near = [f for f in self.functions if f.domain in domains and f not in functions]
        chosen: list[Function] = []
        while len(chosen) < num:
            pool = near if near and rng.random() < 0.5 else self.functions
            function = rng.choice(pool)
            if function not in functions and function not in chosen:
                chosen.append(function)
            elif len(chosen) + len(functions) >= len(self.functions):
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
