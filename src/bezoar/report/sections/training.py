"""How training went: loss, and for preference objectives margin and accuracy, and the figures of
every stage."""

from collections.abc import Sequence
from typing import Literal

from bezoar.io import Row
from bezoar.report.charts.lines import Curve, line_chart
from bezoar.report.components import absent, folded, section, table
from bezoar.report.formatting import ABSENT, count, finite, number, seconds, size
from bezoar.report.markup import Child, Markup, h
from bezoar.report.run import Run, Stage

SHOWN = ("loss", "margin", "accuracy", "reward", "kl", "distance")
PLAIN = ("time_s", "stage", "step", "epoch", "tokens", "trained_tokens", "padding", "seconds")
WORDS = {
    "kl": "KL to the stack below",
    "distance": "distance of the weights",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "tokens_per_s": "tokens per second",
}
BASIC = (
    "seconds",
    "rows_in",
    "rows_out",
    "dropped",
    "calls",
    "token_lengths",
    "tokens",
    "trained_tokens",
    "rows_trained",
    "rows_validation",
    "steps",
    "first_loss",
    "last_loss",
    "best_validation_loss",
    "best_step",
    "training_s",
    "peak_memory_bytes",
)


def training(run: Run) -> Markup:
    """Curves in the order of training; rarer curves are folded."""
    stages = run.of("train")
    if not stages:
        return section("training", "Training", None, absent("The recipe trains nothing."))
    started = [s for s in stages if s.name in run.metrics]
    waiting = [s.name for s in stages if s.name not in run.metrics]
    shown = [_charts(stage, run.metrics[stage.name], SHOWN) for stage in started]
    grids = [
        [chart for charts in shown if len(charts) == 1 for chart in charts],
        *(charts for charts in shown if len(charts) > 1),
    ]
    others = [
        chart
        for stage in started
        for chart in _charts(stage, run.metrics[stage.name], _others(run.metrics[stage.name]))
    ]
    return section(
        "training",
        "Training",
        "Pale dots are single steps, the line is smoothed through them, and squares are the"
        " validation split.",
        [h("div", charts, cls="charts c3col") for charts in grids if charts],
        absent(f"No curve yet for {', '.join(waiting)}.") if waiting else None,
        _figures([s for s in stages if s.done]),
        (
            folded(
                "Gradient norm, learning rate, speed and other curves",
                h("div", others, cls="charts c3col"),
            )
            if others
            else None
        ),
    )


def _others(lines: list[Row]) -> list[str]:
    """Whatever else an objective or the loop logged at its steps."""
    names = dict.fromkeys(
        name for line in lines for name in line if not name.startswith("validation_")
    )
    return [name for name in names if name not in (*SHOWN, *PLAIN)]


def _charts(stage: Stage, lines: list[Row], names: Sequence[str]) -> list[Markup]:
    charts = []
    for name in names:
        style: Literal["smoothed", "exact"] = "exact" if name == "lr" else "smoothed"
        curves = [Curve("training", [(r["step"], r[name]) for r in lines if name in r], style)]
        curves.append(
            Curve(
                "validation",
                [(r["step"], r[f"validation_{name}"]) for r in lines if f"validation_{name}" in r],
                "marked",
            )
        )
        if any(curve.points for curve in curves):
            charts.append(
                line_chart(
                    f"{stage.name}: {WORDS.get(name, name.replace('_', ' '))}",
                    curves,
                    zero=name == "margin",
                )
            )
    return charts


def _figures(stages: list[Stage]) -> Child:
    if not stages:
        return None
    head = [
        "Stage",
        "Trains on",
        "Rows",
        "Steps",
        "Tokens",
        "Trained tokens",
        "First loss",
        "Last loss",
        "Best validation",
        "Time",
        "Peak memory",
    ]
    rows: list[list[Child]] = []
    for s in stages:
        extra = [
            f"{name.replace('_', ' ')} {number(value)}"
            for name, value in s.stats.items()
            if name not in BASIC and finite(value)
        ]
        told: list[Child] = [s.name, h("small", ", ".join([objective(s), *extra]))]
        held = s.count("rows_validation")
        seen: list[Child] = [
            count(s.stats.get("rows_trained")),
            h("small", f"and {count(held)} held out") if held else None,
        ]
        best: list[Child] = [
            number(s.stats.get("best_validation_loss")),
            h("small", f"step {count(s.stats['best_step'])}") if s.stats.get("best_step") else None,
        ]
        rows.append(
            [
                told,
                s.inputs.get("rows", ABSENT),
                seen,
                count(s.stats.get("steps")),
                count(s.stats.get("tokens")),
                count(s.stats.get("trained_tokens")),
                number(s.stats.get("first_loss")),
                number(s.stats.get("last_loss")),
                best,
                seconds(s.stats.get("seconds")),
                size(s.stats.get("peak_memory_bytes")),
            ]
        )
    return [h("h3", "Figures"), table(head, rows, words=2)]


def objective(stage: Stage) -> str:
    """What a training stage minimises, by its short name."""
    value = stage.fields.get("objective")
    return (
        str(value.get("kind", stage.kind)) if isinstance(value, dict) else str(value or stage.kind)
    )
