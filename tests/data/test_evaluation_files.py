"""Questions, published answers and multiple-choice rows: read whole or refused with their place."""

import json
from pathlib import Path
from typing import Any

import pytest

from bezoar.data.questions import (
    REFERENCE_CATEGORIES,
    Choice,
    Question,
    read_answers,
    read_choices,
    read_questions,
)
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


def test_choices_of_every_shape(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"query": "Q", "choices": ["a", "b"], "gold": 1},
        {"context_options": ["x is", "y is"], "continuation": "tall.", "gold": 0},
        {"question": "Q", "mc1_targets": {"right": 1, "wrong": 0, "worse": 0}},
        {"question": "Q", "mc1_targets": {"choices": ["no", "yes"], "labels": [0, 1]}},
        {"question": "Q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
    )
    assert read_choices(path, tmp_path) == [
        Choice("q.jsonl:1", "Q", ("a", "b"), 1),
        Choice("q.jsonl:2", "", ("tall.", "tall."), 0, ("x is", "y is")),
        Choice("q.jsonl:3", "Q", ("right", "wrong", "worse"), 0),
        Choice("q.jsonl:4", "Q", ("no", "yes"), 1),
        Choice("q.jsonl:5", "Q", ("a", "b"), 1),
    ]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"query": "Q", "choices": ["a", "b"], "gold": 2}, "gold is 2 and there are 2 choices"),
        ({"query": "Q", "choices": ["a", "b"], "gold": -1}, "gold is -1"),
        ({"query": "Q", "choices": ["a", "b"], "gold": "1"}, "the column 'gold' is a str"),
        ({"query": "Q", "choices": ["a", "b"]}, "no column 'gold'; it has query, choices"),
        ({"query": "Q", "choices": ["a"], "gold": 0}, "at least two choices"),
        ({"query": "Q", "choices": ["a", ""], "gold": 0}, "none of them empty"),
        ({"query": None, "choices": ["a", "b"], "gold": 0}, "none of them empty"),
        ({"question": "Q", "mc1_targets": {"a": 1, "b": 1}}, "not exactly one right answer"),
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
        ({"question": "Q", "mc1_targets": {}}, "not exactly one right answer"),
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
def test_a_choice_that_does_not_fit_is_named(
    row: dict[str, Any], what: str, tmp_path: Path
) -> None:
    path = written(tmp_path, row)
    with pytest.raises(DataError) as error:
        read_choices(path, tmp_path)
    assert what in str(error.value)
    assert "q.jsonl:1: " in str(error.value)
