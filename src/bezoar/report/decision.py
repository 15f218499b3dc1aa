"""What a run says to the people who must decide: one sentence, three answers, what to do next."""

from dataclasses import dataclass, field
from typing import Literal

from bezoar.report import repeats
from bezoar.report.effects import Effect, main_effect
from bezoar.report.formatting import count, listed, percent, usd
from bezoar.report.run import Run, StageRecord
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.bill import cost_per_row, total

Verdict = Literal["yes", "no", "unclear", "not measured"]


@dataclass(frozen=True)
class Answer:
    """A question that people bring, its answer, and a sentence that says why."""

    question: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Decision:
    """The first screen of a report."""

    sentence: str
    """Effect, interval, n and cost in plain words."""
    warnings: list[str] = field(default_factory=list)
    """What keeps the sentence from being taken at its word."""
    answers: list[Answer] = field(default_factory=list)
    """Empty where nothing was trained or evaluated."""
    next_steps: list[str] = field(default_factory=list)


def decide(run: Run, board: Scoreboard) -> Decision:
    """What the finished stages of a run say, however many there are."""
    effect = main_effect(run, board)
    subject = effect.sentence if effect else _without_scores(run)
    whole = total(run.everything)
    sentence = f"{subject}; {usd(whole.cost_usd)}, {duration(whole.seconds)}."
    return Decision(sentence, [*_warnings(run), *repeats.warnings(board)], _answers(effect))


def duration(seconds: float) -> str:
    """A length of time in the unit that people would say it in."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _answers(effect: Effect | None) -> list[Answer]:
    if effect is None:
        return []
    safe = "No safety benchmark was run and no refusals were counted."
    return [
        Answer("Is it better?", effect.verdict, effect.why),
        Answer("Is it safe to use?", "not measured", safe),
    ]


def _warnings(run: Run) -> list[str]:
    missing = [stage.name for stage in run.stages if not stage.done]
    have = "has" if len(missing) == 1 else "have"
    return [f"This run is not finished: {listed(missing)} {have} no output yet."] if missing else []


def _without_scores(run: Run) -> str:
    trained = [stage for stage in run.of("train") if stage.done]
    if trained:
        names = listed([stage.name for stage in trained])
        return f"{names} trained; no evaluation has finished, so nothing says whether it is better"
    made = [stage for stage in run.of("scheme", "filter") if stage.done]
    return _rows(run, made[-1]) if made else "No stage has finished yet"


def _rows(run: Run, stage: StageRecord) -> str:
    """What became of the rows of a run without a model."""
    kept, dropped = stage.count("rows_out"), sum(stage.dropped.values())
    price = cost_per_row(run, stage)
    cost = f", {usd(price)} a kept row" if price is not None else ""
    of = f" of {count(kept + dropped)} ({percent(kept, kept + dropped)})" if dropped else ""
    return f"{stage.name} kept {count(kept)}{of} rows{cost}"
