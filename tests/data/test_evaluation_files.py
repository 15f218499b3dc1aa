"""Questions, published answers and multiple-choice rows: read whole or refused with their place."""

import json
from pathlib import Path
from typing import Any

import pytest

from bezoar.data.questions import (
    REFERENCE_CATEGORIES,
    Question,
    labelled_choice,
    read_answers,
    read_questions,
    read_targets,
)
from bezoar.data.rows import RowOrigin
from bezoar.errors import DataError


def written(folder: Path, *rows: dict[str, Any], name: str = "q.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


ASKED = {"question_id": 7, "category": "math", "turns": ["1+1?", "And +1?"]}


def test_questions_with_their_own_and_with_better_references(tmp_path: Path) -> None:
    path = written(tmp_path, {**ASKED, "reference": ["2", "3"]}, {**ASKED, "question_id": 8})
    assert read_questions(path, tmp_path) == [
        Question(7, "math", ("1+1?", "And +1?"), ("2", "3")),
        Question(8, "math", ("1+1?", "And +1?")),
    ]
    better = {
        "question_id": 7,
        "model_id": "m",
        "choices": [{"index": 0, "turns": ["two", "three"]}],
    }
    written(tmp_path, better, name="gpt.jsonl")
    assert read_questions(path, tmp_path, references="gpt.jsonl")[0].references == ("two", "three")
    assert read_answers("gpt.jsonl", tmp_path) == {7: ("two", "three")}
    assert read_questions(tmp_path / path)[1].id == 8
    hub = {"prompt_id": 7, "category": "math", "prompt": ["1+1?", "And +1?"], "reference": []}
    assert read_questions(written(tmp_path, hub), tmp_path) == [
        Question(7, "math", ("1+1?", "And +1?"))
    ]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"turns": []}, "an empty turn or no turns"),
        ({"turns": ["a", " "]}, "an empty turn or no turns"),
        ({"turns": "a"}, "the column 'turns' is not a list of texts"),
        ({"question_id": "7"}, "the column 'question_id' is a str"),
        ({"category": 3}, "the column 'category' is a int"),
        ({"reference": ["2"]}, "question 7 has 2 turns and 1 references"),
    ],
)
def test_a_question_that_does_not_fit_is_named(
    change: dict[str, Any], what: str, tmp_path: Path
) -> None:
    path = written(tmp_path, {**ASKED, **change})
    with pytest.raises(DataError) as error:
        read_questions(path, tmp_path)
    assert what in str(error.value)
    assert "q.jsonl:1: " in str(error.value)


def test_a_number_that_stands_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"q.jsonl:2: the question_id 7 stands twice"):
        read_questions(written(tmp_path, ASKED, ASKED), tmp_path)
    answer = {"question_id": 7, "choices": [{"turns": ["a"]}]}
    with pytest.raises(DataError, match=r"q.jsonl:2: the question_id 7 is answered twice"):
        read_answers(written(tmp_path, answer, answer), tmp_path)


def test_the_seed_questions_have_references_where_the_judge_needs_them() -> None:
    questions = read_questions("bezoar:questions.jsonl")
    assert len(questions) == 24
    assert len({question.category for question in questions}) == 8
    for question in questions:
        assert len(question.turns) == 2
        assert len(question.references) == (2 if question.category in REFERENCE_CATEGORIES else 0)


AT = RowOrigin("q.jsonl:1", "q.jsonl", 1)


def hub(texts: list[str], labels: list[str]) -> dict[str, Any]:
    return {"question": "Q", "choices": {"text": texts, "label": labels}, "answerKey": "A"}


def test_choices_of_every_shape() -> None:
    right, wrong = (
        {"right": 1, "wrong": 0, "worse": 0},
        {"choices": ["no", "yes"], "labels": [0, 1]},
    )
    assert read_targets({"t": right}, "t", AT) == (("right", "wrong", "worse"), [1, 0, 0])
    assert read_targets({"t": wrong}, "t", AT) == (("no", "yes"), [0, 1])
    options = {"text": ["a", "b"], "label": ["A", "B"]}
    row = {"question": "Q", "choices": options, "answerKey": "B"}
    assert labelled_choice(row, AT) == {"query": "Q", "choices": ["a", "b"], "gold": 1}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (hub(["a"], ["A"]), "at least two choices"),
        (hub(["a", ""], ["A", "B"]), "none of them empty"),
        ({**hub(["a", "b"], ["A", "B"]), "question": None}, "none of them empty"),
        ({"question": "Q", "mc1_targets": {"a": 1, "b": "no"}}, "with the labels 0 and 1"),
        ({"question": "Q", "mc1_targets": {"a": 1, "b": None}}, "with the labels 0 and 1"),
        ({"question": "Q", "mc1_targets": [1, 0]}, "is not an object of answers"),
        (
            {"question": "Q", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0, 0]}},
            "one without a label",
        ),
        (
            {"question": "Q", "mc1_targets": {"choices": "ab", "labels": [1, 0]}},
            "is not an object of answers",
        ),
        (
            {"question": "Q", "mc1_targets": {"choices": [1, 2], "labels": [1, 0]}},
            "is not a list of texts",
        ),
        (
            {"question": "Q", "choices": ["a", "b"], "answerKey": "A"},
            "the column 'choices' is not an object with text and label",
        ),
        (
            {"question": "Q", "choices": {"text": ["a", "b"]}, "answerKey": "A"},
            "the column 'label' is not a list of texts",
        ),
        (
            {"question": "Q", "choices": {"text": ["a"], "label": ["A", "B"]}, "answerKey": "B"},
            "not every text has one label",
        ),
        (
            {
                "question": "Q",
                "choices": {"text": ["a", "b"], "label": ["A", "A"]},
                "answerKey": "A",
            },
            "not every text has one label",
        ),
        (
            {"question": "Q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": 1},
            "the column 'answerKey' is a int",
        ),
        (
            {
                "question": "Q",
                "choices": {"text": ["a", "b"], "label": ["A", "B"]},
                "answerKey": "C",
            },
            "the answerKey 'C' is none of A, B",
        ),
    ],
)
def test_a_choice_that_does_not_fit_is_named(row: dict[str, Any], what: str) -> None:
    def read() -> object:
        is_targets = "mc1_targets" in row
        return read_targets(row, "mc1_targets", AT) if is_targets else labelled_choice(row, AT)

    with pytest.raises(DataError) as error:
        read()
    assert what in str(error.value)
    assert "q.jsonl:1: " in str(error.value)
