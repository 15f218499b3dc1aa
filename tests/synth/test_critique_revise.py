"""Critiques and revisions by a teacher: from chats, from pairs, and what is dropped."""

import pytest

from bezoar.chat.types import Comparison, Message, SampledAnswers
from bezoar.cost import exactly
from bezoar.data.critiques import Revised, parse_revision
from bezoar.errors import DataError
from bezoar.llm.revise import Round, revise
from bezoar.llm.types import Reply, Request
from bezoar.synth.critique_revise import CritiqueRevise
from tests.helpers.asked import FAILED, Teacher, chat, last

SCHEME = CritiqueRevise("seeds", "teacher", retries=0)


def test_rows_from_chats_and_what_is_dropped() -> None:
    replies = {
        "good": "Critique: too short.\nRevision: A longer answer.",
        "plain": "It is fine.",
        "half": "Critique: bad.",
        "same": "Critique: fine.\nRevision: An answer.",
        "empty": " ",
        "cut": Reply("Critique: bad.\nRevision: A lon", "length"),
        "failed": FAILED,
    }

    def rule(request: Request) -> str | Reply:
        return replies[last(request).split("[Conversation]\n")[1].split("\n")[0]]

    seeds = [chat(name, name, source="s") for name in replies] + [chat("none", "none", "")]
    teacher = Teacher(rule)
    sifted = SCHEME.generate(seeds, teacher, seed=1)
    (row,) = sifted.rows
    assert (row.id, row.meta) == (
        "cnr-good",
        {"source": "s", "scheme": "critique_revise", "seed": "good"},
    )
    assert parse_revision(row.answer) == Revised("too short.", "A longer answer.")
    assert "[Answer]\nAn answer.\n" in row.prompt[0].content
    reasons = {d.id: d.reason for d in sifted.dropped}
    assert reasons == {
        "none": "no answer",
        "cnr-plain": "no critique",
        "cnr-half": "no revision",
        "cnr-same": "identical",
        "cnr-empty": "empty",
        "cnr-cut": "truncated",
        "cnr-failed": "unreachable",
    }
    assert len(teacher.seen) == 7


def test_rows_from_pairs_need_the_critique_alone() -> None:
    pair = Comparison(
        "p",
        (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Why?")),
        "Because.",
        "No.",
    )
    teacher = Teacher(lambda r: "Critique: it says nothing.")
    (row,) = SCHEME.generate([pair], teacher, seed=1).rows
    assert parse_revision(row.answer) == Revised("it says nothing.", "Because.")
    assert "User: Hi\n\nAssistant: Yes?\n\nUser: Why?\n\n[Answer]\nNo.\n" in row.prompt[0].content
    asked = last(teacher.seen[0])
    assert "[First answer]\nNo.\n\n[Revised answer]\nBecause.\n" in asked
    assert "Because." not in row.prompt[0].content


def test_sampled_answers_are_refused() -> None:
    with pytest.raises(DataError, match="row s: critique_revise reads chats or comparisons"):
        SCHEME.generate(
            [SampledAnswers("s", (Message("user", "Why?"),), ("a", "b"), {})],
            Teacher(lambda r: ""),
            seed=1,
        )


def test_the_plan_counts_one_call_a_seed() -> None:
    rows, calls = SCHEME.quote({SCHEME.seeds: exactly(10)})
    assert (rows.high, calls[0][1].num.high) == (10, 10)


def test_a_round_keeps_what_it_cannot_revise() -> None:
    told = {
        "a": "Critique: ok.\nRevision: b",
        "b": "I would not.",
        "c": Reply("Critique: x\nRevision: y", "length"),
        "d": FAILED,
    }

    def rule(request: Request) -> str | Reply:
        return told[last(request).split("[Answer]\n")[1].split("\n")[0]]

    prompts = [(Message("user", "Why?"),)] * 5
    teacher = Teacher(rule)
    assert revise(prompts, ["a", "b", "", "c", "d"], teacher, max_tokens=9) == [
        Round("ok.", "b"),
        Round("", "b", "no critique"),
        Round("", "", "no answer"),
        Round("", "c", "truncated"),
        Round("", "d", "unreachable"),
    ]
    assert [(r.max_tokens, r.temperature) for r in teacher.seen] == [(9, 0.0)] * 4
