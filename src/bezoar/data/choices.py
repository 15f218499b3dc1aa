"""Test questions with choices. A row that does not fit is a DataError."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.data.locate import locate
from bezoar.data.rows import Placed, RowOrigin, column, text
from bezoar.io import Row


@dataclass(frozen=True)
class Choice:
    """A query and its possible continuations, of which `gold` is right.

    Where the choices differ in what stands before one continuation (WinoGrande), `contexts` holds a
    text a choice, `query` is empty, and every choice is that continuation.
    """

    id: str
    query: str
    choices: tuple[str, ...]
    gold: int
    contexts: tuple[str, ...] = ()


def read_choices(
    path: str | Path, folder: Path = Path(), *, subset: str = "", split: str = ""
) -> list[Choice]:
    """Rows of query, choices, gold; WinoGrande's context_options, continuation, gold; TruthfulQA's
    question, mc1_targets; or the Hub's question, choices (text, label), answerKey. `path` is a
    file, `bezoar:choices.jsonl` or a Hub id.
    """
    return [_choice(row, at) for at, row in _rows(path, folder, subset, split)]


def _rows(path: str | Path, folder: Path, subset: str, split: str) -> Iterator[Placed]:
    for place in locate(path, folder, subset=subset, split=split):
        yield from place.rows()


def _choice(row: Row, at: RowOrigin) -> Choice:
    if "context_options" in row:
        contexts = _texts(column(row, "context_options", at), "context_options", at)
        choice = Choice(
            at.id, "", (text(row, "continuation", at),) * len(contexts), _gold(row, at), contexts
        )
    elif "mc1_targets" in row:
        choices, labels = read_targets(row, "mc1_targets", at)
        if sum(labels) != 1:
            raise at.wrong(
                "the column 'mc1_targets' has not exactly one right answer among several; mend it."
            )
        choice = Choice(at.id, text(row, "question", at), choices, labels.index(1))
    elif "answerKey" in row:
        options = column(row, "choices", at)
        if not isinstance(options, dict):
            raise at.wrong(
                f"the column 'choices' is a {type(options).__name__}, not an object with text and"
                " label; mend it."
            )
        names, key = _texts(options.get("label"), "label", at), text(row, "answerKey", at)
        texts = _texts(options.get("text"), "text", at)
        if len(texts) != len(names) or names.count(key) != 1:
            raise at.wrong(
                f"the answerKey {key!r} is none of {', '.join(names)}, or not every text has one"
                " label; mend it."
            )
        choice = Choice(at.id, text(row, "question", at), texts, names.index(key))
    else:
        choice = Choice(
            at.id,
            text(row, "query", at),
            _texts(column(row, "choices", at), "choices", at),
            _gold(row, at),
        )
    if len(choice.choices) < 2 or not all(choice.choices) or not (choice.query or choice.contexts):
        raise at.wrong(
            "a query and at least two choices, none of them empty, are needed; mend the row."
        )
    if not 0 <= choice.gold < len(choice.choices):
        raise at.wrong(
            f"gold is {choice.gold} and there are {len(choice.choices)} choices, counted from 0;"
            " mend it."
        )
    return choice


def read_targets(row: Row, name: str, at: RowOrigin) -> tuple[tuple[str, ...], list[int]]:
    """TruthfulQA's answers and their labels, 1 for a true one: {answer: label}, or the Hub's
    {choices, labels}.

    DataError for anything else, and where an answer is empty.
    """
    value = column(row, name, at)
    pairs: tuple[Any, Any] = (None, None)
    if isinstance(value, dict):
        pairs = (
            (value["choices"], value["labels"])
            if {"choices", "labels"} <= value.keys()
            else (list(value), list(value.values()))
        )
    choices, labels = pairs
    if (
        not isinstance(choices, list)
        or not isinstance(labels, list)
        or not all(isinstance(label, (int, float)) and label in (0, 1) for label in labels)
    ):
        raise at.wrong(
            f"the column {name!r} is not an object of answers with the labels 0 and 1; mend it."
        )
    if len(labels) != len(choices) or not all(_texts(choices, name, at)):
        raise at.wrong(
            f"the column {name!r} has an empty answer or not one label an answer; mend it."
        )
    return tuple(choices), [int(label) for label in labels]


def _gold(row: Row, at: RowOrigin) -> int:
    value = column(row, "gold", at)
    if not isinstance(value, int) or isinstance(value, bool):
        raise at.wrong(
            f"the column 'gold' is a {type(value).__name__}, not a whole number; write the index of"
            " the right choice."
        )
    return value


def _texts(value: Any, name: str, at: RowOrigin) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise at.wrong(f"the column {name!r} is not a list of texts; write one.")
    return tuple(item.strip() for item in value)
