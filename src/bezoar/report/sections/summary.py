"""The head of the page: the name, the verdict, the figures of the whole run, and what is absent."""

from bezoar.report.bill import total
from bezoar.report.formatting import count, listed, seconds, usd
from bezoar.report.markup import Markup, h
from bezoar.report.run import Run
from bezoar.report.scores import Scoreboard


def summary(run: Run, board: Scoreboard) -> Markup:
    """What a reader should know after ten seconds."""
    first, *others = board.headline
    ended = max((str(s.key.get("finished", "")) for s in run.stages if s.done), default="")
    over = "bezoar run" + (
        f", last stage finished {ended.replace('T', ' ').replace('+00:00', ' UTC')}"
        if ended
        else ""
    )
    tiles = h(
        "ul",
        [h("li", h("b", value), h("span", label)) for value, label in _tiles(run, board)],
        cls="tiles",
    )
    return h(
        "header",
        h("p", over, cls="over"),
        h("h1", run.name),
        h("p", first, cls="lead"),
        [h("p", sentence, cls="then") for sentence in others],
        tiles,
        _gaps(run),
    )


def _tiles(run: Run, board: Scoreboard) -> list[tuple[str, str]]:
    whole = total(run.stages)
    made = sum(s.count("rows_out") for s in run.of("scheme"))
    trained = {s.inputs.get("rows") for s in run.of("train") if s.done}
    used = sum(s.count("rows_out") for s in run.stages if s.name in trained)
    return [
        (f"{sum(s.done for s in run.stages)} of {len(run.stages)}", "stages finished"),
        (count(made), "rows written by the teacher"),
        (count(used), "rows trained on"),
        (count(whole.trained_tokens), "tokens trained"),
        (seconds(whole.seconds), "of work"),
        (usd(whole.cost_usd), "for replies"),
    ]


def _gaps(run: Run) -> list[Markup]:
    missing = [s.name for s in run.stages if not s.done]
    notes = (
        [
            f"This run is not finished: {listed(missing)} {'has' if len(missing) == 1 else 'have'}"
            " no output yet."
        ]
        if missing
        else []
    )
    return [h("p", note, cls="warn") for note in [*notes, *run.notes]]
