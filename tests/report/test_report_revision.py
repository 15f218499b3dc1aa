"""The panel of revisions: a line an iteration, what was kept, and why it stopped."""

from html.parser import HTMLParser

from bezoar.evals.stats import Score
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.revision import revision


def words(markup: str) -> str:
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(markup)
    return " ".join(found)


def test_a_line_an_iteration_and_the_reason_of_the_stop() -> None:
    facts = {
        "iterations": [
            {"identical": 2, "reasons": {"no critique": 1, "cut": 2}},
            {"identical": 3, "reasons": {}},
        ],
        "stopped": "iteration 2 changed no <answer>",
        "not_made": [3, 4, 5],
    }
    names = {"revision 1/win rate": 0.75, "revision 1/win rate/free of position": 0.65}
    cells = {(name, "cnr"): Score(name, value, 0.6, 0.9, 8) for name, value in names.items()}
    board = Scoreboard(
        {"base": "Base", "cnr": "CnR"},
        cells,
        facts={"cnr": {"info": {"revision": facts}}, "base": {"info": {}}},
    )
    markup = revision(board)
    assert markup is not None
    assert "<answer>" not in markup
    text = words(markup)
    for part in (
        "iteration 1",
        "iteration 2",
        "Iteration 1: 2 equal to the original; not revised: 1 no critique, 2 cut.",
        "Iteration 2: 3 equal to the original.",
        "Stopped: iteration 2 changed no <answer>.",
    ):
        assert part in text
    assert (
        "iteration 1 0.750 [0.600, 0.900] no position 0.650 [0.600, 0.900] iteration 2 –"
        in " ".join(text.split())
    )
    assert "Base" not in text


def test_nothing_where_nothing_was_revised() -> None:
    assert (
        revision(Scoreboard({"base": "Base"}, facts={"base": {"info": {"mt_bench": {}}}})) is None
    )
