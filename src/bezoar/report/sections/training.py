"""How training went: curves over the steps, and the figures of every stage."""

from collections.abc import Iterable

from bezoar.io import Row
from bezoar.report.charts.lines import Curve, line_chart
from bezoar.report.components import absent, folded, section, table
from bezoar.report.formatting import ABSENT, count, number, seconds, size
from bezoar.report.markup import Child, Markup, h
from bezoar.report.run import Run, StageRecord

SHOWN = ("loss", "margin", "accuracy", "reward", "kl", "distance")
"""What is shown open, in this order; other numbers of metrics.jsonl are folded."""
PLAIN = ("time_s", "stage", "step", "epoch", "tokens", "trained_tokens", "padding", "seconds")
"""Numbers of metrics.jsonl that get no curve."""
WORDS = {
    "kl": "KL to the stack below",
    "distance": "distance of the weights",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "tokens_per_s": "tokens per second",
}
COLUMNS = """
seconds rows_in rows_out dropped calls token_lengths tokens trained_tokens rows_trained
rows_validation steps first_loss last_loss best_validation_loss best_step training_s
validation_losses mean_losses peak_memory_bytes
"""
"""Statistics of a stage that are shown in a column of their own, or elsewhere in the report."""
HEAD = (
    "Stage",
    "Trains on",
    "Rows",
    "Steps",
    "Trained tokens",
    "First loss",
    "Last loss",
    "Best validation loss",
    "Time",
    "Memory",
)


def training(run: Run) -> Markup | None:
    """Curves in the order of training, rarer ones folded; None if the recipe trains nothing."""
    stages = run.of("train")
    if not stages:
        return None
    steps = {name: len({line["step"] for line in lines}) for name, lines in run.metrics.items()}
    waiting = [stage.name for stage in stages if not steps.get(stage.name)]
    # A curve of one point says less than the figures below.
    short = [stage.name for stage in stages if steps.get(stage.name) == 1]
    logged = [(s, run.metrics[s.name]) for s in stages if s.name not in (*waiting, *short)]
    shown = [chart for stage, lines in logged for chart in _charts(stage, lines, SHOWN)]
    others = [chart for stage, lines in logged for chart in _charts(stage, lines, _others(lines))]
    more = "Gradient norm, learning rate, speed and other curves"
    return section(
        "training",
        "Training",
        "Dots are single steps; squares are the rows held out for validation.",
        h("div", shown, cls="charts c3col") if shown else None,
        absent(f"No curve yet for {', '.join(waiting)}.") if waiting else None,
        absent(f"No curve for {', '.join(short)}: one step was logged.") if short else None,
        _figures([stage for stage in stages if stage.done and "choice" not in stage.stats]),
        [_choice(stage) for stage in stages if stage.stats.get("choice")],
        folded(more, h("div", others, cls="charts c3col")) if others else None,
        terms_of=[shown, *HEAD, more],
    )


def _others(lines: list[Row]) -> list[str]:
    """Whatever else an objective or the loop logged at its steps."""
    # Objectives log numbers of their own, which nobody lists anywhere.
    names = dict.fromkeys(name for line in lines for name in line)
    known = (*SHOWN, *PLAIN)
    return [name for name in names if name not in known and not name.startswith("validation_")]


def _charts(stage: StageRecord, lines: list[Row], names: Iterable[str]) -> list[Markup]:
    charts = []
    for name in names:
        # Validation has its own, rarer steps.
        held_out = f"validation_{name}"
        curves = [
            Curve("training", [(line["step"], line[name]) for line in lines if name in line]),
            Curve(
                "validation",
                [(line["step"], line[held_out]) for line in lines if held_out in line],
                marked=True,
            ),
        ]
        if any(curve.points for curve in curves):
            title = f"{stage.name}: {WORDS.get(name, name.replace('_', ' '))}"
            charts.append(line_chart(title, curves, zero=name == "margin"))
    return charts


def _figures(stages: list[StageRecord]) -> Child:
    if not stages:
        return None
    return [h("h3", "In figures"), table(HEAD, map(_figures_of, stages), words=2)]


def _choice(stage: StageRecord) -> Child:
    """The checkpoints among which a stage chose, by its suites of scores."""
    rows = [row for row in stage.stats["choice"] if isinstance(row, dict)]
    head = list(rows[0]) if rows else []
    cells = [[number(v) if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    title = f"{stage.name}: {stage.stats.get('chosen')} of {stage.inputs.get('model', ABSENT)}"
    return [h("h3", title), table(head, cells, words=1)]


def _figures_of(stage: StageRecord) -> list[Child]:
    stats = stage.stats
    num_held_out = stage.count("rows_validation")
    held_out = h("small", f"{count(num_held_out)} held out") if num_held_out else None
    step = h("small", f"step {count(stats['best_step'])}") if stats.get("best_step") else None
    return [
        [stage.name, h("small", objective(stage)) if objective(stage) != stage.name else None],
        stage.inputs.get("rows", ABSENT),
        [count(stats.get("rows_trained")), held_out],
        count(stats.get("steps")),
        count(stats.get("trained_tokens")),
        number(stats.get("first_loss")),
        number(stats.get("last_loss")),
        [number(stats.get("best_validation_loss")), step],
        seconds(stats.get("seconds")),
        size(stats.get("peak_memory_bytes")),
    ]


def other_figures(stage: StageRecord) -> list[tuple[str, object]]:
    """(name, value) of the statistics that have no column of their own in a table."""
    columns = COLUMNS.split()
    others = [(name, value) for name, value in stage.stats.items() if name not in columns]
    return [(name.replace("_", " "), value) for name, value in others]


def objective(stage: StageRecord) -> str:
    """What a training stage minimises, by its short name."""
    value = stage.fields.get("objective")
    if isinstance(value, dict):
        return str(value.get("kind", stage.kind))
    return str(value or stage.kind)
