"""What training changed on the score that says most, in plain words."""

from dataclasses import dataclass
from typing import Literal

from bezoar.evals.stats import Difference, Score
from bezoar.report.formatting import count, number, signed
from bezoar.report.run import Run
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.training import objective


@dataclass(frozen=True)
class Effect:
    """A trained model against an earlier one on one benchmark."""

    after: str
    """How the trained model is called."""
    before: str
    benchmark: str
    score: Score
    earlier: Score | None
    difference: Difference | None

    @property
    def verdict(self) -> Literal["yes", "no", "unclear"]:
        """Whether the model became better."""
        if self.difference is None or not self.difference.distinguishable:
            return "unclear"
        better = (self.difference.difference > 0) == self.score.higher_is_better
        return "yes" if better else "no"

    @property
    def sentence(self) -> str:
        """Effect, interval and n."""
        shown = as_value(self.benchmark, self.score.value)
        low, high = (as_value(self.benchmark, x) for x in (self.score.low, self.score.high))
        bounds = f" ({low.removesuffix(' %')}–{high})" if self.score.low is not None else ""
        said = f"After {self.after} the model {in_words(self.benchmark, shown, self.score.n)}"
        if self.earlier is None:
            return f"{said}{bounds}"
        earlier = as_value(self.benchmark, self.earlier.value)
        return f"{said}{bounds}, {self.before} in {earlier}"

    @property
    def why(self) -> str:
        """The paired difference."""
        if self.difference is None:
            return "No earlier model was measured alike."
        d = self.difference
        return f"{self.benchmark}: {signed(d.difference)} over {count(d.n)} items."


def main_effect(run: Run, board: Scoreboard) -> Effect | None:
    """The last trained model on the first main score that it has; None without one."""
    trained = [stage for stage in run.of("train") if stage.name in board.labels]
    if not trained:
        return None
    stage = trained[-1]
    benchmark = next((name for name in board.main if board.score(name, stage.name)), None)
    if benchmark is None:
        return None
    score = board.cells[benchmark, stage.name]
    kind = objective(stage)
    after = kind.upper() if stage.name.lower() == kind else board.labels[stage.name]
    differences = board.against(benchmark, stage.name)
    # Of the models measured alike the one trained last before it is "before".
    others = [name for name in board.labels if name in differences]
    if not others:
        return Effect(after, "", benchmark, score, None, None)
    before = others[-1]
    return Effect(
        after,
        f"{board.labels[before]} before",
        benchmark,
        score,
        board.score(benchmark, before),
        board.against(benchmark, before).get(stage.name),
    )


def as_value(benchmark: str, value: float | None) -> str:
    """A share as a percentage, anything else as a number."""
    if value is not None and is_share(benchmark):
        return f"{value:.0%}".replace("%", " %")
    return number(value)


def is_share(benchmark: str) -> bool:
    """Whether a score counts items that came out well."""
    return benchmark.endswith(("accuracy", "/acc", "/acc_norm", "win rate"))


def in_words(benchmark: str, value: str, n: int) -> str:
    """What a value of a benchmark means."""
    if benchmark.startswith("preferences/") and benchmark.endswith("accuracy"):
        return f"prefers the better answer in {value} of {count(n)} held-out pairs"
    if benchmark == "win rate":
        return f"wins {value} of {count(n)} questions"
    return f"has {value} on {benchmark} (n = {count(n)})"
