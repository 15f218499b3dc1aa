"""Scores over the seeds of `repeats:`: their spread, and the claims that not every seed shows."""

from collections.abc import Mapping
from dataclasses import dataclass

from bezoar.evals.preferences import REWARD
from bezoar.evals.repeats import Spread
from bezoar.evals.stats import Difference
from bezoar.report.formatting import listed, signed
from bezoar.report.scoreboard import Scoreboard


@dataclass(frozen=True)
class Claim:
    """The difference of a model from another on one benchmark, by seed."""

    benchmark: str
    model: str
    against: str
    differences: dict[int, Difference]
    higher_is_better: bool = True

    @property
    def shown(self) -> list[int]:
        """The seeds whose paired test finds a difference."""
        return [seed for seed, d in self.differences.items() if d.distinguishable]

    def on_side(self, sign: int) -> list[int]:
        """The seeds in which the model is better (sign 1) or worse (-1)."""
        sign = sign if self.higher_is_better else -sign
        return [seed for seed, d in self.differences.items() if d.difference * sign > 0]

    @property
    def agree(self) -> bool:
        """Whether no seed points the other way."""
        return not (self.on_side(1) and self.on_side(-1))

    def __str__(self) -> str:
        """How many seeds say what, for a table or behind a claim."""
        num = len(self.differences)
        better, worse = len(self.on_side(1)), len(self.on_side(-1))
        side, most = ("better than", better) if better >= worse else ("worse than", worse)
        return f"{side} {self.against} in {most} of {num}, shown in {len(self.shown)}"

    @property
    def warning(self) -> str:
        """A sentence about a claim that not every seed carries; "" for others."""
        if not self.shown or (self.agree and len(self.shown) == len(self.differences)):
            return ""
        what = f"{self.benchmark}: that {self.model} differs from {self.against}"
        others = {s: d for s, d in self.differences.items() if s not in self.shown}
        if not others:
            return (
                f"{what} is shown by every seed, in both directions: {_by_seed(self.differences)}."
            )
        alone = len(self.shown) == 1
        who = f"seed {self.shown[0]} alone" if alone else f"seeds {listed([*map(str, self.shown)])}"
        sides = "" if self.agree else ", so not even the direction is sure"
        return f"{what} is carried by {who}; the others show {_by_seed(others)}{sides}."


def _by_seed(differences: Mapping[int, Difference]) -> str:
    return listed([f"{signed(d.difference)} (seed {seed})" for seed, d in differences.items()])


def spread(board: Scoreboard, benchmark: str, model: str) -> Spread | None:
    """The score of a model that was trained with every seed; None for others."""
    if model not in board.repeated:
        return None
    scores = {seed: own.score(benchmark, model) for seed, own in board.seeds.items()}
    values = {seed: s.value for seed, s in scores.items() if s and s.value is not None}
    return Spread(values) if values else None


def claim(board: Scoreboard, benchmark: str, model: str, against: str) -> Claim | None:
    """How `model` differs from `against` in every seed that has both; None without one."""
    # the paired tests of a seed that is not finished are missing
    pairs = {seed: own.against(benchmark, against).get(model) for seed, own in board.seeds.items()}
    differences = {seed: difference for seed, difference in pairs.items() if difference}
    names = board.labels.get(model, model), board.labels.get(against, against)
    higher = any(s.higher_is_better for s in board.of(benchmark).values())
    return Claim(benchmark, *names, differences, higher) if differences else None


def against_chance(board: Scoreboard, benchmark: str, model: str) -> Claim | None:
    """How a score differs in every seed from that of a model without a preference: one half, or a
    margin of 0."""
    if not benchmark.startswith((REWARD, "win rate")):
        return None
    chance, differences = 0.0 if benchmark.endswith("margin") else 0.5, {}
    for seed, own in board.seeds.items():
        s = own.score(benchmark, model)
        if s is None or s.value is None or s.low is None or s.high is None:
            continue
        bounds, apart = (s.low - chance, s.high - chance), s.low > chance or s.high < chance
        differences[seed] = Difference(
            benchmark, chance, s.value, s.value - chance, *bounds, None, s.n, intervals_apart=apart
        )
    label = board.labels.get(model, model)
    return Claim(benchmark, label, "chance", differences) if differences else None


def claims(board: Scoreboard, benchmark: str) -> list[Claim]:
    """Of each model trained with every seed: against the first model that was measured alike, or
    else against chance."""
    first = next(iter(board.of(benchmark)), "")
    found = (
        (claim(board, benchmark, model, first) if model != first else None)
        or against_chance(board, benchmark, model)
        for model in board.labels
        if model in board.repeated
    )
    return [each for each in found if each]


def warnings(board: Scoreboard) -> list[str]:
    """Claims on the main benchmarks that some seeds do not carry, a sentence each.

    Accuracy and margin of one score are two views of it: the accuracy speaks for both.
    """
    doubtful: dict[tuple[str, str, str], Claim] = {}
    for benchmark in sorted(board.main, key=lambda name: name.endswith("margin")):
        name = benchmark.removesuffix("accuracy").removesuffix("margin")
        for claim in claims(board, benchmark):
            if claim.warning:
                doubtful.setdefault((name, claim.model, claim.against), claim)
    return [claim.warning for claim in doubtful.values()]
