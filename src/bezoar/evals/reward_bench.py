"""RewardBench-style accuracy (arXiv 2403.13787): how often a scorer puts the chosen answer strictly
above the rejected one.

A section's score is the mean of its subsets weighted by RewardBench's own counts (which weigh
math-prm as much as code), the overall one the mean of the sections; a tie is wrong. A scorer gives
one margin a pair: an implicit reward, a reward model's difference, or a judge's value over both
orders less one half.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from bezoar.chat.templates import Template
from bezoar.chat.types import Comparison
from bezoar.cost import Estimate, RequestEstimate, exactly
from bezoar.errors import RecipeError
from bezoar.evals.judges import JudgeConfig, PairJudge, asked_judge, has_head, reward_judge
from bezoar.evals.labelled_pairs import LabelledPairs
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.preferences import Preferences
from bezoar.evals.stats import NONE, NUM_RESAMPLES, SEED, Score, percentiles, score
from bezoar.evals.win_rate import prompt_value
from bezoar.io import Row, content_hash
from bezoar.model.spec import RewardWeights
from bezoar.references import FileRef, ModelRef
from bezoar.verdicts.pairwise import Pairwise

Scorer = Callable[[Sequence[Comparison]], Sequence[float | None]]
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


@dataclass(frozen=True)
class RewardBench(LabelledPairs):
    """Recipe keys: the gold pairs and `by` what the evaluated model tells the better answer: the
    reward of its score head (several outputs made one by `goodness`), its implicit reward over
    `reference`, its log-probability, or its verdict when it is asked as a judge with `prompt`.

    "" is the implicit reward where `reference` is given, the reward where the model has a head,
    else the judge.
    """

    by: By = ""
    reference: ModelRef = ""
    prompt: FileRef = "bezoar:pairwise.txt"
    verdict: Literal["text", "logprob"] = "text"
    judge_tokens: int = 512
    goodness: RewardWeights | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.by == "implicit reward" and not self.reference) or (
            self.reference and self.by not in ("", "implicit reward")
        ):
            raise ValueError(
                "reference is needed for, and only for, `by: implicit reward`; add or remove it"
            )

    def check(self, model: str) -> None:
        """A model has no reward over itself."""
        if self.reference == model:
            raise ValueError(
                "reward_bench.reference is the evaluated model itself, so every margin is 0; name"
                " the model below it"
            )

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """`reward_bench` of the named model."""
        pairs = self.read(given)

        def make() -> Outcome:
            by, scorer = self.scorer(model, given)
            made = reward_bench(pairs, scorer)
            made.texts["RewardBench"] = [
                (p.id, "\n".join([*(m.content for m in p.prompt), p.chosen])) for p in pairs
            ]
            made.info["reward_bench"].update(
                by=by,
                conditions={"RewardBench": {"pairs": content_hash([p.to_row() for p in pairs])}},
            )
            return made

        return keep("reward_bench", make)

    def scorer(self, model: str, given: EvalContext) -> tuple[str, Scorer]:
        """By what the model is scored, and how. RecipeError where it cannot be."""
        stack = None if given.answers_only else given.open_model(model)
        by = self.by or (
            "implicit reward" if self.reference else "reward" if has_head(stack) else "judge"
        )
        if by == "judge":
            judged = JudgeConfig(
                prompt=self.prompt, verdict=self.verdict, judge_tokens=self.judge_tokens
            )
            identity = getattr(stack, "identity", model)
            return by, judge_scorer(
                asked_judge(replace(judged.pairwise, judge=model), given.ask_model(model), identity)
            )
        if stack is None:
            raise RecipeError(
                f"reward_bench: {model} only answers, so it has no {by}; ask it as a judge (by:"
                " judge)."
            )
        if by == "reward":
            return by, judge_scorer(reward_judge(model, stack, given.template, self.goodness))
        return by, likelihood_scorer(
            stack, given.open_model(self.reference) if self.reference else None, given.template, by
        )

    def quote(self) -> list[tuple[str, RequestEstimate]]:
        """Questions to the evaluated model, where it is a judge."""
        if self.by != "judge" or self.rows:
            return []
        return [
            ("", calls)
            for calls in Pairwise("", verdict=self.verdict, max_tokens=self.judge_tokens).quote(
                exactly(len(self.read()))
            )
        ]

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """Of the accuracy over all pairs."""
        return self.least("RewardBench", rows)


def reward_bench(pairs: Sequence[Comparison], scorer: Scorer) -> Outcome:
    """Accuracy by subset (`meta["subset"]`), section and overall, with intervals; sections and
    subsets without pairs are left out."""
    margins = list(scorer(pairs))
    if len(margins) != len(pairs):
        raise ValueError("a scorer gives one margin a pair")
    right = [None if m is None else float(m > 0) for m in margins]
    subsets: dict[str, list[float | None]] = {}
    for pair, value in zip(pairs, right, strict=True):
        subsets.setdefault(str(pair.meta.get("subset", "pairs")), []).append(value)
    sections = {name: [s for s in counts if s in subsets] for name, counts in SECTIONS.items()}
    present = {name: members for name, members in sections.items() if members}
    whole = [(members, SECTIONS[name]) for name, members in present.items()]
    scores = [_weighted("RewardBench", whole, subsets)] if len(present) > 1 else []
    scores += [
        _weighted(f"RewardBench/section {name}", [part], subsets)
        for name, part in zip(present, whole, strict=True)
    ]
    scores += [score(f"RewardBench/{name}", values) for name, values in subsets.items()]
    items: list[Row] = [
        {
            "benchmark": f"RewardBench/{p.meta.get('subset', 'pairs')}",
            "id": p.id,
            "value": v,
            "margin": m,
        }
        for p, v, m in zip(pairs, right, margins, strict=True)
    ]
    return Outcome(
        scores,
        items,
        {"reward_bench": {"sections": {name: len(members) for name, members in present.items()}}},
    )


def _weighted(
    name: str,
    sections: Sequence[tuple[list[str], dict[str, int]]],
    subsets: dict[str, list[float | None]],
) -> Score:
    """The mean of sections of weighted subsets; the interval draws each subset's accuracy from its
    Jeffreys posterior."""
    rng = np.random.default_rng(SEED)
    value, drawn = 0.0, np.zeros(NUM_RESAMPLES)
    values = [value for members, _ in sections for member in members for value in subsets[member]]
    num_failed = values.count(None)
    n = len(values) - num_failed
    for members, weights in sections:
        total = sum(weights[m] for m in members)
        for member in members:
            kept = np.array([v for v in subsets[member] if v is not None])
            if not len(kept):
                return Score(name, None, None, None, 0, num_failed)
            share = weights[member] / total / len(sections)
            value += share * float(kept.mean())
            drawn += share * rng.beta(kept.sum() + 0.5, len(kept) - kept.sum() + 0.5, NUM_RESAMPLES)
    bounds = percentiles(drawn) if n > 1 else NONE
    return Score(name, value, bounds[0], bounds[1], n, num_failed)


def judge_scorer(judge: PairJudge) -> Scorer:
    """A judge of pairs: its margin where it has degrees (free of position), else its value over
    both orders less one half."""

    def margins(pairs: Sequence[Comparison]) -> list[float | None]:
        verdicts, degrees = judge.compare(pairs, 0)
        values = [prompt_value(v) for v in verdicts]
        if any(degree is not None for degree in degrees):
            return degrees
        return [None if v is None else v - 0.5 for v in values]

    return margins


def likelihood_scorer(
    stack: Any, reference: Any, template: Template, kind: str = "implicit reward"
) -> Scorer:
    """A model as a judge: its implicit reward over `reference`, or `log-prob` or `log-prob per
    token` where that is None."""

    def margins(pairs: Sequence[Comparison]) -> list[float | None]:
        items = (
            Preferences("pairs", "reference" if reference is not None else None)
            .measure(pairs, stack, reference, template)
            .items
        )
        return [
            item["value"] for item in items if item["benchmark"] == f"preferences/{kind} margin"
        ]

    return margins
