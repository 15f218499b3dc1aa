"""Replies that cannot be read: mended without a call, else by one question that names the fault."""

from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Chat, Message
from bezoar.judge.filter import Filter
from bezoar.llm.budget import Budget
from bezoar.llm.endpoint import Endpoint
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.repair import parse_written
from bezoar.llm.types import Reply, Request
from bezoar.progress import Progress
from bezoar.strict_json import NotJSONError
from tests.helpers.asked import Teacher, chat, last
from tests.helpers.server import answer, serving


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "x,]", "b": [1]}',
        '```json\n{"a": "x,]", "b": [1]}\n```',
        '```json{"a": "x,]", "b": [1]}```',
        'Here it is:\n```\n{"a": "x,]", "b": [1,],}\n```\nIs that all?',
        'Sure! {"a": "x,]", "b": [1,\n],\n} I hope that helps.',
    ],
)
def test_json_as_models_write_it(text: str) -> None:
    assert parse_written(text) == {"a": "x,]", "b": [1]}


@pytest.mark.parametrize(
    "text", ["", "no", "{", '{"a": }', "{'a': 1}", '{"a": 1, "a": 2}', "[NaN]", '{"a": [1}', "}{"]
)
def test_nothing_is_made_up(text: str) -> None:
    with pytest.raises(NotJSONError):
        parse_written(text)


def test_mending_takes_time_in_proportion() -> None:
    for text in ("[" * 200_000, '{"' * 100_000 + "}", "{," * 100_000 + "}", "```json\n" * 50_000):
        with pytest.raises(NotJSONError):
            parse_written(text)


def judged(rule: Any, *rows: Chat, **keys: Any) -> tuple[list[str], Teacher]:
    judge, stage = Teacher(rule), Filter("rows", "judge", **keys)
    found = stage.judge_rows(rows, stage.repaired(judge))
    return [row.meta["verdict"] for part in vars(found).values() for row in part], judge


def test_a_judge_without_a_verdict_is_told_once() -> None:
    def rule(request: Request) -> str | Reply:
        if "That is not right" in last(request):
            return "Reject: too short"
        if "broken" in last(request):
            return Reply(finish="error", error="no", failure="filtered")
        return "Accept: good" if "robin" in last(request) else "Well, it depends."

    rows = [chat("a", "What is a robin?"), chat("b", "Why?"), chat("c", "broken?")]
    verdicts, judge = judged(rule, *rows)
    assert verdicts == ["accept", "reject", "failed"]
    told = [request for request in judge.seen if len(request.messages) > 1]
    assert len(told) == 1
    assert told[0].messages[1] == Message("assistant", "Well, it depends.")
    assert last(told[0]).startswith('That is not right: it has no verdict. Write "Accept: "')


def test_a_judge_that_never_says_is_unparsed_with_its_first_words() -> None:
    verdicts, judge = judged(lambda request: f"hm {len(request.messages)}", chat("a", "Why?"))
    assert verdicts == ["unparsed"]
    assert [len(request.messages) for request in judge.seen] == [1, 3]
    verdicts, judge = judged(lambda request: "hm", chat("a", "Why?"), retries=3)
    assert [len(request.messages) for request in judge.seen] == [1, 3, 5, 7]
    verdicts, judge = judged(lambda request: "hm", chat("a", "Why?"), retries=0)
    assert len(judge.seen) == 1


def test_an_empty_answer_is_no_turn() -> None:
    verdicts, judge = judged(
        lambda request: "" if len(request.messages) == 1 else "Accept: yes", chat("a", "Why?")
    )
    assert verdicts == ["accept"]
    assert [m.role for m in judge.seen[1].messages] == ["user", "user"]


def test_repairs_are_journalled_and_bought_once(tmp_path: Path) -> None:
    def server_judge(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
        return answer("Accept: it is fine" if len(body["messages"]) == 3 else "Let me think.")

    stage, rows = Filter("rows", "judge"), [chat("a", "Why?"), chat("b", "How?")]
    with serving(server_judge) as server, Journal(tmp_path / "j.sqlite") as journal:
        for _ in range(2):
            pool = Pool(Endpoint(server.url, "m").open(), journal, Budget(), Progress())
            found = stage.judge_rows(rows, stage.repaired(pool.ask_all))
            assert [row.id for row in found.accepted] == ["a", "b"]
        assert len(server.bodies) == 4


def test_retries_without_words_are_refused() -> None:
    with pytest.raises(ValueError, match="retries has an effect only with verdict: text"):
        Filter("rows", "judge", verdict="logprob", retries=2)
