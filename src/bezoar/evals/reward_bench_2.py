"""RewardBench 2 (arXiv 2506.01937): best of four answers, and ties among several correct ones.

A subset's score is the mean over its prompts of 1 / m where the correct answer is one of the m that
share the highest score, else 0; Ties is scored by a rule of its own. The overall score is the mean
of the subsets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from bezoar.bounds import Count
from bezoar.chat.templates import Template, render_completions
from bezoar.chat.types import Messages
from bezoar.data.files import locate_file
from bezoar.data.rows import RowOrigin, column, read_file, text
from bezoar.data.turns import prompt_in
from bezoar.errors import RecipeError
from bezoar.evals.judges import has_head
from bezoar.evals.outcome import CachePart, EvalContext, ItemText, Outcome
from bezoar.evals.reward_bench_ties import Scores, ties
from bezoar.evals.section import Section, item_rows
from bezoar.evals.stats import NONE, Floats, Score, percentiles, resamples, score
from bezoar.io import Row, content_hash
from bezoar.model.completions import rendered_logprobs, reward_completions, reward_outputs
from bezoar.model.spec import RewardWeights
from bezoar.references import FileRef, ModelRef

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

NAME = "RewardBench 2"
TIES = "Ties"


class BenchPrompt(NamedTuple):
    """A prompt with its answers, of which the first `num_correct` are correct."""

    id: str
    subset: str
    prompt: Messages
    answers: tuple[str, ...]
    num_correct: int


@dataclass(frozen=True)
class RewardBench2(Section):
    """How often the model scores the correct answer highest among four, and its margins in ties.

    A prompt with an answer that is too long for the model is counted as failed.

    Source: arXiv 2506.01937 and its authors' code
    Example: {file: "hub:allenai/reward-bench-2/test", by: reward}
    """

    file: FileRef = "hub:allenai/reward-bench-2/test"
    """The prompts in the layout of allenai/reward-bench-2."""
    by: Literal["", "reward", "implicit reward", "log-prob", "log-prob per token"] = ""
    """How answers are scored; "": implicit reward with a reference, else the reward of a head."""
    reference: ModelRef = ""
    """Reference of the implicit reward."""
    goodness: RewardWeights = field(default_factory=RewardWeights)
    """How the outputs of a score head make one score."""
    limit: Count | None = None
    """Number of prompts of each subset, the first ones; null for all."""

    def __post_init__(self) -> None:
        is_implicit = self.by == "implicit reward"
        if (is_implicit and not self.reference) or (self.reference and self.by and not is_implicit):
            raise ValueError("give reference for, and only for, `by: implicit reward`; mend it")

    def check(self, model: str) -> None:
        """Refuse a model as its own reference."""
        if self.reference == model:
            raise ValueError(
                "reward_bench_2.reference is the evaluated model: every reward is 0; name another"
            )

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """`reward_bench_2` of the named model."""

        def measure() -> Outcome:
            prompts = read_reward_bench_2(locate_file(self.file, Path(), "reward_bench_2"))
            prompts = _first(prompts, self.limit)
            by, scores = self._scores(model, context, prompts)
            outcome = reward_bench_2(prompts, scores)
            texts: list[ItemText] = [
                (p.id, p.prompt[-1].content, answer)
                for p in prompts
                for answer in p.answers[: p.num_correct]
            ]
            same = {
                "prompts": content_hash(
                    [[p.id, *(m.content for m in p.prompt), p.answers] for p in prompts]
                )
            }
            facts = {"by": by, "conditions": {NAME: same}}
            return outcome + Outcome(info={"reward_bench_2": facts}, texts={NAME: texts})

        return cache_part("reward_bench_2", measure)

    def _scores(
        self, model: str, context: EvalContext, prompts: Sequence[BenchPrompt]
    ) -> tuple[str, list[Scores]]:
        stack = None if context.answers_only else context.open_model(model)
        by = self.by or ("implicit reward" if self.reference else "reward")
        if stack is None or (by == "reward" and not has_head(stack)):
            what = "only answers" if stack is None else "has no score head"
            raise RecipeError(
                f"reward_bench_2: {model} {what}, so it has no {by}; name a reward model, or for a"
                " model with weights give reference or by: log-prob."
            )
        if by == "reward":
            return by, _rewards(stack, context.template, prompts, self.goodness)
        reference = context.open_model(self.reference) if self.reference else None
        per_token = by == "log-prob per token"
        return by, _likelihoods(stack, reference, context.template, prompts, per_token=per_token)


def read_reward_bench_2(path: Path) -> list[BenchPrompt]:
    """The prompts of a file: columns id, prompt, chosen and rejected (lists of texts), subset.

    DataError for a prompt without a correct or a wrong answer, and for an id of Ties that is none.
    """
    prompts = []
    for at, row in read_file(path, path.stem):
        correct, wrong = _answers(row, "chosen", at), _answers(row, "rejected", at)
        subset, name = text(row, "subset", at), str(column(row, "id", at))
        if subset.lower() == TIES.lower():
            kind, _, number = name.partition(":")
            if kind not in ("ref", "tied") or not number.isdecimal():
                raise at.wrong(f"the id {name!r} of Ties is neither ref:N nor tied:N; mend it.")
            if kind == "tied" and len(correct) < 2:
                raise at.wrong("a tied prompt has several chosen answers, this one has one.")
            subset = TIES
        prompt = prompt_in(row, "prompt", at)
        prompts.append(BenchPrompt(name, subset, prompt, correct + wrong, len(correct)))
    return prompts


def _answers(row: Row, name: str, at: RowOrigin) -> tuple[str, ...]:
    value = column(row, name, at)
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(answer, str) for answer in texts):
        raise at.wrong(f"the column {name!r} is not a list of answers; mend it.")
    return tuple(answer.strip() for answer in texts)


def _first(prompts: Sequence[BenchPrompt], limit: int | None) -> list[BenchPrompt]:
    """The first `limit` prompts of each subset."""
    num: dict[str, int] = {}
    kept = []
    for prompt in prompts:
        num[prompt.subset] = num.get(prompt.subset, 0) + 1
        if limit is None or num[prompt.subset] <= limit:
            kept.append(prompt)
    return kept


def _rewards(
    stack: "Stack", template: Template, prompts: Sequence[BenchPrompt], goodness: RewardWeights
) -> list[Scores]:
    outputs = reward_outputs(stack, str(stack.spec.path))
    # equal answers have one score, whatever the rounding of a batch
    texts = [list(dict.fromkeys(p.answers)) for p in prompts]
    values = reward_completions(stack, template, [p.prompt for p in prompts], texts)
    found: list[Scores] = []
    for prompt, own, rows in zip(prompts, texts, values, strict=True):
        by_text = {
            answer: goodness.score(outputs, row) for answer, row in zip(own, rows, strict=True)
        }
        scores = [by_text[answer] for answer in prompt.answers]
        found.append(None if np.isnan(scores).any() else scores)
    return found


def _likelihoods(
    stack: "Stack",
    reference: "Stack | None",
    template: Template,
    prompts: Sequence[BenchPrompt],
    *,
    per_token: bool,
) -> list[Scores]:
    texts = [list(dict.fromkeys(p.answers)) for p in prompts]
    groups = [
        render_completions(p.prompt, own, template, stack.tokenizer)
        for p, own in zip(prompts, texts, strict=True)
    ]
    longest = min(s.context_length for s in (stack, reference) if s is not None)
    fits = [len(prompt) + max(map(len, own)) <= longest for prompt, own in groups]
    kept = [group for group, fit in zip(groups, fits, strict=True) if fit]
    ours = iter(rendered_logprobs(stack, kept))
    theirs = iter(rendered_logprobs(reference, kept) if reference else [])
    found: list[Scores] = []
    for prompt, own, (_, tokens), fit in zip(prompts, texts, groups, fits, strict=True):
        if not fit:
            found.append(None)
            continue
        sums = np.array(next(ours)) - (next(theirs) if reference else 0.0)
        values = sums / [len(answer) for answer in tokens] if per_token else sums
        by_text = dict(zip(own, values.tolist(), strict=True))
        found.append([by_text[answer] for answer in prompt.answers])
    return found


def reward_bench_2(prompts: Sequence[BenchPrompt], scores: Sequence[Scores]) -> Outcome:
    """The overall score, that of each subset, and a value by prompt, in Ties by pair of prompts."""
    subsets: dict[str, list[float | None]] = {}
    tied: list[tuple[str, int, Scores]] = []
    ids: dict[str, list[str]] = {}
    for prompt, own in zip(prompts, scores, strict=True):
        if prompt.subset == TIES:
            tied.append((prompt.id, prompt.num_correct, own))
            subsets.setdefault(TIES, [])
        else:
            subsets.setdefault(prompt.subset, []).append(best_of(own))
            ids.setdefault(prompt.subset, []).append(prompt.id)
    figures, items, draws = dict[str, Score](), list[Row](), list[Floats]()
    for subset, values in subsets.items():
        name = f"{NAME}/{subset}"
        if subset == TIES:
            figure, of_pairs, drawn = ties(name, tied)
            items += of_pairs
        else:
            figure, drawn = score(name, values), _drawn_means(values)
            items += item_rows(name, ids[subset], values)
        figures[subset] = figure
        draws.append(drawn)
    whole = list(figures.values())
    if len(whole) > 1:
        n, num_failed = sum(s.n for s in whole), sum(s.num_failed for s in whole)
        mean: float | None = None
        interval = NONE
        # without one of its subsets the mean would be another figure
        known = [s.value for s in whole if s.value is not None]
        if len(known) == len(whole):
            mean, interval = sum(known) / len(known), percentiles(np.mean(draws, axis=0))
        whole = [Score(NAME, mean, *interval, n, num_failed), *whole]
    return Outcome(
        whole, items, {"reward_bench_2": {"subsets": {k: s.n for k, s in figures.items()}}}
    )


def best_of(scores: Scores) -> float | None:
    """1 / m if the first answer is one of the m with the highest score, else 0."""
    if scores is None:
        return None
    highest = max(scores)
    return 1 / sum(s == highest for s in scores) if scores[0] == highest else 0.0


def _drawn_means(values: Sequence[float | None]) -> Floats:
    """Means of resampled prompts."""
    kept = np.array([value for value in values if value is not None])
    return kept[resamples(len(kept))].mean(axis=1) if len(kept) else np.zeros(1)
