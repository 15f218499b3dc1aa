"""Files of finished judgements: nothing in them is passed over without a count, and what does not
fit is named with its line."""

import json
import time
import warnings
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bezoar.errors import DataError
from bezoar.evals.answer_files import read_games, read_single, rescored, standard_error
from bezoar.evals.length_control import UNREGULARISED
from bezoar.evals.outcome import Outcome, remarks
from bezoar.report.console import print_outcome


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scored(path: Path) -> Outcome:
    found = rescored(path)
    assert found is not None
    return found


def printed(outcome: Outcome) -> str:
    stream = StringIO()
    print_outcome(outcome, Console(width=200, file=stream), "file")
    return stream.getvalue()


def grade(question: Any = 1, turn: Any = 1, words: Any = "[[7]]", **more: Any) -> dict[str, Any]:
    return {
        "question_id": question,
        "model": "m",
        "turn": turn,
        "judgment": words,
        "score": 7,
        **more,
    }


def game(question: int, one: Any, two: Any, **more: Any) -> dict[str, Any]:
    return {
        "question_id": question,
        "model_1": "x",
        "model_2": "y",
        "turn": 1,
        "g1_winner": one,
        "g2_winner": two,
        **more,
    }


def annotation(number: int, preference: float | None) -> dict[str, Any]:
    return {
        "instruction": f"i{number}",
        "output_1": "base",
        "output_2": "a model",
        "generator_2": "m",
        "preference": preference,
    }


def test_games_with_an_error_are_counted_and_told(tmp_path: Path) -> None:
    rows = [game(n, "model_1", "model_1" if n % 3 else "model_2") for n in range(73)]
    found = scored(
        written(tmp_path / "p.jsonl", *rows, game(73, "error", "tie"), game(74, "tie", "error"))
    )
    assert {s.name: (s.n, s.num_failed) for s in found.scores} == {"x": (73, 2), "y": (73, 2)}
    assert found.info["pairwise"]["num_games"] == 75
    assert "2 of 75 games have an error" in printed(found)
    assert [share for *_, share in read_games(tmp_path / "p.jsonl")][-2:] == [None, None]


def test_games_without_a_common_scale_or_a_verdict_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.jsonl: all 1 games have an error"):
        rescored(written(tmp_path / "p.jsonl", game(1, "error", "error")))
    apart = [game(1, "tie", "tie"), game(2, "tie", "tie", model_1="a", model_2="b")]
    with pytest.raises(DataError, match=r"p\.jsonl: the models fall into groups that never met"):
        rescored(written(tmp_path / "p.jsonl", *apart))
    lone = scored(
        written(tmp_path / "p.jsonl", game(1, "tie", "tie"), game(2, "error", "tie", model_2="z"))
    )
    assert {s.name: (s.n, s.num_failed) for s in lone.scores} == {
        "x": (1, 1),
        "y": (1, 0),
        "z": (0, 1),
    }


def test_a_winner_is_the_same_by_number_and_by_name(tmp_path: Path) -> None:
    assert [
        share
        for *_, share in read_games(
            written(tmp_path / "p.jsonl", game(1, "model_2", "y"), game(2, "x", "model_1"))
        )
    ] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (game(1, "banana", "banana"), "g1_winner is 'banana', none of model_1, x"),
        (game(1, "tie", None), "g2_winner is None"),
        (
            game(1, "tie", "tie", turn=10**9),
            "turn is 1000000000; the turns of MT-Bench are 1 and 2",
        ),
        (game(1, "tie", "tie", model_2="x"), "model_1 and model_2 are both x"),
        (game(1, "tie", "tie", model_2=None), "the column 'model_2' is 'None', not a name"),
    ],
)
def test_a_game_that_does_not_fit_is_named(row: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        rescored(written(tmp_path / "p.jsonl", row))
    assert str(error.value).startswith(f"{tmp_path / 'p.jsonl'}:1: ")
    assert what in str(error.value)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (grade(turn=None), "turn is None; the turns of MT-Bench are 1 and 2"),
        (grade(turn=10**12), "turn is 1000000000000"),
        (grade(turn=0), "turn is 0"),
        (grade(turn=-1), "turn is -1"),
        (grade(turn=1.5), "turn is 1.5"),
        (grade(turn="1"), "turn is 1; the turns"),
        (grade(turn=True), "turn is True"),
        (grade(turn=[1]), "turn is [1]"),
        (grade(score="8"), "the column 'score' is a str"),
        (grade(score=[8]), "the column 'score' is a list"),
        (grade(words=7), "the column 'judgment' is a int"),
        (grade(question=None), "the column 'question_id' is 'None'"),
        (grade(question=1.5), "the column 'question_id' is '1.5'"),
        (grade(model=None), "the column 'model' is 'None'"),
        (grade(model={}), "the column 'model' is '{}'"),
    ],
)
def test_a_grade_that_does_not_fit_is_named(row: dict[str, Any], what: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(DataError) as error:
        rescored(written(tmp_path / "s.jsonl", row))
    assert str(error.value).startswith(f"{tmp_path / 's.jsonl'}:1: ")
    assert what in str(error.value)
    assert time.monotonic() - started < 2


def test_grades_without_a_score_are_failures_with_a_reason(tmp_path: Path) -> None:
    rows = [
        grade(1, words="", score=None),
        grade(2, words=None, score=-1),
        grade(3, words="[[4]]", score=None),
        grade(4, words="", score=12),
        grade(5),
    ]
    (model,) = read_single(written(tmp_path / "s.jsonl", *rows))
    assert [turns[1].reason for turns in model.ratings.values()] == [
        "no score",
        "no score",
        "",
        "out of range",
        "",
    ]
    assert (model.scores()[0].n, model.scores()[0].num_failed, model.num_changed) == (2, 3, 1)
    assert "mt_bench: ratings that could not be had: 2 no score, 1 out of range." in remarks(
        scored(tmp_path / "s.jsonl").info
    )


def test_a_second_turn_alone_is_no_first_turn(tmp_path: Path) -> None:
    (model,) = read_single(
        written(tmp_path / "s.jsonl", grade(1, 1, "[[2]]"), grade(2, 2, "[[8]]"))
    )
    assert {s.name: (s.value, s.n) for s in model.scores()} == {
        "mt_bench": (5.0, 2),
        "mt_bench/turn 1": (2.0, 1),
        "mt_bench/turn 2": (8.0, 1),
    }


def test_changed_ratings_are_told_beside_fastchats_reading(tmp_path: Path) -> None:
    rows = [
        grade(1),
        grade(2, words="As [3] says. Rating: 9", score=3),
        grade(3, words="[[8]] or [[9]]", score=8),
    ]
    found = scored(written(tmp_path / "s.jsonl", *rows))
    values = {s.name: s.value for s in found.scores}
    assert values["mt_bench m"] == 7.0
    assert values["mt_bench, FastChat's reading m"] == 6.0
    assert found.info["mt_bench"]["changed_ratings"] == {"m": 2}
    assert "2 of 3 ratings of m differ from the score in the file." in printed(found)
    assert "All 1 ratings that were read again equal the score in the file." in printed(
        scored(written(tmp_path / "s.jsonl", grade()))
    )


def test_annotations_without_a_verdict_give_a_count_and_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for num in (1, 3):
            path.write_text(json.dumps([annotation(n, None) for n in range(num)]))
            found = scored(path)
            assert [(s.value, s.n, s.num_failed) for s in found.scores] == [(None, 0, num)] * 3
            json.dumps(found.to_dict(), allow_nan=False)
            assert f"{num} " in printed(found)
        path.write_text(json.dumps([annotation(1, 2.0)]))
        json.dumps(scored(path).to_dict(), allow_nan=False)
        assert standard_error([1.0]) is None


def test_the_number_with_length_taken_out_is_called_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([annotation(n, 1.0 + n % 2) for n in range(8)]))
    found = scored(path)
    names = ["win rate", "win rate/length-adjusted (ours)", UNREGULARISED]
    assert [s.name for s in found.scores] == names
    # sqrt(8 / 7 * 0.25 / 8)
    assert "The standard error of the win rate is 0.1890." in printed(found)
    assert "length-controlled" not in printed(found)
