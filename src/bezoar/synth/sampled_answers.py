"""Several answers of a model to each prompt, with rewards and log-probabilities for alignment."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from bezoar.bounds import Count, Level
from bezoar.chat.attribute_levels import steered
from bezoar.chat.row_types import COMPARISONS, RowNeed, RowType
from bezoar.chat.types import AnyRow, Dropped, Filtered, Messages, SampledAnswers
from bezoar.cost import Estimate, Quote
from bezoar.errors import RecipeError
from bezoar.model.completions import completion_logprobs, reward_completions, reward_outputs
from bezoar.model.goodness import SearchedWeights
from bezoar.model.spec import Sampling
from bezoar.references import ModelRef, RewardRef, RowsRef
from bezoar.stage import Outputs, Stage, StageContext, Stats

CONCENTRATION = 24.0
"""alpha + beta of the Beta distribution, which fits the noise of HelpSteer2's labels."""
# Midway between the levels 0 to 4, on the scale from 0 to 1; the paper does not give them.
_BOUNDS = (0.0, 0.125, 0.375, 0.625, 0.875, 1.0)
_LEAST_CHANCE = 1e-8
_EDGE = 1e-3


@dataclass
class _Answered:
    """A row and the answers that were drawn for its prompt, with numbers of each by name."""

    row: AnyRow
    answers: list[str]
    numbers: dict[str, list[float]]


@dataclass(frozen=True)
class Sample(Stage):
    """Draws several answers of a model to each prompt, for best_of_n and the objective steerlm2.

    The row's own answer is kept in `meta`. `ended` is 1 for an answer that the model ended itself,
    0 for one that was cut off, whose end token no training and no log-probability takes in.
    With `attributes` each answer has `attribute_logprob`, log P(a|x,y), by a regression model.

    Source: HelpSteer2, arXiv 2406.08673, section 4.5 (n = 10, temperature 0.7, top_p 0.9)
    Example: {kind: sample, seeds: prompts, model: sft, n: 4, reward: reward}
    """

    seeds: RowsRef
    """The stage whose prompts are answered."""
    model: ModelRef
    """The model that answers."""
    n: Count = 4
    """Answers to each prompt."""
    reward: RewardRef | None = None
    """Reward model: each answer gets its outputs by name, and as `reward` what `goodness` gives."""
    goodness: SearchedWeights = field(default_factory=SearchedWeights)
    """How the outputs of `reward` make one number, by weights that may be searched."""
    attributes: dict[str, Level] = field(default_factory=dict)
    """Levels from 0 to 4 that `model` is told; needs `reward` and `prior`."""
    prior: ModelRef | None = None
    """Model for the `prior_logprob` of each answer, log P(y|x); it is not told the levels."""
    answers: Sampling = field(default_factory=lambda: Sampling(max_tokens=256))
    """How answers are drawn."""
    cut_off: Literal["keep", "drop"] = "keep"
    """drop leaves out prompts of which an answer was cut off at max_tokens."""
    kind: Literal["sample"] = "sample"
    gives = "rows"
    renders = True
    draws = True

    def __post_init__(self) -> None:
        if self.n > 1 and self.answers.temperature == 0:
            raise ValueError("answers.temperature 0 gives n equal answers; raise it")
        if self.attributes and (self.prior is None or self.reward is None):
            raise ValueError("attributes, for steerlm2, need reward and prior; add them")
        if self.reward is None and self.goodness != SearchedWeights():
            raise ValueError("goodness has no effect without a reward model; remove it")

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Answers with their numbers."""
        numbers = {"ended"}
        if self.reward:
            numbers |= {"reward", *outputs.get(self.reward, ())}
        if self.prior:
            numbers.add("prior_logprob")
        if self.attributes:
            numbers.add("attribute_logprob")
        return RowType("sampled answers", frozenset(numbers))

    def takes(self) -> Mapping[str, RowNeed]:
        """Weights are searched on pairs."""
        return {"goodness.rows": (COMPARISONS,)}

    def run(self, context: StageContext) -> Stats:
        """Search the weights, if asked, sample the answers and write them."""
        if self.goodness.rows and self.reward:
            reward, pairs = context.open_model(self.reward), context.rows(self.goodness.rows)
            found = self.goodness.searched(reward, context.template, pairs, context.progress)
            return {"goodness": found.weights, **replace(self, goodness=found).run(context)}
        rows = context.rows(self.seeds)
        return context.write_rows(self.sample(rows, context), len(rows))

    def sample(self, rows: Sequence[AnyRow], context: StageContext) -> Filtered[SampledAnswers]:
        """A row of answers for each prompt; an unfinished answer is kept as far as it got.

        A prompt is dropped as "too long" without room in the context, as "empty answer" if one of
        its answers is empty, as "cut off" if the recipe says so, and, with levels, as "too long for
        the reward model" if that cannot read one; without levels such an answer has the number nan.
        """
        # 1) Draw. Only here the model is told the levels: what follows reads the plain prompts.
        prompts = [self._steered(row.prompt) for row in rows]
        drawn = context.draw(self.model, prompts, self.answers, self.n)
        results: list[_Answered | Dropped] = []
        for row, completions in zip(rows, drawn, strict=True):
            if completions is None:
                results.append(Dropped(row.id, "too long"))
            elif not all(text.strip() for text, _ in completions):
                results.append(Dropped(row.id, "empty answer"))
            else:
                answers = [text for text, _ in completions]
                ended = [float(has_ended) for _, has_ended in completions]
                whole = self.cut_off == "keep" or all(ended)
                answered = _Answered(row, answers, {"ended": ended})
                results.append(answered if whole else Dropped(row.id, "cut off"))
        # 2) Score the answers that are left, with each model in turn, all rows at once.
        kept = [result for result in results if isinstance(result, _Answered)]
        num_ended = sum(sum(item.numbers["ended"]) for item in kept)
        stage, num_answers = context.progress.stage, len(kept) * self.n
        context.progress.say(f"  {stage}: {num_answers} answers, {num_ended:.0f} of them ended")
        if self.reward:
            self._add_rewards(kept, context, self.reward)
        if self.prior:
            stack, prompts = context.open_model(self.prior), [item.row.prompt for item in kept]
            texts = [item.answers for item in kept]
            # the end token of an answer that was cut off is no part of it, here as in training
            ends = [[value > 0 for value in item.numbers["ended"]] for item in kept]
            sums = completion_logprobs(stack, context.template, prompts, texts, ended=ends)
            for item, values in zip(kept, sums, strict=True):
                item.numbers["prior_logprob"] = values
        # 3) Only now is it known what the reward model could not read.
        return Filtered.split(
            result if isinstance(result, Dropped) else self._row(result) for result in results
        )

    def _steered(self, prompt: Messages) -> Messages:
        return steered(prompt, self.attributes) if self.attributes else prompt

    def _add_rewards(self, kept: list[_Answered], context: StageContext, reward: str) -> None:
        stack = context.open_model(reward)
        names = reward_outputs(stack, reward)
        missing = [name for name in self.attributes if name not in names]
        if missing:
            has = f"the reward model {reward} has no output {missing[0]}; it has {', '.join(names)}"
            raise RecipeError(f"attributes: {has}.")
        prompts, answers = [item.row.prompt for item in kept], [item.answers for item in kept]
        outputs = reward_completions(stack, context.template, prompts, answers)
        for item, rows in zip(kept, outputs, strict=True):  # rows: [num answers, num outputs]
            item.numbers |= {name: [values[k] for values in rows] for k, name in enumerate(names)}
            item.numbers["reward"] = [
                math.nan if math.isnan(values[0]) else self.goodness.score(names, values)
                for values in rows
            ]
            # The regression model reads the plain prompt: levels in it would be the answer.
            if self.attributes:
                logprobs = [log_chance(self.attributes, names, values) for values in rows]
                item.numbers["attribute_logprob"] = logprobs

    def _row(self, item: _Answered) -> SampledAnswers | Dropped:
        row, numbers = item.row, item.numbers
        if any(math.isnan(value) for value in numbers.get("attribute_logprob", ())):
            return Dropped(row.id, "too long for the reward model")
        by_name = {name: tuple(values) for name, values in numbers.items()}
        prompt, own = self._steered(row.prompt), {"own": row.answer}
        return SampledAnswers(row.id, prompt, tuple(item.answers), by_name, own)

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """All seeds; no requests."""
        return Quote(rows[self.seeds])


def level_chances(output: float) -> list[float]:
    """P(a = 0..4) for the output of a regression model on levels 0 to 4.

    r = output / 4, alpha = 24 r, beta = 24 - alpha, P(a = n) = BetaCDF(x_{n+1}) - BetaCDF(x_n)
    (arXiv 2406.08673, section 4.5). Ours: the bounds x, and that r is held to [0.001, 0.999], where
    the distribution exists.
    """
    from scipy.special import betainc

    alpha = CONCENTRATION * min(max(output / 4, _EDGE), 1 - _EDGE)
    # Differences of the distribution function at the bounds: they sum to 1.
    below = [float(betainc(alpha, CONCENTRATION - alpha, bound)) for bound in _BOUNDS]
    return [high - low for low, high in pairwise(below)]


def log_chance(
    attributes: Mapping[str, int], outputs: Sequence[str], values: Sequence[float]
) -> float:
    """log P(a|x,y): the sum of log P(a = level) over the attributes, which the paper implies.

    Ours: a chance is at least 1e-8.
    """
    # Without the floor one impossible level would make the weight of an answer exactly zero.
    value_by_name = dict(zip(outputs, values, strict=True))
    chances = [level_chances(value_by_name[name])[level] for name, level in attributes.items()]
    return sum(math.log(max(chance, _LEAST_CHANCE)) for chance in chances)
