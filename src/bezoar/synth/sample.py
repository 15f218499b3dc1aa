"""Several answers of a model to each prompt, with the numbers that alignment reads: rewards and log-probabilities."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bezoar.chat.branches import branches
from bezoar.chat.render import AnyRenderer, until
from bezoar.chat.steering import steered
from bezoar.chat.types import Answers, AnyRow, Dropped, Messages, Sifted
from bezoar.errors import DataError, RecipeError
from bezoar.judge.goodness import Goodness
from bezoar.llm.quote import Calls, Range
from bezoar.refs import ModelRef, RewardRef, RowsRef
from bezoar.synth.asking import Sampling, seed_of
from bezoar.synth.attribute_chance import log_chance
from bezoar.watch import Watch

Numbers = dict[str, list[float]]


@dataclass(frozen=True)
class Sample:
    """Recipe keys. `n` answers of `model` to the prompt of every seed.

    With a `reward` model each answer has its outputs by name and, as `reward`, what `goodness` makes of them. With
    `attributes` the model is told these levels, and a regression model gives `attribute_logprob`, log P(a|x,y). With `prior`
    each answer has `prior_logprob`, log P(y|x) by that model, which is not told the levels. Both are what the objective
    steerlm2 reads (HelpSteer2, arXiv 2406.08673, section 4.5: n = 10, temperature 0.7, top_p 0.9).
    """

    seeds: RowsRef
    model: ModelRef
    n: int = 4
    reward: RewardRef | None = None
    goodness: Goodness = field(default_factory=Goodness)
    attributes: dict[str, int] = field(default_factory=dict)
    prior: ModelRef | None = None
    answers: Sampling = field(default_factory=lambda: Sampling(max_tokens=256))
    kind: Literal["sample"] = "sample"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("n must be at least 1; change the value")
        if self.n > 1 and self.answers.temperature == 0:
            raise ValueError("answers.temperature 0 gives n equal answers; raise it")
        if self.attributes and (self.prior is None or self.reward is None):
            raise ValueError("attributes are for steerlm2, which needs reward and prior, the model without levels; add them")
        if not all(0 <= level <= 4 for level in self.attributes.values()):
            raise ValueError("attributes are levels from 0 to 4; change the value")
        if self.reward is None and self.goodness != Goodness():
            raise ValueError("goodness has no effect without a reward model; remove it")

    def by_model(
        self, rows: Sequence[AnyRow], open_model: Callable[[str], Any], renderer: AnyRenderer, *, watch: Watch, seed: int
    ) -> Sifted[Answers]:
        """The answers, an unfinished one as far as it got; `ended` is 1 for an answer that the model ended. A prompt that leaves
        no room in the context is dropped as "too long", one with an empty answer as "empty answer", and, with levels, one with
        an answer that the reward model cannot read as "too long for the reward model"; else such an answer has the number nan."""
        prompts = [(row.id, row.prompt) for row in rows]
        own = [row.answer for row in rows]
        told = [steered(prompt, self.attributes) if self.attributes else prompt for _, prompt in prompts]
        drawn = draw(open_model(self.model), renderer, told, self.answers, num=self.n, seed=seed)
        faults = ["too long" if texts is None else "empty answer" if not all(t.strip() for t, _ in texts) else "" for texts in drawn]
        kept = [i for i, fault in enumerate(faults) if not fault]
        answers = [[text for text, _ in drawn[i] or ()] for i in kept]
        numbers: list[Numbers] = [{"ended": [float(ended) for _, ended in drawn[i] or ()]} for i in kept]
        watch.say(f"  {watch.stage}: {len(kept) * self.n} answers, {sum(sum(one['ended']) for one in numbers):.0f} of them ended")
        if self.reward:
            self._score(open_model(self.reward), renderer, [prompts[i][1] for i in kept], answers, numbers)
        if self.prior:
            found = likelihoods(open_model(self.prior), renderer, [prompts[i][1] for i in kept], answers)
            for one, values in zip(numbers, found, strict=True):
                one["prior_logprob"] = values
        for i, one in zip(kept, numbers, strict=True):
            if self.attributes and any(math.isnan(value) for value in one["attribute_logprob"]):
                faults[i] = "too long for the reward model"
        done = [
            Answers(prompts[i][0], told[i], tuple(texts), {name: tuple(values) for name, values in one.items()}, {"own": own[i]})
            for i, texts, one in zip(kept, answers, numbers, strict=True) if not faults[i]
        ]  # fmt: skip
        return Sifted(done, [Dropped(prompts[i][0], fault) for i, fault in enumerate(faults) if fault])

    def _score(self, stack: Any, renderer: AnyRenderer, prompts: list[Messages], answers: list[list[str]], numbers: list[Numbers]) -> None:
        names = reward_outputs(stack, self.reward or "")
        missing = [name for name in self.attributes if name not in names]
        if missing:
            raise RecipeError(f"attributes: the reward model {self.reward} has no output {missing[0]}; it has {', '.join(names)}.")
        for one, scored in zip(numbers, reward_answers(stack, renderer, prompts, answers), strict=True):
            one |= {name: [values[k] for values in scored] for k, name in enumerate(names)}
            one["reward"] = [math.nan if math.isnan(values[0]) else self.goodness.score(names, values) for values in scored]
            if self.attributes:
                one["attribute_logprob"] = [log_chance(self.attributes, names, values) for values in scored]

    def quote(self, rows: Range) -> tuple[Range, list[Calls]]:
        """Rows that it will give; nothing that is paid for."""
        return rows, []


def draw(
    stack: Any, renderer: AnyRenderer, prompts: Sequence[Messages], how: Sampling, *, num: int, seed: int
) -> list[list[tuple[str, bool]] | None]:
    """`num` answers to each prompt with whether they ended; None for a prompt without room. A draw depends on (seed, prompt, its number)."""
    from bezoar.model.decode import Limits, generate

    tokenizer = stack.tokenizer
    renderer.check(tokenizer)
    ends = (renderer.end(tokenizer), tokenizer.eos_id)
    tokens = [renderer.prompt(prompt, tokenizer) for prompt in prompts]
    limits = [
        Limits(how.max_tokens, how.temperature, how.top_p, stop_tokens=ends, stop=renderer.stops(), seed=seed_of(seed, *map(int, prompt), k))
        for prompt in tokens for k in range(num)
    ]  # fmt: skip
    made = iter(generate(stack, [prompt for prompt in tokens for _ in range(num)], limits))
    found = []
    for _ in tokens:
        each = [next(made) for _ in range(num)]
        texts = [(until(tokenizer.decode(one.tokens), renderer.stops()), one.finish == "stop") for one in each]
        found.append(None if any(one.finish == "error" for one in each) else texts)
    return found


def reward_outputs(stack: Any, name: str) -> tuple[str, ...]:
    """The names of a reward model's outputs; RecipeError when the model has no head."""
    if stack.score_head is None:
        raise RecipeError(f"reward: the model {name} has no score head; name a stage that trains bradley_terry or regression.")
    return tuple(stack.score_head.outputs)


def reward_answers(
    stack: Any, renderer: AnyRenderer, prompts: Sequence[Messages], answers: Sequence[Sequence[str]]
) -> list[list[list[float]]]:
    """The outputs of a reward model, which has a tokenizer of its own, for every answer; all nan where a text is too long for it."""
    from bezoar.model.reward import rewards, score_tree

    trees = [score_tree(*branches(p, texts, renderer, stack.tokenizer)) for p, texts in zip(prompts, answers, strict=True)]
    fits = [tree.longest <= stack.net.config.max_position_embeddings for tree in trees]
    found = iter(rewards(stack, [tree for tree, fit in zip(trees, fits, strict=True) if fit]))
    unknown = [math.nan] * len(stack.score_head.outputs)
    return [next(found) if fit else [unknown] * len(texts) for fit, texts in zip(fits, answers, strict=True)]


def likelihoods(
    stack: Any, renderer: AnyRenderer, prompts: Sequence[Messages], answers: Sequence[Sequence[str]], *, ended: Sequence[bool] = ()
) -> list[list[float]]:
    """log P(y|x) of every answer, the sum over its tokens with its end token, but for a prompt's answers that `ended` calls cut
    off. DataError for a text that is too long for the model."""
    from bezoar.model.score import score
    from bezoar.model.tree import Branch, Tree

    trees = []
    for prompt, texts, end in zip(prompts, answers, ended or [True] * len(prompts), strict=True):
        trunk, written = branches(prompt, texts, renderer, stack.tokenizer)
        trees.append(Tree(trunk, [Branch(tokens, [True] * (len(tokens) - 1) + [end or len(tokens) == 1]) for tokens in written]))
        if trees[-1].longest > stack.net.config.max_position_embeddings:
            raise DataError(f"a text of {trees[-1].longest} tokens does not fit the context of {stack.spec.path}; lower answers.max_tokens.")
    return [[one.total for one in scored] for scored in score(stack, trees)]
