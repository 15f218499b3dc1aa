"""RewardBench (arXiv 2403.13787): how often the chosen answer is scored strictly higher.

A section's score is the mean of its subsets weighted by RewardBench's own counts (which weigh
math-prm as much as code), the overall one the mean of the four sections, as HelpSteer2 (arXiv
2406.08673) reports it; a tie is wrong. Prior Sets is the plain mean of four older test sets; the
leaderboard's score weighs it half as much as a section.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from bezoar.bounds import Count
from bezoar.chat.templates import Template
from bezoar.chat.types import Comparison
from bezoar.cost import Estimate, RequestEstimate, exactly
from bezoar.errors import RecipeError
from bezoar.evals.judges import PairJudge, asked_judge, has_head, reward_judge
from bezoar.evals.labelled_pairs import LabelledPairs
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.preferences import Preferences, pair_texts
from bezoar.evals.stats import NONE, NUM_RESAMPLES, SEED, Score, percentiles, score
from bezoar.evals.win_rate import prompt_value
from bezoar.io import Row, content_hash
from bezoar.model.spec import RewardWeights
from bezoar.references import FileRef, ModelRef
from bezoar.verdicts.forms import Way, said_of
from bezoar.verdicts.pairwise import Pairwise

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

Scorer = Callable[[Sequence[Comparison]], Sequence[float | None]]
"""Gives one margin a pair, chosen over rejected; None for a pair that it cannot score."""
Weights = Mapping[str, float]
By = Literal["", "reward", "implicit reward", "log-prob", "log-prob per token", "judge"]
SECTIONS = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        **{f"hep-{language}": 164 for language in ("cpp", "go", "java", "js", "python", "rust")},
    },
}

PRIOR_SETS = ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")


@dataclass(frozen=True)
class RewardBench(LabelledPairs):
    """How often the model tells the better answer of RewardBench's or other known pairs.

    Splits of allenai/preference-test-sets are RewardBench's Prior Sets.

    Source: arXiv 2403.13787
    Example: {pairs: [reward-bench.parquet], by: reward}
    """

    by: By = ""
    """How; "": implicit reward with a reference, reward of a head, else as a judge."""
    reference: ModelRef = ""
    """Reference of the implicit reward."""
    prompt: FileRef = "bezoar:pairwise.txt"
    """Prompt of the model as a judge."""
    verdict: Way = "text"
    """How the model as a judge says its verdict: text, structured (held to its form) or logprob."""
    judge_tokens: Count = 512
    """Most tokens of a written verdict."""
    goodness: RewardWeights | None = None
    """How the outputs of a score head make one score."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_implicit = self.by == "implicit reward"
        if (is_implicit and not self.reference) or (self.reference and self.by and not is_implicit):
            raise ValueError("give reference for, and only for, `by: implicit reward`; mend it")

    def check(self, model: str) -> None:
        """Refuse a model as its own reference."""
        if self.reference == model:
            raise ValueError(
                "reward_bench.reference is the evaluated model: every margin is 0; name another"
            )

    @property
    def pairwise(self) -> Pairwise:
        """The evaluated model as a judge, still without a name."""
        return Pairwise("", self.prompt, self.verdict, self.judge_tokens)

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """`reward_bench` of the named model."""
        pairs = self.read(context)

        def measure() -> Outcome:
            by, scorer = self.scorer(model, context)
            outcome = reward_bench(pairs, scorer)
            outcome.texts["RewardBench"] = pair_texts(pairs)
            held = said_of(self.verdict) if by == "judge" else {}
            same = {"pairs": content_hash([pair.to_row() for pair in pairs]), **held}
            outcome.info["reward_bench"].update(by=by, **held, conditions={"RewardBench": same})
            return outcome

        return cache_part("reward_bench", measure)

    def scorer(self, model: str, context: EvalContext) -> tuple[str, Scorer]:
        """By what the model is scored, and how. RecipeError if it cannot be."""
        # 1) by what: the recipe's word, else what the model can do
        stack = None if context.answers_only else context.open_model(model)
        default = "implicit reward" if self.reference else "reward" if has_head(stack) else "judge"
        by = self.by or default
        # 2) a model that only answers can be a judge, the other ways need its weights
        if by == "judge":
            judge = replace(self.pairwise, judge=model)
            identity = getattr(stack, "identity", model)
            return by, judge_scorer(asked_judge(judge, context.ask_model(model), identity))
        if stack is None:
            raise RecipeError(
                f"reward_bench: {model} only answers, so it has no {by}; use by: judge."
            )
        if by == "reward":
            return by, judge_scorer(reward_judge(model, stack, context.template, self.goodness))
        reference = context.open_model(self.reference) if self.reference else None
        return by, likelihood_scorer(stack, reference, context.template, by)

    def quote(self, rows: Mapping[str, Estimate]) -> list[tuple[str, RequestEstimate]]:
        """Questions to the evaluated model, if it is a judge."""
        if self.by != "judge" or self.rows:
            return []
        return [("", requests) for requests in self.pairwise.quote(exactly(len(self.read())))]

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """Of the accuracy over all pairs."""
        return self.least("RewardBench", rows)


def reward_bench(pairs: Sequence[Comparison], scorer: Scorer) -> Outcome:
    """Accuracy by subset (`meta["subset"]`), section and overall; absent ones are left out."""
    margins = list(scorer(pairs))
    if len(margins) != len(pairs):
        raise ValueError("a scorer gives one margin a pair")
    right = [None if margin is None else float(margin > 0) for margin in margins]
    names = [str(pair.meta.get("subset", "pairs")) for pair in pairs]
    subsets: dict[str, list[float | None]] = {}
    for name, value in zip(names, right, strict=True):
        subsets.setdefault(name, []).append(value)
    # a section weighs its subsets by RewardBench's published counts, not by the rows at hand
    sections: dict[str, Weights] = {}
    for section, counts in SECTIONS.items():
        present = {name: count for name, count in counts.items() if name in subsets}
        if present:
            sections[section] = _shares(present)
    prior = _shares({name: 1.0 for name in PRIOR_SETS if name in subsets})
    # the overall score is the mean of sections; of one section it would only repeat its number
    scores, equal = [], [(1.0, weights) for weights in sections.values()]
    if len(sections) > 1:
        scores.append(_weighted("RewardBench", _joined(equal), subsets))
    if sections and prior:
        both = _joined([*equal, (0.5, prior)])
        scores.append(_weighted("RewardBench/with Prior Sets", both, subsets))
    if prior:
        sections["Prior Sets"] = prior
    for section, weights in sections.items():
        scores.append(_weighted(f"RewardBench/section {section}", weights, subsets))
    scores += [score(f"RewardBench/{name}", values) for name, values in subsets.items()]
    items: list[Row] = [
        {"benchmark": f"RewardBench/{name}", "id": pair.id, "value": value, "margin": margin}
        for name, pair, value, margin in zip(names, pairs, right, margins, strict=True)
    ]
    num_subsets = {section: len(weights) for section, weights in sections.items()}
    return Outcome(scores, items, {"reward_bench": {"sections": num_subsets}})


def _shares(weights: Weights) -> Weights:
    """The same weights with the sum 1."""
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _joined(parts: Sequence[tuple[float, Weights]]) -> Weights:
    """The shares of the subsets in a weighted mean of sections."""
    return _shares({name: w * share for w, part in parts for name, share in part.items()})


def _weighted(name: str, shares: Weights, subsets: Mapping[str, Sequence[float | None]]) -> Score:
    """The weighted mean of subsets.

    The interval draws each subset's accuracy from its Jeffreys posterior.
    """
    rng = np.random.default_rng(SEED)
    mean, draws = 0.0, np.zeros(NUM_RESAMPLES)
    values = [value for subset in shares for value in subsets[subset]]
    num_failed = values.count(None)
    n = len(values) - num_failed
    for subset, share in shares.items():
        kept = np.array([value for value in subsets[subset] if value is not None])
        # without one of its subsets a section would be another figure
        if not len(kept):
            return Score(name, None, None, None, 0, num_failed)
        # Jeffreys: a beta distribution with half a hit and half a miss as the prior
        num_right = kept.sum()
        mean += share * float(kept.mean())
        draws += share * rng.beta(num_right + 0.5, len(kept) - num_right + 0.5, NUM_RESAMPLES)
    interval = percentiles(draws) if n > 1 else NONE
    return Score(name, mean, *interval, n, num_failed)


def judge_scorer(judge: PairJudge) -> Scorer:
    """The judge's margin, free of position, if it has degrees; else its value less one half."""

    def margins(pairs: Sequence[Comparison]) -> list[float | None]:
        verdicts, degrees = judge.compare(pairs, 0)
        if any(degree is not None for degree in degrees):
            return degrees
        values = [prompt_value(verdict) for verdict in verdicts]
        return [None if value is None else value - 0.5 for value in values]

    return margins


def likelihood_scorer(
    stack: "Stack", reference: "Stack | None", template: Template, kind: str = "implicit reward"
) -> Scorer:
    """A model by its implicit reward over `reference`, by `log-prob` or `log-prob per token`."""

    # the same margins as in the section `preferences`, to the bit
    def margins(pairs: Sequence[Comparison]) -> list[float | None]:
        section = Preferences("pairs", None if reference is None else "reference")
        items = section.measure(pairs, stack, reference, template).items
        name = f"preferences/{kind} margin"
        return [item["value"] for item in items if item["benchmark"] == name]

    return margins
