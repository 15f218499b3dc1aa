"""The judge as a filter: what it sees, and that no row is lost or guessed."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bezoar.chat.types import Chat, Message
from bezoar.cost import exactly
from bezoar.errors import RecipeError
from bezoar.judge.filter import Filter, FilterResult, record
from bezoar.llm.types import Ask, Reply, Request
from tests.helpers.loaded import loaded


def chat(
    name: str, prompt: str = "Name a bird.", answer: str = "The robin.", **meta: object
) -> Chat:
    return Chat(name, (Message("user", prompt), Message("assistant", answer)), meta)


def replying(*replies: Reply | str, seen: list[Request] | None = None) -> Ask:
    def ask(requests: Sequence[Request]) -> list[Reply]:
        if seen is not None:
            seen.extend(requests)
        return [
            r if isinstance(r, Reply) else Reply(r) for r, _ in zip(replies, requests, strict=True)
        ]

    return ask


def judge(**keys: object) -> Filter:
    return Filter("rows", "judge", **keys)  # type: ignore[arg-type]


def ids(judged: FilterResult) -> tuple[list[str], list[str], list[str]]:
    return tuple(
        [row.id for row in part] for part in (judged.accepted, judged.rejected, judged.unparsed)
    )  # type: ignore[return-value]


def test_every_row_comes_back_under_one_verdict() -> None:
    rows = [chat(name, source="here") for name in "abcdef"]
    replies = [
        "Accept: good",
        "Reject: bad",
        "Who knows?",
        "Accept\nReject",
        Reply(finish="error", error="timeout"),
        "Accept",
    ]
    judged = judge().judge_rows(rows, replying(*replies))
    assert ids(judged) == (["a", "f"], ["b"], ["c", "d", "e"])
    assert judged.accepted[0].meta == {"source": "here", "verdict": "accept", "reason": "good"}
    assert judged.rejected[0].meta["reason"] == "bad"
    assert [row.meta["verdict"] for row in judged.unparsed] == ["unparsed", "unparsed", "failed"]
    assert judged.unparsed[0].meta["reason"] == "no verdict: Who knows?"
    assert judged.unparsed[2].meta["reason"] == "failed: timeout"
    assert judged.accepted[0].messages == rows[0].messages
    assert rows[0].meta == {"source": "here"}, "the rows given are not changed"


def test_the_judge_sees_the_whole_record() -> None:
    row = Chat(
        "o",
        (
            Message("system", "Be {kind}."),
            Message("user", "How many {legs}?"),
            Message("assistant", "Six, as it is an insect."),
        ),
        {"target": "6"},
    )
    assert (
        record(row)
        == "[System message]\nBe {kind}.\n\n[Instruction]\nHow many {legs}?\n\n[Reference"
        " answer]\n6\n\n[Response]\nSix, as it is an insect."
    )
    seen: list[Request] = []
    judge().judge_rows([row], replying("Accept", seen=seen))
    assert record(row) in seen[0].messages[0].content
    assert "{record}" not in seen[0].messages[0].content


def test_a_long_conversation_is_shown_in_full() -> None:
    turns = (
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Bye"),
        Message("assistant", "See you"),
    )
    text = record(Chat("x", turns))
    assert (
        text == "[Conversation so far]\nuser: Hi\n\nassistant:"
        " Hello\n\n[Instruction]\nBye\n\n[Response]\nSee you"
    )


def scored(*scores: float) -> Ask:
    return replying(*(Reply(logprobs=(score - 5, -5.0)) for score in scores))


def test_probabilities_and_threshold() -> None:
    rows = [chat(name) for name in "abc"]
    assert ids(judge(verdict="logprob").judge_rows(rows, scored(0.5, 0.0, -0.5))) == (
        ["a"],
        ["b", "c"],
        [],
    )
    assert ids(
        judge(verdict="logprob", threshold=-0.2).judge_rows(rows, scored(0.5, 0.0, -0.5))
    ) == (["a", "b"], ["c"], [])
    seen: list[Request] = []
    judged = judge(verdict="logprob").judge_rows(
        rows[:1], replying(Reply(logprobs=(-1.0, -2.0)), seen=seen)
    )
    assert seen[0].choices == ("Accept", "Reject")
    assert judged.accepted[0].meta["score"] == 1.0


def test_the_best_share() -> None:
    rows = [chat(name) for name in "abcdefg"]
    ask = replying(
        *(Reply(logprobs=(s, 0.0)) for s in (0.3, 0.9, 0.1, 0.7, 0.5, 0.2)),
        Reply(finish="error", error="x"),
    )
    assert ids(judge(verdict="logprob", keep_share=0.5).judge_rows(rows, ask)) == (
        ["b", "d", "e"],
        ["a", "c", "f"],
        ["g"],
    )
    assert (
        len(
            judge(verdict="logprob", keep_share=1.0)
            .judge_rows(rows[:6], scored(1, 2, 3, 4, 5, 6))
            .accepted
        )
        == 6
    )
    tied = judge(verdict="logprob", keep_share=0.5).judge_rows(rows[:4], scored(1, 1, 1, 0))
    assert ids(tied)[0] == ["a", "b", "c"], "ties with the last one stay together"
    assert (
        len(
            judge(verdict="logprob", keep_share=0.01)
            .judge_rows(rows[:6], scored(1, 2, 3, 4, 5, 6))
            .accepted
        )
        == 1
    )


def test_the_reason_of_a_share_is_in_words() -> None:
    near = (-0.24027264118194580, -0.24027264118194583, -3.0, 1.5)
    filtered = judge(verdict="logprob", keep_share=0.6)
    judged = filtered.judge_rows([chat(name) for name in "abcd"], scored(*near))
    said = {row.id: row.meta["reason"] for row in (*judged.accepted, *judged.rejected)}
    odds = "log p(Accept)/p(Reject)"
    reject = f"among the best 60 %: {odds} -0.24; the judge itself leans to Reject"
    assert said["a"] == said["b"] == reject
    assert said["c"] == f"not among the best 60 %: {odds} -3.00"
    assert said["d"] == f"among the best 60 %: {odds} 1.50"
    accept = f"not among the best 7 %: {odds} 1.50; the judge itself leans to Accept"
    few = judge(verdict="logprob", keep_share=0.07).judge_rows(
        [chat("a"), chat("b")], scored(2, 1.5)
    )
    assert few.rejected[0].meta["reason"] == accept


def test_a_judge_without_probabilities_gives_no_verdict() -> None:
    judged = judge(verdict="logprob", keep_share=0.5).judge_rows(
        [chat("a"), chat("b")], replying("Accept", "Accept")
    )
    assert ids(judged) == ([], [], ["a", "b"])


def test_judged_examples_are_shown_as_turns(tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    lines = [
        {"instruction": "Two and two?", "response": "4", "verdict": "Accept", "reason": "right"},
        {
            "instruction": "Two and three?",
            "response": "6",
            "verdict": "Reject",
            "reason": "wrong",
            "target": "5",
            "system": "Count.",
        },
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    seen: list[Request] = []
    judge(examples=str(path)).judge_rows([chat("a")], replying("Accept", seen=seen))
    messages = seen[0].messages
    assert [m.role for m in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert [messages[1].content, messages[3].content] == ["Accept: right", "Reject: wrong"]
    assert "[Reference answer]\n5" in messages[2].content
    assert "[System message]\nCount." in messages[2].content
    judge(examples=str(path), verdict="logprob").judge_rows(
        [chat("a")], replying(Reply(logprobs=(0.0, 0.0)), seen=seen)
    )
    assert [seen[1].messages[1].content, seen[1].messages[3].content] == ["Accept", "Reject"]
    path.write_text('{"instruction": "a", "response": "b", "verdict": "Perhaps"}\n')
    with pytest.raises(RecipeError, match=r"judged\.jsonl:1: a judged example has"):
        judge(examples=str(path)).judge_rows([chat("a")], replying("Accept"))


def test_the_examples_that_ship_are_read() -> None:
    seen: list[Request] = []
    rubric = "bezoar:accept_reject_short.txt"
    judge(examples="bezoar:judged.jsonl", rubric=rubric).judge_rows(
        [chat("a")], replying("Accept", seen=seen)
    )
    said = [m.content.split(":")[0] for m in seen[0].messages if m.role == "assistant"]
    assert sorted(set(said)) == ["Accept", "Reject"]


def test_a_rubric_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "rubric.txt"
    path.write_text("Good or bad?\n{record}\n")
    seen: list[Request] = []
    judge(rubric=str(path)).judge_rows([chat("a")], replying("Accept", seen=seen))
    assert seen[0].messages[0].content.startswith("Good or bad?\n[Instruction]\nName a bird.")
    path.write_text("Good or bad?")
    with pytest.raises(RecipeError, match=r"rubric\.txt: the prompt has no \{record\}"):
        judge(rubric=str(path)).judge_rows([chat("a")], replying("Accept"))


def test_no_rows_no_calls() -> None:
    seen: list[Request] = []
    assert judge().judge_rows([], replying(seen=seen)) == FilterResult([], [], [])
    assert not seen


def test_quote() -> None:
    rows, ((_, calls),) = judge().quote({"rows": exactly(30)})
    assert (rows.expected, rows.high) == (20, 30)
    assert calls.num == exactly(30)
    kept, ((_, calls),) = judge(verdict="logprob", keep_share=0.5).quote({"rows": exactly(30)})
    assert kept == exactly(15)
    assert calls.completion_tokens == exactly(0)


@pytest.mark.parametrize(
    "keys",
    [
        {"threshold": 1.0},
        {"keep_share": 0.5},
        {"verdict": "logprob", "keep_share": 0.5, "threshold": 1.0},
        {"verdict": "logprob", "keep_share": 0.0},
        {"max_tokens": 0},
    ],
)
def test_settings_without_effect(keys: dict[str, object]) -> None:
    with pytest.raises((ValueError, RecipeError)):
        loaded(judge(**keys))
