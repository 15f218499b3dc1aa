"""Files of evaluations with odd values and damaged bytes: scores that can be shown and written, or
one sentence."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bezoar.chat.types import Message
from bezoar.data.questions import read_questions
from bezoar.evals.answer_files import answer_file, rescored
from bezoar.evals.labelled_pairs import LabelledPairs
from bezoar.evals.leaderboard import leaderboard, paired_tests, read_entries, strengths
from bezoar.evals.mt_bench import MTBench
from bezoar.evals.outcome import Outcome, write_outcome
from bezoar.evals.reward_bench import reward_bench
from bezoar.evals.stats import score
from bezoar.evals.win_rate import asked_questions
from bezoar.flow.revise import read_answers
from bezoar.io import as_written
from bezoar.llm.types import Request
from bezoar.report.console import print_leaderboard, print_outcome, print_tests
from tests.helpers.fuzzing import bounded, changed, damaged, fuzz, json_bytes, json_lines

GRADES = [
    {
        "question_id": n,
        "model": model,
        "judge": ["j", "single-v1"],
        "turn": turn,
        "judgment": f"Good. Rating: [[{n % 10}]]",
        "score": n % 10,
    }
    for n in range(81, 86)
    for model in ("m", "k")
    for turn in (1, 2)
]
GAMES = [
    {
        "question_id": n,
        "model_1": "x",
        "model_2": "y",
        "turn": 1,
        "g1_winner": "model_1",
        "g2_winner": "tie",
        "judge": ["j", "pair-v2"],
        "g1_judgment": "[[A]]",
    }
    for n in range(5)
] + [
    {
        "question_id": 9,
        "model_1": "y",
        "model_2": "z",
        "turn": 2,
        "g1_winner": "model_2",
        "g2_winner": "model_2",
    }
]
NOTES = [
    {
        "instruction": f"i{n}",
        "output_1": "base",
        "output_2": "a model" * n,
        "generator_1": "b",
        "generator_2": "m",
        "preference": 1.0 + n / 4,
        "dataset": "d",
    }
    for n in range(5)
]
ANSWERS: list[Any] = [
    {
        "question_id": n,
        "answer_id": "a",
        "model_id": "m",
        "choices": [{"index": 0, "turns": ["first", "second"]}],
        "tstamp": 1.0,
    }
    for n in range(81, 84)
] + [
    {"instruction": "i", "output": "o", "generator": "g"},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
]
QUESTIONS = [
    {"question_id": n, "category": c, "turns": ["one", "two"], "reference": ["r", "s"]}
    for n, c in ((81, "writing"), (82, "math"), (83, "coding"))
]
PAIRS = [
    {"input": "q", "output_1": "a", "output_2": "b", "label": 1},
    {
        "prompt": "q",
        "chosen": "a",
        "rejected": "b",
        "subset": "alpacaeval-easy",
        "chosen_model": "m",
    },
    {"prompt": "q", "chosen": "a", "rejected": "b", "subset": "hep-go"},
]
TRUTH = {"question": "q", "mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1, "b": 0, "c": 1}}
ITEMS: list[Any] = [
    {"query": "q", "choices": ["a", "b"], "gold": 0},
    {"context_options": ["a _", "b _"], "continuation": "c", "gold": 1},
    TRUTH,
    {"context": "q", "answer": "#### 7"},
    {
        "question": "q",
        "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["a", "b"], "labels": [0, 1]},
    },
    {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def shown(outcome: Outcome, folder: Path) -> None:
    """Scores are printed and written as the commands do."""
    print_outcome(outcome, Console(file=StringIO()), "file")
    write_outcome(folder, "m", outcome)
    json.loads(
        (folder / "scores.json").read_text(encoding="utf-8"),
        parse_constant=lambda name: pytest.fail(name),
    )


@st.composite
def tables(draw: st.DrawFn, rows: list[Any]) -> bytes:
    """All of `rows` with a few of them changed, or a few alone."""
    if draw(st.booleans()):
        return draw(json_lines(rows))
    lines = [
        json_bytes(draw(changed(row)) if draw(st.integers(0, len(rows))) == 0 else row)
        for row in rows
    ]
    return b"\n".join(lines)


@pytest.mark.parametrize("rows", [GRADES, NOTES], ids=["grades", "annotations"])
@fuzz(0.025, few=10)
@given(data=st.data())
def test_no_file_of_judgements_breaks_the_scores(
    rows: list[Any], data: st.DataObject, folder: Path
) -> None:
    scored(data.draw(tables(rows)), folder)


@fuzz(0.005, few=2)  # a strength with its interval takes a second
@given(data=tables(GAMES))
def test_no_file_of_games_breaks_the_strengths(data: bytes, folder: Path) -> None:
    scored(data, folder)


def scored(data: bytes, folder: Path) -> None:
    (folder / "file.jsonl").write_bytes(data)
    with bounded():
        found = rescored(folder / "file.jsonl")
        if found:
            shown(found, folder)


@fuzz(0.025, few=10)
@given(answers=tables(ANSWERS) | tables(ANSWERS[:3]), asked=tables(QUESTIONS))
def test_no_answers_and_no_questions_break_an_evaluation(
    answers: bytes, asked: bytes, folder: Path
) -> None:
    (folder / "answers.jsonl").write_bytes(answers)
    (folder / "questions.jsonl").write_bytes(asked)
    names = [str(folder / name) for name in ("questions.jsonl", "answers.jsonl")]
    with bounded():
        read_answers(folder / "answers.jsonl", "", 1)
    with bounded():
        read_answers(folder / "answers.jsonl", names[0], 1)
    with bounded():
        MTBench("judge", names[0], references=names[1]).load()
    with bounded():
        asked_questions(names[0], 2, 5)
    with bounded():
        questions = read_questions(folder / "questions.jsonl")
        ask = answer_file(folder / "answers.jsonl", questions)
        for reply in ask(
            [Request((Message("user", turn),)) for question in questions for turn in question.turns]
        ):
            assert isinstance(reply.text, str)


@fuzz(0.02, few=10)
@given(data=tables(PAIRS))
def test_no_pair_breaks_a_card(data: bytes, folder: Path) -> None:
    (folder / "pairs.jsonl").write_bytes(data)
    with bounded():
        shown(
            reward_bench(
                LabelledPairs((str(folder / "pairs.jsonl"),)).read(),
                lambda pairs: [len(p.chosen) - len(p.rejected) for p in pairs],
            ),
            folder,
        )


@pytest.mark.parametrize("number", range(len(ITEMS)))
@fuzz(0.005, few=5)
@given(data=st.data())
def test_no_item_breaks_a_task(number: int, data: st.DataObject, folder: Path) -> None:
    (folder / "items.jsonl").write_bytes(data.draw(tables([ITEMS[number]] * 3)))
    with bounded():
        from bezoar.evals.harness_tasks import configs

        for config in configs(folder / "items.jsonl", "t", "{query}", 9):
            rows = config["custom_dataset"]()["test"]
            assert all(isinstance(config["doc_to_text"](row), str | int) for row in rows)


OUTCOME = Outcome(
    [score("mt_bench", [7.0, 3.0]), score("win rate", [1.0, 0.0, 0.5])],
    [{"benchmark": "mt_bench", "id": str(i), "value": float(i)} for i in range(3)],
    {
        "mt_bench": {
            "judge": "j",
            "conditions": {"mt_bench": {"judge": "h"}},
            "failures": {"no rating": 2},
        },
        "win_rate": {"against": "b", "standard_error": 0.2},
    },
)


@fuzz(0.02, few=10)
@given(data=st.data())
def test_no_stored_scores_break_a_leaderboard(data: st.DataObject, folder: Path) -> None:
    one, two = folder / "one", folder / "two"
    for place in (one, two):
        place.mkdir(exist_ok=True)
        write_outcome(place, place.name, OUTCOME)
    if data.draw(st.booleans()):
        (two / "scores.json").write_bytes(data.draw(damaged((two / "scores.json").read_bytes(), 2)))
    else:
        (two / "scores.json").write_bytes(
            json_bytes(data.draw(changed(json.loads((two / "scores.json").read_text()))))
        )
    if data.draw(st.booleans()):
        (two / "items.jsonl").write_bytes(data.draw(tables(OUTCOME.items)))
    console = Console(file=StringIO())
    with bounded():
        entries = read_entries([one, two])
        with as_written(folder):  # as the commands do
            print_leaderboard(leaderboard(entries), strengths(entries), console)
            print_tests(*paired_tests(*entries), console, "two less one")
