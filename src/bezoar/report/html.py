"""The report: one HTML file that needs no network and runs no script."""

import base64
import hashlib
from pathlib import Path

from bezoar.io import atomic_write
from bezoar.report.components import absent, section
from bezoar.report.formatting import count, listed, seconds, usd
from bezoar.report.markup import Markup, h
from bezoar.report.run import Run
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.bill import bill, total
from bezoar.report.sections.mt_bench import mt_bench
from bezoar.report.sections.repeats import repeats
from bezoar.report.sections.revision import revision
from bezoar.report.sections.scores import scores
from bezoar.report.sections.sets import failures, flow, lengths, load_sets, samples
from bezoar.report.sections.training import training

CSS = (Path(__file__).parent / "style.css").read_text("utf-8")


def write_report(run: Run, board: Scoreboard) -> Path:
    """Write `report.html` into the run directory, whole or partial, and return its path."""
    path = run.path / "report.html"
    atomic_write(path, page(run, board))
    return path


def page(run: Run, board: Scoreboard) -> str:
    """The whole document."""
    # 1) The sections. The link to one is its title in lower case. Those that the recipe does not
    #    ask for are None and have no link.
    sets = load_sets(run)
    sections = {
        "Scores": scores(run, board),
        "Seeds": repeats(board),
        "MT-Bench": mt_bench(run, board),
        "Revision": revision(board),
        "Training": training(run),
        "Rows": flow(run),
        "Lengths": lengths(run, sets),
        "Bill": bill(run),
        "Samples": samples(run, sets),
        "Failures": failures(run),
        "Recipe": _recipe(run),
    }
    shown = {title: part for title, part in sections.items() if part is not None}
    links = [h("li", h("a", title, href=f"#{title.lower()}")) for title in shown]
    # 2) The policy forbids everything but our own style sheet: no row can load or run anything.
    digest = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=policy),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="referrer", content="no-referrer"),
        h("title", f"{run.name}: bezoar report"),
        h("style", Markup(CSS)),
    )
    # 3) The document.
    footer = (
        "Made from the run directory only. Hover over bars, dots and marks to see their values."
    )
    body = h(
        "body",
        _summary(run, board),
        h("nav", h("ul", links), aria_label="Sections"),
        h("main", shown.values()),
        h("footer", footer),
    )
    return "<!doctype html>\n" + h("html", head, "\n", body, lang="en") + "\n"


def _summary(run: Run, board: Scoreboard) -> Markup:
    """What a reader should know after ten seconds: name, verdict, figures, and what is absent."""
    # The strongest sentence is large; the others stand below it.
    first, *others = board.headline
    # ISO times with one time zone sort as text.
    finished = [str(stage.key.get("finished", "")) for stage in run.stages if stage.done]
    ended = max(finished, default="").replace("T", " ").replace("+00:00", " UTC")
    over = f"bezoar run, last stage finished {ended}" if ended else "bezoar run"
    tiles = [h("li", h("b", value), h("span", label)) for value, label in _tiles(run)]
    # A report of a partial run must say so at its top, before any number.
    missing = [stage.name for stage in run.stages if not stage.done]
    missing += [f"{s.name} with seed {s.seed}" for s in run.repeats if not s.done]
    have = "has" if len(missing) == 1 else "have"
    unfinished = f"This run is not finished: {listed(missing)} {have} no output yet."
    notes = [unfinished, *run.notes] if missing else run.notes
    return h(
        "header",
        h("p", over, cls="over"),
        h("h1", run.name),
        h("p", first, cls="lead"),
        [h("p", sentence, cls="then") for sentence in others],
        h("ul", tiles, cls="tiles"),
        [h("p", note, cls="warn") for note in notes],
    )


def _tiles(run: Run) -> list[tuple[str, str]]:
    whole = total(run.everything)
    # Rows that several stages train on are counted once.
    trained_on = {stage.inputs.get("rows") for stage in run.of("train") if stage.done}
    used = sum(stage.count("rows_out") for stage in run.stages if stage.name in trained_on)
    written = sum(stage.count("rows_out") for stage in run.of("scheme"))
    num_done = sum(stage.done for stage in run.stages)
    return [
        (f"{num_done} of {len(run.stages)}", "stages finished"),
        (count(written), "rows written by the teacher"),
        (count(used), "rows trained on"),
        (count(whole.trained_tokens), "tokens trained"),
        (seconds(whole.seconds), "of work"),
        (usd(whole.cost_usd), "for replies"),
    ]


def _recipe(run: Run) -> Markup:
    if not run.recipe:
        return section("recipe", "The recipe", None, absent("recipe.yaml is absent."))
    text = h("pre", h("code", run.recipe))
    return section("recipe", "The recipe", "As it was written when the run last started.", text)
