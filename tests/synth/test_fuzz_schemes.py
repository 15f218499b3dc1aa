"""Every scheme with teachers that say anything: rows that can be stored, or counted drops."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bezoar.chat.types import Chat, Comparison
from bezoar.llm.revise import revisions
from bezoar.llm.types import Reply
from bezoar.synth.critique_revise import CritiqueRevise
from bezoar.synth.evol_instruct import EvolInstruct
from bezoar.synth.lamini import LaMini
from bezoar.synth.orca import Orca
from tests.helpers.fuzzing import CHATS, PAIRS, REPLIES, answered_by, bounded, fuzz, stored

MANY = st.lists(REPLIES, min_size=1, max_size=8)
SEEDS = st.lists(CHATS, max_size=6).map(
    lambda chats: [replace(chat, id=f"{i} {chat.id}") for i, chat in enumerate(chats)]
)
SCHEMES: dict[str, Any] = {
    "lamini": LaMini("seeds", "teacher", 6, ask_for=2, max_waves=3),
    "evol": EvolInstruct("seeds", "teacher", 2),
    "critique_revise": CritiqueRevise("seeds", "teacher"),
    "evol by logprob": EvolInstruct(
        "seeds", "teacher", 1, equality="logprob", begin=True, keep="last"
    ),
    "orca": Orca("seeds", "teacher", 5, shares={"cot": 1.0}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", SCHEMES)
@fuzz(0.02, few=6)
@given(seeds=SEEDS, replies=MANY, pairs=st.lists(PAIRS, max_size=2))
def test_no_teacher_breaks_a_scheme(
    name: str, seeds: list[Chat], replies: list[Reply], pairs: list[Comparison], folder: Any
) -> None:
    given_rows: list[Any] = (
        [*seeds, *(replace(pair, id=f"p{i}") for i, pair in enumerate(pairs))]
        if name == "critique_revise"
        else seeds
    )
    if name == "orca":
        given_rows = [
            replace(seed, meta={**seed.meta, "submix": "cot", "task_name": i % 2})
            for i, seed in enumerate(seeds)
        ]
    with bounded():
        sifted = SCHEMES[name].generate(given_rows, answered_by(replies), seed=3)
        stored(sifted.rows, folder)
        assert len({row.id for row in sifted.rows}) == len(sifted.rows)
        assert all(row.answer.strip() for row in sifted.rows)
        assert all(drop.reason and drop.detail.encode() is not None for drop in sifted.dropped)


@fuzz(0.01, few=6)
@given(rows=SEEDS, replies=MANY)
def test_no_reply_breaks_a_revision(rows: list[Chat], replies: list[Reply]) -> None:
    with bounded():
        for rounds in revisions(
            [row.prompt for row in rows],
            [row.answer for row in rows],
            answered_by(replies),
            times=3,
            max_tokens=9,
        ):
            assert len(rounds) == len(rows)
