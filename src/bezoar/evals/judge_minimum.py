"""Judges whose verdicts count only from a certain accuracy on, as `judge_card` found it."""

from collections.abc import Mapping
from typing import Any

from bezoar.evals.judges import JudgeConfig
from bezoar.evals.mt_bench import MTBench
from bezoar.evals.outcome import Outcome
from bezoar.evals.section import Section
from bezoar.evals.stats import Score

FIGURES = {
    "over_rows": "over rows",
    "mt_bench": "mt_bench",
    "win_rate": "win rate",
    "revision": "revision 1/win rate",
}
"""Sections with `min_accuracy`, and the score that then has no value."""


def check_minimum(name: str, section: Section, card: JudgeConfig | None) -> None:
    """ValueError for a minimum that the evaluation's judge card says nothing about."""
    if name not in FIGURES or not isinstance(section, JudgeConfig | MTBench):
        return
    if section.min_accuracy is None:
        return
    judge, reads = _judge(section)
    if card is None or _judge(card)[0] != judge:
        advice = f"add judge_card: {{{judge[0]}: {judge[1]}, pairs: [FILE]}} to this evaluation"
        raise ValueError(f"{name}.min_accuracy needs a judge_card of the same judge; {advice}")
    # MT-Bench grades single answers: of pairs the card can only examine the same model
    if reads and reads != _judge(card)[1]:
        advice = "give both the same prompt, verdict and goodness"
        raise ValueError(f"{name}.min_accuracy: judge_card reads the judge otherwise; {advice}")


def _judge(section: JudgeConfig | MTBench) -> tuple[tuple[str, str], tuple[Any, ...]]:
    """The key and name of a section's judge, and how a judge of pairs is read."""
    if isinstance(section, MTBench):
        return ("judge", section.judge), ()
    if section.reward_model:
        return ("reward_model", section.reward_model), ("reward", section.goodness)
    return ("judge", section.judge), (section.prompt, section.verdict)


def below_minimum(name: str, section: Section, info: Mapping[str, Any]) -> Outcome | None:
    """A section without a number, with the reason, where the card's accuracy is below its minimum.

    The accuracy itself is compared, as `judge_card.min_accuracy` does, not the lower bound of its
    interval, which stands beside it.
    """
    least = getattr(section, "min_accuracy", None)
    if name not in FIGURES or least is None:
        return None
    scores = [Score.from_dict(score) for score in info["judge_card"]["scores"]]
    accuracy = next(score for score in scores if score.name == "judge/accuracy")
    if accuracy.value is not None and accuracy.value >= least:
        return None
    why = "none of the judge's verdicts could be read"
    if accuracy.value is not None:
        bounds = f" [{accuracy.low:.3f}, {accuracy.high:.3f}]" if accuracy.low is not None else ""
        why = f"the judge's accuracy is {accuracy.value:.3f}{bounds} (n {accuracy.n})"
    reason = f"cannot judge: {why}, and min_accuracy asks for {least:g}"
    figure = Score(FIGURES[name], None, None, None, 0, reason=reason)
    return Outcome([figure], info={name: {"cannot_judge": reason}})
