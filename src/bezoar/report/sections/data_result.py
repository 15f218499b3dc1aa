"""The result of a run that makes rows and trains nothing: rows, prices, and why rows were lost."""

from collections import Counter

from bezoar.report.charts.bars import bar
from bezoar.report.components import cut, row_card, section, table
from bezoar.report.formatting import count, percent, seconds, usd
from bezoar.report.markup import Child, Markup, h
from bezoar.report.rows import RowSet
from bezoar.report.run import Run, StageRecord
from bezoar.report.sections.bill import cost_per_row, row_chain, total
from bezoar.report.sections.sets import SETS, by_count

NUM_EXAMPLES = 2
NUM_TWINS = 4
TWIN = "near duplicate"


def data_result(run: Run, sets: dict[str, RowSet]) -> Markup | None:
    """None for a run that trains or evaluates, and before there is a row."""
    results = result_sets(run)
    if run.of("train", "evaluate") or not results:
        return None
    made = [stage for stage in run.of(*SETS) if stage.done]
    figures = table(HEAD, [_line(run, stage) for stage in results])
    parts: list[Child] = [figures, _dropped(made), _twins(made)]
    words = parts[:]
    for stage in results:
        cards = [row_card(row) for row in sets[stage.name].samples[:NUM_EXAMPLES]]
        parts += [h("h3", f"Examples of {stage.name}"), cards] if cards else []
    return section("result", "What was made", None, parts, terms_of=words)


HEAD = ("Set", "Rows", "Kept", "Price a kept row", "Time a kept row", "Near duplicates dropped")


def result_sets(run: Run) -> list[StageRecord]:
    """The finished sets that no other stage reads: what the run is for."""
    read = {name for stage in run.stages for name in stage.inputs.values()}
    sets = [stage for stage in run.of(*SETS) if stage.path("rows.parquet")]
    return [stage for stage in sets if stage.name not in read] or sets[-1:]


def _line(run: Run, stage: StageRecord) -> list[Child]:
    """The figures of a set with those of the stages that its rows came through."""
    way = row_chain(run, stage)
    num_kept, price = stage.count("rows_out"), cost_per_row(run, stage)
    num_seen = num_kept + sum(sum(part.dropped.values()) for part in way)
    time_s = total(way).seconds / num_kept if num_kept else None
    twins = sum(part.dropped.get(TWIN, 0) for part in way)
    return [
        stage.name,
        count(num_kept),
        f"{percent(num_kept, num_seen)} of {count(num_seen)}",
        usd(price) if price is not None else "",
        seconds(time_s) if time_s and time_s >= 0.05 else "",
        count(twins) if twins else "",
    ]


def _dropped(stages: list[StageRecord]) -> Child:
    reasons: Counter[str] = Counter()
    for stage in stages:
        reasons.update({reason: num for reason, num in stage.dropped.items() if num})
    if not reasons:
        return None
    most = max(reasons.values())
    lines = [
        h("li", h("b", reason), bar([(num, "dropped")], most), h("span", f"{count(num)} rows"))
        for reason, num in by_count(reasons)
    ]
    return [h("h3", "Why rows were dropped"), h("ul", lines, cls="flow")]


def _twins(stages: list[StageRecord]) -> Child:
    twins = [row for stage in stages for row in stage.failures if row.get("reason") == TWIN]
    if not twins:
        return None
    lines = [
        [h("code", cut(str(row.get("id")), 60)), cut(str(row.get("detail") or ""), 300)]
        for row in twins[:NUM_TWINS]
    ]
    title = f"Near duplicates, {len(lines)} of {count(len(twins))}"
    return [h("h3", title), table(["Row", "Repeats"], lines, words=2)]
