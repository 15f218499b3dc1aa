"""MT-Bench: prompts, parsing, aggregation, failures; FastChat's files."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bezoar.data.questions import Question, read_questions
from bezoar.errors import DataError
from bezoar.evals.answer_files import answered, read_games, read_single
from bezoar.evals.mt_bench import MTBench, Turn, converse, spread
from bezoar.evals.mt_bench_prompts import judge_prompt
from bezoar.llm.scripted import ScriptedBackend
from bezoar.llm.types import Ask, Reply, Request
from bezoar.verdicts.rating import (
    CHOICES,
    expected_rating,
    fastchat_rating,
    parse_rating,
    read_grade,
)

OPEN = Question(1, "writing", ("Write {answer}.", "Shorter."))
SUM = Question(2, "math", ("2+2?", "And 3+3?"), ("4", "6"))


def asker(backend: ScriptedBackend) -> Ask:
    def ask(requests: Sequence[Request]) -> list[Reply]:
        return [
            reply
            for _, reply in sorted(pair for group in backend.answer(requests) for pair in group)
        ]

    return ask


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question_id": q.id, "category": q.category, "turns": q.turns, "reference": q.references}
        for q in (OPEN, SUM)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("Good. Rating: [[7]]", 7.0, ""),
        ("Rating: [[7.5]] and [[3]]", None, "unparsed"),
        ("[[7.5]], I repeat: [[7.50]]", 7.5, ""),
        ("[[7.]]", 7.0, ""),
        ("[[ 7 ]]", 7.0, ""),
        ("[[７]]", 7.0, ""),
        ("See citation [1]. Rating: 6", None, "unparsed"),
        ("See citation [1]. Rating: [6]", 6.0, ""),
        ("**Rating:** [6] and Score: [5]", None, "unparsed"),
        ("Its score [1] is known.", None, "unparsed"),
        (" [6].\n", 6.0, ""),
        ('It says "Rating: [[10]]" to sway me.\nRating: [[2]]', 2.0, ""),
        ("> Rating: [[10]]\n\nRating: [[2]]", 2.0, ""),
        ("```\nRating: [[10]]\n```", None, "unparsed"),
        ("[[NaN]]", None, "unparsed"),
        ("[[inf]]", None, "unparsed"),
        ("[[" + "9" * 400 + "]]", None, "out of range"),
        ("[[7/5]]", None, "unparsed"),
        ("[[ 8 / 10 ]]", 8.0, ""),
        ("Rating: [6]", 6.0, ""),
        ("See [1] and [2]. Fine.", None, "unparsed"),
        ("Rating: 7", None, "unparsed"),
        ("[[rating]]", None, "unparsed"),
        ("[[11]]", None, "out of range"),
        ("[[0]]", None, "out of range"),
        ("[[-5]]", None, "out of range"),
        ("", None, "unparsed"),
    ],
)
def test_ratings_are_read_or_are_failures(text: str, value: float | None, reason: str) -> None:
    rating = parse_rating(text)
    assert (rating.value, rating.reason) == (value, reason)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Rating: [[7.5]] and [[3]]", 7.5),
        ("See citation [1]. Rating: 6", 1.0),
        ("[[7.]]", 7.0),
        ("> [[10]]\n[[2]]", 10.0),
        ("[[11]]", 11.0),
        ("[3] [[2]]", 2.0),
        ("[[ 7 ]]", None),
        ("[[-5]]", None),
        ("[[７]]", None),
        ("7", None),
        ("[[" + "9" * 400 + "]]", None),
    ],
)
def test_fastchats_own_reading_stands_under_its_name(text: str, value: float | None) -> None:
    assert fastchat_rating(text).value == value
    assert read_grade(Reply(text), "fastchat").value == value


def test_the_expected_rating_by_hand() -> None:
    logprobs = [-1e9] * 10
    logprobs[1], logprobs[9] = math.log(0.3), math.log(0.1)  # ratings 2 and 10, three to one
    assert expected_rating(logprobs).value == pytest.approx((3 * 2 + 10) / 4)
    assert expected_rating([0.0] * 10).value == pytest.approx(5.5)
    assert expected_rating(logprobs[:9]).reason == "error"
    assert CHOICES[0] == "1]]"  # closed, so that 1 does not hold the probability of 10
    assert len(CHOICES) == 10


def test_the_second_turn_is_asked_with_the_first_and_at_the_categories_temperature() -> None:
    backend = ScriptedBackend(lambda r: f"answer to {r.messages[-1].content}")
    answers = converse([OPEN, SUM], asker(backend), max_tokens=50, seed=3)
    assert [t.text for t in answers[0]] == ["answer to Write {answer}.", "answer to Shorter."]
    first, _, second, _ = backend.seen
    assert (first.temperature, first.seed) == (0.7, 3)
    assert [m.content for m in second.messages] == [
        "Write {answer}.",
        "answer to Write {answer}.",
        "Shorter.",
    ]
    assert backend.seen[1].temperature == 0.0


def test_judge_prompts_hold_the_reference_where_the_category_needs_it() -> None:
    plain = judge_prompt(OPEN, ["{question} one", "two"], 0)
    assert "Write {answer}." in plain
    assert "{question} one" in plain
    assert "two" not in plain
    second = judge_prompt(SUM, ["five", "seven"], 1)
    assert all(text in second for text in ("2+2?", "five", "And 3+3?", "seven", "\n4\n", "\n6\n"))
    assert "solution" in second
    assert "solution" not in judge_prompt(OPEN, ["a", "b"], 1)


def test_the_mean_is_over_ratings_and_failures_are_in_none(questions: str) -> None:
    grades = {
        "2+2?": "[[10]]",
        "And 3+3?": "no idea",
        "Write {answer}.": "Rating: [[4]]",
        "Shorter.": "[[6]]",
    }

    def judge(request: Request) -> str:
        text = request.messages[-1].content
        return next(
            grade
            for turn, grade in reversed(grades.items())
            if turn in text and (turn != "2+2?" or "And 3+3?" not in text)
        )

    backend = ScriptedBackend(lambda r: "an answer")
    outcome = MTBench("judge", questions).measure(asker(backend), asker(ScriptedBackend(judge)))
    scores = {(s.name, s.group): s for s in outcome.scores}
    overall = scores["mt_bench", ""]
    assert overall.value == pytest.approx(20 / 3)
    assert (overall.n, overall.num_failed) == (3, 1)
    assert scores["mt_bench/turn 1", ""].value == 7.0
    assert scores["mt_bench/turn 2", ""].value == 6.0
    assert scores["mt_bench", "writing"].value == 5.0
    assert scores["mt_bench", "math"].value == 10.0
    assert outcome.info["mt_bench"]["failures"] == {"unparsed": 1}
    assert outcome.warnings()
    record = next(i for i in outcome.items if i["benchmark"] == "mt_bench" and i["id"] == 2)
    assert record["value"] == 10.0
    assert [j["reason"] for j in record["judgements"]] == ["", "unparsed"]


def test_equal_grades_of_different_answers_have_no_interval() -> None:
    questions = [Question(i, "writing", (f"Write {i}.", "Shorter.")) for i in range(4)]
    judge = asker(ScriptedBackend(lambda request: "Rating: [[5]]"))
    bench = MTBench(judge="judge", questions="q")
    answers = [[Turn(f"{q.id} {turn}", "stop") for turn in range(2)] for q in questions]
    outcome = bench.outcome(questions, answers, bench.grade(questions, answers, judge))
    first = outcome.scores[0]
    assert (first.value, first.low, first.high) == (5.0, None, None)
    assert first.reason == "cannot judge: the judge graded all 8 answers 5"
    assert outcome.info["mt_bench"]["cannot_judge"] == first.reason
    # one answer again and again has one grade, and that is right
    same = [[Turn("yes", "stop")] * 2 for _ in questions]
    alike = bench.outcome(questions, same, bench.grade(questions, same, judge))
    assert "cannot_judge" not in alike.info["mt_bench"]


def test_failed_answers_are_not_judged(questions: str) -> None:
    def model(requests: Sequence[Request]) -> list[Reply]:
        return [
            Reply(finish="error", error="down") if r.messages[0].content == "2+2?" else Reply("ok")
            for r in requests
        ]

    judge = ScriptedBackend(lambda r: "[[5]]")
    outcome = MTBench("judge", questions).measure(model, asker(judge))
    assert len(judge.seen) == 2
    assert outcome.info["mt_bench"]["failures"] == {"no answer": 2}
    assert outcome.scores[0].num_failed == 2


def test_a_weak_judge_is_asked_for_probabilities(questions: str) -> None:
    judge = ScriptedBackend(lambda r: "8]]")
    outcome = MTBench("judge", questions, verdict="logprob").measure(
        asker(ScriptedBackend(lambda r: "x")), asker(judge)
    )
    assert judge.seen[0].choices == CHOICES
    assert judge.seen[0].prefill == "Rating: [["
    rest = sum(r for r in range(1, 11) if r != 8)
    assert outcome.scores[0].value == pytest.approx((8 * 0.9 + rest * 0.01) / (0.9 + 9 * 0.01))


def test_a_turn_without_reference_is_judged_by_the_plain_prompt_and_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": 44067482, "category": "math", "prompt": ["2+2?", "3+3?"], "reference": None},
        {
            "prompt_id": 34377376,
            "category": "coding",
            "prompt": ["a?", "b?"],
            "reference": ["A", ""],
        },
        {"prompt_id": 11111111, "category": "stem", "prompt": ["c?", "d?"], "reference": []},
    ]
    path = write(tmp_path / "hub.jsonl", rows)
    judge = ScriptedBackend(lambda r: "Rating: [[6]]")
    asked = MTBench("judge", str(path))
    outcome = asked.measure(asker(ScriptedBackend(lambda r: "x")), asker(judge))
    assert outcome.info["mt_bench"]["without_reference"] == ["81", "82 (turn 2)"]
    assert outcome.info["mt_bench"]["references"] == "own"
    solved = ["solution" in request.messages[-1].content for request in judge.seen]
    assert solved == [False, False, True, False, False, False]
    assert outcome.scores[0].n == 6


def test_the_recipe_says_which_references_are_used(questions: str, tmp_path: Path) -> None:
    named = write(tmp_path / "gpt-4.jsonl", [answer_row(2, "four", "six"), answer_row(9, "z")])
    # a file beside the questions is not taken unless it is named
    (tmp_path / "reference_answer").mkdir()
    write(tmp_path / "reference_answer" / "gpt-4.jsonl", [answer_row(2, "gpt four", "gpt six")])

    def grading(references: str) -> tuple[str, dict[str, Any]]:
        judge = ScriptedBackend(lambda r: "[[6]]")
        asked = MTBench("judge", questions, references=references)
        outcome = asked.measure(asker(ScriptedBackend(lambda r: "x")), asker(judge))
        return judge.seen[2].messages[-1].content, outcome.info["mt_bench"]

    own, own_facts = grading("own")
    none, none_facts = grading("none")
    file, file_facts = grading(str(named))
    assert ("\n4\n" in own, "\nfour\n" in file, "solution" in none) == (True, True, False)
    assert [f["references"] for f in (own_facts, none_facts, file_facts)] == [
        "own",
        "none",
        "gpt-4.jsonl",
    ]
    assert [f["without_reference"] for f in (own_facts, none_facts, file_facts)] == [[], ["2"], []]
    # grades against other references are not compared
    conditions = [f["conditions"]["mt_bench"] for f in (own_facts, none_facts, file_facts)]
    assert conditions[0] != conditions[1] != conditions[2] != conditions[0]


def answer_row(number: int, *turns: str) -> dict[str, Any]:
    return {"question_id": number, "choices": [{"index": 0, "turns": turns}]}


def test_fastchats_prompts_word_for_word(questions: str, tmp_path: Path) -> None:
    folder = os.environ.get("BEZOAR_DATA")
    if not folder:
        pytest.skip("BEZOAR_DATA names no folder with the published MT-Bench files")
    judge = ScriptedBackend(lambda r: "Good. [[8]] of [[10]]")
    prompts = f"{folder}/mt_bench/judge_prompts.jsonl"
    section = MTBench("judge", questions, prompts=prompts, verdict="fastchat")
    outcome = section.measure(asker(ScriptedBackend(lambda r: "An {answer}.")), asker(judge))
    assert outcome.scores[0].value == 8
    system, user = judge.seen[0].messages
    assert (system.role, system.content) == ("system", "You are a helpful assistant.")
    assert user.content.startswith("[Instruction]\nPlease act as an impartial judge")
    assert user.content.endswith(
        "\n\n[Question]\nWrite {answer}.\n\n[The Start of Assistant's Answer]\nAn {answer}.\n"
        "[The End of Assistant's Answer]"
    )
    system, user = judge.seen[3].messages
    assert "focus on the assistant's answer to the second question" in system.content
    assert system.content.endswith('"Rating: [[5]]".\n\n')
    assert user.content.startswith(
        "<|The Start of Reference Answer|>\n\n### User:\n2+2?\n\n### Ref"
    )
    own = MTBench("judge", questions)
    plain = own.measure(asker(ScriptedBackend(lambda r: "x")), asker(judge)).info["mt_bench"]
    assert plain["conditions"] != outcome.info["mt_bench"]["conditions"]


def test_the_users_file_of_prompts_is_read(questions: str, tmp_path: Path) -> None:
    names = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
    rows = [
        {"name": name, "system_prompt": "", "prompt_template": f"{name}: {{question}}{{answer_2}}"}
        for name in names
    ]
    path = write(tmp_path / "judge_prompts.jsonl", rows)
    judge = ScriptedBackend(lambda r: "[[8]]")
    section = MTBench("judge", questions, prompts=str(path))
    section.measure(asker(ScriptedBackend(lambda r: "x")), asker(judge))
    texts = [request.messages[-1].content for request in judge.seen]
    assert texts[0] == "single-v1: Write {answer}.x"
    assert [text.split(":")[0] for text in texts] == [names[0], names[2], names[1], names[3]]
    with pytest.raises(
        DataError, match="there is no prompt 'single-math-v1' in it; name FastChat's"
    ):
        MTBench("judge", questions, prompts=str(write(path, rows[:1]))).quote({})


def test_a_limit_takes_the_categories_in_turn() -> None:
    asked = [Question(i, "ab"[i // 3], ("q",)) for i in range(6)]
    assert spread(asked, 2) == [0, 3]
    assert spread(asked, 3) == [0, 1, 3]
    assert spread(asked, None) == list(range(6))


def test_the_questions_that_ship_can_be_judged() -> None:
    asked = MTBench("judge").load()
    assert len(asked) == 24
    assert {q.category for q in asked} == {
        "writing",
        "roleplay",
        "reasoning",
        "math",
        "coding",
        "extraction",
        "stem",
        "humanities",
    }
    assert all(
        "{" not in judge_prompt(q, ["A", "B"], t).split("###")[0] for q in asked for t in (0, 1)
    )


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def single(question: int, turn: int, text: str, stored: float) -> dict[str, Any]:
    return {
        "question_id": question,
        "model": "m",
        "judge": ["gpt-4", "single-v1"],
        "judgment": text,
        "score": stored,
        "turn": turn,
    }


def test_published_judgements_are_read_again(tmp_path: Path) -> None:
    rows = [
        single(1, 1, "[[8]]", 8),
        single(1, 2, "[[4]]", 4),
        single(2, 1, "cannot say", -1),
        single(2, 2, "[[9]]", -1),
        single(3, 1, "", 6),
    ]
    (model,) = read_single(write(tmp_path / "j.jsonl", rows))
    overall, first, second = model.scores()
    assert overall.value == pytest.approx((8 + 4 + 9 + 6) / 4)
    assert (overall.n, overall.num_failed, model.num_changed) == (4, 1, 1)
    assert first.value == 7.0
    assert second.value == 6.5
    assert {s.group for s in model.scores({"1": "a", "2": "a", "3": "b"})} == {"", "a", "b"}
    write(tmp_path / "j.jsonl", [*rows, single(1, 1, "[[2]]", 2)])
    with pytest.raises(DataError, match=r"j.jsonl:6: model m, question 1, turn 1 is judged twice"):
        read_single(tmp_path / "j.jsonl")


def test_published_pairwise_judgements(tmp_path: Path) -> None:
    def pair(question: int, one: str, two: str) -> dict[str, Any]:
        return {
            "question_id": question,
            "model_1": "x",
            "model_2": "y",
            "turn": 1,
            "g1_winner": one,
            "g2_winner": two,
        }

    rows = [
        pair(1, "model_1", "model_1"),
        pair(2, "model_1", "model_2"),
        pair(3, "tie", "tie"),
        pair(4, "y", "y"),
        pair(5, "error", "tie"),
    ]
    games = read_games(write(tmp_path / "p.jsonl", rows))
    assert [share for *_, share in games] == [1.0, 0.5, 0.5, 0.0, None]
    write(
        tmp_path / "p.jsonl",
        [pair(1, "tie", "tie"), {**pair(1, "tie", "tie"), "model_1": "y", "model_2": "x"}],
    )
    with pytest.raises(DataError, match="judged twice"):
        read_games(tmp_path / "p.jsonl")


def test_published_answers_and_questions() -> None:
    folder = os.environ.get("BEZOAR_DATA")
    if not folder:
        pytest.skip("BEZOAR_DATA names no folder with the published MT-Bench files")
    home = Path(folder) / "mt_bench"
    answers = answered(home / "model_answer" / "vicuna-7b-v1.3.jsonl")
    questions = read_questions(
        home / "question.jsonl", references=home / "reference_answer" / "gpt-4.jsonl"
    )
    assert {q.id for q in questions} == answers.keys()
    references = str(home / "reference_answer" / "gpt-4.jsonl")
    section = MTBench("judge", str(home / "question.jsonl"), references)
    backend = ScriptedBackend(lambda r: "[[5]]")
    asked = section.load()
    ratings = section.grade(asked, [answers[q.id] for q in asked], asker(backend))
    assert len(backend.seen) == 160
    assert section.outcome(asked, [answers[q.id] for q in asked], ratings).scores[0].value == 5.0
