"""What a training stage will do: rows, steps, tokens and time, and what of it cannot work."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from statistics import fmean
from typing import NamedTuple

from bezoar.chat.types import AnyRow
from bezoar.cost import Estimate, RequestEstimate
from bezoar.data.source import Source
from bezoar.errors import BezoarError
from bezoar.evals.evaluate import Evaluate
from bezoar.flow.quote_history import Kept
from bezoar.flow.recipe import Recipe, base_of, lineage
from bezoar.flow.rundir import RunDir
from bezoar.io import Row
from bezoar.model.find import local_folder
from bezoar.model.prompt_group import PromptGroup
from bezoar.model.tokenizer import shared_tokenizer
from bezoar.stage import Stage
from bezoar.synth import SCHEMES
from bezoar.synth.accepted import written
from bezoar.synth.drawn_rows import DrawnRows
from bezoar.train import Training
from bezoar.train.policy_settings import PolicySettings
from bezoar.train.settings import step_counts
from bezoar.train.stages import Train

LEAST_HELD_OUT = 8
"""With fewer items no paired test can fall below 5 % once it is corrected for a second one."""
_MOST_TOKENISED, _MOST_DRAWN = 1000, 300
_PROMPT_TOKENS = 60.0
"""Of a prompt of which nothing is known."""
_GUESSED_TOKENS, _TRAINED_SHARE = 200.0, 0.7
"""Of a row of which nothing is known: its tokens, and the share of them that is trained."""
_USUAL_LR = {
    # (adapter, what is trained): lowest and highest
    (True, "likelihood"): (2e-5, 2e-3),
    (True, "preference"): (1e-6, 5e-4),
    (True, "scores"): (1e-5, 2e-3),
    (True, "ppo"): (1e-7, 1e-3),
    (False, "likelihood"): (5e-7, 2e-4),
    (False, "preference"): (5e-8, 2e-5),
    (False, "scores"): (5e-7, 1e-4),
}
"""Ours: wide around what recipes of this kind use, so that only a slip of a digit is warned of."""


class RowLengths(NamedTuple):
    """What the rows of a stage have in tokens; `too_long` is the share above `max_length`."""

    mean: float
    trained: float
    too_long: float
    longest: int


@dataclass
class TrainingPlan:
    """One line about a training stage; `exact` if its rows are there."""

    rows: int = 0
    held_out: int = 0
    steps: int = 0
    epochs: float = 0
    tokens: float = 0
    seconds: float | None = None
    exact: bool = False


def finished(stats: Row, stage: Training) -> TrainingPlan:
    """What a finished stage did."""
    trained, held_out = stats.get("rows_trained") or 0, stats.get("rows_validation") or 0
    steps, per_epoch = stats.get("steps") or 0, math.ceil(trained / stage.batch_size)
    if isinstance(stage, PolicySettings):  # a step draws batch_size of its rows
        per_epoch = (stats.get("rows_out") or 0) / stage.batch_size
    return TrainingPlan(
        rows=int(stats.get("rows_out") or trained + held_out),
        held_out=int(held_out),
        steps=int(steps),
        epochs=round(steps / per_epoch, 2) if per_epoch else 0.0,
        tokens=float(stats.get("tokens") or 0),
        seconds=stats.get("seconds"),
        exact=True,
    )


def expected(
    recipe: Recipe, stage: Train, num_rows: float, rows: Sequence[AnyRow] | None, row_tokens: float
) -> tuple[TrainingPlan, RowLengths]:
    """Steps and tokens on so many rows, or on these; `row_tokens` is what one is expected to
    have where none is there, 0 if nothing is known."""
    lengths = _measured(recipe, stage, rows) if rows else None
    guess = min(row_tokens or _GUESSED_TOKENS, stage.max_length)
    known = lengths or RowLengths(guess, guess * _TRAINED_SHARE, 0.0, 0)
    kept = round(num_rows)
    if stage.too_long == "drop":
        kept = round(kept * (1 - known.too_long))
    counts = step_counts(stage, kept)
    epochs = counts.total / counts.per_epoch if counts.per_epoch else 0.0
    plan = TrainingPlan(
        rows=kept,
        held_out=counts.held_out,
        steps=counts.total,
        epochs=round(epochs, 2),
        tokens=epochs * counts.trained * known.mean,
        exact=lengths is not None and rows is not None and len(rows) == round(num_rows),
    )
    return plan, known


def answered(stage: PolicySettings, num_rows: float) -> TrainingPlan:
    """Optimizer steps of PPO and its kin, and the most tokens that it draws."""
    tokens = float(stage.updates * stage.batch_size * stage.max_tokens)
    steps = stage.updates * stage.epochs * stage.minibatches
    epochs = stage.updates * stage.batch_size / num_rows if num_rows else 0.0
    return TrainingPlan(round(num_rows), 0, steps, round(epochs, 2), tokens)


def row_tokens(
    stage: Stage, calls: Sequence[tuple[str, RequestEstimate]], upstream: Sequence[float]
) -> float:
    """Tokens of a row that a stage gives: what its kind has, or its teacher writes, else what it
    reads; 0 unknown."""
    if isinstance(stage, DrawnRows):
        return stage.usual_tokens
    if calls and stage.kind in SCHEMES:
        return _PROMPT_TOKENS + max(asked.completion_tokens.expected for _, asked in calls)
    return max(upstream, default=0.0)


class KnownRows(dict[str, Sequence[AnyRow] | None]):
    """Stage -> its rows: all of a finished one and of a source's small files, the first of large
    ones, those of a scheme without a teacher or as many of its kind, None where they are yet to be.
    They are read once, when they are first wanted."""

    def __init__(
        self, recipe: Recipe, run: RunDir, stale: set[str], kept: Kept = lambda stage: None
    ) -> None:
        super().__init__()
        self.kept = kept
        self.recipe, self.run, self.stale = recipe, run, stale

    def __missing__(self, name: str) -> Sequence[AnyRow] | None:
        stage, rows = self.recipe.stages[name], None
        if name not in self.stale:
            rows = self.run.items(name)
        elif isinstance(stage, Source) and stage.files():
            if not stage.is_small():
                first = min(stage.limit or _MOST_TOKENISED, _MOST_TOKENISED)
                stage = replace(stage, limit=first, shuffle_seed=None)
                stage = stage.below(self.recipe.path.parent)
            rows = stage.load().rows
        elif isinstance(stage, DrawnRows) and not stage.teacher:
            # nobody is asked for them, and how many tools they offer is in no key
            few = stage.sized(min(written(stage.num_rows), _MOST_DRAWN))
            rows = [*few.write(self.recipe.seed_of(name)).rows]
        self[name] = rows
        return rows


def warnings(stage: Training, plan: TrainingPlan, lengths: RowLengths | None) -> Iterator[str]:
    """What will not work, or seldom does; nothing of it stops a run."""
    if isinstance(stage, Train):
        yield from _step_warnings(stage, plan)
    if lengths and lengths.too_long:
        what = "dropped" if not isinstance(stage, Train) or stage.too_long == "drop" else "cut"
        share = f"{lengths.too_long:.0%}" if lengths.too_long >= 0.01 else "under 1%"
        yield (
            f"{share} of the rows are longer than max_length {stage.max_length}"
            f" (the longest: {lengths.longest}) and are {what}; raise it"
        )
    low, high = _USUAL_LR[stage.adapter is not None, _trained_as(stage)]
    if not low <= stage.lr <= high:
        way = "above" if stage.lr > high else "below"
        yield (
            f"the learning rate {stage.lr:g} is far {way} what is usual here ({low:g} to {high:g})"
        )


def _step_warnings(stage: Train, plan: TrainingPlan) -> Iterator[str]:
    counts = step_counts(stage, plan.rows)
    if counts.total <= 1:
        yield (
            f"one step of training in all ({counts.trained} rows, batch_size {stage.batch_size},"
            f" epochs {stage.epochs:g}); lower batch_size, raise epochs or add rows"
        )
    if stage.validation and counts.held_out < LEAST_HELD_OUT:
        yield (
            f"{counts.held_out} of {plan.rows} rows are for validation, and fewer than"
            f" {LEAST_HELD_OUT} tell little about which evaluation was best; add rows or raise"
            " validation"
        )
    # one step of warm-up is what every training has
    if counts.warmup >= max(2, counts.total) or stage.warmup_ratio > 0.5:
        yield (
            f"the warm-up takes {counts.warmup} of {counts.total} steps, and the learning rate is"
            " hardly ever reached; lower warmup_ratio"
        )


def _trained_as(stage: Training) -> str:
    if isinstance(stage, PolicySettings):
        return "ppo"
    if "scores" in stage.objective.needs:
        return "scores"
    return "likelihood" if stage.objective.unit == "token" else "preference"


def shortest(recipe: Recipe, stage: Train, rows: Sequence[AnyRow]) -> int:
    """The tokens of the first row that is not too long, of the shortest if all are; 0 unknown."""
    least = 0
    for group in _groups(recipe, stage, rows):
        least = min(least or group.longest, group.longest)
        if least <= stage.max_length:
            break
    return least


def _groups(recipe: Recipe, stage: Train, rows: Sequence[AnyRow]) -> Iterator[PromptGroup]:
    """The rows as tokens; none without their tokenizer."""
    spec = recipe.models[base_of(recipe, stage.model)]
    folder = local_folder(spec.path)
    if folder is None or find_spec("transformers") is None:
        return
    tokenizer = shared_tokenizer(str(folder), spec.add_tokens)
    for row in rows:
        # the stage itself says what is wrong with a row
        with suppress(BezoarError):
            yield stage.objective.group(row, recipe.template, tokenizer)


def _measured(recipe: Recipe, stage: Train, rows: Sequence[AnyRow]) -> RowLengths | None:
    """The lengths of rows that are there; None without their tokenizer."""
    # evenly over the rows, which may be ordered by length
    every = max(1, len(rows) // _MOST_TOKENISED)
    groups = list(_groups(recipe, stage, rows[::every]))
    if not groups:
        return None
    fitting = [group for group in groups if group.longest <= stage.max_length]
    counted = fitting if stage.too_long == "drop" and fitting else groups
    trained = [sum(c.num_trained for c in group.completions) for group in counted]
    return RowLengths(
        fmean(min(g.num_input_tokens, len(g.completions) * stage.max_length) for g in counted),
        fmean(trained),
        1 - len(fitting) / len(groups),
        max(group.longest for group in groups),
    )


def trained_rows(recipe: Recipe, name: str, stage: Evaluate) -> Iterator[str]:
    """The sections of an evaluation that read the very stages that its model is trained on."""
    trained_on = {below.rows for below in lineage(recipe, stage.model)}
    for ref in recipe.inputs(name):
        # in the section that searches the training rows they are what is searched
        if ref.name in trained_on and not ref.path.startswith("contamination"):
            yield (
                f"{ref.path} is {ref.name}, which the model is trained on: that says nothing about"
                " new rows; name others, such as a source's `held_out` part"
            )


def few_items(stage: Evaluate, rows: Mapping[str, Estimate]) -> Iterator[str]:
    """The sections of an evaluation whose items are too few to tell two models apart."""
    for section in fields(stage):
        part = getattr(stage, section.name)
        source, limit = getattr(part, "rows", ""), getattr(part, "limit", None)
        num = rows[source].expected if isinstance(source, str) and source in rows else None
        sizes = [size for size in (num, limit) if size]
        if sizes and min(sizes) < LEAST_HELD_OUT:
            yield (
                f"{section.name} has {min(sizes):.0f} items, and fewer than {LEAST_HELD_OUT} show"
                " no difference; take more"
            )
