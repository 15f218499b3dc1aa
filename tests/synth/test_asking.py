"""Answers to drafts: order, retries, and what is lost."""

from bezoar.chat.types import Message
from bezoar.llm.budget import REFUSED
from bezoar.llm.types import Reply, Request
from bezoar.model.spec import Sampling
from bezoar.rng import rng_for, seed_for
from bezoar.synth.scheme import Draft, Scheme
from tests.helpers.asked import FAILED, Teacher, last

DRAFTS = [Draft(name, (Message("user", name),), {"n": name}) for name in ("a", "b", "c", "d")]


def scheme(retries: int, answers: Sampling | None = None) -> Scheme:
    return Scheme("seeds", "teacher", retries=retries, answers=answers or Sampling())


def test_answers_in_order_and_faults_by_name() -> None:
    replies: dict[str, Reply | str] = {
        "a": " fine \n",
        "b": FAILED,
        "c": Reply("half of", "length"),
        "d": " \n",
    }
    sifted = scheme(0).answer(DRAFTS, Teacher(lambda r: replies[last(r)]), seed=1)
    assert [(row.id, row.answer, row.meta) for row in sifted.rows] == [("a", "fine", {"n": "a"})]
    assert [(d.id, d.reason) for d in sifted.dropped] == [
        ("b", "unreachable"),
        ("c", "truncated"),
        ("d", "empty"),
    ]
    assert "500" in sifted.dropped[0].detail
    assert "half of" in sifted.dropped[1].detail


def test_only_what_is_missing_is_asked_again_with_another_seed() -> None:
    calls: dict[str, int] = {}

    def rule(request: Request) -> Reply:
        name = last(request)
        calls[name] = calls.get(name, 0) + 1
        return Reply("good") if name != "b" or calls[name] == 2 else Reply("bad", "length")

    teacher = Teacher(rule)
    sifted = scheme(3, Sampling(max_tokens=9)).answer(DRAFTS, teacher, seed=1)
    assert [row.id for row in sifted.rows] == ["a", "b", "c", "d"]
    assert not sifted.dropped
    assert calls == {"a": 1, "b": 2, "c": 1, "d": 1}
    seeds = [request.seed for request in teacher.seen if last(request) == "b"]
    assert len(set(seeds)) == 2
    assert teacher.seen[0].max_tokens == 9


def test_a_request_that_the_budget_refuses_is_not_repeated() -> None:
    teacher = Teacher(lambda r: Reply(finish="error", error=REFUSED))
    sifted = scheme(5).answer(DRAFTS, teacher, seed=1)
    assert len(teacher.seen) == 4
    assert {d.detail for d in sifted.dropped} == {REFUSED}


def test_what_the_teacher_is_told_is_not_in_the_row() -> None:
    draft = Draft(
        "a", (Message("user", "task"),), {}, teacher_prompt=(Message("user", "task and hint"),)
    )
    teacher = Teacher(lambda r: "yes")
    row = scheme(0).answer([draft], teacher, seed=1, system="Be brief.").rows[0]
    assert [m.content for m in teacher.seen[0].messages] == ["Be brief.", "task and hint"]
    assert [(m.role, m.content) for m in row.messages] == [("user", "task"), ("assistant", "yes")]


def test_draws_depend_on_their_parts_alone() -> None:
    assert rng_for(7, "x").random() == rng_for(7, "x").random() != rng_for(8, "x").random()
    assert 0 <= seed_for(7, "x") < 2**31
    assert seed_for(7, "x") != seed_for(7, "y")
