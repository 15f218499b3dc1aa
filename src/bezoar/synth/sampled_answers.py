"""Several answers of a model to each prompt, with the numbers that alignment reads: rewards and
log-probabilities."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bezoar.chat.attribute_levels import steered
from bezoar.chat.templates import Template
from bezoar.chat.types import AnyRow, Dropped, Filtered, Messages, SampledAnswers
from bezoar.cost import Estimate, Quote
from bezoar.errors import RecipeError
from bezoar.model.completions import (
    completion_logprobs,
    draw_completions,
    reward_completions,
    reward_outputs,
)
from bezoar.model.spec import RewardWeights, Sampling
from bezoar.progress import Progress
from bezoar.references import ModelRef, RewardRef, RowsRef
from bezoar.stage import Stage, StageContext, Stats
from bezoar.synth.attribute_chance import log_chance

Numbers = dict[str, list[float]]


@dataclass(frozen=True)
class Sample(Stage):
    """Recipe keys. `n` answers of `model` to the prompt of every seed.

    With a `reward` model each answer has its outputs by name and, as `reward`, what `goodness`
    makes of them. With `attributes` the model is told these levels, and a regression model gives
    `attribute_logprob`, log P(a|x,y). With `prior` each answer has `prior_logprob`, log P(y|x) by
    that model, which is not told the levels. Both are what the objective steerlm2 reads
    (HelpSteer2, arXiv 2406.08673, section 4.5: n = 10, temperature 0.7, top_p 0.9).
    """

    seeds: RowsRef
    model: ModelRef
    n: int = 4
    reward: RewardRef | None = None
    goodness: RewardWeights = field(default_factory=RewardWeights)
    attributes: dict[str, int] = field(default_factory=dict)
    prior: ModelRef | None = None
    answers: Sampling = field(default_factory=lambda: Sampling(max_tokens=256))
    kind: Literal["sample"] = "sample"
    gives = "rows"
    renders = True

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("n must be at least 1; change the value")
        if self.n > 1 and self.answers.temperature == 0:
            raise ValueError("answers.temperature 0 gives n equal answers; raise it")
        if self.attributes and (self.prior is None or self.reward is None):
            raise ValueError(
                "attributes are for steerlm2, which needs reward and prior, the model without"
                " levels; add them"
            )
        if not all(0 <= level <= 4 for level in self.attributes.values()):
            raise ValueError("attributes are levels from 0 to 4; change the value")
        if self.reward is None and self.goodness != RewardWeights():
            raise ValueError("goodness has no effect without a reward model; remove it")

    def by_model(
        self,
        rows: Sequence[AnyRow],
        open_model: Callable[[str], Any],
        template: Template,
        *,
        progress: Progress,
        seed: int,
    ) -> Filtered[SampledAnswers]:
        """The answers, an unfinished one as far as it got; `ended` is 1 for an answer that the
        model ended. A prompt that leaves no room in the context is dropped as "too long", one with
        an empty answer as "empty answer", and, with levels, one with an answer that the reward
        model cannot read as "too long for the reward model"; else such an answer has the number
        nan."""
        prompts = [(row.id, row.prompt) for row in rows]
        own = [row.answer for row in rows]
        told = [
            steered(prompt, self.attributes) if self.attributes else prompt for _, prompt in prompts
        ]
        drawn = draw_completions(
            open_model(self.model), template, told, self.answers, num=self.n, seed=seed
        )
        faults = [
            (
                "too long"
                if texts is None
                else "empty answer"
                if not all(t.strip() for t, _ in texts)
                else ""
            )
            for texts in drawn
        ]
        kept = [i for i, fault in enumerate(faults) if not fault]
        answers = [[text for text, _ in drawn[i] or ()] for i in kept]
        numbers: list[Numbers] = [
            {"ended": [float(ended) for _, ended in drawn[i] or ()]} for i in kept
        ]
        progress.say(
            f"  {progress.stage}: {len(kept) * self.n} answers,"
            f" {sum(sum(one['ended']) for one in numbers):.0f} of them ended"
        )
        if self.reward:
            self._score(
                open_model(self.reward), template, [prompts[i][1] for i in kept], answers, numbers
            )
        if self.prior:
            found = completion_logprobs(
                open_model(self.prior), template, [prompts[i][1] for i in kept], answers
            )
            for one, values in zip(numbers, found, strict=True):
                one["prior_logprob"] = values
        for i, one in zip(kept, numbers, strict=True):
            if self.attributes and any(math.isnan(value) for value in one["attribute_logprob"]):
                faults[i] = "too long for the reward model"
        done = [
            SampledAnswers(
                prompts[i][0],
                told[i],
                tuple(texts),
                {name: tuple(values) for name, values in one.items()},
                {"own": own[i]},
            )
            for i, texts, one in zip(kept, answers, numbers, strict=True)
            if not faults[i]
        ]
        return Filtered(
            done, [Dropped(prompts[i][0], fault) for i, fault in enumerate(faults) if fault]
        )

    def _score(
        self,
        stack: Any,
        template: Template,
        prompts: list[Messages],
        answers: list[list[str]],
        numbers: list[Numbers],
    ) -> None:
        names = reward_outputs(stack, self.reward or "")
        missing = [name for name in self.attributes if name not in names]
        if missing:
            raise RecipeError(
                f"attributes: the reward model {self.reward} has no output {missing[0]}; it has"
                f" {', '.join(names)}."
            )
        for one, scored in zip(
            numbers, reward_completions(stack, template, prompts, answers), strict=True
        ):
            one |= {name: [values[k] for values in scored] for k, name in enumerate(names)}
            one["reward"] = [
                math.nan if math.isnan(values[0]) else self.goodness.score(names, values)
                for values in scored
            ]
            if self.attributes:
                one["attribute_logprob"] = [
                    log_chance(self.attributes, names, values) for values in scored
                ]

    def run(self, context: StageContext) -> Stats:
        """Sample the answers and write them."""
        rows = context.rows(self.seeds)
        sampled = self.by_model(
            rows, context.open_model, context.template, progress=context.progress, seed=context.seed
        )
        return context.write_rows(sampled, len(rows))

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """All seeds; nothing that is paid for."""
        return Quote(rows[self.seeds])
