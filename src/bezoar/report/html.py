"""The report: one HTML file that needs no network and runs no script."""

import base64
import hashlib
from pathlib import Path

from bezoar.io import atomic_write
from bezoar.report.components import folded, section
from bezoar.report.decision import decide
from bezoar.report.markup import Markup, h
from bezoar.report.run import Run
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.bill import bill
from bezoar.report.sections.data_result import data_result
from bezoar.report.sections.examples import examples
from bezoar.report.sections.failures import failures
from bezoar.report.sections.first_screen import first_screen
from bezoar.report.sections.repeats import repeats
from bezoar.report.sections.scores import scores
from bezoar.report.sections.sets import data, load_sets
from bezoar.report.sections.training import training

CSS = (Path(__file__).parent / "style.css").read_text("utf-8")


def write_report(run: Run, board: Scoreboard) -> Path:
    """Write `report.html` into the run directory, whole or partial, and return its path."""
    path = run.path / "report.html"
    atomic_write(path, page(run, board))
    return path


def page(run: Run, board: Scoreboard) -> str:
    """The whole document."""
    # 1) The sections, those that have something to show, in the order of a reader's questions.
    sets = load_sets(run)
    sections = {
        "Result": data_result(run, sets),
        "Examples": examples(run, board),
        "Scores": scores(run, board),
        "Seeds": repeats(board),
        "Training": training(run),
        "Data": data(run, sets),
        "Money": bill(run),
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
    made_of = "Made from the run directory only; it loads nothing and runs no script."
    body = h(
        "body",
        first_screen(run, decide(run, board)),
        h("nav", h("ul", links), aria_label="Sections"),
        h("main", shown.values()),
        h("footer", made_of),
    )
    return "<!doctype html>\n" + h("html", head, "\n", body, lang="en") + "\n"


def _recipe(run: Run) -> Markup | None:
    if not run.recipe:
        return None
    text = h("pre", h("code", run.recipe))
    intro = "As it was written when the run last started."
    return section("recipe", "The recipe", intro, folded("recipe.yaml", text))
