"""Instructions out of messy lists."""

import pytest

from bezoar.synth.examples import Example, is_instruction, opens_well, parse_examples


def texts(text: str, *, cut: bool = False) -> list[str]:
    return [example.text for example in parse_examples(text, cut=cut)]


def test_a_clean_list() -> None:
    assert texts("<example>Name a bird.</example>\n<example>Why is the sky blue?</example>") == [
        "Name a bird.",
        "Why is the sky blue?",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<example>Name a bird.\n<example>Name a fish.\n",
        (
            "<example><example>Name a bird.</example> Here is another:\n<example>Name a"
            " fish.</example>"
        ),
        "<example>1. Name a bird.</example><example>2) Name a fish.</example>",
        (
            "<Example> Instruction: Name a bird. </ example >\n< example 2 >Question 2: Name a"
            " fish.</example>"
        ),
        '<example>"Name a bird."</example><example>**Name a fish.**</example>',
        (
            "<example>Name a bird.\nResponse: The robin.</example><example>Name a"
            " fish.\n**Answer:** A carp.\nOutput: x</example>"
        ),
        "<example>- Name a bird.</example></example>\n<example>\n<example>• Name a fish.",
    ],
    ids=["unclosed", "chatter", "numbers", "labels", "quotes", "responses", "bullets"],
)
def test_messy_lists_give_the_same_two(text: str) -> None:
    assert texts(text) == ["Name a bird.", "Name a fish."]


def test_a_list_without_tags_is_read_by_its_numbers() -> None:
    expected = ["Name a bird.", "Name a fish.", "Name\na tree."]
    numbered = "1. Name a bird.\n2. Name a fish.\n3. Name\na tree."
    assert texts(numbered) == expected
    assert texts(f"<example>{numbered}") == expected, "also within one example"


def test_a_list_inside_an_instruction_stays_whole() -> None:
    text = "Sort these by size:\n1. ant\n2. cow\n3. whale"
    assert texts(f"<example>{text}</example>") == [text]
    assert (
        texts("<example>1. Sort these.</example><example>2. Name three: 1. a 2. b 3. c</example>")[
            1
        ]
        == "Name three: 1. a 2. b 3. c"
    )


def test_the_last_example_of_a_cut_reply_is_cut() -> None:
    assert parse_examples("<example>Name a bird.</example><example>Name a", cut=True) == [
        Example("Name a bird."),
        Example("Name a", True),
    ]
    assert parse_examples("<example>Name a bird.</example><example>Name a", cut=False)[
        1
    ] == Example("Name a")
    assert parse_examples("<example>Name a bird.</example>", cut=True) == [Example("Name a bird.")]
    numbered = parse_examples("<example>1. One thing.\n2. Two things.\n3. Thr", cut=True)
    assert [example.cut for example in numbered] == [False, False, True]


def test_half_a_tag_at_the_end() -> None:
    assert parse_examples("<example>Name a bird.</exam", cut=True) == [Example("Name a bird.")], (
        "a closing tag that was cut"
    )
    assert parse_examples("<example>Name a bird.</example>\n<exa", cut=True) == [
        Example("Name a bird.")
    ]
    assert parse_examples("<example>Is 3 <", cut=True)[0].cut


def test_text_that_looks_like_a_number_stays() -> None:
    assert texts("<example>3.5 million people live there. Where?</example>") == [
        "3.5 million people live there. Where?"
    ]
    assert texts('<example>Is "yes" a word, and is "no"?</example>') == [
        'Is "yes" a word, and is "no"?'
    ]


def test_nothing_in_it() -> None:
    assert texts("") == []
    assert texts("<example></example><example> \n") == []
    assert texts("I am not able to do that.") == []


def test_instructions_and_statements() -> None:
    assert is_instruction("Write a poem.")
    assert is_instruction("My cat is ill. What can I do?")
    assert not is_instruction("The sun rises over the island.")
    assert opens_well("What is it")
    assert opens_well("Explain it")
    assert not opens_well("I wonder why?")
