"""Test sets of the Hub in the columns that evaluation reads from files, by the columns they have.

The prompts are those of the published files of these sets (query, choices, gold; context_options,
continuation, gold; context, answer), so that a set is the same from the Hub and from a mirror.
"""

from collections.abc import Callable
from typing import Any

from bezoar.data.questions import labelled_choice
from bezoar.data.rows import RowOrigin, column, text
from bezoar.io import Row

_FINAL = "####"


def task_row(row: Row, at: RowOrigin) -> Row:
    """The row as a test question; any other row as it is. DataError for one without its answer."""
    for columns, convert in _SETS:
        if columns <= row.keys():
            return convert(row, at)
    return row


def _openbookqa(row: Row, at: RowOrigin) -> Row:
    return labelled_choice({**row, "question": row["question_stem"]}, at)


def _piqa(row: Row, at: RowOrigin) -> Row:
    choices = [text(row, "sol1", at), text(row, "sol2", at)]
    gold = _gold(row["label"], (0, 1), "label", at)
    return {"query": f"Question: {text(row, 'goal', at)}\n", "choices": choices, "gold": gold}


def _boolq(row: Row, at: RowOrigin) -> Row:
    query = f"Passage: {text(row, 'passage', at)}\nQuestion: {text(row, 'question', at)}?"
    gold = _gold(row["answer"], (False, True), "answer", at)
    return {"query": query, "choices": ["no", "yes"], "gold": gold}


def _winogrande(row: Row, at: RowOrigin) -> Row:
    before, blank, after = text(row, "sentence", at).partition("_")
    if not blank:
        raise at.wrong("the column 'sentence' has no blank _ for the two options; mend it.")
    options = [before + text(row, name, at) for name in ("option1", "option2")]
    gold = _gold(row["answer"], ("1", "2"), "answer", at)
    return {"context_options": options, "continuation": after.strip(), "gold": gold}


def _gsm8k(row: Row, at: RowOrigin) -> Row:
    answer = column(row, "answer", at)
    if not isinstance(answer, str) or _FINAL not in answer:
        return row
    steps, _, final = answer.rpartition(_FINAL)
    number = final.strip().replace(",", "")
    return {
        "context": text(row, "question", at),
        "chain_of_thought": steps.strip(),
        "answer": number,
    }


def _gold(value: Any, values: tuple[Any, Any], name: str, at: RowOrigin) -> int:
    if value not in values:
        # a test split keeps its answers to itself
        raise at.wrong(f"the column {name!r} is {value!r}, no answer; name a split with answers.")
    return values.index(value)


_SETS: list[tuple[set[str], Callable[[Row, RowOrigin], Row]]] = [
    ({"question", "choices", "answerKey"}, labelled_choice),
    ({"question_stem", "choices", "answerKey"}, _openbookqa),
    ({"goal", "sol1", "sol2", "label"}, _piqa),
    ({"passage", "question", "answer"}, _boolq),
    ({"sentence", "option1", "option2", "answer"}, _winogrande),
    ({"question", "answer"}, _gsm8k),
]
