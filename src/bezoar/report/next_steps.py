"""What to do next, from what a run measured: a sentence each, what matters most first."""

import math

from bezoar.evals.power import detectable, quantiles
from bezoar.evals.stats import NOT_DISTINGUISHABLE, Difference
from bezoar.report.effects import Change, Effect, judges, overlap
from bezoar.report.formatting import count, finite, listed, percent
from bezoar.report.plain_words import as_change, is_safety, is_share, items_of
from bezoar.report.run import VALIDATION, Run, StageRecord
from bezoar.report.scoreboard import Scoreboard

POWER = 0.8
MANY_DROPPED = 0.5
MOST_ITEMS = 100_000
"""More items than this are no advice; a larger difference is named in their place."""
SMALL_STEP = 0.1
"""A difference of shares that is worth finding."""
WANTED = ("surplus",)
"""Reasons for which rows are dropped that nobody needs to look at."""


def next_steps(
    run: Run, board: Scoreboard, effect: Effect | None, others: list[Change]
) -> list[str]:
    """Advice that follows from the finished stages."""
    steps = _worse_than_start(run)
    empty = [stage for stage in run.everything if stage.gave_nothing]
    for stage in empty:
        see = f"see {stage.left.name}/failures.jsonl, " if stage.left else ""
        fix = stage.stats.get("remedy") or "change the stage or what it reads"
        steps.append(f"{stage.name}: {stage.unfinished}; {see}then {fix}.")
    if any(stage.calls.get("refused_by_budget") for stage in run.everything if stage.unfinished):
        more = f"what is missing is asked, then it goes on with {listed(run.missing)}"
        steps.append(f"Raise the budget and run the same command again: {more}.")
    elif run.missing and not empty:
        steps.append(f"Run the same command again: it goes on with {listed(run.missing)}.")
    if any(overlap(board, model) for model in board.labels):
        steps.append(
            "Evaluate on items that no stage was trained on: a source with `held_out: 0.1` keeps a"
            " part of its rows apart."
        )
    unable = dict.fromkeys(name for model in board.labels for name in judges(board, model))
    if unable:
        sections = listed([f"`{name}`" for name in unable])
        steps.append(f"Take a reward model or another judge for {sections}: this one cannot judge.")
    if effect:
        steps += _more_items(effect)
        steps += _seeds(board, effect)
    learning: dict[str, list[str]] = {}
    for stage in run.of("train"):
        if advice := _learning(run, stage):
            learning.setdefault(advice, []).append(stage.name)
    steps += [f"{listed(names)}: {advice}" for advice, names in learning.items()]
    steps += [advice for stage in run.stages if (advice := _drops(stage))]
    if run.of("train") and not run.of("evaluate"):
        steps.append("Add a stage of kind `evaluate`: nothing says whether the model is better.")
    elif effect and not any(is_safety(change.benchmark) for change in others):
        steps.append(
            "Before people use it, measure safety: nothing here asked for refusals or harmful text."
        )
    return steps


def items_needed(difference: Difference, least: float | None = None) -> int | None:
    """The items with which a paired test finds `least`, by default the difference that was seen, in
    four runs of five.

    ((z of 97.5 % + z of 80 %) * spread / difference)^2, the spread being the standard deviation of
    the items' differences, and of several comparisons the first z that of their corrected 5 %; None
    without a spread or a difference.
    """
    spread, size = difference.spread, abs(least or difference.difference)
    if not spread or not size:
        return None
    return math.ceil((quantiles(POWER, difference.num_tests) * spread / size) ** 2)


def detectable_change(change: Change) -> float | None:
    """The smallest difference that the items find in four runs of five; None for too few items."""
    difference = change.difference
    n, least_n = difference.n, difference.least_n
    if difference.p is None or least_n is None or n < least_n:
        return None
    if difference.spread:
        return detectable(n, difference.spread, POWER, difference.num_tests)
    return detectable(n, num_tests=difference.num_tests) if is_share(change.benchmark) else None


def _more_items(effect: Effect) -> list[str]:
    """How many items would tell, for the nearest comparison that cannot be told."""
    for change in effect.changes:
        difference = change.difference
        # more of the items that it was trained on would tell nothing
        if difference.distinguishable or difference.p is None or effect.overlap:
            continue
        return [_how_many(effect, change)]
    return []


def _how_many(effect: Effect, change: Change) -> str:
    difference, failed = change.difference, change.second.num_failed
    n, least_n, models = difference.n, difference.least_n, f"{effect.label} and {change.label}"
    # 1) what is there and gave no value comes before what would have to be added
    lead = ""
    if failed:
        of = f"{count(failed)} of {count(n + failed)} {items_of(effect.benchmark)}"
        lead = f"{of} gave no value; with them there are "
    added = f"{lead}{count(n + failed)}. " if failed else ""
    if least_n is not None and n < least_n:
        return f"{added}Evaluate on at least {least_n} items: {n} cannot tell {models} apart."
    # 2) the number for the difference that was seen, else for one that is worth finding
    num_tests = difference.num_tests
    goal = f"To tell {models} apart"
    if num_tests > 1:
        goal += f" with p corrected for {num_tests} comparisons"
    num = items_needed(difference)
    if num is not None and num <= MOST_ITEMS:
        seen = as_change(effect.benchmark, difference.difference)
        about = _round(max(num, n + 1))
        if lead and num <= n + failed:
            takes = f"{goal[0].lower()}{goal[1:]} takes about {about}, for {seen} as seen"
            return f"{lead}enough: {takes}."
        return (
            f"{added}{goal}, evaluate on about {about} items: a difference as large as the one seen"
            f" ({seen}) needs so many to be found 4 times in 5; there were {count(n)}."
        )
    num = items_needed(difference, SMALL_STEP) if is_share(effect.benchmark) else None
    if num is not None and num > n:
        step = as_change(effect.benchmark, SMALL_STEP)
        return (
            f"{added}{goal} if they are {step} apart, evaluate on about {_round(num)} items; there"
            f" were {count(n)}."
        )
    return f"{added}{models} differ too little to be told apart: more training, or other rows."


def _round(num: int) -> str:
    """Two digits are as exact as such a number is."""
    digits = max(0, len(str(num)) - 2)
    return count(math.ceil(num / 10**digits) * 10**digits)


def _seeds(board: Scoreboard, effect: Effect) -> list[str]:
    claims = effect.better is not None or any(
        change.difference.verdict != NOT_DISTINGUISHABLE for change in effect.changes
    )
    if not claims or board.seeds or effect.overlap:
        return []
    return ["One seed carries this: with `repeats: 3` in the recipe the spread over seeds is seen."]


def _validation(run: Run, stage: StageRecord) -> list[tuple[float, float]]:
    """(step, validation loss) of each evaluation while it trained."""
    lines = [line for line in run.metrics.get(stage.name, []) if VALIDATION in line]
    losses = [(line["step"], finite(line[VALIDATION])) for line in lines]
    return [(step, loss) for step, loss in losses if loss is not None]


def _worse_than_start(run: Run) -> list[str]:
    """The stages of which no step was better than what they began with."""
    steps = []
    for stage in run.of("train"):
        (_, start), *others = _validation(run, stage) or [(0, 0.0)]
        after = min((loss for _, loss in others), default=-math.inf)
        if stage.done and after >= start:
            losses = f"validation loss {start:.4f} before, {after:.4f} after"
            steps.append(
                f"{stage.name}: no step was better than the start ({losses}); a lower `lr`, more or"
                " other rows."
            )
    return steps


def _learning(run: Run, stage: StageRecord) -> str:
    """Advice from the curve of the validation loss."""
    known = _validation(run, stage)
    if not stage.done or len(known) < 2:
        return ""
    best_step, best = min(known, key=lambda point: point[1])
    (first_step, first), (last_step, last) = known[0], known[-1]
    if best_step == first_step:  # said before everything else
        return ""
    if best_step < last_step and last > best + 0.01 * abs(best):
        return (
            f"the validation loss rose after step {best_step:.0f} of"
            f" {last_step:.0f}; fewer `epochs` or a lower `lr`."
        )
    if best_step == last_step and len(known) > 2:
        gain, before = known[-2][1] - last, first - last
        # a tenth of all that was gained in the last stretch alone is no end
        if before > 0 and gain > 0.1 * before:
            return "the validation loss still fell at the end; more `epochs`."
    return ""


def _drops(stage: StageRecord) -> str:
    """Advice to look at the rows of a stage that dropped most of them."""
    reasons = {why: num for why, num in stage.dropped.items() if why not in WANTED}
    dropped, kept = sum(reasons.values()), stage.count("rows_out")
    if stage.folder is None or not dropped or dropped < MANY_DROPPED * (dropped + kept):
        return ""
    most = max(reasons, key=lambda why: reasons[why])
    part = "most of them" if reasons[most] > dropped / 2 else "the largest part"
    return (
        f"Look at what {stage.name} dropped, {count(dropped)} of {count(dropped + kept)} rows"
        f" ({percent(dropped, dropped + kept)}), {part} {most} ({count(reasons[most])}):"
        f" {stage.folder.name}/failures.jsonl."
    )
