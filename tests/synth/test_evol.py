"""Evol-Instruct: each elimination rule, lineage, rounds, and the help for weak teachers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bezoar.chat.types import Chat
from bezoar.cost import exactly
from bezoar.errors import RecipeError
from bezoar.llm.types import Reply, Request
from bezoar.synth.evol_instruct import EvolInstruct
from bezoar.synth.evolution import (
    OPS,
    Lineage,
    Wording,
    copies_prompt,
    equality_by_information,
    is_apology,
    read_equality,
    read_wording,
    says_nothing,
)
from tests.helpers.asked import FAILED, Teacher, chat, last
from tests.helpers.loaded import loaded

SEEDS = [chat(f"s{i}", f"Question number {i}?", category="open_qa") for i in range(8)]


def evol(rounds: int = 2, **keys: object) -> EvolInstruct:
    return EvolInstruct("seeds", "teacher", rounds, **keys)  # type: ignore[arg-type]


def kind(request: Request) -> str:
    """What a request asks for: evolve, compare or answer."""
    if request.choices or "Not Equal" in last(request):
        return "compare"
    return "evolve" if "#Rewritten Prompt#" in last(request) else "answer"


def old_text(request: Request) -> str:
    return last(request).split("#Given Prompt#:\n")[1].split("\n\n#Rewritten")[0]


def teacher(
    evolve: Callable[[str], str | Reply] | None = None,
    compare: str | Reply = "Not Equal",
    answer: str | Reply = "It is blue.",
) -> Teacher:
    def rule(request: Request) -> str | Reply:
        if kind(request) == "evolve":
            return (evolve or (lambda text: f"{text} And why?"))(old_text(request))
        return compare if kind(request) == "compare" else answer

    return Teacher(rule)


def test_rows_and_their_lineage() -> None:
    sifted = evol(rounds=3).generate(SEEDS, teacher(), seed=7)
    assert not sifted.dropped
    assert len(sifted.rows) == 24
    line = [row for row in sifted.rows if row.meta["seed"] == "s5"]
    assert [row.prompt[0].content for row in line] == [
        "Question number 5?" + " And why?" * n for n in (1, 2, 3)
    ]
    assert [row.meta["round"] for row in line] == [1, 2, 3]
    assert [len(row.meta["ops"]) for row in line] == [1, 2, 3]
    assert line[2].meta["ops"][:2] == line[1].meta["ops"]
    assert line[2].meta["rounds"] == [1, 2, 3]
    assert line[2].meta["op"] == line[2].meta["ops"][-1]
    assert line[0].meta["seed_category"] == "open_qa"
    assert len({row.id for row in sifted.rows}) == 24


def test_operations_are_drawn_uniformly() -> None:
    many = [chat(f"m{i}", f"Question number {i}?") for i in range(600)]
    counts = Counter(
        row.meta["op"] for row in evol(rounds=1).generate(many, teacher(), seed=7).rows
    )
    assert set(counts) == set(OPS)
    assert all(70 <= count <= 130 for count in counts.values())
    only = evol(rounds=1, ops=("breadth", "deepen")).generate(many[:50], teacher(), seed=7).rows
    assert {row.meta["op"] for row in only} == {"breadth", "deepen"}


def test_keep_last() -> None:
    rows = evol(rounds=3, keep="last").generate(SEEDS, teacher(), seed=7).rows
    assert len(rows) == 8
    assert {row.meta["round"] for row in rows} == {3}


def test_rule_1_equal() -> None:
    sifted = evol(rounds=1).generate(SEEDS, teacher(compare="Equal."), seed=7)
    assert not sifted.rows
    assert {d.reason for d in sifted.dropped} == {"equal"}
    unread = evol(rounds=1).generate(SEEDS, teacher(compare="Hard to say."), seed=7)
    assert {d.reason for d in unread.dropped} == {"equality unparsed"}
    failed = evol(rounds=1).generate(SEEDS, teacher(compare=FAILED), seed=7)
    assert {d.reason for d in failed.dropped} == {"equality unparsed"}
    assert "500" in failed.dropped[0].detail


def test_rule_1_a_text_without_change_is_equal_unasked() -> None:
    asked = teacher(evolve=lambda text: text.upper())
    sifted = evol(rounds=1).generate(SEEDS, asked, seed=7)
    assert {d.reason for d in sifted.dropped} == {"equal"}
    assert "compare" not in map(kind, asked.seen)


def test_rule_1_sees_both_texts() -> None:
    asked = teacher()
    evol(rounds=1).generate(SEEDS[:1], asked, seed=7)
    compared = next(request for request in asked.seen if kind(request) == "compare")
    assert "Question number 0?\n" in last(compared)
    assert "Question number 0? And why?" in last(compared)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Equal", "equal"),
        ("Not Equal", "not equal"),
        ("**Not equal.**", "not equal"),
        ("They are equal.", "equal"),
        ("", "unparsed"),
        ("Equal or Not Equal", "unparsed"),
        ("unequal", "not equal"),
        ("The same", "unparsed"),
        ("> Equal\n\nNot Equal", "not equal"),
        ('"Not Equal"', "not equal"),
    ],
)
def test_reading_equality(text: str, verdict: str) -> None:
    assert read_equality(text) == verdict


def test_rule_2_sorry() -> None:
    assert is_apology("Sorry, I have no idea.")
    assert is_apology("I am very SORRY " + "word " * 75)
    assert is_apology("word " * 78 + "sorry"), "79 words"
    assert not is_apology("word " * 79 + "sorry"), "80 words"
    assert not is_apology("I have no idea.")
    sifted = evol(rounds=1).generate(SEEDS, teacher(answer="Sorry, I cannot."), seed=7)
    assert {d.reason for d in sifted.dropped} == {"sorry"}
    assert not sifted.rows


def test_rule_3_punctuation_and_stop_words() -> None:
    assert says_nothing("It is what it is, isn't it?!")
    assert says_nothing("...")
    assert not says_nothing("It is blue.")
    assert not says_nothing("42")
    sifted = evol(rounds=1).generate(SEEDS, teacher(answer="That is it."), seed=7)
    assert {d.reason for d in sifted.dropped} == {"stop words"}


def test_rule_4_copied_words() -> None:
    assert copies_prompt("#Rewritten Prompt#: Why?")
    assert copies_prompt("Answer the Given Prompt.")
    assert copies_prompt("a rewritten prompt")
    assert not copies_prompt("Given a prompt answer, why?")
    asked = teacher(evolve=lambda text: f"#Rewritten Prompt#: {text} And why?")
    sifted = evol(rounds=1).generate(SEEDS, asked, seed=7)
    assert {d.reason for d in sifted.dropped} == {"copied words"}
    assert set(map(kind, asked.seen)) == {"evolve"}, "nothing more is spent on them"


def test_the_next_round_starts_from_what_was_there_before_an_elimination() -> None:
    answers = iter(["Sorry, no."] * 8 + ["It is blue."] * 8)
    asked = Teacher(
        lambda r: (
            f"{old_text(r)} And why?"
            if kind(r) == "evolve"
            else "Not Equal"
            if kind(r) == "compare"
            else next(answers)
        )
    )
    sifted = evol(rounds=2).generate(SEEDS, asked, seed=7)
    assert [row.prompt[0].content for row in sifted.rows] == [
        f"Question number {i}? And why?" for i in range(8)
    ]
    assert {row.meta["round"] for row in sifted.rows} == {2}
    assert {tuple(row.meta["rounds"]) for row in sifted.rows} == {(2,)}
    assert Counter(d.reason for d in sifted.dropped) == {"sorry": 8}


def test_bad_replies_are_counted() -> None:
    replies = {"0": FAILED, "1": Reply("Question", "length"), "2": "  "}
    sifted = evol(rounds=1).generate(
        SEEDS[:4], teacher(evolve=lambda text: replies.get(text[-2], f"{text} And why?")), seed=7
    )
    assert [(d.id, d.reason) for d in sifted.dropped] == [
        ("evol-s0-r1", "unreachable"),
        ("evol-s1-r1", "truncated"),
        ("evol-s2-r1", "empty"),
    ]
    assert [row.meta["seed"] for row in sifted.rows] == ["s3"]


def test_so_many_seeds() -> None:
    def chosen(seed: int) -> list[str]:
        return [
            row.meta["seed"]
            for row in evol(rounds=1, num_seeds=3).generate(SEEDS, teacher(), seed=seed).rows
        ]

    assert len(chosen(7)) == 3
    assert chosen(7) == chosen(7)
    assert len({tuple(chosen(seed)) for seed in range(6)}) > 1


def test_what_is_read_are_the_seeds_that_are_drawn() -> None:
    assert [evol(num_seeds=num).num_read(SEEDS) for num in (3, 99, None)] == [3, *[len(SEEDS)] * 2]


def test_the_same_seed_gives_the_same_rows() -> None:
    def rows(seed: int) -> list[Chat]:
        return evol().generate(SEEDS, teacher(), seed=seed).rows

    assert rows(7) == rows(7)
    assert rows(7) != rows(8)


def test_equality_by_the_probability_of_the_words() -> None:
    """Beside itself a text scores 2; 1.5 is less than that, so not equal, and 2.5 is equal."""

    def rule(score: float) -> Callable[[Request], Reply | str]:
        def reply(request: Request) -> Reply | str:
            if kind(request) == "compare":
                itself = last(request).count("And why?") == 0
                return Reply(logprobs=(0.0, -2.0 if itself else -score))
            return f"{old_text(request)} And why?" if kind(request) == "evolve" else "It is blue."

        return reply

    assert (
        len(evol(rounds=1, equality="logprob").generate(SEEDS, Teacher(rule(1.5)), seed=7).rows)
        == 8
    )
    assert {
        d.reason
        for d in (
            evol(rounds=1, equality="logprob").generate(SEEDS, Teacher(rule(2.5)), seed=7).dropped
        )
    } == {"equal"}


def test_equality_by_information() -> None:
    assert equality_by_information(Reply(logprobs=(-29.9,)), 30.0) == "equal"
    assert equality_by_information(Reply(logprobs=(-30.0,)), 30.0) == "not equal"
    assert equality_by_information(Reply(logprobs=()), 30.0) == "unparsed"

    def rule(request: Request) -> Reply | str:
        if request.choices:
            assert (
                last(request)
                == f"Repeat this word for word: {request.choices[0].removesuffix(' And why?')}"
            )
            return Reply(logprobs=(-50.0 if "1" in request.choices[0] else -10.0,))
        return f"{old_text(request)} And why?" if kind(request) == "evolve" else "It is blue."

    sifted = evol(rounds=1, equality="information").generate(SEEDS, Teacher(rule), seed=7)
    assert [row.meta["seed"] for row in sifted.rows] == ["s1"]
    assert "10 nats" in sifted.dropped[0].detail


def line(text: str, op: str) -> Lineage:
    return Lineage("s", text, {}, ((1, op),))  # type: ignore[arg-type]


def wording(worked: str = "") -> Wording:
    files = {
        "depth": "bezoar:evol_depth.txt",
        "breadth": "bezoar:evol_breadth.txt",
        "methods": "bezoar:evol_methods.jsonl",
        "worked": worked,
    }
    return read_wording(OPS, **files)


def test_begun_replies_without_worked_rewritings() -> None:
    opening = wording().opening
    assert opening(line("Name a bird.\n\nOne that sings.", "deepen")) == "Name a bird, and"
    assert opening(line("Name a bird.", "breadth")) == "Name a"
    replies = teacher(evolve=lambda text: " a good reason for it.")
    row = (
        evol(rounds=1, begin=True, ops=("deepen",))
        .generate([chat("x", "Name a bird.\n\nOne that sings.")], replies, seed=7)
        .rows[0]
    )
    assert row.prompt[0].content == "Name a bird, and a good reason for it.\n\nOne that sings."
    assert replies.seen[0].stop == ("\n",)


def test_begun_replies_with_worked_rewritings(tmp_path: Path) -> None:
    path = tmp_path / "worked.jsonl"
    path.write_text(
        '{"op": "deepen", "before": "Why?", "after": "Why? Also, say how."}\n'
        '{"op": "deepen", "before": "Who?", "after": "Who? Also, explain when."}\n'
        '{"op": "concretise", "before": "Cook it.", "after": "Fry an egg."}\n'
    )
    found = wording(str(path))
    assert found.opening(line("Name a bird", "deepen")) == "Name a bird. Also,"
    assert found.opening(line("Name a bird.", "concretise")) == "Name"
    messages = found.messages(line("Name a bird.", "deepen"), 7)
    assert [m.role for m in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert {messages[1].content, messages[3].content} == {
        "Why? Also, say how.",
        "Who? Also, explain when.",
    }
    asked = teacher(evolve=lambda text: " tell me its colour.")
    row = (
        evol(rounds=1, begin=True, ops=("deepen",), worked=str(path))
        .generate([chat("x", "Name a bird.")], asked, seed=7)
        .rows[0]
    )
    assert row.prompt[0].content == "Name a bird. Also, tell me its colour."


def test_the_worked_rewritings_that_ship() -> None:
    found = wording("bezoar:evol_worked.jsonl")
    assert set(found.worked) == set(OPS)
    assert (
        found.opening(line("Name a bird.", "reasoning"))
        == "Name a bird. Reason step by step: first"
    )


def test_prompt_files_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "methods.jsonl"
    path.write_text('{"op": "deepen", "text": "dig"}\n')
    with pytest.raises(RecipeError, match="no line for the operation constraints"):
        evol(methods=str(path)).generate(SEEDS, teacher(), seed=7)
    path.write_text('{"op": "dig", "text": "dig"}\n')
    with pytest.raises(RecipeError, match=r"methods\.jsonl:1: a line has op, text"):
        evol(methods=str(path)).generate(SEEDS, teacher(), seed=7)


def test_a_system_message_for_answers_alone() -> None:
    asked = teacher()
    row = (
        evol(rounds=1, system="bezoar:lamini_system.txt").generate(SEEDS[:1], asked, seed=7).rows[0]
    )
    assert [[m.role for m in request.messages] for request in asked.seen] == [
        ["user"],
        ["user"],
        ["system", "user"],
    ]
    assert [m.role for m in row.messages] == ["user", "assistant"]


def test_braces_in_an_instruction_stay() -> None:
    asked = teacher()
    evol(rounds=1, ops=("deepen",)).generate(
        [chat("x", "What does f'{prompt} {method}' print?")], asked, seed=7
    )
    assert "What does f'{prompt} {method}' print?" in last(asked.seen[0])


def test_quote() -> None:
    rows, calls = evol(rounds=3, num_seeds=10).quote({"seeds": exactly(100)})
    assert (rows.expected, rows.high) == (15, 30)
    assert [call.num.expected for _, call in calls[:2]] == [30, 30]
    # a weak teacher's evolutions go before they are compared or answered
    assert [call.num.low for _, call in calls] == [30, 15, 7.5]


@pytest.mark.parametrize(
    "keys",
    [
        {"rounds": 0},
        {"ops": ()},
        {"ops": ("deepen", "deepen")},
        {"num_seeds": 0},
        {"min_nats": 5.0},
    ],
)
def test_settings_that_make_no_sense(keys: dict[str, object]) -> None:
    with pytest.raises((ValueError, RecipeError)):
        loaded(evol(**keys))  # type: ignore[arg-type]
