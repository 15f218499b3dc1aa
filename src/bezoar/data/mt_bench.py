"""MT-Bench questions and published answers in FastChat's format (arXiv 2306.05685)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.data.locate import locate
from bezoar.data.rows import Placed, RowOrigin, column, text
from bezoar.errors import DataError
from bezoar.io import Row

REFERENCE_CATEGORIES = ("math", "reasoning", "coding")


@dataclass(frozen=True)
class Question:
    """The user's turns and, where there are any, one reference answer a turn."""

    id: int
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()


def read_questions(
    path: str | Path, folder: Path = Path(), *, references: str | Path = ""
) -> list[Question]:
    """Questions of a file, of `bezoar:questions.jsonl` or of a Hub id; `references` names a file of
    answers that are used in place of the questions' own `reference` lists; in FastChat's folder the
    file reference_answer/gpt-4.jsonl beside the questions is taken without being named.

    The Hub's columns prompt_id and prompt are read as question_id and turns; AlpacaEval's
    instructions are questions of one turn, numbered by their lines. DataError for a question
    without turns, with fewer references than turns, or whose number stands twice.
    """
    beside = Path(path).parent / "reference_answer" / "gpt-4.jsonl"
    references = references or (beside if beside.is_file() else "")
    better = read_answers(references, folder) if references else {}
    questions: dict[int, Question] = {}
    for at, row in _rows(path, folder):
        question = _question(row, at)
        if question.id in questions:
            raise at.wrong(f"the question_id {question.id} stands twice; renumber one.")
        known = better.get(question.id, question.references)
        if known and len(known) < len(question.turns):
            raise at.wrong(
                f"question {question.id} has {len(question.turns)} turns and {len(known)}"
                " references; add the missing ones."
            )
        questions[question.id] = Question(question.id, question.category, question.turns, known)
    return list(questions.values())


def _question(row: Row, at: RowOrigin) -> Question:
    if "instruction" in row:  # AlpacaEval
        return Question(
            at.line, str(row.get("dataset") or "instruction"), (text(row, "instruction", at),)
        )
    number = _whole(row, "prompt_id" if "prompt_id" in row else "question_id", at)
    turns = _texts(
        column(row, "turns" if "turns" in row or "prompt" not in row else "prompt", at), "turns", at
    )
    if not turns or not all(turns):
        raise at.wrong("the question has an empty turn or no turns; write them.")
    return Question(
        number,
        text(row, "category", at),
        turns,
        _texts(row.get("reference") or [], "reference", at),
    )


def read_answers(path: str | Path, folder: Path = Path()) -> dict[int, tuple[str, ...]]:
    """question_id -> the answers of a model, a turn each (the first of `choices`), from a FastChat
    model_answer file."""
    answers: dict[int, tuple[str, ...]] = {}
    for at, row in _rows(path, folder):
        number, choices = _whole(row, "question_id", at), column(row, "choices", at)
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise at.wrong(
                "the column 'choices' is not a list of objects with turns; this is no FastChat"
                " answer file."
            )
        if number in answers:
            raise at.wrong(f"the question_id {number} is answered twice; remove one.")
        answers[number] = _texts(column(choices[0], "turns", at), "turns", at)
    return answers


def _rows(path: str | Path, folder: Path) -> list[Placed]:
    places = locate(path, folder)
    if len(places) != 1:
        raise DataError(f"{path}: names {len(places)} files and one is needed; name the file.")
    return list(places[0].rows())


def _whole(row: Row, name: str, at: RowOrigin) -> int:
    value = column(row, name, at)
    if not isinstance(value, int) or isinstance(value, bool):
        raise at.wrong(
            f"the column {name!r} is a {type(value).__name__}, not a whole number; write one."
        )
    return value


def _texts(value: Any, name: str, at: RowOrigin) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise at.wrong(f"the column {name!r} is not a list of texts; write one text a turn.")
    return tuple(item.strip() for item in value)
