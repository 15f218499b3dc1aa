"""LaMini: lists of instructions in waves, what is dropped on the way, and answers."""

import re
from collections import Counter
from pathlib import Path

import pytest

from bezoar.chat.types import Chat, Message
from bezoar.cost import exactly
from bezoar.errors import DataError, RecipeError
from bezoar.llm.types import Reply, Request
from bezoar.synth.lamini import LaMini
from tests.helpers.asked import FAILED, Teacher, chat, last
from tests.helpers.loaded import loaded

WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "flint",
    "grove",
    "heron",
    "ivory",
    "jade",
    "koala",
    "lemon",
    "maple",
    "north",
]
SEEDS = [
    chat(f"seed-{i}", f"Tell me about {w} and how {w * 2} came to be called {w[::-1]}.")
    for i, w in enumerate(WORDS)
]


def scheme(num_rows: int = 6, **keys: object) -> LaMini:
    return LaMini("seeds", "teacher", num_rows, **{"ask_for": 3, **keys})  # type: ignore[arg-type]


def is_list(request: Request) -> bool:
    return request.prefill.startswith("<example>")


def fresh(request: Request, num: int = 3) -> str:
    """`num` instructions that no other request gives."""
    items = [
        f"Explain item{request.seed}x{i} and its thing{request.seed}y{i} now please."
        for i in range(num)
    ]
    return "</example>\n<example>".join(items) + "</example>"


def teacher(num: int = 3) -> Teacher:
    return Teacher(lambda r: fresh(r, num) if is_list(r) else f"Answer to: {last(r)}")


def test_rows_and_their_provenance() -> None:
    asked = teacher()
    sifted = scheme().generate(SEEDS, asked, seed=7)
    assert len(sifted.rows) == 6
    assert not sifted.dropped
    lists = [request for request in asked.seen if is_list(request)]
    assert len(lists) == 2
    guided, topical = sifted.rows[0], sifted.rows[3]
    assert (guided.meta["source"], topical.meta["source"]) == ("guided", "topic")
    assert guided.meta["scheme"] == "lamini"
    by_id = {seed.id: seed.prompt[0].content for seed in SEEDS}
    for row, request in ((guided, lists[0]), (topical, lists[1])):
        shown = re.findall(r"<example>(.*?)</example>", last(request).split("Write 3")[0])
        assert shown == [by_id[name] for name in row.meta["seeds"]]
        assert len(set(shown)) == 3
    assert '"' + ", ".join(topical.meta["topics"]) + '"' in last(lists[1])
    assert len(topical.meta["topics"]) == 3
    assert "topics" not in guided.meta


def test_rows_have_no_system_message_but_the_teacher_is_told_to_be_brief() -> None:
    asked = teacher()
    row = scheme().generate(SEEDS, asked, seed=7).rows[0]
    assert [m.role for m in row.messages] == ["user", "assistant"]
    answering = next(request for request in asked.seen if not is_list(request))
    assert answering.messages[0].role == "system"
    assert row.answer == f"Answer to: {row.prompt[0].content}"


def test_waves_go_on_until_the_rows_are_there() -> None:
    asked = teacher(num=1)
    sifted = scheme(num_rows=6).generate(SEEDS, asked, seed=7)
    assert len(sifted.rows) == 6
    assert sum(map(is_list, asked.seen)) == 6, (
        "two lists that gave one each, then as many as are missing"
    )


def test_waves_end() -> None:
    sifted = scheme(num_rows=50, max_waves=2).generate(
        SEEDS, Teacher(lambda r: "Name one bird only.</example>"), seed=7
    )
    assert len(sifted.rows) == 1
    assert {d.reason for d in sifted.dropped} == {"near duplicate"}


def test_a_wave_that_failed_is_the_last() -> None:
    asked = Teacher(lambda r: FAILED)
    sifted = scheme().generate(SEEDS, asked, seed=7)
    assert not sifted.rows
    assert [(d.id, d.reason) for d in sifted.dropped] == [
        ("lamini-0", "unreachable"),
        ("lamini-1", "unreachable"),
    ]
    assert len(asked.seen) == 2


def test_every_reason_is_counted() -> None:
    lists = iter(
        [
            Reply(
                f"{SEEDS[4].prompt[0].content}</example><example>Do"
                " it.</example><example>Sing</example><example>Name a good river in"
                " Asia.</example><example>Count how many",
                "length",
            ),
            Reply(
                "word "
                * 201
                + "</example><example>Write 3 new and varied examples in the manner of"
                " these.</example>"
            ),
            Reply("", "stop"),
            Reply("I would rather not, thank you.\n"),
        ]
    )
    end = Reply("Name a good river in Asia.</example>")
    asked = Teacher(lambda r: next(lists, end) if is_list(r) else "Fine.")
    sifted = scheme(num_rows=3, ask_for=1, max_waves=3).generate(SEEDS, asked, seed=7)
    texts = [row.prompt[0].content for row in sifted.rows]
    assert texts == ["Name a good river in Asia.", "I would rather not, thank you."]
    reasons = Counter(d.reason for d in sifted.dropped)
    assert reasons["too short"] == 2
    assert reasons["truncated"] == 1
    assert reasons["too long"] == 1
    assert reasons["copied words"] == 1
    assert reasons["unparsed"] == 1
    assert reasons["near duplicate"] >= 1
    twin = next(d for d in sifted.dropped if d.reason == "near duplicate")
    assert "seed-4" in twin.detail


def test_a_spare_instruction_takes_the_place_of_one_without_an_answer() -> None:
    def rule(request: Request) -> Reply | str:
        if is_list(request):
            return fresh(request, 4)
        return Reply("never ends", "length") if "x0 " in last(request) else "Fine."

    sifted = scheme(num_rows=6).generate(SEEDS, Teacher(rule), seed=7)
    assert len(sifted.rows) == 6
    assert Counter(d.reason for d in sifted.dropped) == {"truncated": 2}


def test_what_is_left_over_is_counted() -> None:
    sifted = scheme(num_rows=4).generate(SEEDS, teacher(), seed=7)
    assert len(sifted.rows) == 4
    assert Counter(d.reason for d in sifted.dropped) == {"surplus": 2}


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_the_share_of_topics_is_exact(share: float, expected: int) -> None:
    asked = teacher(num=1)
    scheme(num_rows=8, ask_for=1, topic_share=share).generate(SEEDS, asked, seed=7)
    assert sum("on the topics" in last(r) for r in asked.seen if is_list(r)) == expected


def test_openers_begin_the_list_and_statements_are_dropped() -> None:
    rule = (
        "{}</example><example>The sea is blue and wide today.</example><example>Is the number{} odd"
        " or even?</example>"
    )
    asked = Teacher(
        lambda r: rule.format(f" about the thing{r.seed}.", r.seed) if is_list(r) else "Fine."
    )
    sifted = scheme(num_rows=4, openers=True).generate(
        [*SEEDS, chat("q", "Why do we sleep at all?"), chat("s", "My cat is ill.")], asked, seed=7
    )
    lists = [request for request in asked.seen if is_list(request)]
    assert {request.prefill for request in lists} <= {"<example>Tell", "<example>Why"}
    assert all(row.prompt[0].content.split()[0] in ("Tell", "Why", "Is") for row in sifted.rows)
    assert "no instruction" in {d.reason for d in sifted.dropped}


def test_long_seeds_are_not_shown() -> None:
    long = [chat(f"long-{i}", f"word{i} " * 61) for i in range(50)]
    asked = teacher()
    scheme(num_rows=30).generate([*long, *SEEDS[:4]], asked, seed=7)
    assert not any("word1" in last(r) for r in asked.seen if is_list(r))


def test_the_same_seed_gives_the_same_rows() -> None:
    def rows(seed: int) -> list[Chat]:
        return scheme().generate(SEEDS, teacher(), seed=seed).rows

    assert rows(7) == rows(7)
    assert rows(7) != rows(8)


def test_too_few_seeds_or_topics(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 seeds.*num_examples"):
        scheme().generate(SEEDS[:2], teacher(), seed=7)
    topics = tmp_path / "topics.txt"
    topics.write_text("Bees\n\nTides\n")
    with pytest.raises(DataError, match="2 topics are fewer than 3"):
        scheme(topics=str(topics)).generate(SEEDS, teacher(), seed=7)


def test_a_prompt_file_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("Mind the {braces}. {examples} Now {num} more.\n")
    asked = teacher()
    scheme(guided=str(own), topic_share=0.0).generate(SEEDS, asked, seed=7)
    assert last(asked.seen[0]).startswith("Mind the {braces}. <example>Tell me about")
    own.write_text("No place for them: {num}")
    with pytest.raises(RecipeError, match=r"own\.txt: the prompt has no \{examples\}"):
        scheme(guided=str(own)).generate(SEEDS, asked, seed=7)


def test_quote() -> None:
    rows, ((_, lists), (_, answers)) = scheme(num_rows=100, ask_for=20).quote(
        {"seeds": exactly(50)}
    )
    assert (rows.expected, rows.high) == (100, 100)
    assert lists.num.low == 5
    assert answers.num.low == 100


@pytest.mark.parametrize(
    "keys", [{"num_rows": 0}, {"topic_share": 1.5}, {"near_duplicate": 0.2}, {"retries": -1}]
)
def test_settings_that_make_no_sense(keys: dict[str, object]) -> None:
    with pytest.raises((ValueError, RecipeError)):
        loaded(scheme(**keys))  # type: ignore[arg-type]


def test_spare_instructions_need_fewer_waves_and_give_no_row_more() -> None:
    from dataclasses import replace

    asked: list[int] = []

    def ask(requests):  # type: ignore[no-untyped-def]
        asked.append(len(requests))
        return [Reply(_spare_text(request)) for request in requests]

    scheme = LaMini(seeds="s", teacher="t", num_rows=4, ask_for=2, topic_share=0.0, retries=0)
    seeds = [
        Chat(
            f"s{i}",
            (Message("user", f"Seed question {i} about {w}?"), Message("assistant", "Yes.")),
        )
        for i, w in enumerate(("tea", "rain", "iron"))
    ]
    rows = replace(scheme, spare=1.0).generate(seeds, ask, seed=1)
    assert len(rows.rows) == 4
    assert asked[0] == 4  # eight instructions are looked for, two a list
    assert sum(d.reason == "surplus" for d in rows.dropped) >= 1


def _spare_text(request: Request) -> str:
    if request.prefill:
        word = f"{request.seed:x}"
        return (
            f"Describe how {word[:4]} met {word[4:8]} on the road to"
            f" town.</example>\n<example>Explain why {word[8:12]} never wrote to {word[12:]}"
            " again.</example>"
        )
    return "A plain answer of a few words."
