"""The decision at the top of a report, its numbers derived from the run's files."""

from pathlib import Path

from bezoar.report.decision import decide, duration
from tests.helpers.fake_run import load


def test_the_first_sentence_has_effect_n_and_cost(whole: Path) -> None:
    decision = decide(*load(whole))
    assert decision.sentence.startswith("After DPO the model prefers the better answer in ")
    assert "of 40 held-out pairs" in decision.sentence
    assert "$" in decision.sentence


def test_lengths_of_time_are_said_in_one_unit() -> None:
    assert [duration(s) for s in (42, 899, 7000)] == ["42 seconds", "15 minutes", "1.9 hours"]
