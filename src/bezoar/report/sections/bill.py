"""The bill: time, requests, tokens and money of every stage, and what a kept row cost."""

from bezoar.report.bill import cost_per_row, line, total
from bezoar.report.components import section, table
from bezoar.report.formatting import count, seconds, usd
from bezoar.report.markup import Child, Markup, h
from bezoar.report.run import Run, Stage
from bezoar.report.sections.training import objective

HEAD = (
    "Stage",
    "Work",
    "Time",
    "Requests",
    "From journal",
    "Failed",
    "Prompt tokens",
    "Written tokens",
    "Trained tokens",
    "Money",
    "Per kept row",
)


def bill(run: Run) -> Markup:
    """A line a stage and the sum."""
    whole = total(run.stages)
    longest = max((line(stage).seconds for stage in run.stages), default=0.0)
    rows = [_row(run, stage, longest) for stage in run.stages]
    foot: list[Child] = [
        "Total",
        "",
        seconds(whole.seconds),
        count(whole.asked),
        count(whole.from_journal),
        count(whole.failed),
        count(whole.prompt_tokens),
        count(whole.completion_tokens),
        count(whole.trained_tokens),
        usd(whole.cost_usd),
        "",
    ]
    what = (
        "Replies from the journal were given to an earlier attempt and are not asked or paid for"
        " again; tokens and money count every reply, whenever it was paid for. Models on this"
        " machine cost time, not money. The price of a kept row includes what it cost in the stages"
        " before."
    )
    return section("bill", "The bill", what, table(HEAD, rows, foot=foot, words=2))


def _row(run: Run, stage: Stage, longest_s: float) -> list[Child]:
    work = objective(stage) if stage.category == "train" else stage.kind
    if not stage.done:
        return [stage.name, work, "not run yet", *[""] * 8]
    own, calls = line(stage), bool(stage.calls)
    cost = cost_per_row(run, stage)
    asked: list[Child] = [
        count(n) if calls else ""
        for n in (own.asked, own.from_journal, own.failed, own.prompt_tokens, own.completion_tokens)
    ]
    return [
        stage.name,
        work,
        [seconds(own.seconds), _meter(own.seconds / longest_s if longest_s else 0.0)],
        *asked,
        count(own.trained_tokens) if own.trained_tokens else "",
        usd(own.cost_usd) if calls else "",
        usd(cost) if cost is not None else "",
    ]


def _meter(share: float) -> Markup:
    bars = [
        h("rect", x=0, y=0, width=70, height=8, rx=2),
        h("rect", x=0, y=0, width=max(1.0, 70 * share), height=8, rx=2),
    ]
    return h("svg", bars, cls="meter", viewBox="0 0 70 8", aria_hidden="true")
