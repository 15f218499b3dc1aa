"""The bill: time, requests, tokens and money of every stage, and what a kept row cost."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from bezoar.report.components import section, table
from bezoar.report.formatting import count, finite, seconds, usd
from bezoar.report.lineage import public_name
from bezoar.report.markup import Child, Markup, h
from bezoar.report.run import Run, StageRecord
from bezoar.report.sections.training import objective

INTRO = (
    "Replies from the journal were given to an earlier attempt and are not asked or paid for again;"
    " tokens and money count every reply, whenever it was paid for; the time is that of the attempt"
    " that finished a stage. Models on this machine cost time, and money where the recipe says what"
    " an hour costs. The price of a kept row"
    " includes what it cost in the stages before."
)
EARLIER = (
    " Paid earlier for settings that have changed, requests that were sent again, or stages that"
    " did not finish: {}. It is in the total and counts against the budget."
)
CALLS = {
    "asked": "Requests",
    "from_journal": "From journal",
    "failed": "Failed",
    "prompt_tokens": "Prompt tokens",
    "completion_tokens": "Written tokens",
}
"""Names of the counts in stats.json -> heads of their columns."""
HEAD = ("Stage", "Work", "Time", *CALLS.values(), "Trained tokens", "Money", "Per kept row")
METER_WIDTH = 70


@dataclass(frozen=True)
class Costs:
    """What one stage took, or several; `calls` counts requests and their tokens as in `CALLS`."""

    seconds: float
    calls: dict[str, int]
    trained_tokens: int
    cost_usd: float
    own_usd: float
    """What the run itself has paid of `cost_usd`; replies in a shared journal may be others'."""


def total(stages: Iterable[StageRecord]) -> Costs:
    """What the stages took together; those that have not run took nothing."""
    every = list(stages)
    return Costs(
        sum(finite(stage.stats.get("seconds")) or 0.0 for stage in every),
        {name: sum(round(stage.calls.get(name, 0)) for stage in every) for name in CALLS},
        sum(stage.count("trained_tokens") for stage in every),
        sum(stage.calls.get("cost_usd", 0.0) for stage in every),
        sum(stage.calls.get("own_usd", stage.calls.get("cost_usd", 0.0)) for stage in every),
    )


def money(run: Run) -> float:
    """US dollars for all that the stages rest on, and for what the run has paid beside it."""
    whole = total(run.everything)
    beside = 0.0 if run.spent_usd is None else run.spent_usd - whole.own_usd
    # a stage's money is rounded to a millionth
    exact = abs(beside) <= 1e-6 * len(run.everything)
    return whole.cost_usd + (0.0 if exact else beside)


def cost_per_row(run: Run, stage: StageRecord) -> float | None:
    """US dollars per row that a scheme or filter kept, the stages before it included.

    None if nothing was asked or nothing was kept.
    """
    if stage.category not in ("scheme", "filter"):
        return None
    # Every row that was made and then dropped is paid for by the rows that were kept.
    way, num_kept = row_chain(run, stage), stage.count("rows_out")
    asked = any(before.calls for before in way)
    return total(way).cost_usd / num_kept if num_kept and asked else None


def row_chain(run: Run, stage: StageRecord) -> list[StageRecord]:
    """The stage and those before it that its `rows` came through, itself first."""
    way = [stage]
    while (before := run.stage(way[-1].inputs.get("rows", ""))) and before not in way:
        way.append(before)
    return way


def bill(run: Run) -> Markup | None:
    """A line per stage, one per further seed, and the sum; None before any stage has run."""
    done = [stage for stage in run.stages if stage.done or stage.unfinished]
    whole, whole_usd = total(run.everything), money(run)
    earlier_usd = whole_usd - whole.cost_usd
    if not done and not earlier_usd:
        return None
    longest_s = max((total([stage]).seconds for stage in done), default=0.0)
    rows = [_line(run, stage, longest_s, whole) for stage in done]
    rows += [_seed_line(run, seed, whole) for seed in run.further_seeds]
    if earlier_usd > 0:
        blank = [""] * (len(HEAD) - 4)
        rows.append(["paid earlier", "settings that have changed", *blank, usd(earlier_usd), ""])
    calls = [count(num) for num in whole.calls.values()]
    sums = [seconds(whole.seconds), *calls, count(whole.trained_tokens), usd(whole_usd)]
    lines = table(HEAD, rows, foot=["Total", "", *sums, ""], words=2)
    paid = "" if whole_usd else " Nothing was paid for in this run."
    if earlier_usd > 0:
        paid = EARLIER.format(usd(earlier_usd))
    models = by_model(run)
    head = ("Model", *CALLS.values(), "Money")
    more = [h("h3", "By language model"), table(head, models)] if models else []
    return section("money", "Money and time", INTRO + paid, [lines, *more], terms_of=HEAD)


def by_model(run: Run) -> list[list[Child]]:
    """A line for each language model that stages asked: requests, tokens and money of all of them.

    Empty for one model alone, which the lines of the stages tell of.
    """
    sums = defaultdict[str, Counter[str]](Counter)
    for stage in run.everything:
        for name, calls in (stage.stats.get("models") or {}).items():
            sums[name].update({n: finite(calls.get(n)) or 0.0 for n in (*CALLS, "cost_usd")})
    if len(sums) < 2:
        return []
    models = {**(run.resolved.get("models") or {}), **(run.resolved.get("backends") or {})}
    named = {name: str((models.get(name) or {}).get("model") or name) for name in sums}
    return [
        [
            name if named[name] == name else f"{name}: {public_name(named[name])}",
            *(count(round(own[n])) for n in CALLS),
            usd(own["cost_usd"]),
        ]
        for name, own in sums.items()
    ]


def _line(run: Run, stage: StageRecord, longest_s: float, whole: Costs) -> list[Child]:
    work = objective(stage) if stage.category == "train" else stage.kind
    # Cells stay empty where nothing was asked: a zero would look like a measurement. So does a
    # column of zeros, which then is left out.
    own, cost = total([stage]), cost_per_row(run, stage) if whole.cost_usd else None
    asked = own.calls["asked"] > 0
    return [
        stage.name,
        work,
        [seconds(own.seconds), _meter(own.seconds / longest_s if longest_s else 0.0)],
        *(count(own.calls[name]) if asked and num else "" for name, num in whole.calls.items()),
        count(own.trained_tokens) if own.trained_tokens else "",
        usd(own.cost_usd) if asked and whole.cost_usd else "",
        usd(cost) if cost is not None else "",
    ]


def _seed_line(run: Run, seed: int, whole: Costs) -> list[Child]:
    stages = [stage for stage in run.repeats if stage.seed == seed]
    own, names = total(stages), ", ".join(stage.name for stage in stages)
    calls = [count(own.calls[name]) if num else "" for name, num in whole.calls.items()]
    cost = usd(own.cost_usd) if whole.cost_usd else ""
    sums = [seconds(own.seconds), *calls, count(own.trained_tokens), cost]
    return [f"again with seed {seed}", names, *sums, ""]


def _meter(share: float) -> Markup:
    # The whole bar in grey below, the share in colour above it.
    widths = (METER_WIDTH, max(1.0, METER_WIDTH * share))
    bars = [h("rect", x=0, y=0, width=width, height=8, rx=2) for width in widths]
    return h("svg", bars, cls="meter", viewBox=f"0 0 {METER_WIDTH} 8", aria_hidden="true")
