"""Models that were trained in other ways from the same start: the best against each of the rest."""

from dataclasses import dataclass

from bezoar.evals.comparison import differences
from bezoar.evals.stats import Difference
from bezoar.report.formatting import listed
from bezoar.report.plain_words import as_change
from bezoar.report.repeats import claim
from bezoar.report.scoreboard import Scoreboard

MOST_NAMES = 2
"""That the leader is better than, with the figures; more are named alone."""


@dataclass(frozen=True)
class Siblings:
    """The leader of models of one start and the others' differences from it, corrected for their
    number (Holm) and for no comparison beside."""

    benchmark: str
    leader: str
    labels: dict[str, str]
    against: dict[str, Difference]
    """Every other model -> its difference from the leader."""
    over_seeds: dict[str, str]
    """Model -> in how many seeds the difference is shown, where there are several."""

    @property
    def sentence(self) -> str:
        """Which of them the leader is better than, and from which it cannot be told."""
        lead = self.labels[self.leader]
        behind = [model for model, difference in self.against.items() if difference.distinguishable]
        alike = [self.labels[model] for model in self.against if model not in behind]
        tied = listed(alike) if alike else ""
        if not behind:
            return f"no method is shown to be the best: {lead} cannot be told from {tied}"
        if len(behind) > MOST_NAMES:
            better = f"{lead} is better than {listed([self.labels[model] for model in behind])}"
        else:
            better = f"{lead} is better than {listed([self._by(model) for model in behind])}"
        return f"{better}, and cannot be told from {tied}" if tied else better

    def _by(self, model: str) -> str:
        difference = self.against[model]
        bounds = sorted(abs(end) for end in (difference.low, difference.high) if end is not None)
        ends = [as_change(self.benchmark, end).split(" ")[0].removeprefix("+") for end in bounds]
        size = as_change(self.benchmark, abs(difference.difference)).removeprefix("+")
        facts = [" to ".join(ends), difference.p_in_words, self.over_seeds.get(model, "")]
        return f"{self.labels[model]} by {size} ({', '.join(filter(None, facts))})"


def siblings(board: Scoreboard, benchmark: str, leader: str, models: list[str]) -> Siblings | None:
    """The leader against those of the models that were measured alike; None without one."""
    group = next((names for names in board.alike(benchmark) if leader in names), [])
    others = [model for model in models if model != leader and model in group]
    if not others:
        return None
    measured = [board.measured(benchmark, model) for model in others]
    against = differences(board.measured(benchmark, leader), measured)
    shown = {}
    for model in others:
        by_seed = (
            claim(board, benchmark, model, leader) if {model, leader} <= board.repeated else None
        )
        if by_seed and len(by_seed.differences) > 1:
            shown[model] = f"shown in {len(by_seed.shown)} of {len(by_seed.differences)} seeds"
    return Siblings(benchmark, leader, board.labels, against, shown)
