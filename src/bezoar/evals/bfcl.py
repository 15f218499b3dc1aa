"""The files of the Berkeley Function-Calling Leaderboard, and its sums over classes.

A file is JSON Lines (whatever its name): id, question (turns of messages), function (declarations);
what is expected stands in the file of the same name in the folder `possible_answer` beside it.

Source: ShishirPatil/gorilla, berkeley-function-call-leaderboard (Apache-2.0), version 4
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bezoar.chat.messages import with_tools
from bezoar.chat.types import Message, Messages, Tool
from bezoar.data.rows import Placed, RowOrigin, column, read_file
from bezoar.errors import DataError
from bezoar.evals.outcome import Outcome
from bezoar.evals.stats import SEED, Floats, Score, percentiles, resamples, wilson
from bezoar.verdicts.tool_call import Expected

ANSWERS = "possible_answer"
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
"""The leaderboard's names of types -> JSON Schema's."""
_ROLES = ("system", "user", "assistant")
_UNREAD = {
    "java": "its answers are values of another language",
    "multi_turn": "its calls are executed over several turns",
    "memory": "its calls are executed",
    "web_search": "its calls are executed",
    "format_sensitivity": "it has no items of its own",
}
"""Words in the names of classes that are not measured here, and why."""
SIMPLE = ("simple_python", "simple_java", "simple_javascript", "simple")
NON_LIVE = ("multiple", "parallel", "parallel_multiple")
LIVE = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
IRRELEVANCE = ("irrelevance", "live_irrelevance")
ORDER = (*SIMPLE, *NON_LIVE, *LIVE, "live_relevance", *IRRELEVANCE)
WEIGHTS = {"non-live": 0.1, "live": 0.1, "irrelevance": 0.1}
"""Of version 4; multi-turn (0.3) and agentic (0.4) are not measured here and count 0."""


@dataclass(frozen=True)
class CallItem:
    """A prompt with the functions it offers and the calls that are right.

    `expected` is empty where no call is right, and None where any call is.
    """

    id: str
    group: str
    prompt: Messages
    tools: tuple[Tool, ...]
    expected: Expected | None


def is_measured(path: Path) -> bool:
    """Whether a file of the leaderboard, by its name, holds a class that is measured here."""
    return not any(word in path.stem for word in _UNREAD)


def answers_path(path: Path) -> Path:
    """The file with what is expected."""
    return path.parent / ANSWERS / path.name


def read_bfcl(path: Path, *, dots: bool = True) -> list[CallItem]:
    """The items of a file in its order; without `dots` a `.` in a function's name becomes `_`.

    DataError names file and line.
    """
    items: list[CallItem] = []
    answers: dict[str, Expected] = {}
    for at, item_id, row in _rows(path):
        group = item_id.rpartition("_")[0]
        for word, why in _UNREAD.items():
            # measured as if they were others, their values would all be wrong
            if word in group:
                raise at.wrong(f"the class {group} is not measured here: {why}; leave it out.")
        # any call is relevant, none is where nothing fits; all other classes have answers
        expected: Expected | None = [] if "irrelevance" in group else None
        if "relevance" not in group:
            answers = answers or _answers(answers_path(path))
            if item_id not in answers:
                raise at.wrong(f"{answers_path(path)} has no answer to {item_id}; add it.")
            expected = answers[item_id]
        item = CallItem(item_id, group, _prompt(row, at), _tools(row, at), expected)
        items.append(_offered(item if dots else _without_dots(item)))
    return items


def _rows(path: Path) -> Iterator[tuple[RowOrigin, str, dict[str, Any]]]:
    seen: dict[str, str] = {}
    rows: Iterator[Placed] = read_file(path, path.stem)
    for at, row in rows:
        item_id = column(row, "id", at)
        if not isinstance(item_id, str) or not item_id:
            raise at.wrong(f"the id is {str(item_id)[:40]!r}, not a text; mend it.")
        if item_id in seen:
            raise at.wrong(f"the id {item_id} stands in {seen[item_id]} too; remove one.")
        seen[item_id] = at.text
        yield at, item_id, row


def _prompt(row: Mapping[str, Any], at: RowOrigin) -> Messages:
    turns = column(dict(row), "question", at)
    if not isinstance(turns, list) or not turns or not all(isinstance(t, list) for t in turns):
        raise at.wrong("question is no list of turns, each a list of messages; mend it.")
    # with its first turn alone an item of several would be another item
    if len(turns) > 1:
        raise at.wrong(f"question has {len(turns)} turns, and one is measured; leave it out.")
    messages = []
    for message in turns[0]:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES or not isinstance(message.get("content"), str):
            raise at.wrong("a message of the question has no role or no content; mend it.")
        messages.append(Message(role, message["content"]))
    if not messages or messages[-1].role != "user":
        raise at.wrong("the question does not end with a message of the user; mend it.")
    return tuple(messages)


def _tools(row: Mapping[str, Any], at: RowOrigin) -> tuple[Tool, ...]:
    declared = column(dict(row), "function", at)
    # one of the leaderboard's own items offers none
    if not isinstance(declared, list):
        raise at.wrong("function is no list of declarations; mend it.")
    try:
        return tuple(Tool.from_json(_json_schema(function)) for function in declared)
    except DataError as error:
        raise at.wrong(str(error)) from None


def _json_schema(value: Any) -> Any:
    """A declaration with the types of JSON Schema in place of the leaderboard's, at any depth."""
    if isinstance(value, list):
        return [_json_schema(item) for item in value]
    if not isinstance(value, dict):
        return value
    # a parameter may itself be called "type": then its value is a schema, not a text
    changed = {key: _json_schema(item) for key, item in value.items()}
    if isinstance(kind := changed.get("type"), str):
        changed["type"] = _TYPES.get(kind, kind)
    return changed


def _answers(path: Path) -> dict[str, Expected]:
    answers: dict[str, Expected] = {}
    for at, item_id, row in _rows(path):
        calls = column(row, "ground_truth", at)
        if not isinstance(calls, list) or not calls:
            raise at.wrong("ground_truth is no list of calls; mend it.")
        # the rules compare within lists: what is none would count as wrong for every model
        for call in calls:
            tables = list(call.values()) if isinstance(call, dict) else []
            lists = tables[0].values() if tables and isinstance(tables[0], dict) else [None]
            if len(tables) != 1 or not all(isinstance(values, list) for values in lists):
                form = "{function: {parameter: [allowed values]}}"
                raise at.wrong(f"a call of ground_truth is not {form}; mend it.")
        answers[item_id] = calls
    return answers


def _offered(item: CallItem) -> CallItem:
    return replace(item, prompt=with_tools(item.prompt, item.tools))


def _without_dots(item: CallItem) -> CallItem:
    tools = tuple(replace(tool, name=tool.name.replace(".", "_")) for tool in item.tools)
    expected = item.expected and [
        {name.replace(".", "_"): allowed for name, allowed in call.items()}
        for call in item.expected
    ]
    return replace(item, tools=tools, expected=expected)


def sums(values: Mapping[str, Mapping[str, float]]) -> Outcome:
    """The leaderboard's own sums of classes, those whose classes are all there: non-live (the mean
    of simple, multiple, parallel and parallel_multiple, simple being the mean over its languages),
    live (over its items), irrelevance (the mean of both files), overall (version 4's weights).

    `values` holds 0 or 1 an item (id), by class; intervals resample the items of each class. An
    item's value in a sum is such that their mean is the sum: so paired tests weigh it as the sum
    does.
    """
    known = {name: own for name, own in values.items() if own}
    drawn = {name: _drawn(list(own.values()), i) for i, (name, own) in enumerate(known.items())}
    outcome = Outcome()
    for figure, weights in _weights({name: len(own) for name, own in known.items()}).items():
        name, n = f"BFCL mean {figure}", sum(len(known[group]) for group in weights)
        draws = np.sum([weight * drawn[group] for group, weight in weights.items()], axis=0)
        low, high = percentiles(draws[1:])
        if low == high:  # resampling learns nothing from classes that are all 0 or all 1
            bounds = [
                (weight * low, weight * high)
                for group, weight in weights.items()
                for low, high in [wilson(round(sum(known[group].values())), len(known[group]))]
            ]
            low, high = (sum(ends) for ends in zip(*bounds, strict=True))
        rows = [
            {"benchmark": name, "id": item, "value": value * weight * n / len(known[group])}
            for group, weight in weights.items()
            for item, value in known[group].items()
        ]
        outcome += Outcome([Score(name, float(draws[0]), low, high, n)], rows)
    return outcome


def _weights(sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Figure -> the weight of each of its classes, for the figures whose classes are all there."""
    figures: dict[str, dict[str, float]] = {}
    # simple counts once, however many languages it has
    simple = [name for name in SIMPLE if name in sizes]
    if simple and sizes.keys() >= set(NON_LIVE):
        languages = dict.fromkeys(simple, 0.25 / len(simple))
        figures["non-live"] = {**languages, **dict.fromkeys(NON_LIVE, 0.25)}
    if sizes.keys() >= set(LIVE):
        total = sum(sizes[name] for name in LIVE)
        figures["live"] = {name: sizes[name] / total for name in LIVE}
    if sizes.keys() >= set(IRRELEVANCE):
        figures["irrelevance"] = dict.fromkeys(IRRELEVANCE, 0.5)
    # without one of its parts the figure would be another one under the same name
    if figures.keys() >= WEIGHTS.keys():
        figures["overall"] = {
            group: part * weight
            for name, part in WEIGHTS.items()
            for group, weight in figures[name].items()
        }
    return figures


def _drawn(values: Sequence[float], index: int) -> Floats:
    """The mean, then those of resampled items; classes are drawn apart, by their index."""
    array = np.asarray(values, dtype=np.float64)
    picks = resamples(len(array), seed=SEED + index)
    return np.concatenate([[array.mean()], array[picks].mean(axis=1)])
