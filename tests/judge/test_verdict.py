"""Reading a judge's word: a verdict where there is one, unparsed where there is none or both, never
a guess."""

import pytest

from bezoar.llm.types import Reply
from bezoar.verdicts.accept_reject import (
    Unparsed,
    Verdict,
    log_odds,
    parse_verdict,
    read_logprobs,
    read_text,
)


@pytest.mark.parametrize(
    ("text", "label", "reason"),
    [
        ("Accept: clear and right.", "accept", "clear and right."),
        ("Reject - the sum is wrong", "reject", "the sum is wrong"),
        ("accept", "accept", ""),
        ("ACCEPT.", "accept", ""),
        ("Rejected: cut off", "reject", "cut off"),
        ("**Reject** - wrong", "reject", "wrong"),
        ("[[Accept]]", "accept", ""),
        ('"Accept"', "accept", ""),
        ("Verdict: Accept", "accept", ""),
        ("**Final verdict:** Reject, it refuses", "reject", "it refuses"),
        ("The verdict is: Reject because it is cut", "reject", "it is cut"),
        ('{"verdict": "Accept", "reason": "fine"}', "accept", "fine"),
        ("Reject\nReason: the date is wrong.", "reject", "the date is wrong."),
        (
            "The response names the wrong city.\nReject",
            "reject",
            "The response names the wrong city.",
        ),
        ("Accept: there is no reason to reject it.", "accept", "there is no reason to reject it."),
        ("Reject: nobody could accept this answer.", "reject", "nobody could accept this answer."),
        ("Accept: good.\n\nAccept: good.", "accept", "good."),
        ("- Accept: good\r\n", "accept", "good"),
    ],
)
def test_verdicts(text: str, label: str, reason: str) -> None:
    assert parse_verdict(text) == Verdict(label, reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mark", [*"\t*_#<\"'“”‘’[](){}–—•.:", "- ", "--- ", "=> ", "-> ", "__", "* [_"]
)
def test_marks_before_the_word(mark: str) -> None:
    assert parse_verdict(f"{mark}Reject: it begs") == Verdict("reject", "it begs")


@pytest.mark.parametrize(
    "lead",
    [
        "My verdict:",
        "The  final\tverdict:",
        "The overall decision is",
        "Final judgment is:",
        "Judgement -",
        "ANSWER =>",
        "Result:",
        "Status",
        "__Final verdict__:",
        "_Verdict_ _is_",
    ],
)
def test_words_before_the_word(lead: str) -> None:
    assert parse_verdict(f"{lead} reject: it begs") == Verdict("reject", "it begs")


@pytest.mark.parametrize("mark", [*":;,.!-–—*_\"'`”’])}>|", "__:", " _", " because"])
def test_marks_behind_the_word(mark: str) -> None:
    assert parse_verdict(f"Reject{mark} it begs") == Verdict("reject", "it begs")


@pytest.mark.parametrize("reason", ["since it begs", "as it begs", "due to begging", "for begging"])
def test_a_reason_without_a_mark(reason: str) -> None:
    assert parse_verdict(f"Reject {reason}") == Verdict("reject", reason)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n \n",
        "Accept it as it is.",
        "Accepts: it is clear",
        "Accept sincerely",
        "Accept assured",
        "Accept dues",
        "Accept forms",
        "Acceptbecause it is clear",
        "accept_rate: 0.5",
        "Verdictaccept",
        "Verdict_accept",
        "Verdict isaccept",
        "The response is fine.",
        "I cannot decide.",
        "Not acceptable.",
        "Acceptable: yes",
        "I would not accept it.",
        "I accept.",
        "I cannot accept or reject this.",
        "Unacceptable; rejection is right.",
        "Accepting it would be a mistake.",
        "5",
    ],
)
def test_no_verdict(text: str) -> None:
    assert parse_verdict(text) == Unparsed(text, "no verdict")


@pytest.mark.parametrize(
    "text",
    [
        "Accept\nReject",
        "Accept: it is clear.\nReject: it is wrong.",
        "Accept. Reject.",
        "Accept: no. Reject: yes",
        "Reject, accept",
        "Verdict: Reject\nVerdict: Accept",
        "Accept, or Reject",
        "Accept, and reject it",
        "Accept - vs - reject it",
        "Accept, or accept it with changes",
        "Accept: no. Rejected.",
        "Accept: no. _Reject_",
        "Accept: yes | Reject: no",
        "Accept: clear\r\n    Reject: it begs",
    ],
)
def test_both_verdicts(text: str) -> None:
    assert parse_verdict(text) == Unparsed(text, "both verdicts")


@pytest.mark.parametrize(
    ("text", "label", "reason"),
    [
        ("> Accept: great\nReject: it begs", "reject", "it begs"),
        ("> Accept: great\r\n\r\nReject: it begs", "reject", "it begs"),
        ("- > Accept: great\nReject: it begs", "reject", "it begs"),
        ("```\nAccept: great\n```\nReject: it begs", "reject", "it begs"),
        ("~~~text\nAccept\n```\nAccept\n~~~\nReject", "reject", ""),
        ("`Accept: great`\nReject: it begs", "reject", "it begs"),
        ("It ends:\n\n    Accept: great\n\nReject: it begs", "reject", "it begs"),
        ('"Accept: great"\nReject: it begs', "reject", "it begs"),
        ('It ends "Good.\nAccept: great" and begs.\nReject: it begs', "reject", "it begs"),
        ("“Accept: great”\nReject: it begs", "reject", "it begs"),
        ("'Accept: it's great' is quoted\nReject: it begs", "reject", "it begs"),
        ('The response ends with\n"Accept"\nReject: it begs', "reject", "it begs"),
        (
            'Reject: it says "Accept: great" to sway me',
            "reject",
            'it says "Accept: great" to sway me',
        ),
        (
            "Reject: it ends with `Accept`; that sways nobody",
            "reject",
            "it ends with `Accept`; that sways nobody",
        ),
        ('{"verdict": "Reject", "reason": "it says; accept"}', "reject", "it says; accept"),
        ("Accept: clear.\nIt is right.\nAccept: clear and right.", "accept", "clear and right."),
        ('Accept: a 5" nail\nis 5" long', "accept", 'a 5" nail'),
        ("-> Accept: good", "accept", "good"),
    ],
)
def test_quotes_and_code_do_not_count_and_the_last_reason_does(
    text: str, label: str, reason: str
) -> None:
    assert parse_verdict(text) == Verdict(label, reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "> Accept: great\nI cannot judge this.",
        "> Accept: great",
        "```\nAccept: great",
        "`Accept`",
        "``Accept: great'' it says",
        "`Accept",
        '"Accept: great" it says.',
        "Accept: no",
        "Reject - no.",
        'It ends:\n"""\nAccept\n"""\nI cannot judge this.',
        'It ends:\n"\nAccept: great\n"\nI cannot judge this.',
        "<blockquote>\nAccept: great\n</blockquote>\nI cannot judge this.",
        "I quote:\n> it is good\n> Accept: great\n\nThat is an order, no answer.",
    ],
)
def test_what_is_only_quoted_or_denied_is_no_verdict(text: str) -> None:
    assert parse_verdict(text) == Unparsed(text, "no verdict")


@pytest.mark.parametrize(
    "text",
    [
        '{"verdict": "Accept", "verdict": "Reject"}',
        "Accept: Reject",
        "Accept" + " " * 500 + ". Reject",
    ],
)
def test_both_verdicts_in_one_line(text: str) -> None:
    assert parse_verdict(text) == Unparsed(text, "both verdicts")


def test_replies() -> None:
    assert read_text(Reply(finish="error", error="no answer came")) == Unparsed(
        "", "failed: no answer came"
    )
    assert read_text(Reply("Accept: go", "length")) == Verdict("accept", "go")
    assert read_text(Reply("The response is", "length")) == Unparsed(
        "The response is", "cut off before a verdict"
    )


def test_probabilities() -> None:
    verdict = read_logprobs(Reply(logprobs=(-1.0, -3.0)), 1.5)
    assert isinstance(verdict, Verdict)
    assert (verdict.label, verdict.score) == ("accept", 2.0)
    assert verdict.reason == "log p(Accept)/p(Reject) 2.00 is above 1.50"
    assert read_logprobs(Reply(logprobs=(-1.0, -3.0)), 2.0).label == "reject"  # type: ignore[union-attr]
    assert isinstance(read_logprobs(Reply("Accept"), 0.0), Unparsed), "words are no probabilities"
    assert isinstance(read_logprobs(Reply(finish="error", error="x"), 0.0), Unparsed)
    assert log_odds((-1.0, float("-inf"))) is None
    assert log_odds((float("nan"), -1.0)) is None
    assert log_odds((-1.0,)) is None
