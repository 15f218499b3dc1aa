"""Prompts whose instructions a program checks."""

import pytest

from bezoar.evals.checked_answers import checked, first_items
from bezoar.synth.instruction_prompts import InstructionPrompts
from bezoar.train.rewards import Instructions
from bezoar.train.rewards.program import check_rows
from bezoar.verdicts.instructions import INSTRUCTIONS, phrase


def test_every_kind_is_asked_for_as_it_is_checked() -> None:
    scheme = InstructionPrompts(300)
    rows = scheme.write(7).rows
    assert len({row.messages[0].content for row in rows}) == 300
    assert rows == scheme.write(7).rows
    assert rows != scheme.write(8).rows
    check_rows([Instructions()], rows)
    asked = [each for row in rows for each in row.meta["instructions"]]
    assert {each["kind"] for each in asked} == set(INSTRUCTIONS)
    for row in rows:
        instructions = row.meta["instructions"]
        for each in instructions:
            assert phrase(each["kind"], each.get("value")) in row.messages[0].content
        values = [each.get("value") for each in instructions if each.get("value")]
        assert len(values) == len(set(values)), "one word is asked for and forbidden"


def test_prompts_that_were_passed_over_do_not_come_again() -> None:
    first, later = (
        InstructionPrompts(40).write(3).rows,
        InstructionPrompts(30, skip=40).write(3).rows,
    )
    assert len(later) == 30
    assert not {row.messages for row in first} & {row.messages for row in later}


def test_held_out_answers_are_checked_by_the_same_rules() -> None:
    [row] = InstructionPrompts(1, kinds=("lowercase",)).write(0).rows
    items, unchecked = first_items([row], None)
    outcome = checked(items, ["all small"])
    assert unchecked == 0
    assert [score.value for score in outcome.scores] == [1.0, 1.0]
    assert [score.value for score in checked(items, ["NOT"]).scores] == [0.0, 0.0]


def test_only_the_named_kinds() -> None:
    rows = InstructionPrompts(20, kinds=("bullets", "lowercase")).write(0).rows
    asked = {each["kind"] for row in rows for each in row.meta["instructions"]}
    assert asked == {"bullets", "lowercase"}
    with pytest.raises(ValueError, match="there is no instruction 'rhyme'; known are"):
        InstructionPrompts(20, kinds=("rhyme",))
