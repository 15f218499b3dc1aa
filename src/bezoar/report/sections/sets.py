"""The row sets: what every step kept and dropped, how long the rows are, and a few of them to
read."""

from bezoar.report.charts.flow import Step, flow_chart
from bezoar.report.charts.histogram import bins_over, histogram
from bezoar.report.components import absent, folded, row_card, section
from bezoar.report.formatting import count
from bezoar.report.markup import Child, Markup, h
from bezoar.report.rows import MAX_READ, RowSet, read_rows
from bezoar.report.run import Run, Stage


def load_sets(run: Run) -> dict[str, RowSet]:
    """Stage -> the sample of its rows, for the stages that have written some."""
    paths = {
        stage.name: stage.path("rows.parquet") for stage in run.of("source", "scheme", "filter")
    }
    return {name: read_rows(path) for name, path in paths.items() if path}


def flow(run: Run) -> Markup:
    """Rows in and out of every source, scheme and filter with the reasons, and of training stages
    that left rows out."""
    stages = [
        s
        for s in run.of("source", "scheme", "filter", "train")
        if s.done and (s.category != "train" or s.dropped)
    ]
    waiting = [s.name for s in run.of("source", "scheme", "filter") if not s.done]
    steps = [
        Step(
            s.name,
            s.count("rows_out"),
            s.dropped,
            s.count("rows_in") if s.category == "scheme" else None,
        )
        for s in stages
    ]
    return section(
        "rows",
        "Rows in and out",
        "Blue rows went on; the coloured pieces are what was left out, in the order of the words"
        " below the bar.",
        flow_chart("Rows kept and dropped", steps),
        absent(f"Not run yet: {', '.join(waiting)}.") if waiting else None,
    )


def lengths(run: Run, sets: dict[str, RowSet]) -> Markup:
    """Histograms with the same bins: tokens where the stages counted them, else words."""
    tokens = {
        s.name: s.stats["token_lengths"]
        for s in run.stages
        if isinstance(s.stats.get("token_lengths"), list)
    }
    parts: list[Child] = []
    if tokens:
        parts.append(_panels(tokens, "tokens"))
    words = {
        name: rows.lengths for name, rows in sets.items() if name not in tokens and rows.lengths
    }
    if words:
        parts += [h("h3", "Words") if tokens else None, _panels(words, "words")]
    long = [name for name, rows in sets.items() if rows.num > MAX_READ]
    if long:
        parts.append(
            h(
                "p",
                f"Of {', '.join(long)} the first {count(MAX_READ)} rows are counted.",
                cls="note",
            )
        )
    what = (
        "Length of each row's messages together; of a comparison, the prompt with the chosen"
        " answer. The dashed line is the median, and the last bar of a panel also holds what is"
        " longer."
    )
    return section("lengths", "How long the rows are", what, parts or absent("No rows yet."))


def _panels(sets: dict[str, list[int]], unit: str) -> Markup:
    edges = bins_over(list(sets.values()))
    return h(
        "div",
        [histogram(name, values, edges, index=1, unit=unit) for name, values in sets.items()],
        cls="charts c4col",
    )


def samples(run: Run, sets: dict[str, RowSet]) -> Markup:
    """A few rows of every stage, folded; of filters also rows that were turned down."""
    parts: list[Child] = []
    for stage in run.of("source", "scheme", "filter"):
        kept = sets.get(stage.name)
        if kept is None:
            parts.append(absent(f"{stage.name} has not run yet."))
            continue
        path = stage.path("rejected.parquet")
        parts.append(_stage(stage, kept, read_rows(path) if path else RowSet(0)))
    return section(
        "samples",
        "Sample rows",
        "Rows spread evenly over each set, as they are; long texts are cut.",
        parts or absent("No rows yet."),
    )


def _stage(stage: Stage, kept: RowSet, left_out: RowSet) -> Markup:
    told = f"{stage.kind}, {count(kept.num)} rows" + (
        f", {count(left_out.num)} turned down" if left_out.num else ""
    )
    rejected = (
        [h("h3", f"Turned down by {stage.name}"), [row_card(row) for row in left_out.samples]]
        if left_out.samples
        else None
    )
    cards: list[Markup] | Markup = [row_card(row) for row in kept.samples] or absent(
        "The stage kept no row."
    )
    return folded([stage.name, h("small", told)], cards, rejected)
