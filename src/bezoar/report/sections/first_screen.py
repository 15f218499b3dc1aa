"""What a reader should know after ten seconds: the decision, what to do next, the key figures."""

import re

from bezoar.report.components import folded
from bezoar.report.decision import WORSE, Answer, Decision
from bezoar.report.formatting import count, seconds, usd
from bezoar.report.markup import Child, Markup, h
from bezoar.report.run import Run
from bezoar.report.sections.bill import money, total
from bezoar.report.terms import explained

OPEN = 3
_UNBROKEN = re.compile(r"(?<=\d) (?=%)|(?<=\b[np]) (?==)|(?<=\b[np] =) (?=\d)")


def first_screen(run: Run, decision: Decision) -> Markup:
    """Name, decision, warnings, answers, next steps and figures."""
    # ISO times with one time zone sort as text.
    finished = [str(stage.key.get("finished", "")) for stage in run.stages if stage.done]
    ended = max(finished, default="").replace("T", " ").replace("+00:00", " UTC")
    over = f"bezoar run, last stage finished {ended}" if ended else "bezoar run"
    steps = [h("li", _words(step)) for step in decision.next_steps]
    figures = [h("li", h("b", value), h("span", label)) for value, label in _figures(run)]
    whys = [answer.why for answer in decision.answers]
    return h(
        "header",
        h("p", over, cls="over"),
        h("h1", run.name),
        h("p", _words(decision.sentence), cls="lead"),
        # What is wrong must be said at the top, before any number is believed.
        _warnings([*decision.warnings, *run.notes]),
        h("ul", map(_answer, decision.answers), cls="answers") if decision.answers else None,
        h("div", h("h2", "What to do next"), h("ol", steps), cls="next") if steps else None,
        h("ul", figures, cls="tiles"),
        explained(decision.sentence, whys, decision.warnings, decision.next_steps),
    )


def _words(text: str) -> list[Child]:
    """A sentence whose `keys` are code and in which no line ends between a number and its unit."""
    kept = _UNBROKEN.sub("\u00a0", text)
    return [h("code", part) if i % 2 else part for i, part in enumerate(kept.split("`"))]


def _warnings(notes: list[str]) -> Markup | None:
    """The first ones open; many of them would push the answers off the screen."""
    if not notes:
        return None
    first, more = notes[:OPEN], notes[OPEN:]
    lines = [h("li", _words(note)) for note in first]
    rest = folded(f"{len(more)} more", h("ul", [h("li", _words(note)) for note in more]))
    return h("div", h("ul", lines), rest if more else None, cls="warn")


def _answer(answer: Answer) -> Markup:
    cls = {"unclear": "unclear", "not measured": "unclear"}.get(answer.verdict) or (
        "good" if (answer.verdict == "yes") != (answer.question == WORSE) else "bad"
    )
    word = h("b", answer.short[:1].upper() + answer.short[1:], cls=f"word {cls}")
    return h("li", h("h2", answer.question), word, h("p", _words(answer.why)))


def _figures(run: Run) -> list[tuple[str, str]]:
    """(figure, what it is), those that are not 0."""
    whole = total(run.everything)
    # Rows that several stages train on are counted once; one may drop what another keeps.
    trained_on: dict[str, int] = {}
    for stage in run.of("train"):
        rows, num = stage.inputs.get("rows", ""), stage.count("rows_trained")
        trained_on[rows] = max(num, trained_on.get(rows, 0))
    used = sum(trained_on.values())
    written = sum(stage.count("rows_out") for stage in run.of("scheme"))
    num_done = sum(stage.done for stage in run.stages)
    unfinished = num_done < len(run.stages)
    figures = [
        (f"{num_done} of {len(run.stages)}", "stages finished", unfinished),
        (count(written), "rows written by the teacher", written),
        (count(used), "rows trained on", used),
        (count(whole.trained_tokens), "tokens trained", whole.trained_tokens),
        (count(whole.calls["asked"]), "requests", whole.calls["asked"]),
        (seconds(whole.seconds), "of work", 1),
        (usd(money(run)), "for replies", whole.calls["asked"] or money(run)),
    ]
    return [(figure, label) for figure, label, value in figures if value]
