"""Function calling by the rules of the Berkeley leaderboard, a score a class, with what failed.

A model that never calls is right on every item where no call is: the share of items where it calls
stands beside every mean. The prompt's format is part of the number, and so of its condition.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bezoar.bounds import Count
from bezoar.chat.chatml import WORDS_AROUND_TOOLS
from bezoar.chat.tool_calls import BadCall
from bezoar.chat.types import Tool, ToolCall
from bezoar.cost import Estimate, RequestEstimate, exactly, text_tokens
from bezoar.data.files import HUB_PREFIX, locate_file, mirrored
from bezoar.errors import DataError
from bezoar.evals.answer_kinds import Answered, kinds_of
from bezoar.evals.bfcl import ORDER, CallItem, answers_path, read_bfcl, sums
from bezoar.evals.outcome import CachePart, EvalContext, ItemText, Outcome
from bezoar.evals.power import detectable
from bezoar.evals.section import HELD, Section, asked_alike, greedy_requests, item_rows
from bezoar.evals.shared_functions import in_words, shared_functions
from bezoar.evals.stats import Score, clustered_score, score
from bezoar.io import Row, canonical, content_hash
from bezoar.llm.types import Reply
from bezoar.references import FileRef
from bezoar.verdicts.tool_call import CallVerdict, judge_calls, schema_faults

NAME = "BFCL"
CALL_RATE = f"{NAME} calls where asked"
VALID = f"{NAME} calls in valid JSON"
FITTING = f"{NAME} calls that fit their schema"
STOPS = f"{NAME} answers that stop"


@dataclass(frozen=True)
class FunctionCalling(Section):
    """Function calls on the files of the Berkeley leaderboard (BFCL): AST accuracy by class, how
    often the model calls, and how many of its calls are valid JSON and fit their schema.

    Source: ShishirPatil/gorilla, berkeley-function-call-leaderboard
    Example: {bfcl: [bfcl/BFCL_v4_simple_python.json, bfcl/BFCL_v4_irrelevance.json], limit: 100}
    """

    bfcl: tuple[FileRef, ...]
    """The leaderboard's files, one a class, each with its answers in possible_answer beside it."""
    limit: Count | None = None
    """Number of items of each class, the first ones; null for all."""
    max_tokens: Count = 256
    """Most tokens of an answer."""
    structured: bool = False
    """Hold answers to the form that is asked for: calls of the offered tools, or the schema."""
    dots: Literal["keep", "underscore"] = "keep"
    """underscore: a `.` in a function's name is written `_`, as for models of OpenAI's form."""

    def __post_init__(self) -> None:
        if not self.bfcl:
            raise ValueError(
                "function_calling.bfcl is empty; name at least one of the leaderboard's files"
            )

    def load(self) -> list[CallItem]:
        """The items that are asked, class by class in the leaderboard's order."""
        items: list[CallItem] = []
        for file in self.bfcl:
            path = locate_file(file, Path(), "function_calling.bfcl")
            items += read_bfcl(path, dots=self.dots == "keep")[: self.limit]
        # what shows the least, items where no call is right, comes last
        items.sort(key=lambda item: ORDER.index(item.group) if item.group in ORDER else -1)
        if twice := [i for i, num in Counter(item.id for item in items).items() if num > 1]:
            raise DataError(
                f"function_calling.bfcl: {twice[0]} stands in two files; name each file once."
            )
        return items

    def prompts(self) -> dict[str, Any]:
        """Item -> what is asked."""
        return {item.id: item.prompt for item in self.load()}

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """Greedy answers of the named model, judged; the journal keeps them."""
        items = self.load()
        how = self.max_tokens, self.structured
        requests = greedy_requests((item.prompt for item in items), *how)
        outcome = judged(items, context.ask_model(model)(requests))
        same = {**asked_alike(context, *how), "dots": self.dots}
        facts = outcome.info["function_calling"]
        facts |= HELD if self.structured else {}
        facts["conditions"] = _conditions(items, same)
        kind = f"{context.template.kind}, greedy, at most {self.max_tokens} tokens an answer"
        remarks = [f"prompt format {'its own' if context.answers_only else kind}"]
        shared = shared_functions({item.id: item.tools for item in items}, model, context)
        if shared:
            facts["shared"] = shared
            remarks.append(in_words(shared))
        facts["remarks"] = [f"{NAME}: {remark}." for remark in remarks]
        texts: dict[str, list[ItemText]] = {}
        for item in items:
            asked = (item.id, item.prompt[-1].content, "")
            texts.setdefault(f"{NAME} {item.group}", []).append(asked)
        return outcome + Outcome(texts=texts)

    def quote(self, rows: Mapping[str, Estimate]) -> list[tuple[str, RequestEstimate]]:
        """The answers of the model itself."""
        items = self.load()
        whole = (WORDS_AROUND_TOOLS + _whole_prompt(item) for item in items)
        tokens = sum(map(text_tokens, whole)) / max(1, len(items))
        answer = Estimate(10, self.max_tokens * 0.4, self.max_tokens)
        return [("", RequestEstimate(exactly(len(items)), exactly(tokens), answer))]

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """By class."""
        sizes = Counter(item.group for item in self.load())
        return {f"{NAME} {group}": detectable(num) for group, num in sizes.items()}

    def files(self) -> list[Path]:
        """What is expected, of those files that have it."""
        local = [file for file in self.bfcl if not file.startswith(HUB_PREFIX) or mirrored(file)]
        paths = [answers_path(locate_file(file, Path(), "function_calling.bfcl")) for file in local]
        return [path for path in paths if path.is_file()]


def _whole_prompt(item: CallItem) -> str:
    words = [message.content for message in item.prompt]
    return "\n".join([*words, *(canonical(tool.to_json()) for tool in item.tools)])


def _conditions(items: Sequence[CallItem], same: Row) -> dict[str, Row]:
    """What a score depends on beside the model: each class its items, the rates all of them."""
    # by class, so that a class is compared whatever else was asked beside it
    groups: dict[str, list[CallItem]] = {}
    for item in items:
        groups.setdefault(f"{NAME} {item.group}/", []).append(item)
    return {
        name: {**same, "items": content_hash([[i.id, _whole_prompt(i), i.expected] for i in own])}
        for name, own in {**groups, NAME: items}.items()
    }


def judged(items: Sequence[CallItem], replies: Sequence[Reply]) -> Outcome:
    """Scores by class and over all classes, a value by item, and what failed with examples."""
    verdicts = [
        None if reply.finish == "error" else judge_calls(reply.text, item.tools, item.expected)
        for item, reply in zip(items, replies, strict=True)
    ]
    outcome = Outcome()
    values: dict[str, dict[str, float | None]] = {}
    for item, verdict in zip(items, verdicts, strict=True):
        right = None if verdict is None else float(verdict.right)
        values.setdefault(item.group, {})[item.id] = right
    for group, own in values.items():
        name = f"{NAME} {group}/accuracy"
        rows = item_rows(name, list(own), list(own.values()))
        outcome += Outcome([score(name, list(own.values()))], rows)
    known = {
        group: {name: value for name, value in own.items() if value is not None}
        for group, own in values.items()
    }
    outcome += _rates(items, replies, verdicts) + sums(known)
    said = map(_answered, items, replies, verdicts)
    return outcome + Outcome(info={"function_calling": kinds_of(said)})


def _rates(
    items: Sequence[CallItem], replies: Sequence[Reply], verdicts: Sequence[CallVerdict | None]
) -> Outcome:
    called, valid, fitting, stops = (dict[str, list[float]]() for _ in range(4))
    for item, reply, verdict in zip(items, replies, verdicts, strict=True):
        if verdict is None:
            continue
        # where no call is right, not calling is no failure to call
        if item.expected != []:
            called[item.id] = [float(bool(verdict.calls))]
        if verdict.calls:
            tools = {tool.name: tool for tool in item.tools}
            valid[item.id] = [float(_is_json(call)) for call in verdict.calls]
            fitting[item.id] = [float(not _misfits(call, tools)) for call in verdict.calls]
        if reply.completion_tokens:  # a text from a file does not tell how it ended
            stops[item.id] = [float(reply.finish == "stop")]
    tables = {CALL_RATE: called, VALID: valid, FITTING: fitting, STOPS: stops}
    return sum((_rate(name, table) for name, table in tables.items()), Outcome())


def _rate(name: str, values: Mapping[str, Sequence[float]]) -> Outcome:
    """The share over all values, with the mean of each item."""
    if not values:
        return Outcome([Score(name, None, None, None, 0, reason=_why_none(name))])
    # a paired test is over items: one with three calls has one value, as one with a single call
    means = [sum(own) / len(own) for own in values.values()]
    figure = clustered_score(name, list(values.values()), share=True)
    return Outcome([figure], item_rows(name, list(values), means))


def _why_none(name: str) -> str:
    if name == STOPS:
        return "not known: texts from a file do not tell how they ended"
    return "no item: none asks for a call" if name == CALL_RATE else "no call: nothing was called"


def _is_json(call: ToolCall | BadCall) -> bool:
    return not (isinstance(call, BadCall) and call.fault == "bad JSON")


def _misfits(call: ToolCall | BadCall, tools: Mapping[str, Tool]) -> bool:
    if isinstance(call, BadCall) or call.name not in tools:
        return True
    return bool(schema_faults(call.arguments, tools[call.name].parameters))


def _answered(item: CallItem, reply: Reply, verdict: CallVerdict | None) -> Answered:
    asked = item.prompt[-1].content
    if verdict is None:
        return Answered(item.id, item.group, "no answer", asked, "", reply.error)
    return Answered(item.id, item.group, verdict.kind, asked, reply.text, verdict.detail)
