"""What went wrong with function calls, in the report."""

from typing import Any

from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.checked_answers import checked_answers


def board(facts: Any) -> Scoreboard:
    info = {"base": {"info": {}}, "sft": {"info": {"function_calling": facts}}}
    return Scoreboard(labels={"base": "base", "sft": "SFT"}, facts=info)


def test_kinds_of_failure_by_class_and_examples() -> None:
    example = {"id": "parallel_0", "asked": "Spin <b>", "text": "<tool_call>", "detail": "no end"}
    facts = {
        "kinds": {"parallel": {"bad JSON": 3, "right": 1}, "irrelevance": {"right": 2}},
        "examples": {"bad JSON": [example]},
    }
    page = str(checked_answers(board(facts))[0])
    assert "25 % right, 75 % bad JSON" in page
    assert "100 % right" in page
    assert "Wrong answers of SFT" in page
    assert "Wrong answers of base" not in page
    assert "Spin &lt;b&gt;" in page


def test_damaged_or_absent_facts_give_no_table() -> None:
    assert checked_answers(board(None)) == []
    assert checked_answers(board([])) == []
    odd = {"kinds": {"a": [], "b": {"x": "y"}}, "examples": {"bad": 3, "worse": [4]}}
    assert "Wrong answers of SFT" in str(checked_answers(board(odd))[0])
