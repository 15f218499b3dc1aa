"""The report: one HTML file that needs no network and runs no script."""

import base64
import hashlib
from pathlib import Path

from bezoar.io import atomic_write
from bezoar.report.components import absent, section
from bezoar.report.markup import Markup, h
from bezoar.report.run import Run, load_run
from bezoar.report.scores import Scoreboard, load_scoreboard
from bezoar.report.sections.bill import bill
from bezoar.report.sections.failures import failures
from bezoar.report.sections.mt_bench import mt_bench
from bezoar.report.sections.revision import revision
from bezoar.report.sections.scores import scores
from bezoar.report.sections.sets import flow, lengths, load_sets, samples
from bezoar.report.sections.summary import summary
from bezoar.report.sections.training import training

CSS = (Path(__file__).parent / "style.css").read_text("utf-8")
LINKS = {
    "scores": "Scores",
    "mt-bench": "MT-Bench",
    "revision": "Revision",
    "training": "Training",
    "rows": "Rows",
    "lengths": "Lengths",
    "bill": "Bill",
    "samples": "Samples",
    "failures": "Failures",
    "recipe": "Recipe",
}


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory, whole or partial, and return its path."""
    run = load_run(run_dir)
    path = run_dir / "report.html"
    atomic_write(path, page(run, load_scoreboard(run)))
    return path


def page(run: Run, board: Scoreboard) -> str:
    """The whole document. Its policy forbids everything but its own style sheet, so no row can load
    or run anything."""
    sets = load_sets(run)
    sections = [
        scores(run, board),
        mt_bench(run, board),
        revision(board),
        training(run),
        flow(run),
        lengths(run, sets),
        bill(run),
        samples(run, sets),
        failures(run),
        _recipe(run),
    ]
    shown = [part for part in sections if part is not None]
    links = [
        h("li", h("a", title, href=f"#{anchor}"))
        for anchor, title in LINKS.items()
        if any(f'id="{anchor}"' in part[:300] for part in shown)
    ]
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
    body = h(
        "body",
        summary(run, board),
        h("nav", h("ul", links), aria_label="Sections"),
        h("main", shown),
        h(
            "footer",
            "Made from the run directory alone. Bars, dots and marks tell their numbers when"
            " pointed at.",
        ),
    )
    return "<!doctype html>\n" + h("html", head, "\n", body, lang="en") + "\n"


def _recipe(run: Run) -> Markup:
    if not run.recipe:
        return section("recipe", "The recipe", None, absent("recipe.yaml is absent."))
    return section(
        "recipe",
        "The recipe",
        "As it was written when the run last started.",
        h("pre", h("code", run.recipe)),
    )
