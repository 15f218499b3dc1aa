"""Sampled answers in the report."""

from bezoar.chat.types import Message, SampledAnswers
from bezoar.report.components import row_card
from bezoar.report.rows import num_words


def test_answers_stand_beside_one_another_with_their_numbers() -> None:
    row = SampledAnswers(
        "a",
        (Message("user", "say one two"),),
        ("first <b>", "the second"),
        {"reward": (0.25, -1.5)},
    ).to_row()
    page = str(row_card(row))
    assert page.index("reward 0.25") < page.index("first &lt;b&gt;") < page.index("the second")
    assert "-1.5" in page.replace("−", "-")
    assert num_words(row) == 5
