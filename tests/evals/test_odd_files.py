"""Evaluation files with any value in any column: scores, or one sentence that names the file."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bezoar.data.questions import labelled_choice, read_answers, read_questions
from bezoar.data.rows import read_file
from bezoar.errors import BezoarError
from bezoar.evals.answer_files import answer_file, rescored
from bezoar.evals.harness_tasks import configs
from bezoar.evals.labelled_pairs import read_labelled_pairs

ROWS: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "grades": (
        rescored,
        {"question_id": 1, "model": "m", "turn": 1, "judgment": "[[7]]", "score": 7},
    ),
    "games": (
        rescored,
        {
            "question_id": 1,
            "model_1": "x",
            "model_2": "y",
            "turn": 1,
            "g1_winner": "tie",
            "g2_winner": "model_1",
        },
    ),
    "annotations": (
        rescored,
        {
            "instruction": "i",
            "output_1": "a",
            "output_2": "b",
            "generator_2": "m",
            "preference": 1.5,
        },
    ),
    "questions": (
        read_questions,
        {"question_id": 1, "category": "math", "turns": ["a", "b"], "reference": ["1", "2"]},
    ),
    "answers": (read_answers, {"question_id": 1, "choices": [{"turns": ["a", "b"]}]}),
    "outputs": (lambda path: answer_file(path, ()), {"instruction": "i", "output": "o"}),
    "gold": (read_labelled_pairs, {"input": "i", "output_1": "a", "output_2": "b", "label": 1}),
    "reward bench": (
        read_labelled_pairs,
        {"prompt": "p", "chosen": "c", "rejected": "r", "subset": "hep-go", "chosen_model": "m"},
    ),
    "choices of the hub": (
        lambda path: [labelled_choice(row, at) for at, row in read_file(path, "q")],
        {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
    ),
    **{
        f"task {number}": (lambda path: configs(path, "t", "{query}", 8), row)
        for number, row in enumerate(
            (
                {"query": "q", "choices": ["a", "b"], "gold": 0},
                {"context_options": ["a", "b"], "continuation": "c", "gold": 1},
                {"context": "c", "answer": "7"},
                {
                    "question": "q",
                    "mc1_targets": {"a": 1, "b": 0},
                    "mc2_targets": {"choices": ["a", "b"], "labels": [0, 1]},
                },
            )
        )
    },
}
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from(
        [10**9, 10**400, -1.5, 1e308, "", "a", "A", "tie", "error", "[[9]]", "\ud800", "\x1b[2J"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "b", "text", "label", "choices", "labels", "turns"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", ROWS)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_value_in_any_column_is_read_or_named(
    kind: str, tmp_path: Path, data: st.DataObject
) -> None:
    read, whole = ROWS[kind]
    rows = [dict(whole)]
    for _ in range(data.draw(st.integers(1, 3))):
        row = dict(whole)
        for name in data.draw(st.lists(st.sampled_from([*whole, "other"]), max_size=2)):
            row[name] = data.draw(ODD)
        for name in data.draw(st.lists(st.sampled_from(list(whole)), max_size=1)):
            row.pop(name, None)
        rows.append(row)
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[data.draw(st.integers(0, 1)) :]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read(path)
            told = "f.jsonl"
        except BezoarError as error:
            told = str(error)
    assert "f.jsonl" in told
    assert "\n" not in told
