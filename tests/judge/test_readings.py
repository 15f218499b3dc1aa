"""What judges are asked and how their replies are read, at the edges: failures by name, reasons,
clauses, ties, one row."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.types import Chat, Comparison, Message
from bezoar.cost import exactly
from bezoar.errors import RecipeError
from bezoar.judge.attributes import (
    Attribute,
    Attributes,
    expected_level,
    most_agreeing,
    read_attributes,
    read_rating,
)
from bezoar.llm.types import Ask, Reply, Request
from bezoar.verdicts.accept_reject import (
    Unparsed,
    Verdict,
    by_score,
    log_odds,
    parse_verdict,
    read_logprobs,
    read_text,
)
from bezoar.verdicts.pairwise import Pairwise, Preference, conversation, parse_side, read_side
from tests.helpers.loaded import loaded

FAILED = Reply("half an ans", "error", error="the connection broke")
PAIR = Comparison(
    "p",
    (Message("user", "Which?"), Message("assistant", "What?"), Message("user", "This.")),
    "the first",
    "the second",
)


def replying(*replies: Reply, seen: list[Request] | None = None) -> Ask:
    """Answers in turn, and only when something is asked."""

    def ask(requests: Sequence[Request]) -> list[Reply]:
        assert requests
        if seen is not None:
            seen.extend(requests)
        return [replies[i % len(replies)] for i in range(len(requests))]

    return ask


# verdicts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Reject\rReason: it begs", "it begs"),
        ("Reject\r\nbecause it begs", "it begs"),
        ("It begs.\rReject", "It begs."),
        ("It names the wrong city.\n\nReject", "It names the wrong city."),
        ("First.\n\nSecond.\nReject\n", "Second."),
        ("Before.\nReject\n\nAfter.\nLater.", "After."),
        ("Reject: *'dull'*", "dull"),
        ("Reject: reason: reason enough", "reason enough"),
        ("Reject: X is no AX", "X is no AX"),
        ("Reject: reasonable, but dull", "reasonable, but dull"),
        ("Reject: _Reason_: - it begs", "it begs"),
        ("Reject\nBECAUSE: it begs", "it begs"),
    ],
)
def test_the_reason_is_the_rest_of_the_line_else_what_is_nearest(text: str, reason: str) -> None:
    assert parse_verdict(text) == Verdict("reject", reason)


@pytest.mark.parametrize(
    "text",
    [
        "Accept: a reader would not reject.",
        "Accept: it is fine, and nobody would reject.",
        "Accept: accept.",
        "Accept, accepted!",
        'Accept: clear.\n- "Reject"\n',
        "Accept: noted",
        "Accept: none better",
        "Accept: fine, reject nothing.",
        "Accept: fine, rejecting it is wrong.",
        "Accept: fine, auto_reject.",
        "Accept: fine, reject_all: off.",
    ],
)
def test_the_other_word_inside_a_clause_or_quoted_alone_is_no_verdict(text: str) -> None:
    verdict = parse_verdict(text)
    assert isinstance(verdict, Verdict)
    assert verdict.label == "accept"


@pytest.mark.parametrize("pause", [".", ";", ",", "/", "|", ":", " ... (", ', "', " - .\t*"])
def test_the_other_word_behind_a_pause_is_a_second_verdict(pause: str) -> None:
    text = f"Accept: fine{pause} reject."
    assert parse_verdict(text) == Unparsed(text, "both verdicts")


@pytest.mark.parametrize(
    "text", ["Accept: no", "Accept: No!", "Accept - false...", "Accept: 0", "Reject: not."]
)
def test_a_verdict_that_is_denied_is_none(text: str) -> None:
    assert parse_verdict(text) == Unparsed(text, "no verdict")


def test_failures_are_told_apart() -> None:
    assert (
        read_text(FAILED)
        == read_logprobs(FAILED, 0.0)
        == Unparsed("", "failed: the connection broke")
    )
    assert read_logprobs(Reply("Accept", logprobs=(-1.0,)), 0.0) == Unparsed(
        "Accept", "no log-probabilities of the two verdicts"
    )
    assert read_text(Reply("hm", "stop")) == Unparsed("hm", "no verdict")
    assert read_text(Reply("Accept\nReject", "length")) == Unparsed(
        "Accept\nReject", "both verdicts"
    )


def test_a_score_at_the_threshold_is_rejected() -> None:
    named = "log p(Accept)/p(Reject)"
    assert by_score(0.5, 0.5) == Verdict("reject", f"{named} 0.50 equals the threshold", 0.5)
    assert by_score(0.51, 0.5) == Verdict("accept", f"{named} 0.51 is above 0.50", 0.51)


def test_a_reason_shows_two_numbers_that_differ() -> None:
    assert by_score(-0.37, -0.3749).reason.endswith(" -0.370 is above -0.375")
    assert by_score(0.1, 0.1 + 1e-12).reason.endswith(" 0.100000000000 is below 0.100000000001")


def test_log_odds_need_two_numbers() -> None:
    assert log_odds((-1.0, -3.5)) == 2.5
    assert log_odds((-1.0, -2.0, -3.0)) is None


# pairs


def test_what_a_pairwise_judge_is_asked(tmp_path: Path) -> None:
    prompt = tmp_path / "pairs.txt"
    prompt.write_text("{prompt} | {a} | {b}")
    seen: list[Request] = []
    Pairwise("judge", prompt=str(prompt), max_tokens=77).compare(
        [PAIR], replying(Reply("[[A]]"), seen=seen)
    )
    Pairwise("judge", prompt=str(prompt), max_tokens=77, verdict="logprob").compare(
        [PAIR], replying(Reply(logprobs=(0.0, -1.0, -2.0)), seen=seen)
    )
    assert [message.role for request in seen for message in request.messages] == ["user"] * 4
    texts = [request.messages[0].content for request in seen]
    assert texts[0] == texts[2]
    for text, first, last in (
        (texts[0], "the first", "the second"),
        (texts[1], "the second", "the first"),
    ):
        assert text.index("Which?") < text.index(first) < text.index(last)
    assert [(r.max_tokens, r.prefill, r.choices) for r in seen] == [(77, "", ())] * 2 + [
        (1, "[[", ("A", "B", "C"))
    ] * 2


@pytest.mark.parametrize("missing", ["prompt", "a", "b"])
def test_a_prompt_without_a_place_is_named(missing: str, tmp_path: Path) -> None:
    prompt = tmp_path / "pairs.txt"
    prompt.write_text("{prompt} | {a} | {b}".replace(f"{{{missing}}}", ""))
    with pytest.raises(RecipeError, match=rf"pairs\.txt: the prompt has no \{{{missing}\}}"):
        Pairwise("judge", prompt=str(prompt)).compare([PAIR], replying(Reply("[[A]]")))


def test_the_turns_as_a_judge_reads_them() -> None:
    assert (
        conversation((Message("system", ""), *PAIR.prompt))
        == "User: Which?\n\nAssistant: What?\n\nUser: This."
    )


def test_an_order_that_cannot_be_read_stays_what_it_was() -> None:
    asked = Pairwise("judge").compare([PAIR], replying(Reply("[[A]]"), Reply("hm")))
    assert asked == [Preference("p", "A", Unparsed("hm", "no verdict"))]
    asked = Pairwise("judge").compare(
        [PAIR, PAIR], replying(Reply("[[A]] [[B]]"), FAILED, Reply("[[A]]"), Reply("[[C]]"))
    )
    assert asked == [
        Preference("p", Unparsed("[[A]] [[B]]", "several verdicts"), "B"),
        Preference("p", Unparsed("", "failed: the connection broke"), "tie"),
    ]
    assert [one.verdict for one in asked] == [one.first for one in asked]
    assert Pairwise("judge").compare([], replying(Reply("[[A]]"))) == []


def test_readings_of_a_pair_that_failed() -> None:
    for verdict in ("text", "logprob"):
        assert read_side(FAILED, verdict) == Unparsed("", "failed: the connection broke")  # type: ignore[arg-type]
    assert read_side(Reply("[[A]]", logprobs=(-1.0, -2.0)), "logprob") == Unparsed(
        "[[A]]", "no log-probabilities of the three verdicts"
    )
    assert read_side(Reply("[[B]]", logprobs=(0.0, -1.0, -2.0)), "text") == "B"
    assert parse_side("[[B]] or [[C]]") == Unparsed("[[B]] or [[C]]", "several verdicts")
    assert parse_side("[B]") == Unparsed("[B]", "no verdict")


# attributes


def chat(name: str) -> Chat:
    return Chat(
        name,
        (Message("user", "Name a bird."), Message("assistant", f"Robin {name}.")),
        {"source": "here"},
    )


def judge(tmp_path: Path, **settings: Any) -> Attributes:
    """A judge of two attributes."""
    (tmp_path / "two.jsonl").write_text(
        "".join(
            f'{{"name": "{name}", "asks": "how {name}?", "levels": ["v", "w", "x", "y", "z"]}}\n'
            for name in ("wit", "zest")
        )
    )
    (tmp_path / "rate.txt").write_text("Rate <{record}> by <{attributes}>")
    return Attributes(
        "rows",
        "judge",
        prompt=str(tmp_path / "rate.txt"),
        definitions=str(tmp_path / "two.jsonl"),
        **settings,
    )


def test_an_attribute_as_a_judge_reads_it() -> None:
    assert (
        Attribute("zest", "how lively?", ["dull", "lively"]).text
        == "zest: how lively?\n  0 = dull\n  1 = lively"
    )


def test_what_an_annotator_is_asked(tmp_path: Path) -> None:
    seen: list[Request] = []
    judge(tmp_path, max_tokens=55, temperature=0.3, repeats=2).judge_rows(
        [chat("a")], replying(Reply("wit: 1\nzest: 2"), seen=seen)
    )
    assert [(r.max_tokens, r.temperature, r.seed, [m.role for m in r.messages]) for r in seen] == [
        (55, 0.3, n, ["user"]) for n in (0, 1)
    ]
    assert "wit: how wit?\n  0 = v" in seen[0].messages[0].content
    assert "zest: how zest?\n  0 = v" in seen[0].messages[0].content
    assert "Robin a." in seen[0].messages[0].content


@pytest.mark.parametrize("missing", ["attributes", "record"])
def test_a_prompt_of_an_annotator_without_a_place_is_named(missing: str, tmp_path: Path) -> None:
    made = judge(tmp_path)
    (tmp_path / "rate.txt").write_text(
        "Rate {record} by {attributes}".replace(f"{{{missing}}}", "")
    )
    with pytest.raises(RecipeError, match=rf"rate\.txt: the prompt has no \{{{missing}\}}"):
        made.judge_rows([chat("a")], replying(Reply("")))


def test_rows_by_digits(tmp_path: Path) -> None:
    seen: list[Request] = []
    weak = judge(tmp_path, verdict="logprob", repeats=1)
    even, third = (
        Reply("2", logprobs=(-1.0,) * 5),
        Reply("1", logprobs=(math.log(1 / 3), math.log(2 / 3), -900.0, -900.0, -900.0)),
    )
    judged = weak.judge_rows(
        [chat("a"), chat("b"), chat("c")],
        replying(even, third, Reply("?"), even, even, FAILED, seen=seen),
    )
    assert [(row.id, row.meta["attributes"], row.meta["source"]) for row in judged.accepted] == [
        ("a", {"wit": 2.0, "zest": 0.667}, "here")
    ]
    assert [(row.id, row.meta["verdict"], row.meta["reason"]) for row in judged.unparsed] == [
        ("b", "unparsed", "no log-probabilities of the five levels: ?"),
        ("c", "failed", "failed: the connection broke"),
    ]
    assert judged.rejected == []
    assert [(r.max_tokens, r.prefill, [m.role for m in r.messages]) for r in seen] == [
        (1, "wit: ", ["user"]),
        (1, "zest: ", ["user"]),
    ] * 3
    text = seen[3].messages[0].content
    assert "Robin b." in text
    assert "zest: how zest?" in text
    assert "wit" not in text
    assert weak.judge_rows([], replying(even)).accepted == []


def test_expected_levels_by_hand() -> None:
    assert expected_level(Reply("x", logprobs=(0.0,) * 4)) == Unparsed(
        "x", "no log-probabilities of the five levels"
    )
    # shares alone count, however unlikely all five are
    assert (
        expected_level(Reply(logprobs=(-2000.0, -2000.0 + math.log(3), -9e9, -9e9, -9e9))) == 0.75
    )


def test_rows_whose_ratings_cannot_be_read(tmp_path: Path) -> None:
    made = judge(tmp_path, repeats=2)
    judged = made.judge_rows([chat("a")], replying(Reply("wit: 1\nzest: 2"), Reply("x" * 400)))
    (row,) = judged.unparsed
    assert row.meta == {
        "source": "here",
        "verdict": "unparsed",
        "reason": "no level of wit: " + "x" * 300,
    }
    assert (judged.accepted, judged.rejected) == ([], [])
    assert made.judge_rows([], replying(Reply(""))).unparsed == []


def test_a_spread_of_2_is_none_and_of_3_is_one(tmp_path: Path) -> None:
    made = judge(tmp_path, repeats=2)
    near = made.judge_rows(
        [chat("a")], replying(Reply("wit: 1\nzest: 0"), Reply("wit: 3\nzest: 4"))
    )
    # the first attribute alone decides
    assert near.accepted[0].meta["attributes"] == {"wit": 2, "zest": 2}
    seen: list[Request] = []
    far = made.judge_rows(
        [chat("a")], replying(Reply("wit: 0\nzest: 1"), Reply("wit: 3\nzest: 1"), seen=seen)
    )
    assert [r.seed for r in seen] == [0, 1, 2, 3]
    assert far.rejected[0].meta["reason"] == "wit 0, 3, 0, 3"
    assert len(far.rejected[0].meta["ratings"]) == 4


def test_one_rating_is_enough_where_one_is_asked_for(tmp_path: Path) -> None:
    judged = judge(tmp_path, repeats=1).judge_rows([chat("a")], replying(Reply("wit: 4\nzest: 0")))
    assert judged.accepted[0].meta["attributes"] == {"wit": 4, "zest": 0}
    assert judged.accepted[0].meta["ratings"] == [{"wit": 4, "zest": 0}]


def test_the_first_attribute_decides_which_ratings_agree() -> None:
    ratings = [
        {"wit": 0, "zest": 0},
        {"wit": 4, "zest": 0},
        {"wit": 0, "zest": 4},
        {"wit": 1, "zest": 0},
    ]
    assert most_agreeing(ratings, ["wit", "zest"]) == [ratings[0], ratings[2], ratings[3]]
    assert most_agreeing(ratings, ["zest", "wit"]) == [ratings[0], ratings[1], ratings[3]]
    assert most_agreeing(ratings[:1], ["wit", "zest"]) == ratings[:1]


def test_levels_are_read_by_name_whatever_is_around_them() -> None:
    names = ["wit", "zest"]
    for text in (
        "WIT: 1\nZest = 2",
        '"wit": 1, "zest": 2',
        "- **wit:** 1\n- **zest:** 2",
        "__wit__: 1\n'zest': 2, unzest: 3, un_zest: 3",
    ):
        assert read_rating(Reply(text), names) == {"wit": 1, "zest": 2}
    assert read_rating(
        Reply('"Common Sense": 3, "love of life": 4'), ["common sense", "love of life"]
    ) == {"common sense": 3, "love of life": 4}
    assert read_rating(Reply("wit: 1"), names) == Unparsed("wit: 1", "no level of zest")
    assert read_rating(Reply("wit: 1, wit: 2"), names) == Unparsed(
        "wit: 1, wit: 2", "several levels of wit"
    )
    assert read_rating(Reply("wit: 7, zest: 1"), names) == Unparsed(
        "wit: 7, zest: 1", "the level of wit is 7"
    )
    assert read_rating(FAILED, names) == Unparsed("", "failed: the connection broke")


@pytest.mark.parametrize(
    "line",
    [
        '{"asks": "a", "levels": [1, 2, 3, 4, 5]}',
        '{"name": "a", "levels": [1, 2, 3, 4, 5]}',
        '{"name": "a", "asks": "b", "levels": [1]}',
        '{"name": "a", "asks": "b", "levels": "12345"}',
    ],
)
def test_a_definition_that_lacks_something_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text('{"name": "ok", "asks": "b", "levels": [1, 2, 3, 4, 5]}\n' + line + "\n")
    with pytest.raises(
        RecipeError,
        match=r"d\.jsonl:2: a definition has name, asks and a list of 5 levels; mend the line\.$",
    ):
        read_attributes(str(file))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeats": 0}, "repeats: must be greater than or equal to 1 but is 0"),
        ({"max_tokens": 0}, "max_tokens: must be greater than or equal to 1 but is 0"),
        (
            {"repeats": 2, "temperature": 0.0},
            "temperature 0 and verdict: logprob repeat ratings; set repeats: 1",
        ),
    ],
)
def test_settings_of_an_annotator(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, RecipeError)) as error:
        loaded(Attributes("rows", "judge", **settings))
    assert message in str(error.value)
    assert Attributes("rows", "judge", repeats=1, max_tokens=1, temperature=0.0).repeats == 1


def test_what_is_paid_for() -> None:
    """Calls are exact; probabilities are read from the prompt, so nothing is written."""
    assert Pairwise("judge").quote(exactly(5))[0].num == exactly(10)
    assert Pairwise("judge").quote(exactly(5))[0].completion_tokens.high == 512
    assert Pairwise("judge", verdict="logprob").quote(exactly(5))[0].completion_tokens == exactly(0)
    rows = {"rows": exactly(5)}
    _, ((_, text),) = Attributes("rows", "judge", max_tokens=9).quote(rows)
    assert text.completion_tokens.high == 9
    _, ((_, digits),) = Attributes("rows", "judge", verdict="logprob", repeats=1).quote(rows)
    assert digits.completion_tokens == exactly(0)
