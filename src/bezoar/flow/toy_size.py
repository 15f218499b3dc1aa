"""A stage with settings under which it does little: kind, template, optimizer, split, columns and
prompts stay as they are written."""

from dataclasses import fields, replace
from typing import Any

from bezoar.data.flan import Flan
from bezoar.data.source import Source
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.lm_eval import LmEval, Task
from bezoar.evals.revision import Revision
from bezoar.evals.section import Section
from bezoar.synth.accepted import Accepted
from bezoar.synth.sampled_answers import Sample
from bezoar.train.policy_settings import PolicySettings
from bezoar.train.stages import Train

STEPS = 2
_READ, _EACH, _MADE, _ITEMS, _BATCH = 16, 4, 6, 2, 2
"""Rows of a source, of a sub-mix and of a scheme, items of a section, rows of a step."""
_LEAST = {"num_rows": _MADE, "num_seeds": 3, "n": 2}
"""Settings of schemes that make more rows or answers if they are larger."""
_VALIDATION = 0.34
_ANSWER = 64
"""Tokens of an evaluated model's answer: a random one whose end is an added token finds none."""


def toy_size(stage: Any) -> Any:
    """The stage at the size of a rehearsal, in this process."""
    if getattr(stage, "launch", None):
        stage = replace(stage, launch=None)
    if isinstance(stage, Source):
        return _source(stage)
    if isinstance(stage, Train):
        return _training(stage)
    if isinstance(stage, PolicySettings):
        size, samples = min(stage.batch_size, 2 * _BATCH), min(stage.samples, 2)
        few: dict[str, Any] = {"batch_size": size, "minibatches": min(stage.minibatches, size)}
        few |= {"samples": samples, "checkpoint_every": 1, "rollouts": "here", "ratio_cap": None}
        return replace(stage, updates=STEPS, **few)
    if isinstance(stage, Evaluate):
        parts = {field.name: getattr(stage, field.name) for field in fields(stage)}
        sections = {name: part for name, part in parts.items() if isinstance(part, Section)}
        return replace(stage, **{name: _section(part) for name, part in sections.items()})
    if isinstance(stage, Sample):
        # the likeliest token of random weights may be the end, and empty answers are dropped
        warm = replace(stage.answers, temperature=max(1.0, stage.answers.temperature))
        stage = replace(stage, answers=warm)
    own = {f.name: getattr(stage, f.name) for f in fields(stage) if f.name in _LEAST}
    return replace(stage, **{name: _least(value, _LEAST[name]) for name, value in own.items()})


def _least(size: int | Accepted | None, most: int) -> int | Accepted:
    if isinstance(size, Accepted):
        # in a rehearsal a judge's verdicts say nothing: few are tried
        return Accepted(min(size.accepted, 2), most)
    return min(size or most, most)


def _source(stage: Source[Any]) -> Source[Any]:
    # a shuffled sample reads every row of a data set before it takes the first
    first: dict[str, Any] = {"limit": min(stage.limit or _READ, _READ), "shuffle_seed": None}
    first |= {"skip": min(stage.skip, _EACH), "held_out": 0.5 if stage.held_out else 0.0}
    if isinstance(stage, Flan):
        first |= {"limit": None, "per_submix": min(stage.per_submix or _EACH, _EACH)}
    return replace(stage, **first)


def _training(stage: Train) -> Train:
    return replace(
        stage,
        epochs=max(stage.epochs, STEPS),
        max_steps=STEPS,
        batch_size=min(stage.batch_size, _BATCH),
        validation=_VALIDATION if stage.validation else 0.0,
        eval_every=min(stage.eval_every, 1),
        checkpoint_every=1,
    )


def _section(part: Any) -> Any:
    if isinstance(part, LmEval):
        return replace(part, tasks=tuple(_section(task) for task in part.tasks))
    names = {field.name for field in fields(part)}
    few: dict[str, Any] = {"limit": min(part.limit or _ITEMS, _ITEMS)} if "limit" in names else {}
    if "max_tokens" in names and not isinstance(part, Revision | Task):
        few["max_tokens"] = min(part.max_tokens, _ANSWER)
    # what a script answers about two items says nothing about the judge
    for name, least in (("min_accuracy", 0.0), ("min_kappa", -1.0)):
        if getattr(part, name, None) is not None:
            few[name] = least
    return replace(part, **few)
