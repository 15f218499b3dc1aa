"""Judges of pairs: a language model, asked in both orders, or a reward model without order."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bezoar.bounds import Count, Share
from bezoar.chat.templates import Template
from bezoar.chat.types import Comparison
from bezoar.cost import Estimate, RequestEstimate
from bezoar.errors import RecipeError
from bezoar.evals.outcome import EvalContext
from bezoar.evals.section import Section
from bezoar.io import content_hash
from bezoar.llm.types import Ask, Reply, Request
from bezoar.model.completions import reward_completions, reward_outputs
from bezoar.model.spec import RewardWeights
from bezoar.prompts import read_prompt
from bezoar.references import BackendRef, FileRef, RewardRef
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.forms import Way, said_of
from bezoar.verdicts.pairwise import Pairwise, Preference, Side

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

Judgement = tuple[list[Preference], list[float | None]]
"""Verdicts and margins (chosen over rejected, None without degrees), one of each a pair."""


@dataclass(frozen=True)
class JudgeConfig(Section):
    """A section whose pairs are judged by a language model or by a reward model."""

    judge: BackendRef = ""
    """Language model that compares the two answers, in both orders."""
    reward_model: RewardRef = ""
    """Model with a score head that compares them instead."""
    prompt: FileRef = "bezoar:pairwise.txt"
    """Prompt of the judge, with {prompt}, {a} and {b}."""
    verdict: Way = "text"
    """text: written by the judge; structured: held to its form; logprob: the likeliest of three."""
    judge_tokens: Count = 512
    """Most tokens of a written verdict."""
    goodness: RewardWeights | None = None
    """How the outputs of the reward model make one score."""
    min_accuracy: Share | None = None
    """Accuracy of judge_card from which on the verdicts count; below it there is no number."""

    def __post_init__(self) -> None:
        if bool(self.judge) == bool(self.reward_model):
            raise ValueError("it needs a judge or a reward_model; give one of the two")

    @property
    def pairwise(self) -> Pairwise:
        """The language model as a judge."""
        return Pairwise(self.judge, self.prompt, self.verdict, self.judge_tokens)

    def quote_pairs(self, num: Estimate) -> list[tuple[str, RequestEstimate]]:
        """The requests for `num` comparisons; a reward model gets none."""
        if self.reward_model:
            return []
        return [(self.judge, requests) for requests in self.pairwise.quote(num)]


@dataclass(frozen=True)
class PairJudge:
    """An opened judge; `hash` names all that its verdicts depend on, `compare` counts its times."""

    name: str
    hash: str
    compare: Callable[[Sequence[Comparison], int], Judgement]
    form: Mapping[str, Any] = field(default_factory=dict)
    """What conditions say of verdicts that are held to a form."""

    @property
    def facts(self) -> dict[str, Any]:
        """What names it in the facts of a section."""
        return {"judge": self.name, "judge_hash": self.hash, **self.form}

    def judge(
        self, pairs: Sequence[Comparison], known: Mapping[int, tuple[Preference, float | None]]
    ) -> Judgement:
        """`compare`, but for the pairs, by index, whose verdict and margin are `known`."""
        asked = [pair for i, pair in enumerate(pairs) if i not in known]
        judged = iter(zip(*self.compare(asked, 0), strict=True))
        both = [known[i] if i in known else next(judged) for i in range(len(pairs))]
        return [verdict for verdict, _ in both], [margin for _, margin in both]


def pair_judge(section: JudgeConfig, context: EvalContext, model: str) -> PairJudge:
    """The judge that a section names; else `model` itself, as a reward model if it has a head."""
    if section.judge:
        identity = context.identity(section.judge)
        return asked_judge(section.pairwise, context.ask(section.judge), identity)
    name = identity = section.reward_model or model
    if section.reward_model or not context.answers_only:
        stack = context.open_model(name)
        if section.reward_model or has_head(stack):
            return reward_judge(name, stack, context.template, section.goodness)
        identity = getattr(stack, "identity", name)
    return asked_judge(replace(section.pairwise, judge=name), context.ask_model(name), identity)


def asked_judge(judge: Pairwise, ask: Ask, identity: str) -> PairJudge:
    """A language model as a judge; `identity` names its weights."""

    def compare(pairs: Sequence[Comparison], number: int) -> Judgement:
        # another seed is another key of the journal, so that the question is really asked again
        def ask_again(requests: Sequence[Request]) -> list[Reply]:
            return ask([replace(request, seed=request.seed + number) for request in requests])

        return judged(pairs, judge, ask_again)

    return PairJudge(judge.judge, judge_hash(judge, identity), compare, said_of(judge.verdict))


def judge_hash(judge: Pairwise, identity: str) -> str:
    """Names a judge by its model, its prompt's text and how its verdict is read."""
    return content_hash(identity, read_prompt(judge.prompt), judge.verdict, judge.max_tokens)


def judged(pairs: Sequence[Comparison], judge: Pairwise, ask: Ask) -> Judgement:
    """The verdicts and, for a judge by log-probability, margins without the pull of the position.

    With d = log p(A) - log p(B) in nats: margin = (d of the given order - d of the swapped) / 2.
    """
    # the judge returns verdicts only, so its replies are kept on the way for their probabilities
    replies: list[Reply] = []

    def ask_and_keep(requests: Sequence[Request]) -> list[Reply]:
        replies.extend(ask(requests))
        return replies

    verdicts = judge.compare(pairs, ask_and_keep)
    odds = [r.logprobs[0] - r.logprobs[1] if len(r.logprobs) > 1 else None for r in replies]
    # the replies come in the order of the requests: all pairs, then all pairs swapped; what a judge
    # adds to whatever stands first cancels in the difference
    margins = [
        None if given is None or swapped is None else (given - swapped) / 2
        for given, swapped in zip(odds[: len(pairs)], odds[len(pairs) :], strict=True)
    ]
    return verdicts, margins


def has_head(stack: "Stack | None") -> bool:
    """Whether a model ends in a score head."""
    return getattr(stack, "score_head", None) is not None


def reward_judge(
    name: str, stack: "Stack", template: Template, goodness: RewardWeights | None = None
) -> PairJudge:
    """A reward model as a judge: one verdict for both orders, a tie for equal rewards.

    RecipeError for a model without a score head.
    """
    if not has_head(stack):
        advice = "name one that was trained with scores, such as `kind: bradley_terry`."
        raise RecipeError(f"{name}: the model has no score head; {advice}")

    def compare(pairs: Sequence[Comparison], number: int) -> Judgement:
        margins = reward_margins(stack, pairs, template, goodness)
        sides = [_side(margin) for margin in margins]
        verdicts = [Preference(pair.id, s, s) for pair, s in zip(pairs, sides, strict=True)]
        return verdicts, margins

    settings = content_hash("reward", stack.identity, repr(template), repr(goodness))
    return PairJudge(name, settings, compare)


def _side(margin: float | None) -> Side | Unparsed:
    if margin is None:
        return Unparsed("", "no reward")
    return "A" if margin > 0 else "B" if margin < 0 else "tie"


def reward_margins(
    stack: "Stack",
    pairs: Sequence[Comparison],
    template: Template,
    goodness: RewardWeights | None = None,
) -> list[float | None]:
    """Score of the chosen minus score of the rejected answer; None for a text that is too long."""
    goodness, outputs = goodness or RewardWeights(), reward_outputs(stack, str(stack.spec.path))
    prompts = [pair.prompt for pair in pairs]
    answers = [(pair.chosen, pair.rejected) for pair in pairs]
    scores = reward_completions(stack, template, prompts, answers)
    margins: list[float | None] = []
    for pair, (chosen, rejected) in zip(pairs, scores, strict=True):
        margin = goodness.score(outputs, chosen) - goodness.score(outputs, rejected)
        if pair.chosen == pair.rejected:
            margin = 0.0  # whatever the rounding
        margins.append(None if math.isnan(chosen[0]) else margin)
    return margins
