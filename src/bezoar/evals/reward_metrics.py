"""What a reward model makes of a model's answers, how far the model has moved, and whether levels
steer it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bezoar.chat.attribute_levels import attribute_text, steered
from bezoar.chat.types import AnyRow, Comparison, Messages, as_chats
from bezoar.cost import Estimate, RequestEstimate, exactly
from bezoar.errors import DataError
from bezoar.evals.judges import JudgeConfig, pair_judge
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.stats import detectable, score
from bezoar.evals.win_rate import outcome
from bezoar.io import Row, content_hash
from bezoar.llm.types import Request
from bezoar.model.completions import (
    completion_logprobs,
    draw_completions,
    reward_completions,
    reward_outputs,
)
from bezoar.model.spec import RewardWeights, Sampling
from bezoar.references import ModelRef, RewardRef, RowsRef

GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=128)
Drawn = list[tuple[str, bool] | None]


@dataclass(frozen=True)
class Rewards:
    """Recipe keys: one answer to the prompt of each of `rows`, scored by the model `reward` with
    `goodness`, and with `reference` the sum of log pi - log ref over its tokens, the end token
    among them where it ended. Where rows have answers, the share of prompts whose new answer scores
    higher; a row without one is counted as failed there. An answer too long for the reward model
    has no score and is counted as failed. The model and its reference are told the levels
    `attributes`, the reward model is not."""

    rows: RowsRef
    reward: RewardRef
    goodness: RewardWeights = field(default_factory=RewardWeights)
    reference: ModelRef | None = None
    answers: Sampling = GREEDY
    attributes: dict[str, int] = field(default_factory=dict)
    limit: int | None = None

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """All figures, kept as one part."""
        return keep("rewards", lambda: self._measure(model, given))

    def _measure(self, model: str, given: EvalContext) -> Outcome:
        rows: list[AnyRow] = [*given.rows(self.rows)][: self.limit]
        prompts = [row.prompt for row in rows]
        told = [
            steered(prompt, self.attributes) if self.attributes else prompt for prompt in prompts
        ]
        stack, judge = given.open_model(model), given.open_model(self.reward)
        drawn = _draw(stack, given, told, self.answers)
        written = [i for i, one in enumerate(drawn) if one is not None]
        asked, texts = [prompts[i] for i in written], [[one[0]] for one in drawn if one is not None]
        names = reward_outputs(judge, self.reward)
        found: dict[str, list[float]] = {
            "reward": [
                self.goodness.score(names, v)
                for [v] in reward_completions(judge, given.template, asked, texts)
            ]
        }
        own = [row.answer for row in rows]
        if any(own):
            had = [place for place, i in enumerate(written) if own[i]]
            scored = reward_completions(
                judge,
                given.template,
                [asked[place] for place in had],
                [[own[written[place]]] for place in had],
            )
            theirs = dict(zip(had, (self.goodness.score(names, v) for [v] in scored), strict=True))
            gains = [a - theirs.get(place, math.nan) for place, a in enumerate(found["reward"])]
            found["reward/above the row's answer"] = [
                math.nan if math.isnan(gain) else float(gain > 0) for gain in gains
            ]
        if self.reference:
            heard = [told[i] for i in written]
            ended = [one[1] for one in drawn if one is not None]
            ours, base = (
                completion_logprobs(
                    given.open_model(name), given.template, heard, texts, ended=ended
                )
                for name in (model, self.reference)
            )
            found["reward/KL"] = [a - b for [a], [b] in zip(ours, base, strict=True)]
        found["reward/words"] = [float(len(text.split())) for [text] in texts]
        found["reward/ended"] = [float(one[1]) for one in drawn if one is not None]
        ids = [row.id for row in rows]
        by_item = {
            name: {i: v for i, v in zip(written, values, strict=True) if not math.isnan(v)}
            for name, values in found.items()
        }
        same = {
            "reward model": judge.identity,
            "rows": content_hash([row.to_row() for row in rows]),
            "answers": content_hash(repr(self.answers)),
            "goodness": content_hash(repr(self.goodness)),
            "levels": attribute_text(self.attributes),
        }
        made = _outcome(
            "rewards",
            ids,
            {n: [v.get(i) for i in range(len(ids))] for n, v in by_item.items()},
            same,
            lower=("reward/KL",),
        )
        if self.reference:
            made.info["rewards"]["conditions"]["reward/KL"] = {
                **same,
                "reference": given.open_model(self.reference).identity,
            }
        return made


@dataclass(frozen=True)
class Steering:
    """Recipe keys: answers to the prompts of `rows` under each table of `levels`, in words, and the
    difference of the last table from the first, prompt by prompt (SteerLM's promise: asked for more
    verbosity, the model says more)."""

    rows: RowsRef
    levels: tuple[dict[str, int], ...]
    answers: Sampling = GREEDY
    limit: int | None = None

    def __post_init__(self) -> None:
        if len(self.levels) < 2 or not all(self.levels):
            raise ValueError("steering.levels must be two or more tables of levels; add one")

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """All figures, kept as one part."""
        return keep("steering", lambda: self._measure(model, given))

    def _measure(self, model: str, given: EvalContext) -> Outcome:
        rows: list[AnyRow] = [*given.rows(self.rows)][: self.limit]
        words: list[list[float | None]] = []
        for levels in self.levels:
            drawn = _draw(
                given.open_model(model),
                given,
                [steered(row.prompt, levels) for row in rows],
                self.answers,
            )
            words.append([None if one is None else float(len(one[0].split())) for one in drawn])
        found = {
            f"steering/words at {attribute_text(levels)}": values
            for levels, values in zip(self.levels, words, strict=True)
        }
        found["steering/words from first to last"] = [
            None if a is None or b is None else b - a
            for a, b in zip(words[0], words[-1], strict=True)
        ]
        same = {
            "rows": content_hash([row.to_row() for row in rows]),
            "answers": content_hash(repr(self.answers)),
            "levels": " / ".join(map(attribute_text, self.levels)),
        }
        return _outcome("steering", [row.id for row in rows], found, same)


@dataclass(frozen=True)
class WinRateOverRows(JudgeConfig):
    """Recipe keys: the answers to `rows`, greedy, against the rows' own, judged in both orders;
    `max_tokens` is for an answer."""

    rows: RowsRef = ""
    max_tokens: int = 128
    limit: int | None = None

    def __post_init__(self) -> None:
        if not self.rows or bool(self.judge) == bool(self.reward_model):
            raise ValueError(
                "over_rows needs rows and either a judge or a reward_model; add what is missing"
            )

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """The win rate over the rows' own answers; answers and verdicts are kept by the journal."""
        chats = as_chats(given.rows(self.rows)[: self.limit])
        bare = next((chat.id for chat in chats if not chat.answer.strip()), None)
        if bare is not None:
            raise DataError(
                f"over_rows: row {bare} has no answer of its own; name a stage whose rows have"
                " answers."
            )
        judge = pair_judge(self, given, model)
        replies = given.ask_model(model)(
            [Request(chat.prompt, max_tokens=self.max_tokens) for chat in chats]
        )
        pairs = [
            Comparison(c.id, c.prompt, r.text, c.answer)
            for c, r in zip(chats, replies, strict=True)
            if r.finish != "error"
        ]
        found = outcome(pairs, *judge.compare(pairs, 0))
        lost = len(chats) - len(pairs)
        same = {
            "judge": judge.hash,
            "rows": content_hash([chat.to_row() for chat in chats]),
            "answer tokens": self.max_tokens,
        }
        scores = [
            replace(s, name=_renamed(s.name), num_failed=s.num_failed + lost) for s in found.scores
        ]
        items = [{**item, "benchmark": _renamed(item["benchmark"])} for item in found.items]
        facts = {
            "judge": judge.name,
            "judge_hash": judge.hash,
            "conditions": {"over rows": same},
            "num_unanswered": lost,
        }
        return Outcome(scores, items, {"over_rows": {**found.info["win_rate"], **facts}})

    def detectable(self, rows: dict[str, Estimate]) -> dict[str, float]:
        """The distance from one half, with 0.5 as the spread of a prompt (our assumption)."""
        num = min(self.limit or 1 << 30, int(rows.get(self.rows, Estimate(0, 0, 0)).expected))
        return {"over rows": detectable(num, 0.5)} if num else {}

    def quote(self) -> list[tuple[str, RequestEstimate]]:
        """The judge's comparisons where their number is set."""
        return (
            [(self.judge, calls) for calls in self.pairwise.quote(exactly(self.limit))]
            if self.judge and self.limit
            else []
        )


def _renamed(name: str) -> str:
    return name.replace("win rate", "over rows", 1)


def _draw(stack: Any, given: EvalContext, prompts: Sequence[Messages], how: Sampling) -> Drawn:
    return [
        None if one is None else one[0]
        for one in draw_completions(stack, given.template, prompts, how, num=1, seed=given.seed)
    ]


def _outcome(
    section: str,
    ids: Sequence[str],
    found: dict[str, list[float | None]],
    same: dict[str, str],
    *,
    lower: tuple[str, ...] = (),
) -> Outcome:
    scores = [
        replace(score(name, values), higher_is_better=name not in lower)
        for name, values in found.items()
    ]
    items: list[Row] = [
        {"benchmark": name, "id": i, "value": v}
        for name, values in found.items()
        for i, v in zip(ids, values, strict=True)
    ]
    return Outcome(scores, items, {section: {"conditions": dict.fromkeys(found, same)}})
