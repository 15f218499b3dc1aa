"""What a pairwise judge is worth: agreement with gold preferences, its biases, its failures,
whether it repeats itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bezoar.chat.types import Comparison
from bezoar.errors import RecipeError
from bezoar.evals.agreement import cohen_kappa
from bezoar.evals.injection import CONTROL, NAME, PLANTS, injection
from bezoar.evals.judges import JudgeConfig, PairJudge, pair_judge
from bezoar.evals.labelled_pairs import LabelledPairs
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.stats import Score, clustered_score, percentiles, resamples, score
from bezoar.evals.win_rate import first_position
from bezoar.io import Row, content_hash
from bezoar.llm.cost import Estimate, RequestEstimate, exactly
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.pairwise import Preference, Side

Games = list[Side | Unparsed]


@dataclass(frozen=True)
class JudgeCard(JudgeConfig, LabelledPairs):
    """Recipe keys: the judge (the evaluated model by default), the gold pairs, and how often they
    are asked again under other seeds (`repeats`). `own` is the name of the judge's own model in the
    pairs' `meta["models"]`. Below `min_accuracy` or `min_kappa` the run stops, before the sections
    that follow ask the judge for anything. With `injection` the pairs are asked once more with
    words of a verdict planted in the worse answers.

    The figures of the evaluated model are scores; those of another judge stand in the section's
    facts.
    """

    repeats: int = 1
    own: str = ""
    injection: bool = True
    min_accuracy: float | None = None
    min_kappa: float | None = None

    def __post_init__(self) -> None:
        LabelledPairs.__post_init__(self)
        if self.judge and self.reward_model:
            raise ValueError("judge_card examines a judge or a reward_model; remove one of them")

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """`measure` of the judge on the pairs."""
        pairs, judge = self.read(given), pair_judge(self, given, model)
        made = self.measure(pairs, judge)
        if self.judge or self.reward_model:
            given.progress.say(f"judge {judge.name}: {'; '.join(map(str, made.scores[:4]))}")
            made.info["judge_card"]["scores"] = [s.to_dict() for s in made.scores]
            made = Outcome(info=made.info)
        return made

    def measure(self, pairs: Sequence[Comparison], judge: PairJudge) -> Outcome:
        """The card; `chosen` is the gold answer of every pair. RecipeError when the judge is below
        a minimum."""
        verdicts, margins = judge.compare(pairs, 0)
        again = [judge.compare(pairs, number)[0] for number in range(1, self.repeats + 1)]
        made = card(pairs, verdicts, again, self.own)
        if any(margin is not None for margin in margins):
            made.scores.append(
                score(
                    "judge/accuracy free of position",
                    [None if m is None else float(m > 0) for m in margins],
                )
            )
        for name, least in (("accuracy", self.min_accuracy), ("kappa", self.min_kappa)):
            value = next(s.value for s in made.scores if s.name == f"judge/{name}")
            if least is not None and (value is None or value < least):
                found = (
                    "not one verdict could be read"
                    if value is None
                    else f"its {name} is {value:.3f}"
                )
                raise RecipeError(
                    f"judge {judge.name}: {found} and min_{name} asks for {least}; take another"
                    " judge."
                )
        same = {"pairs": content_hash([p.to_row() for p in pairs]), "repeats": self.repeats}
        facts = {"judge": judge.name, "judge_hash": judge.hash, "conditions": {"judge/": same}}
        if self.injection:
            fell = injection(pairs, verdicts, judge)
            made.scores[1:1] = fell.scores
            made.items.extend(fell.items)
            facts |= {
                **fell.info,
                "conditions": {
                    "judge/": same,
                    NAME: {**same, "plants": content_hash(PLANTS, CONTROL)},
                },
            }
        return Outcome(made.scores, made.items, {"judge_card": facts})

    def quote(self) -> list[tuple[str, RequestEstimate]]:
        """Two questions a pair and time that it is asked, planted words included, to the evaluated
        model ("") where no other judge is named."""
        if self.reward_model or self.rows:
            return []
        return [
            (self.judge, calls)
            for calls in self.pairwise.quote(
                exactly(len(self.read()) * (1 + self.repeats + self.injection))
            )
        ]

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """Of the accuracy."""
        return self.least("judge card", rows)


def card(
    pairs: Sequence[Comparison],
    verdicts: Sequence[Preference],
    again: Sequence[Sequence[Preference]],
    own: str = "",
) -> Outcome:
    """The figures. A game is right when the gold answer is named: a tie is wrong. A failed game is
    in no figure but its own."""
    games: list[Games] = [[v.first, v.second] for v in verdicts]
    right = [[_right(side) for side in two] for two in games]
    scores = [
        clustered_score("judge/accuracy", right, share=True),
        score(
            "judge/right in both orders",
            [None if None in two else float(all(two)) for two in right],
        ),
        _kappa(games),
        replace(first_position(verdicts), name="judge/first position"),
        lean_bias("judge/length bias", [len(p.chosen) - len(p.rejected) for p in pairs], games),
        clustered_score(
            "judge/unparsed",
            [[float(isinstance(side, Unparsed)) for side in two] for two in games],
            share=True,
        ),
        *([_repeats(verdicts, again)] if again else []),
    ]
    if own:
        scores.append(lean_bias("judge/self-preference", [_own_side(p, own) for p in pairs], games))
    items: list[Row] = [
        {
            "benchmark": "judge/accuracy",
            "id": p.id,
            "value": None if None in two else sum(x or 0.0 for x in two) / 2,
            "first": _word(v.first),
            "second": _word(v.second),
        }
        for p, two, v in zip(pairs, right, verdicts, strict=True)
    ]
    return Outcome(scores, items)


def _right(side: Side | Unparsed) -> float | None:
    return None if isinstance(side, Unparsed) else float(side == "A")


def _kappa(games: Sequence[Games]) -> Score:
    """Over games, by position: the gold answer stood first in every first game and second in every
    second one."""
    gold, said = [], []
    for first, second in games:
        if not isinstance(first, Unparsed):
            gold.append("first")
            said.append({"A": "first", "B": "second", "tie": "tie"}[first])
        if not isinstance(second, Unparsed):
            gold.append("second")
            said.append({"A": "second", "B": "first", "tie": "tie"}[second])
    if not gold:
        return Score("judge/kappa", None, None, None, 0, 2 * len(games))
    return replace(cohen_kappa("judge/kappa", gold, said), num_failed=2 * len(games) - len(gold))


def lean_bias(name: str, leans: Sequence[int], games: Sequence[Games]) -> Score:
    """How much a judge leans to one side of pairs, whatever gold says: 0 for none, 0.5 for always,
    -0.5 for never.

    A pair leans to its gold answer (> 0) or to the other one (< 0), say because that one is longer.
    The score is the mean of the two kinds' shares of decided games that take the side leant to,
    less one half, so that neither a perfect judge nor a blind one has a bias. None where a kind is
    absent. Pairs without a lean or a decided game are left out; failed ones counted.
    """
    kinds: dict[bool, list[float]] = {True: [], False: []}
    num_failed = 0
    for lean, two in zip(leans, games, strict=True):
        sides = [side for side in two if not isinstance(side, Unparsed)]
        decided = [side for side in sides if side != "tie"]
        num_failed += bool(lean) and len(sides) < len(two)
        if lean and decided and len(sides) == len(two):
            kinds[lean > 0].append(
                sum((side == "A") == (lean > 0) for side in decided) / len(decided)
            )
    n = len(kinds[True]) + len(kinds[False])
    if not kinds[True] or not kinds[False]:
        return Score(name, None, None, None, n, num_failed)
    value = sum(sum(shares) / len(shares) for shares in kinds.values()) / 2 - 0.5
    drawn = [np.array(shares)[resamples(len(shares))].mean(1) for shares in kinds.values()]
    low, high = percentiles((drawn[0] + drawn[1]) / 2 - 0.5)
    return Score(name, value, low, high, n, num_failed)


def _own_side(pair: Comparison, own: str) -> int:
    models = pair.meta.get("models", ["", ""])
    return int(models[0] == own) - int(models[1] == own)


def _repeats(verdicts: Sequence[Preference], again: Sequence[Sequence[Preference]]) -> Score:
    """Share of games with the same verdict when asked again."""
    groups: list[list[float | None]] = []
    for index, verdict in enumerate(verdicts):
        group: list[float | None] = []
        for other in again:
            for one, two in (
                (verdict.first, other[index].first),
                (verdict.second, other[index].second),
            ):
                group.append(
                    None
                    if isinstance(one, Unparsed) or isinstance(two, Unparsed)
                    else float(one == two)
                )
        groups.append(group)
    return clustered_score("judge/repeats itself", groups, share=True)


def _word(side: Side | Unparsed) -> str:
    return f"unparsed: {side.why}" if isinstance(side, Unparsed) else side
