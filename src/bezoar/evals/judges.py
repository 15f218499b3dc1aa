"""Who judges pairs: a language model, asked in both orders, or a reward model, which has no
order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bezoar.chat.types import Comparison
from bezoar.errors import RecipeError
from bezoar.evals.outcome import EvalContext
from bezoar.io import content_hash
from bezoar.llm.types import Ask, Reply, Request
from bezoar.model.reward_weights import RewardWeights
from bezoar.prompts import read_prompt
from bezoar.references import BackendRef, FileRef, RewardRef
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.pairwise import Pairwise, Preference, Side

Judgement = tuple[list[Preference], list[float | None]]


@dataclass(frozen=True)
class JudgeConfig:
    """Recipe keys of the judge of pairs: a language model `judge`, which gets `prompt` and says its
    verdict in at most `judge_tokens` tokens or by log-probability, or the model `reward_model` with
    a score head, whose outputs `goodness` makes one."""

    judge: BackendRef = ""
    reward_model: RewardRef = ""
    prompt: FileRef = "bezoar:pairwise.txt"
    verdict: Literal["text", "logprob"] = "text"
    judge_tokens: int = 512
    goodness: RewardWeights | None = None

    @property
    def pairwise(self) -> Pairwise:
        """The language model as a judge."""
        return Pairwise(self.judge, self.prompt, self.verdict, self.judge_tokens)


@dataclass(frozen=True)
class PairJudge:
    """A judge at hand. `hash` names its model, its wording and how it is read; `compare(pairs,
    number)` asks for the `number`th time and gives the verdicts and, where the judge has degrees,
    the margin of `chosen` over `rejected` of each pair."""

    name: str
    hash: str
    compare: Callable[[Sequence[Comparison], int], Judgement]


def pair_judge(section: JudgeConfig, given: EvalContext, model: str) -> PairJudge:
    """The judge that a section names, else `model` itself: as a reward model if it has a score
    head, else asked."""
    if section.judge:
        return asked_judge(
            section.pairwise, given.ask(section.judge), given.identity(section.judge)
        )
    name = section.reward_model or model
    stack = given.open_model(name) if section.reward_model or not given.answers_only else None
    if section.reward_model or has_head(stack):
        return reward_judge(name, stack, given.template, section.goodness)
    return asked_judge(
        replace(section.pairwise, judge=name),
        given.ask_model(name),
        getattr(stack, "identity", name),
    )


def asked_judge(judge: Pairwise, ask: Ask, identity: str) -> PairJudge:
    """A language model."""
    return PairJudge(
        judge.judge,
        judge_hash(judge, identity),
        lambda pairs, number: judged(pairs, judge, _reseeded(ask, number)),
    )


def reward_judge(
    name: str, stack: Any, template: Any, goodness: RewardWeights | None = None
) -> PairJudge:
    """A reward model: the same verdict in both orders, a tie for equal rewards. RecipeError for a
    model without a score head."""
    if not has_head(stack):
        raise RecipeError(
            f"{name}: the model has no score head; name one that was trained with scores, such as"
            " `kind: bradley_terry`."
        )
    from bezoar.evals.reward_model import reward_margins

    def compare(pairs: Sequence[Comparison], number: int) -> Judgement:
        margins = reward_margins(stack, pairs, template, goodness)
        sides = [_side(margin) for margin in margins]
        return [
            Preference(pair.id, side, side) for pair, side in zip(pairs, sides, strict=True)
        ], margins

    return PairJudge(
        name, content_hash("reward", stack.identity, repr(template), repr(goodness)), compare
    )


def _side(margin: float | None) -> Side | Unparsed:
    if margin is None:
        return Unparsed("", "no reward")
    return "A" if margin > 0 else "B" if margin < 0 else "tie"


def has_head(stack: Any) -> bool:
    """Whether a stack ends in a score head."""
    return getattr(stack, "score_head", None) is not None


def judge_hash(judge: Pairwise, identity: str) -> str:
    """Names a judge by its model, its prompt's text and how its verdict is read."""
    return content_hash(identity, read_prompt(judge.prompt), judge.verdict, judge.max_tokens)


def judged(pairs: Sequence[Comparison], judge: Pairwise, ask: Ask) -> Judgement:
    """The verdicts, and for a judge by log-probability a margin a pair from which the pull of the
    position is gone.

    margin = ((log p(A) - log p(B)) of the given order - (log p(A) - log p(B)) of the swapped one) /
    2, in nats: what a judge adds to whatever stands first cancels. None where there are no
    log-probabilities.
    """
    replies: list[Reply] = []

    def kept(requests: Sequence[Request]) -> list[Reply]:
        found = ask(requests)
        replies.extend(found)
        return found

    verdicts = judge.compare(pairs, kept)
    odds = [r.logprobs[0] - r.logprobs[1] if len(r.logprobs) > 1 else None for r in replies]
    two = zip(odds[: len(pairs)], odds[len(pairs) :], strict=True)
    return verdicts, [None if a is None or b is None else (a - b) / 2 for a, b in two]


def _reseeded(ask: Ask, number: int) -> Ask:
    def again(requests: Sequence[Request]) -> list[Reply]:
        return ask([replace(request, seed=request.seed + number) for request in requests])

    return again
