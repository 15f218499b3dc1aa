"""Scores in plain words: what a value of a benchmark says of a model."""

from dataclasses import dataclass

from bezoar.evals.stats import Score
from bezoar.report.formatting import count, number

CHANCE = 0.5
SAFETY = (
    "advbench", "bbq", "bias", "crows", "donotanswer", "ethics",
    "harm", "hhh", "jailbreak", "realtoxicity", "refusal", "safety",
    "toxi", "truthfulqa", "winogender", "wmdp", "xstest",
)  # fmt: skip
"""Parts of names of benchmarks that say something about safety."""


@dataclass(frozen=True)
class Phrase:
    """ "prefers the better answer" "in" 89 % "of 45 held-out pairs"."""

    says: str
    place: str
    of: str

    def value(self, shown: str) -> str:
        """A value with the words around it."""
        return " ".join(part for part in (self.says, self.place, shown, self.of) if part)

    def other(self, shown: str) -> str:
        """A second value, after the first."""
        return f"{self.place} {shown}".strip()


def items_of(benchmark: str) -> str:
    """What the items of a benchmark are."""
    return "pairs" if benchmark.split("/")[0] in ("preferences", "RewardBench") else "items"


def phrase(benchmark: str, n: int, *, held_out: bool = True) -> Phrase:
    """The words for a benchmark with `n` items; not `held_out` if the model was trained on some."""
    family, _, metric = benchmark.partition("/")
    if family == "preferences" and metric.endswith("accuracy"):
        of = f"of {count(n)} {'held-out ' if held_out else ''}pairs"
        if metric.startswith("log-prob"):
            return Phrase("finds the better answer likelier", "in", of)
        return Phrase("prefers the better answer", "in", of)
    if family == "win rate":
        return Phrase("gives the better answer", "to", f"of {count(n)} questions")
    if family == "RewardBench":
        return Phrase("puts the better answer first", "in", f"of {count(n)} pairs")
    if family == "mt_bench":
        return Phrase("is graded", "", f"of 10 over {count(n)} answers of MT-Bench")
    if metric.startswith("prompt_level"):
        return Phrase("keeps every instruction", "in", f"of {count(n)} prompts of {family}")
    if metric in ("acc", "acc_norm") or (family.startswith("BFCL ") and metric):
        return Phrase("is right", "in", f"of {count(n)} questions of {family}")
    return Phrase("has", "", f"on {benchmark} (n = {count(n)})")


def is_share(benchmark: str) -> bool:
    """Whether a score is a share of items that came out well."""
    family, _, metric = benchmark.partition("/")
    return (
        family in ("win rate", "RewardBench", "RewardBench 2")
        or family.startswith(("BFCL ", "JSON mode", "cited documents"))
        or metric in ("acc", "acc_norm", "exact_match")
        or metric.endswith("_acc")
        or (metric.endswith("accuracy"))
    )


def has_chance(benchmark: str) -> bool:
    """Whether a model without a preference has one half."""
    family, _, metric = benchmark.partition("/")
    if family == "preferences":
        return metric.startswith("implicit reward") and metric.endswith("accuracy")
    return benchmark in ("win rate", "win rate/free of position") or family == "RewardBench"


def is_safety(benchmark: str) -> bool:
    """Whether a benchmark says something about safety, by its name."""
    return any(part in benchmark.lower() for part in SAFETY)


def as_value(benchmark: str, value: float | None) -> str:
    """A share as a percentage, anything else as a number."""
    if value is None or not is_share(benchmark):
        return number(value)
    return f"{100 * value:.0f} %"


def as_interval(benchmark: str, score: Score) -> str:
    """The interval in brackets, or why there is none."""
    if score.low is None or score.high is None:
        return f"({score.reason or 'no interval'})"
    low, high = (as_value(benchmark, bound) for bound in (score.low, score.high))
    return f"({low.removesuffix(' %')}–{high})" if is_share(benchmark) else f"({low} to {high})"


def as_change(benchmark: str, value: float) -> str:
    """A difference: points of a share, else a number."""
    if not is_share(benchmark):
        return ("+" if value > 0 else "") + number(value)
    points = f"{100 * value:+.0f}".replace("-", "−")
    return f"{points} {'point' if points in ('+1', '−1') else 'points'}"


def named(benchmark: str) -> str:
    """A benchmark in a list."""
    family, _, metric = benchmark.partition("/")
    if family == "mt_bench":
        return "MT-Bench"
    return family if metric in ("acc", "acc_norm") or family.startswith("BFCL ") else benchmark
