"""Evaluation questions in files or on the Hub: MT-Bench with answers, and tests with choices."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bezoar.data.locate import locate
from bezoar.data.rows import Placed, RowOrigin, column, text
from bezoar.errors import DataError
from bezoar.io import Row

REFERENCE_CATEGORIES = ("math", "reasoning", "coding")
# on the Hub MT-Bench's questions stand in their order with hashes as numbers; answer files and
# references of FastChat have their own numbers, 81 to 160
_FIRST_OF_MT_BENCH, _HIGHEST = 81, 10_000


@dataclass(frozen=True)
class Question:
    """The user's turns, and the reference answers to them, which may be "" or lack at the end."""

    id: int
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()


def read_questions(
    path: str | Path, folder: Path = Path(), *, references: str | Path = "own"
) -> list[Question]:
    """Questions in FastChat's format (arXiv 2306.05685) or the Hub's (prompt_id, prompt), or
    AlpacaEval's instructions: one turn each, numbered by line.

    `references` is "own", the rows' own lists `reference`; "none"; or an answer file of FastChat,
    used alone. DataError for a question without turns, whose number is used twice, or in FastChat's
    format with fewer references of its own than turns.
    """
    is_own = references in ("own", "")
    answers = {} if is_own or references == "none" else read_answers(references, folder)
    questions: dict[int, Question] = {}
    rows = _one_file(path, folder)
    hashed = any(isinstance(n := row.get("prompt_id"), int) and n > _HIGHEST for _, row in rows)
    for at, row in rows:
        question = _question(row, at)
        if hashed:
            question = replace(question, id=_FIRST_OF_MT_BENCH + at.line - 1)
        if question.id in questions:
            raise at.wrong(f"the question_id {question.id} stands twice; renumber one.")
        if not is_own:
            question = replace(question, references=answers.get(question.id, ()))
        questions[question.id] = question
    return list(questions.values())


def _question(row: Row, at: RowOrigin) -> Question:
    # AlpacaEval has neither numbers nor categories, so that the line is the number
    if "instruction" in row:
        category, turn = str(row.get("dataset") or "instruction"), text(row, "instruction", at)
        return Question(at.line, category, (turn,))
    number = _whole(row, "prompt_id" if "prompt_id" in row else "question_id", at)
    name = "turns" if "turns" in row or "prompt" not in row else "prompt"
    turns = _texts(column(row, name, at), "turns", at)
    if not turns or not all(turns):
        raise at.wrong("the question has an empty turn or no turns; write them.")
    references = _texts(row.get("reference") or [], "reference", at)
    # who writes references for some turns forgot one; the Hub's are read as they are
    if 0 < len(references) < len(turns) and "question_id" in row:
        counts = f"{len(turns)} turns and {len(references)} references"
        raise at.wrong(f"question {number} has {counts}; add the missing ones.")
    return Question(number, text(row, "category", at), turns, references)


def read_answers(path: str | Path, folder: Path = Path()) -> dict[int, tuple[str, ...]]:
    """question_id -> answers, one per turn: the first of `choices` in FastChat's answer file."""
    answers: dict[int, tuple[str, ...]] = {}
    for at, row in _one_file(path, folder):
        number, choices = _whole(row, "question_id", at), column(row, "choices", at)
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            fault = "the column 'choices' is not a list of objects with turns"
            raise at.wrong(f"{fault}; this is no FastChat answer file.")
        if number in answers:
            raise at.wrong(f"the question_id {number} is answered twice; remove one.")
        answers[number] = _texts(column(choices[0], "turns", at), "turns", at)
    return answers


def _one_file(path: str | Path, folder: Path) -> list[Placed]:
    # numbers are unique in a file only
    files = locate(path, folder)
    if len(files) != 1:
        raise DataError(f"{path}: names {len(files)} files and one is needed; name the file.")
    return list(files[0].rows())


def labelled_choice(row: Row, at: RowOrigin) -> Row:
    """A test question of the Hub as query, choices and gold, the index of the right choice."""
    query, options = text(row, "question", at), column(row, "choices", at)
    if not isinstance(options, dict):
        raise at.wrong("the column 'choices' is not an object with text and label; mend it.")
    labels, key = _texts(options.get("label"), "label", at), text(row, "answerKey", at)
    choices = _texts(options.get("text"), "text", at)
    if len(choices) != len(labels) or labels.count(key) != 1:
        fault = f"the answerKey {key!r} is none of {', '.join(labels)}"
        raise at.wrong(f"{fault}, or not every text has one label; mend it.")
    if len(choices) < 2 or not all(choices) or not query:
        raise at.wrong("a row needs a query and at least two choices, none of them empty.")
    return {"query": query, "choices": list(choices), "gold": labels.index(key)}


def read_targets(row: Row, name: str, at: RowOrigin) -> tuple[tuple[str, ...], list[int]]:
    """TruthfulQA's answers and their labels, 1 for a true one: {answer: label}, or the Hub's
    {choices, labels}. DataError for anything else and for an empty answer."""
    value = column(row, name, at)
    choices: Any = None
    labels: Any = None
    if isinstance(value, dict):
        is_hub = {"choices", "labels"} <= value.keys()
        choices = value["choices"] if is_hub else list(value)
        labels = value["labels"] if is_hub else list(value.values())
    if (
        not isinstance(choices, list)
        or not isinstance(labels, list)
        or not all(isinstance(label, (int, float)) and label in (0, 1) for label in labels)
    ):
        raise at.wrong(f"the column {name!r} is not an object of answers with the labels 0 and 1.")
    if len(labels) != len(choices) or not all(_texts(choices, name, at)):
        raise at.wrong(f"the column {name!r} has an empty answer or one without a label.")
    return tuple(choices), [int(label) for label in labels]


def _whole(row: Row, name: str, at: RowOrigin) -> int:
    value = column(row, name, at)
    if not isinstance(value, int) or isinstance(value, bool):
        raise at.wrong_type(name, value, "a whole number")
    return value


def _texts(value: Any, name: str, at: RowOrigin) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise at.wrong(f"the column {name!r} is not a list of texts; write one.")
    return tuple(item.strip() for item in value)
