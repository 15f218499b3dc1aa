"""The row sets: rows kept and left out, how long rows are, and samples."""

from bezoar.report.charts.bars import bar
from bezoar.report.charts.histogram import bins_over, histogram
from bezoar.report.components import absent, folded, row_card, section
from bezoar.report.formatting import count, percent
from bezoar.report.markup import Child, Markup, breakable, h
from bezoar.report.rows import MAX_READ, RowSet, read_rows
from bezoar.report.run import Run, StageRecord

SETS = ("source", "scheme", "filter")
INTRO = "How many rows went on from each stage, and why the others were left out."
LENGTHS_INTRO = (
    "Length of each row's messages together; of a comparison, the prompt with the chosen answer."
    " The dashed line is the median, and the last bar of a panel also holds what is longer."
)


def load_sets(run: Run) -> dict[str, RowSet]:
    """Stage -> the sample of its rows, for the stages that have written some."""
    paths = {stage.name: stage.path("rows.parquet") for stage in run.of(*SETS)}
    return {name: read_rows(path) for name, path in paths.items() if path}


def data(run: Run, sets: dict[str, RowSet]) -> Markup | None:
    """Rows in and out, samples and lengths; None if the recipe has no rows."""
    if not run.of(*SETS):
        return None
    rows = flow(run)
    parts = [rows, _samples(run, sets), _lengths(run, sets)]
    return section("data", "Data", INTRO, parts, terms_of=rows)


def flow(run: Run) -> Child:
    """A bar for every source, scheme and filter, and for training where it left rows out."""
    stages = [stage for stage in run.of(*SETS, "train") if stage.done]
    # Training stages appear only if they left rows out, such as too long ones.
    shown = [stage for stage in stages if stage.category != "train" or stage.dropped]
    most = max((stage.count("rows_out") + _num_dropped(stage) for stage in shown), default=0)
    waiting = [stage.name for stage in run.of(*SETS) if not stage.done]
    later = absent(f"Not run yet: {', '.join(waiting)}.") if waiting else None
    return [
        h("ul", [_flow_of(stage, most) for stage in shown], cls="flow") if shown else None,
        later,
    ]


def _num_dropped(stage: StageRecord) -> int:
    return sum(stage.dropped.values())


def _flow_of(stage: StageRecord, most: int) -> Markup:
    num_kept, num_dropped = stage.count("rows_out"), _num_dropped(stage)
    num_seen = num_kept + num_dropped
    share = f" of {count(num_seen)} ({percent(num_kept, num_seen)})" if num_dropped else ""
    # A scheme writes several rows per seed, so its seeds do not add up with its rows.
    seeds = f", from {count(stage.count('rows_in'))} seeds" if stage.category == "scheme" else ""
    reasons = ", ".join(f"{count(num)} {reason}" for reason, num in by_count(stage.dropped) if num)
    left_out = h("small", f"left out: {reasons}") if reasons else None
    return h(
        "li",
        h("b", breakable(stage.name), h("small", stage.kind)),
        bar([(num_kept, "kept"), (num_dropped, "dropped")], most),
        h("span", f"kept {count(num_kept)}{share}{seeds}", left_out),
    )


def by_count(counts: dict[str, int]) -> list[tuple[str, int]]:
    """The largest first."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _lengths(run: Run, sets: dict[str, RowSet]) -> Markup | None:
    """Histograms with the same bins: tokens if the stage counted them, else words."""
    counted = {stage.name: stage.stats.get("token_lengths") for stage in run.stages}
    # Tokens are what a context is filled with; words are the fallback.
    tokens = {name: values for name, values in counted.items() if isinstance(values, list)}
    words = {n: rows.lengths for n, rows in sets.items() if n not in tokens and rows.lengths}
    parts: list[Child] = [_panels(tokens, "tokens")] if tokens else []
    parts += [_panels(words, "words")] if words else []
    long = [name for name, rows in sets.items() if rows.num > MAX_READ]
    if long:
        note = f"Of {', '.join(long)} the first {count(MAX_READ)} rows are counted."
        parts.append(h("p", note, cls="note"))
    if not parts:
        return None
    return folded("How long the rows are", h("p", LENGTHS_INTRO, cls="note"), parts)


def _panels(sets: dict[str, list[int]], unit: str) -> Markup:
    # Shared by all panels, so that two panels can be compared.
    edges = bins_over(list(sets.values()))
    panels = [histogram(name, values, edges, unit=unit) for name, values in sets.items()]
    return h("div", panels, cls="charts c4col")


def _samples(run: Run, sets: dict[str, RowSet]) -> Child:
    """A few rows of every stage, folded; of filters also rows that were turned down."""
    if not sets:
        return None
    parts = []
    for stage in run.of(*SETS):
        if kept := sets.get(stage.name):
            path = stage.path("rejected.parquet")
            parts.append(_samples_of(stage, kept, read_rows(path) if path else RowSet(0)))
    intro = "Spread evenly over each set, as they are; long texts are cut."
    return [h("h3", "Sample rows"), h("p", intro, cls="note"), parts]


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
