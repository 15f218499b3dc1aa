"""Every judge and filter with replies and rows of any kind: every row is kept or counted, and what
is kept can be stored."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bezoar.chat.types import Chat, Comparison, SampledAnswers
from bezoar.data.questions import Question
from bezoar.evals.judge_card import card
from bezoar.evals.mt_bench import MTBench, Turn
from bezoar.evals.win_rate import outcome
from bezoar.judge.attribute_stages import AttributePairs, Steer
from bezoar.judge.attributes import Attributes
from bezoar.judge.best_of_n import BestOfN
from bezoar.judge.filter import Filter
from bezoar.judge.heuristics import Dedup, Form
from bezoar.llm.types import Reply
from bezoar.verdicts.pairwise import Pairwise
from tests.helpers.fuzzing import (
    CHATS,
    METAS,
    PAIRS,
    PROMPTS,
    REPLIES,
    TEXTS,
    WORDS,
    answered_by,
    bounded,
    fuzz,
    stored,
)

MANY = st.lists(REPLIES, min_size=1, max_size=8)
ROWS = st.lists(CHATS, max_size=5).map(
    lambda chats: [replace(chat, id=f"{i} {chat.id}") for i, chat in enumerate(chats)]
)
TWO = st.lists(PAIRS, max_size=4).map(
    lambda pairs: [replace(pair, id=f"{i} {pair.id}") for i, pair in enumerate(pairs)]
)
JUDGES: dict[str, Any] = {
    "filter": Filter("rows", "judge"),
    "filter by logprob": Filter("rows", "judge", verdict="logprob", keep_share=0.5),
    "attributes": Attributes("rows", "judge"),
    "attributes by logprob": Attributes(
        "rows", "judge", verdict="logprob", repeats=1, temperature=0.0
    ),
}
SIFTS: dict[str, Any] = {
    "form": Form("rows"),
    "dedup": Dedup("rows"),
    "steer": Steer("rows"),
    "attribute pairs": AttributePairs("rows"),
}
ANSWERS = st.builds(
    lambda name, prompt, answers, numbers, meta: SampledAnswers(
        name, prompt, tuple(answers), {"reward": tuple((numbers * 9)[: len(answers)])}, meta
    ),
    TEXTS,
    PROMPTS,
    st.lists(WORDS, min_size=1, max_size=4),
    st.lists(st.floats(), min_size=1, max_size=4),
    METAS,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", JUDGES)
@fuzz(0.0125, few=6)
@given(rows=ROWS, replies=MANY)
def test_no_reply_breaks_a_judge(
    name: str, rows: list[Chat], replies: list[Reply], folder: Any
) -> None:
    with bounded():
        judged = JUDGES[name].judge_rows(rows, answered_by(replies))
        found = [*judged.accepted, *judged.rejected, *judged.unparsed]
        assert sorted(row.id for row in found) == sorted(row.id for row in rows)
        stored(found, folder)


@pytest.mark.parametrize("name", SIFTS)
@fuzz(0.005, few=6)
@given(rows=ROWS)
def test_no_row_breaks_a_filter(name: str, rows: list[Chat], folder: Any) -> None:
    with bounded():
        sifted = SIFTS[name].sift(rows)
        stored(sifted.rows, folder)
        assert len(sifted.rows) + len(sifted.dropped) <= len(rows) or name == "attribute pairs"


@fuzz(0.005, few=6)
@given(rows=st.lists(ANSWERS, max_size=4), give=st.sampled_from(["chats", "pairs", "own"]))
def test_no_number_breaks_a_choice(rows: list[SampledAnswers], give: Any, folder: Any) -> None:
    with bounded():
        sifted = BestOfN("rows", give).sift(rows)
        assert len(sifted.rows) + len(sifted.dropped) == len(rows)
        stored(sifted.rows, folder)


@fuzz(0.015, few=6)
@given(pairs=TWO, replies=MANY, verdict=st.sampled_from(["text", "logprob"]))
def test_no_reply_breaks_a_comparison(
    pairs: list[Comparison], replies: list[Reply], verdict: Any
) -> None:
    with bounded():
        verdicts = Pairwise("judge", verdict=verdict).compare(pairs, answered_by(replies))
        again = Pairwise("judge", verdict=verdict).compare(pairs, answered_by(replies[::-1]))
        for made in (outcome(pairs, verdicts), card(pairs, verdicts, [again], "x")):
            assert all(score.value is None or math.isfinite(score.value) for score in made.scores)


@fuzz(0.01, few=6)
@given(
    replies=MANY,
    verdict=st.sampled_from(["text", "logprob", "fastchat"]),
    turns=st.lists(WORDS, min_size=1, max_size=2),
    said=st.lists(TEXTS, min_size=2, max_size=2),
)
def test_no_reply_breaks_a_grade(
    replies: list[Reply], verdict: Any, turns: list[str], said: list[str]
) -> None:
    question = Question(1, "math", tuple(turns), tuple(said[: len(turns)]))
    with bounded():
        bench = MTBench("judge", verdict=verdict)
        answers = [[Turn(text, "stop") for text in said[: len(turns)]]]
        made = bench.outcome(
            [question], answers, bench.grade([question], answers, answered_by(replies))
        )
        assert all(score.value is None or 0 <= score.value <= 10 for score in made.scores)
