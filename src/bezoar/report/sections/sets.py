"""The row sets: rows kept and left out, how long rows are, samples, and records of failures."""

from collections import Counter

from bezoar.io import Row
from bezoar.report.charts.histogram import bins_over, histogram
from bezoar.report.components import absent, cut, folded, row_card, section, table
from bezoar.report.formatting import count, percent
from bezoar.report.markup import Child, Markup, h
from bezoar.report.rows import MAX_READ, RowSet, read_rows
from bezoar.report.run import Run, StageRecord

SETS = ("source", "scheme", "filter")
NUM_RECORDS = 8
LENGTHS_INTRO = (
    "Length of each row's messages together; of a comparison, the prompt with the chosen answer."
    " The dashed line is the median, and the last bar of a panel also holds what is longer."
)


def load_sets(run: Run) -> dict[str, RowSet]:
    """Stage -> the sample of its rows, for the stages that have written some."""
    paths = {stage.name: stage.path("rows.parquet") for stage in run.of(*SETS)}
    return {name: read_rows(path) for name, path in paths.items() if path}


def flow(run: Run) -> Markup:
    """Rows kept and left out by every source, scheme and filter, and by training where it did."""
    stages = [stage for stage in run.of(*SETS, "train") if stage.done]
    shown = [stage for stage in stages if stage.category != "train" or stage.dropped]
    waiting = [stage.name for stage in run.of(*SETS) if not stage.done]
    # Training stages appear only if they left rows out, such as too long ones.
    rows = table(["Stage", "Rows"], [[stage.name, _kept(stage)] for stage in shown], words=2)
    return section(
        "rows",
        "Rows in and out",
        "How many rows went on, and why the others were left out.",
        rows if shown else absent("No stage has made or read a row."),
        absent(f"Not run yet: {', '.join(waiting)}.") if waiting else None,
    )


def _kept(stage: StageRecord) -> str:
    num_kept, dropped = stage.count("rows_out"), stage.dropped
    num_seen = num_kept + sum(dropped.values())
    share = f" of {count(num_seen)} ({percent(num_kept, num_seen)})" if dropped else ""
    # A scheme writes several rows per seed, so its seeds do not add up with its rows.
    seeds = f", from {count(stage.count('rows_in'))} seeds" if stage.category == "scheme" else ""
    reasons = sorted(dropped.items(), key=lambda pair: (-pair[1], pair[0]))
    left_out = ", ".join(f"{count(num)} {reason}" for reason, num in reasons if num)
    return f"kept {count(num_kept)}{share}{seeds}" + (f"; {left_out}" if left_out else "")


def lengths(run: Run, sets: dict[str, RowSet]) -> Markup:
    """Histograms with the same bins: tokens if the stage counted them, else words."""
    counted = {stage.name: stage.stats.get("token_lengths") for stage in run.stages}
    # Tokens are what a context is filled with; words are the fallback.
    tokens = {name: values for name, values in counted.items() if isinstance(values, list)}
    words = {n: rows.lengths for n, rows in sets.items() if n not in tokens and rows.lengths}
    parts: list[Child] = [_panels(tokens, "tokens")] if tokens else []
    if words:
        parts += [h("h3", "Words") if tokens else None, _panels(words, "words")]
    long = [name for name, rows in sets.items() if rows.num > MAX_READ]
    if long:
        note = f"Of {', '.join(long)} the first {count(MAX_READ)} rows are counted."
        parts.append(h("p", note, cls="note"))
    shown = parts or absent("No rows yet.")
    return section("lengths", "How long the rows are", LENGTHS_INTRO, shown)


def _panels(sets: dict[str, list[int]], unit: str) -> Markup:
    # Shared by all panels, so that two panels can be compared.
    edges = bins_over(list(sets.values()))
    panels = [histogram(name, values, edges, unit=unit) for name, values in sets.items()]
    return h("div", panels, cls="charts c4col")


def samples(run: Run, sets: dict[str, RowSet]) -> Markup:
    """A few rows of every stage, folded; of filters also rows that were turned down."""
    parts: list[Child] = []
    for stage in run.of(*SETS):
        kept = sets.get(stage.name)
        if kept is None:
            parts.append(absent(f"{stage.name} has not run yet."))
            continue
        path = stage.path("rejected.parquet")
        parts.append(_samples_of(stage, kept, read_rows(path) if path else RowSet(0)))
    return section(
        "samples",
        "Sample rows",
        "Rows spread evenly over each set, as they are; long texts are cut.",
        parts or absent("No rows yet."),
    )


def _samples_of(stage: StageRecord, kept: RowSet, rejected: RowSet) -> Markup:
    summary = f"{stage.kind}, {count(kept.num)} rows"
    if rejected.num:
        summary += f", {count(rejected.num)} turned down"
    parts: list[Child] = [row_card(row) for row in kept.samples]
    parts = parts or [absent("The stage kept no row.")]
    if rejected.samples:
        parts.append(h("h3", f"Turned down by {stage.name}"))
        parts += [row_card(row) for row in rejected.samples]
    return folded([stage.name, h("small", summary)], parts)


def failures(run: Run) -> Markup:
    """A folded list per stage of what was left out or failed, with a few records of each reason."""
    parts: list[Child] = []
    for stage in run.stages:
        records = stage.failures
        # The counts of stats.json are complete; records may be missing or cut.
        reasons = Counter({reason: num for reason, num in stage.dropped.items() if num})
        reasons = reasons or Counter(map(_reason, records))
        num_failed, num_refused = (
            round(stage.calls.get(name, 0)) for name in ("failed", "refused_by_budget")
        )
        notes = [", ".join(f"{count(num)} {reason}" for reason, num in reasons.most_common())]
        if num_failed:
            refused = f", {count(num_refused)} of them refused by the budget" if num_refused else ""
            notes.append(f"{count(num_failed)} requests failed{refused}")
        if reasons or num_failed:
            summary = [stage.name, h("small", "; ".join(filter(None, notes)))]
            parts.append(folded(summary, _records(records, reasons)))
    return section(
        "failures",
        "Failures and left-out rows",
        "Nothing leaves without being counted; up to eight records of each reason.",
        parts or absent("Nothing failed and nothing was left out."),
    )


def _reason(record: Row) -> str:
    return str(record.get("reason", "no reason"))


def _records(records: list[Row], reasons: Counter[str]) -> Markup:
    shown: list[list[Child]] = []
    for reason, _ in reasons.most_common():
        same = [record for record in records if _reason(record) == reason][:NUM_RECORDS]
        for record in same:
            row_id, detail = str(record.get("id", "")), str(record.get("detail") or "")
            shown.append([reason, h("code", cut(row_id, 80)), cut(detail, 300)])
    if not shown:
        return absent("No records were written.")
    return table(["Reason", "Row", "Detail"], shown, words=3)
