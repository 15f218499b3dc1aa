"""What training changed on the score that says most: a model against those below it."""

from dataclasses import dataclass, field
from functools import cached_property

from bezoar.evals.outcome import benchmark_of, mostly_trained_on, trained_on
from bezoar.evals.repeats import Spread
from bezoar.evals.stats import Difference, Score
from bezoar.report.lineage import models_below
from bezoar.report.load_scores import read_score
from bezoar.report.plain_words import (
    CHANCE,
    as_change,
    as_interval,
    as_value,
    has_chance,
    items_of,
    phrase,
)
from bezoar.report.repeats import Claim, against_chance, claim, spread
from bezoar.report.run import Run, StageRecord
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.training import objective
from bezoar.report.siblings import Siblings, siblings

PREFERRED = ("preferences/implicit reward", "win rate", "RewardBench", "BFCL simple", "mt_bench")
"""Starts of the names of scores that say most, best first."""
LEAST = ("preferences/log-prob",)
"""Those that hardly move."""


@dataclass(frozen=True)
class Change:
    """A model against an earlier one on one benchmark."""

    benchmark: str
    earlier: str
    """Key of the earlier model."""
    label: str
    first: Score
    second: Score
    difference: Difference

    @property
    def in_words(self) -> str:
        """The difference with its interval, and what the test says."""
        difference = self.difference
        if difference.same_on_every_item:
            return "the same on every item"
        bounds = ""
        if difference.low is not None and difference.high is not None:
            ends = (difference.low, difference.high)
            low, high = (as_change(self.benchmark, end).split(" ")[0] for end in ends)
            bounds = f" ({low} to {high})"
        return f"{as_change(self.benchmark, difference.difference)}{bounds}, {self.verdict}"

    @property
    def verdict(self) -> str:
        """What the test says, with p where it rests on p alone: always the corrected one."""
        verdict, p = self.difference.verdict, self.difference.p_in_words
        return verdict if not p or "p = " in verdict or "too " in verdict else f"{verdict} ({p})"

    @property
    def over_label(self) -> str:
        """The verdict with the name of the earlier model: "better than base (p = 0.001)"."""
        if self.difference.distinguishable:
            word, _, p = self.verdict.partition(" ")
            return f"{word} than {self.label} {p}".rstrip()
        return f"against {self.label} {self.verdict}"


@dataclass(frozen=True)
class Effect:
    """A trained model on one benchmark, against the models that it was trained from."""

    stage: StageRecord
    label: str
    benchmark: str
    score: Score
    changes: list[Change] = field(default_factory=list)
    """Against the evaluated models below it, the nearest first, the start model last."""
    siblings: Siblings | None = None
    """The other last models of the same start that were measured alike."""
    num_finals: int = 1
    opponent: str = ""
    """The model that a win rate is over."""
    overlap: str = ""
    """ "trained on 20 of 20 of these items", if so."""
    mostly_seen: bool = False
    """Whether those are half of the items or more."""
    spread: Spread | None = None
    """The score over the seeds of a recipe with `repeats`."""
    claim: Claim | None = None
    """The difference from the start model, or else from chance, by seed."""

    @property
    def after(self) -> str:
        """How the model is called: by its objective where the stage has that name."""
        kind = objective(self.stage)
        return kind.upper() if self.stage.name.lower() == kind else self.label

    @cached_property
    def beats_chance(self) -> bool | None:
        """Whether the interval lies above one half (True) or below; None for neither."""
        low, high = self.score.low, self.score.high
        if not has_chance(self.benchmark) or low is None or high is None:
            return None
        return True if low > CHANCE else False if high < CHANCE else None

    @property
    def chance_known(self) -> bool:
        """Whether one half is what a model without a preference has."""
        return has_chance(self.benchmark)

    @property
    def better(self) -> bool | None:
        """Better than the start model, or where none is measured than chance; None if unclear.

        Of several seeds most must show it and none point the other way.
        """
        if self.claim and (
            not self.claim.agree or 2 * len(self.claim.shown) <= len(self.claim.differences)
        ):
            return None
        if not self.changes or self.opponent:
            return self.beats_chance
        to_start = self.changes[-1].difference
        return to_start.verdict == "better" if to_start.distinguishable else None

    @property
    def sentence(self) -> str:
        """Effect, interval and n; of items that it was trained on that comes first."""
        score = self.score
        words = phrase(self.benchmark, score.n, held_out=not self.overlap)
        clause = words.value(as_value(self.benchmark, score.value))
        if self.overlap:
            what = "Nothing" if self.mostly_seen else "Little"
            new = f"{what} can be said about new {items_of(self.benchmark)}"
            value = f"{clause} {as_interval(self.benchmark, score)}"
            return f"{new}: {self.after} was {self.overlap}; on them it {value}"
        first = f"After {self.after} the model {clause} {as_interval(self.benchmark, score)}"
        if self.spread and len(self.spread.values) > 1:
            ends = [as_value(self.benchmark, x) for x in (self.spread.lowest, self.spread.highest)]
            over = "the same" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
            first += f", {over} over {len(self.spread.values)} seeds"
        if self.opponent:
            return f"{first} than {self.opponent}{self._beside}"
        if not self.changes:
            chance = f", where chance is {as_value(self.benchmark, CHANCE)}"
            return f"{first}{chance if has_chance(self.benchmark) else ''}{self._beside}"
        nearest, start = self.changes[0], self.changes[-1]
        before, at_start = (
            words.other(as_value(self.benchmark, change.first.value)) for change in (nearest, start)
        )
        if nearest is not start:
            first += f", before {before}, at the start {at_start}"
        elif start.first.by_definition:
            first += f", where chance is {at_start.split(' ', 1)[-1]}"
        else:
            first += f", before {before}"
        return f"{first}: {start.over_label}{self._beside}"

    @property
    def _beside(self) -> str:
        if self.num_finals == 1:
            return ""
        if self.siblings:
            return f"; {self.siblings.sentence}"
        return f", the best of {self.num_finals} models"


def finals(run: Run, board: Scoreboard) -> list[StageRecord]:
    """The evaluated training stages on which no other evaluated one is built."""
    trained = [stage for stage in run.of("train") if stage.name in board.labels]
    below = {name for stage in trained for name in models_below(run, stage)}
    return [stage for stage in trained if stage.name not in below]


def main_effect(run: Run, board: Scoreboard) -> Effect | None:
    """The best of the last models on the score that says most; None without one."""
    last = finals(run, board)
    ranked = sorted(board.main, key=_rank)
    for benchmark in ranked:
        scored = {
            stage.name: stage
            for stage in last
            if (score := board.score(benchmark, stage.name)) and not score.by_definition
        }
        if scored and not benchmark.endswith("margin"):
            return _effect(run, board, benchmark, scored)
    return None


def changes(run: Run, board: Scoreboard, stage: StageRecord, benchmark: str) -> list[Change]:
    """A model against each evaluated one below it that was measured alike, the nearest first."""
    second, steps = board.score(benchmark, stage.name), []
    for name in models_below(run, stage):
        first = board.score(benchmark, name)
        difference = first and board.against(benchmark, name).get(stage.name)
        if first and second and difference:
            label = board.labels[name]
            steps.append(Change(benchmark, name, label, first, second, difference))
    return steps


def _rank(benchmark: str) -> int:
    starts = [i for i, start in enumerate(PREFERRED) if benchmark.startswith(start)]
    return starts[0] if starts else len(PREFERRED) + benchmark.startswith(LEAST)


def _effect(run: Run, board: Scoreboard, benchmark: str, last: dict[str, StageRecord]) -> Effect:
    scores = {name: board.cells[benchmark, name] for name in last}
    sign = 1 if next(iter(scores.values())).higher_is_better else -1
    # of equals the one that was trained last
    best = max(reversed(last), key=lambda name: sign * (scores[name].value or 0.0))
    start_of = {name: models_below(run, stage)[-1:] for name, stage in last.items()}
    family = [name for name in last if start_of[name] == start_of[best]]
    below = changes(run, board, last[best], benchmark)
    over_seeds = None
    if board.seeds and best in board.repeated:
        start = below[-1].earlier if below else ""
        over_seeds = claim(board, benchmark, best, start) if start else None
        over_seeds = over_seeds or against_chance(board, benchmark, best)
    facts = board.info(best).get("win_rate") or {}
    opponent = str(facts.get("against") or "") if benchmark.startswith("win rate") else ""
    return Effect(
        last[best],
        board.labels[best],
        benchmark,
        scores[best],
        below,
        siblings(board, benchmark, best, family),
        len(last),
        board.labels.get(opponent, opponent),
        overlap(board, best).get(benchmark_of(benchmark), ""),
        mostly_trained_on(board.info(best), benchmark_of(benchmark)),
        spread(board, benchmark, best),
        over_seeds,
    )


def overlap(board: Scoreboard, model: str) -> dict[str, str]:
    """Benchmark -> "trained on 20 of 20 of these items", for those with such items."""
    return trained_on(board.info(model))


def judges(board: Scoreboard, model: str) -> dict[str, str]:
    """Section -> why its judge cannot judge, for those of which this is so."""
    sections = {name: part for name, part in board.info(model).items() if isinstance(part, dict)}
    reasons = {
        name: str(part["cannot_judge"])
        for name, part in sections.items()
        if part.get("cannot_judge")
    }
    card = sections.get("judge_card", {})
    for row in card.get("scores") or []:
        score = read_score(row)
        if score.name != "judge/accuracy" or score.low is None or score.high is None:
            continue
        if score.low <= CHANCE <= score.high and "judge_card" not in reasons:
            shown = f"{as_value(score.name, score.value)} of {score.n} games"
            bounds = as_interval(score.name, score)
            reasons["judge_card"] = f"is right in {shown} {bounds}, which may be chance"
    return reasons
