"""The models' scores: the table with paired verdicts, and every benchmark as a panel of dots with
intervals."""

from collections.abc import Sequence

from bezoar.evals.outcome import told
from bezoar.evals.stats import Score
from bezoar.report.charts.dots import Dot, dot_plot
from bezoar.report.components import absent, folded, section, table
from bezoar.report.formatting import ABSENT, count, failures, interval, number, signed
from bezoar.report.markup import Child, Markup, h
from bezoar.report.run import Run
from bezoar.report.scores import Scoreboard, read_score

NOTE = (
    "Square brackets hold 95 % intervals. Under each model stands its difference from the first"
    " model, over the items that both answered: ▲ or ▼ where a paired sign-flip test finds it at 5"
    " %, ≈ where the two are not distinguishable. The test is corrected for the number of models"
    " (Holm), not for the number of benchmarks. Where a run holds no items, two scores count as"
    " different only when their intervals do not meet."
)


def scores(run: Run, board: Scoreboard) -> Markup:
    """The table, the panels, and the note that says how verdicts are made; the scores beside the
    main ones are folded."""
    waiting = [s.name for s in run.of("evaluate") if not s.done]
    later = f"Not run yet: {', '.join(waiting)}." if waiting else ""
    if not board.cells:
        return section(
            "scores",
            "Scores",
            None,
            absent(
                f"No evaluation has finished. {later}"
                if waiting
                else "The recipe evaluates nothing."
            ),
        )
    others = [name for name in board.benchmarks if name not in board.main]
    more = (
        folded(
            [f"{len(others)} more scores", h("small", ", ".join(others))],
            _table(board, others),
            _panels(board, others),
        )
        if others
        else None
    )
    return section(
        "scores",
        "Scores",
        "The main score of each benchmark, with how many items it is over and how many of them gave"
        " none.",
        _table(board, board.main),
        absent(later) if later else None,
        *_judges(board),
        *_told(board),
        h("p", NOTE, cls="note"),
        h("h3", "Values with 95 % intervals"),
        _panels(board, board.main),
        more,
    )


def _table(board: Scoreboard, benchmarks: Sequence[str]) -> Markup:
    rows = [
        [_name(board, b), _verdict(board, b), *(_cell(board, b, m) for m in board.labels)]
        for b in benchmarks
    ]
    return table(["Benchmark", "Verdict", *board.labels.values()], rows, words=2)


def _judges(board: Scoreboard) -> list[Markup]:
    """The card of every judge that was examined, once."""
    found = [facts.get("info", {}).get("judge_card") or {} for facts in board.facts.values()]
    cards = {
        card["judge_hash"]: card for card in found if card.get("scores") or card.get("injection")
    }
    return [
        folded(
            [f"The judge {card['judge']}", h("small", f"hash {name}")],
            (
                table(
                    ["Figure", "Value", "95 % interval", "n", "Failed"],
                    [
                        [
                            s.name,
                            number(s.value),
                            interval(s.low, s.high),
                            count(s.n),
                            failures(s.num_failed, s.n),
                        ]
                        for s in map(read_score, card.get("scores") or [])
                    ],
                )
                if card.get("scores")
                else None
            ),
            (
                table(
                    [
                        "Words planted at the end of the worse answer",
                        "The judge fell for them",
                        "Games",
                        "Failed",
                    ],
                    [
                        [
                            line["words"],
                            count(line["fell"]),
                            count(line["games"]),
                            count(line["failed"]),
                        ]
                        for line in card["injection"]
                    ],
                )
                if card.get("injection")
                else None
            ),
        )
        for name, card in cards.items()
    ]


def _told(board: Scoreboard) -> list[Markup]:
    """What the facts of each model say beside its scores."""
    return [
        h("p", f"{board.labels[model]}: {sentence}", cls="note")
        for model, facts in board.facts.items()
        for sentence in told(facts.get("info") or {})
    ]


def _name(board: Scoreboard, benchmark: str) -> Child:
    known = list(board.of(benchmark).values())
    sizes = {s.n for s in known}
    lower = any(not s.higher_is_better for s in known)
    size = f"n = {count(sizes.pop())}" if len(sizes) == 1 else "n differs" if sizes else "no value"
    return [benchmark, h("small", size + (", lower is better" if lower else ""))]


def _cell(board: Scoreboard, benchmark: str, model: str) -> Child:
    score = board.score(benchmark, model)
    if score is None:
        cell = board.cells.get((benchmark, model))
        return [
            ABSENT,
            (
                h("small", f"all {count(cell.num_failed)} failed")
                if cell and cell.num_failed
                else None
            ),
        ]
    verdict = board.verdict(benchmark)
    leads = verdict is not None and not verdict.none and model in verdict.tied
    told = [f"n = {count(score.n)}"] if len({s.n for s in board.of(benchmark).values()}) > 1 else []
    told += [f"{failures(score.num_failed, score.n)} failed"] if score.num_failed else []
    value = h("b", number(score.value), cls="lead-cell") if leads else number(score.value)
    bounds = interval(score.low, score.high) or "no interval"
    return [
        value,
        h("small", bounds),
        h("small", ", ".join(told)) if told else None,
        _change(board, benchmark, model, score),
    ]


def _change(board: Scoreboard, benchmark: str, model: str, score: Score) -> Child:
    first = next(iter(board.of(benchmark)))
    gap = board.against(benchmark, first).get(model)
    if gap is None:
        return None
    better = (gap.value > 0) == score.higher_is_better
    cls, mark = (
        ("same", "≈") if not gap.distinguishable else ("up", "▲") if better else ("down", "▼")
    )
    basis = (
        f"paired over {count(gap.n)} items {interval(gap.low, gap.high)}"
        if gap.n
        else "from the two intervals"
    )
    return h(
        "small",
        f"{mark} {signed(gap.value)}" if gap.value else "≈ the same",
        cls=cls,
        title=f"against {board.labels[first]}, {basis}",
    )


def _verdict(board: Scoreboard, benchmark: str) -> Child:
    verdict = board.verdict(benchmark)
    return (
        h("span", board.told(verdict), cls="same" if verdict.none else None)
        if verdict
        else h("span", "nothing to compare", cls="same")
    )


def _panels(board: Scoreboard, benchmarks: Sequence[str]) -> Markup:
    return h("div", [_panel(board, benchmark) for benchmark in benchmarks], cls="charts c3col")


def _panel(board: Scoreboard, benchmark: str) -> Markup:
    dots = []
    for model, label in board.labels.items():
        score = board.score(benchmark, model)
        dots.append(
            Dot(label, score.value, score.low, score.high, score.n) if score else Dot(label, None)
        )
    crosses = any(d.low is not None and d.low < 0 for d in dots)
    return dot_plot(benchmark, dots, reference=0.0 if crosses else None)
