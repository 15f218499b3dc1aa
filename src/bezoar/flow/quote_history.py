"""What a quote learns from before: tokens of stored replies, and the share that filters kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bezoar.cost import Estimate, RequestEstimate
from bezoar.evals.stats import wilson
from bezoar.flow.recipe import Recipe
from bezoar.flow.rundir import RunDir
from bezoar.io import read_own
from bezoar.llm.journal_upkeep import JournalUpkeep

_LEAST = 5
"""Fewer replies say too little."""
_ERRORS = 2.0
"""Standard errors of a mean from expected to low and high."""

Kept = Callable[[str], Estimate | None]
"""The share of its rows that a filter keeps, where that is known."""
Calls = Sequence[tuple[str, RequestEstimate]]


def learned(recipe: Recipe, stage: str, calls: Calls, journal: JournalUpkeep) -> Calls:
    """`calls` with the tokens and the prices of the replies that a stage of this name has got from
    the same language model, in whatever run that writes to the journal."""
    new = list[tuple[str, RequestEstimate]]()
    for backend, asked in calls:
        own = [part for who, part in calls if who == backend]
        found = journal.usage(recipe.backends[backend].identity, stage) if own else None
        if found is None or found.num < _LEAST:
            new.append((backend, asked))
            continue
        # parts of a stage, such as lists and answers, keep their proportion
        num = sum(part.num.expected for part in own) or 1.0
        before = sum(part.num.expected * part.prompt_tokens.expected for part in own) / num
        after = sum(part.num.expected * part.completion_tokens.expected for part in own) / num
        tokens = {
            "prompt_tokens": _scaled(asked.prompt_tokens, before, found.prompt_tokens),
            "completion_tokens": _scaled(asked.completion_tokens, after, found.completion_tokens),
        }
        new.append((backend, replace(asked, **tokens, usd=_range(*found.usd))))
    return new


def _scaled(quoted: Estimate, mean: float, found: tuple[float, float]) -> Estimate:
    return _range(*found) * (quoted.expected / mean if mean else 1.0)


def _range(mean: float, error: float) -> Estimate:
    return Estimate(max(mean - _ERRORS * error, 0.0), mean, mean + _ERRORS * error)


def kept_before(run: RunDir, tried: Mapping[str, Estimate] | None = None) -> Kept:
    """The share of its rows that a filter of the run kept when it was tried or last ran, with 95 %
    limits."""

    def share(stage: str) -> Estimate | None:
        folder = run.stage_dir(stage)
        if folder is None or stage in (tried or {}):
            return (tried or {}).get(stage)
        stats = read_own(folder / "stats.json", rows_in=int | None, rows_out=int | None)
        num, kept = stats["rows_in"] or 0, stats["rows_out"] or 0
        if num < _LEAST or kept > num:
            return None
        low, high = wilson(kept, num)
        return Estimate(low, kept / num, high)

    return share
