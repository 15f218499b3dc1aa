"""What a model's answers to the prompts of a stage are worth: in reward, in length, to a judge."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bezoar.bounds import Count, Level
from bezoar.chat.attribute_levels import attribute_text, steered
from bezoar.chat.row_types import TEXTS, RowNeed
from bezoar.chat.types import AnyRow, Comparison, Messages, as_chats
from bezoar.cost import Estimate, RequestEstimate, exactly
from bezoar.errors import DataError
from bezoar.evals.contamination import spoken
from bezoar.evals.judges import JudgeConfig, pair_judge
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.power import detectable
from bezoar.evals.section import Section, expected_rows, item_rows
from bezoar.evals.stats import score
from bezoar.evals.win_rate import outcome
from bezoar.io import Row, content_hash
from bezoar.llm.types import Request
from bezoar.model import completions
from bezoar.model.spec import RewardWeights, Sampling
from bezoar.references import ModelRef, RewardRef, RowsRef

GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=128)
Values = dict[int, float]
"""Values by the index of the row; a row that is absent failed."""
Draws = dict[int, tuple[str, bool]]
"""Answers by the index of the row, and whether they ended by themselves."""


@dataclass(frozen=True)
class Rewards(Section):
    """One new answer to each prompt, scored by a reward model, and how far the model has moved.

    Of rows with answers of their own: the share of prompts whose new answer scores higher. A prompt
    without room for an answer, or an answer too long for the reward model, is counted as failed.

    Example: {rows: prompts, reward: reward-model, reference: sft}
    """

    rows: RowsRef
    """Stage whose prompts are answered."""
    reward: RewardRef
    """Model with a score head that scores the answers."""
    goodness: RewardWeights = field(default_factory=RewardWeights)
    """How the outputs of the reward model make one score."""
    reference: ModelRef | None = None
    """Adds the KL: log pi - log ref, the sum over an answer's tokens, with the end token."""
    answers: Sampling = GREEDY
    """How answers are drawn; by default greedily, at most 128 tokens."""
    attributes: dict[str, Level] = field(default_factory=dict)
    """Attribute levels told to the model and its reference, not to the reward model."""
    limit: Count | None = None
    """Number of rows, the first ones; null for all."""

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """All figures, stored as one part."""
        return cache_part("rewards", lambda: self._measure(model, context))

    def _measure(self, model: str, context: EvalContext) -> Outcome:
        rows: list[AnyRow] = [*context.rows(self.rows)][: self.limit]
        reward_model = context.open_model(self.reward)
        # 1) one answer to each prompt that leaves room for one; the reward model reads the prompts
        #    without the levels, which are not part of the question
        draws = _draw(self._prompts(rows), model, self.answers, context)
        texts = {i: text for i, (text, _) in draws.items()}
        rewards = self._rewards(rows, texts, context)
        values: dict[str, Values] = {"reward": rewards}
        # 2) against the rows' own answers; a nan stays one, so that it is counted as failed
        if any(row.answer for row in rows):
            own = {i: rows[i].answer for i in draws if rows[i].answer}
            gains = {i: rewards[i] - r for i, r in self._rewards(rows, own, context).items()}
            values["reward/above the row's answer"] = {
                i: gain if math.isnan(gain) else float(gain > 0) for i, gain in gains.items()
            }
        # 3) how far the model has moved, measured on its own answers: an estimate of the KL
        if self.reference:
            policy = self._logprobs(rows, draws, model, context)
            reference = self._logprobs(rows, draws, self.reference, context)
            values["reward/KL"] = {i: policy[i] - reference[i] for i in draws}
        # 4) length, and whether it stopped by itself: what a rise in reward is often bought with
        values["reward/words"] = {i: float(len(text.split())) for i, text in texts.items()}
        values["reward/ended"] = {i: float(ended) for i, (_, ended) in draws.items()}
        same = {
            "reward model": reward_model.identity,
            "rows": content_hash([row.to_row() for row in rows]),
            "answers": content_hash(repr(self.answers)),
            "goodness": content_hash(repr(self.goodness)),
            "levels": attribute_text(self.attributes),
        }
        # the other figures do not depend on the reference, so that they compare across references
        figures = _figures("rewards", rows, values, same)
        if self.reference:
            identity = context.open_model(self.reference).identity
            conditions = figures.info["rewards"]["conditions"]
            conditions["reward/KL"] = {**same, "reference": identity}
        return figures

    def _prompts(self, rows: Sequence[AnyRow]) -> list[Messages]:
        """The prompts as the model and its reference see them."""
        if not self.attributes:
            return [row.prompt for row in rows]
        return [steered(row.prompt, self.attributes) for row in rows]

    def _rewards(
        self, rows: Sequence[AnyRow], answers: Mapping[int, str], context: EvalContext
    ) -> Values:
        """Scores of answers by row; nan for one that is too long for the reward model."""
        reward_model = context.open_model(self.reward)
        prompts = [rows[i].prompt for i in answers]
        texts = [[text] for text in answers.values()]
        outputs = completions.reward_completions(reward_model, context.template, prompts, texts)
        names = completions.reward_outputs(reward_model, self.reward)
        return {i: self.goodness.score(names, o) for i, [o] in zip(answers, outputs, strict=True)}

    def _logprobs(
        self, rows: Sequence[AnyRow], draws: Draws, model: str, context: EvalContext
    ) -> Values:
        """Sums of log-probabilities of the drawn answers under a model, by row."""
        prompts = self._prompts([rows[i] for i in draws])
        texts, ended = [[text] for text, _ in draws.values()], [end for _, end in draws.values()]
        # a cut answer has no end token, which would count against it
        stack, template = context.open_model(model), context.template
        sums = completions.completion_logprobs(stack, template, prompts, texts, ended=ended)
        return {i: total for i, [total] in zip(draws, sums, strict=True)}


@dataclass(frozen=True)
class Steering(Section):
    """Whether attribute levels steer the length of answers: the words under each table of levels.

    SteerLM's promise: asked for more verbosity, the model says more. The difference of the last
    table from the first is taken prompt by prompt.

    Source: arXiv 2310.05344
    Example: {rows: prompts, levels: [{verbosity: 0}, {verbosity: 4}]}
    """

    rows: RowsRef
    """Stage whose prompts are answered."""
    levels: tuple[dict[str, Level], ...]
    """Two or more tables of attribute levels."""
    answers: Sampling = GREEDY
    """How answers are drawn; by default greedily, at most 128 tokens."""
    limit: Count | None = None
    """Number of rows, the first ones; null for all."""

    def __post_init__(self) -> None:
        if len(self.levels) < 2 or not all(self.levels):
            raise ValueError("steering.levels must be two or more tables of levels; add one")

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """All figures, stored as one part."""
        return cache_part("steering", lambda: self._measure(model, context))

    def _measure(self, model: str, context: EvalContext) -> Outcome:
        rows: list[AnyRow] = [*context.rows(self.rows)][: self.limit]
        values: dict[str, Values] = {}
        words: list[Values] = []
        for levels in self.levels:
            prompts = [steered(row.prompt, levels) for row in rows]
            draws = _draw(prompts, model, self.answers, context)
            words.append({i: float(len(text.split())) for i, (text, _) in draws.items()})
            values[f"steering/words at {attribute_text(levels)}"] = words[-1]
        # only prompts with an answer under both tables; the others count as failed
        first, last = words[0], words[-1]
        values["steering/words from first to last"] = {
            i: last[i] - first[i] for i in first.keys() & last.keys()
        }
        same = {
            "rows": content_hash([row.to_row() for row in rows]),
            "answers": content_hash(repr(self.answers)),
            "levels": " / ".join(map(attribute_text, self.levels)),
        }
        return _figures("steering", rows, values, same)


def _draw(
    prompts: Sequence[Messages], model: str, sampling: Sampling, context: EvalContext
) -> Draws:
    stack, template, seed = context.open_model(model), context.template, context.seed
    drawn = completions.draw_completions(stack, template, prompts, sampling, num=1, seed=seed)
    return {i: answers[0] for i, answers in enumerate(drawn) if answers is not None}


def _figures(
    section: str, rows: Sequence[AnyRow], values: Mapping[str, Values], same: dict[str, str]
) -> Outcome:
    """A score a name, over all rows, with the conditions `same`; of the KL, less is better."""
    scores, items = [], list[Row]()
    for name, of_row in values.items():
        # items need a value for every row, so that two models are paired row by row
        known = {i: value for i, value in of_row.items() if not math.isnan(value)}
        column = [known.get(i) for i in range(len(rows))]
        scores.append(replace(score(name, column), higher_is_better=name != "reward/KL"))
        items += item_rows(name, [row.id for row in rows], column)
    texts = {section: [(row.id, spoken(row.prompt), "") for row in rows]}
    return Outcome(scores, items, {section: {"conditions": dict.fromkeys(values, same)}}, texts)


@dataclass(frozen=True)
class WinRateOverRows(JudgeConfig):
    """Greedy answers to the prompts of rows against the rows' own answers, judged in both orders.

    Example: {rows: held-out, judge: teacher, limit: 100}
    """

    rows: RowsRef = ""
    """Stage whose rows have answers."""
    max_tokens: Count = 128
    """Most tokens of an answer."""
    limit: Count | None = None
    """Number of rows, the first ones; null for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rows:
            raise ValueError("over_rows needs rows; name a stage")

    def takes(self) -> Mapping[str, RowNeed]:
        """Rows with an answer that counts."""
        return {"rows": TEXTS}

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """The win rate over the rows' own answers; the journal keeps answers and verdicts."""
        chats = as_chats(context.rows(self.rows)[: self.limit])
        # before anything is asked: an empty answer would lose every game
        if empty := [chat.id for chat in chats if not chat.answer.strip()]:
            raise DataError(f"over_rows: row {empty[0]} has no answer of its own; name other rows.")
        judge = pair_judge(self, context, model)
        requests = [Request(chat.prompt, max_tokens=self.max_tokens) for chat in chats]
        pairs = [
            Comparison(chat.id, chat.prompt, reply.text, chat.answer)
            for chat, reply in zip(chats, context.ask_model(model)(requests), strict=True)
            if reply.finish != "error"
        ]
        figures = outcome(pairs, *judge.compare(pairs, 0))
        # an unanswered prompt is a failure of every figure, as an unread verdict is
        num_unanswered = len(chats) - len(pairs)
        scores = [
            replace(s, name=_renamed(s.name), num_failed=s.num_failed + num_unanswered)
            for s in figures.scores
        ]
        items = [{**item, "benchmark": _renamed(item["benchmark"])} for item in figures.items]
        rows_hash = content_hash([chat.to_row() for chat in chats])
        conditions = {"judge": judge.hash, "rows": rows_hash, "answer tokens": self.max_tokens}
        facts = {
            **figures.info["win_rate"],
            **judge.facts,
            "conditions": {"over rows": conditions},
            "num_unanswered": num_unanswered,
        }
        texts = {"over rows": [(chat.id, spoken(chat.prompt), "") for chat in chats]}
        return Outcome(scores, items, {"over_rows": facts}, texts)

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """The distance from one half, with 0.5 as the spread of a prompt (our assumption)."""
        num = expected_rows(rows, self.rows, self.limit)
        return {"over rows": detectable(num, 0.5)} if num else {}

    def quote(self, rows: Mapping[str, Estimate]) -> list[tuple[str, RequestEstimate]]:
        """The judge's comparisons."""
        return self.quote_pairs(exactly(expected_rows(rows, self.rows, self.limit)))


def _renamed(name: str) -> str:
    return name.replace("win rate", "over rows", 1)
