"""What failed or was left out, counted by stage and reason, with a few records of each."""

from collections import Counter

from bezoar.io import Row
from bezoar.report.components import absent, cut, folded, section, table
from bezoar.report.formatting import count
from bezoar.report.markup import Child, Markup, h
from bezoar.report.run import Run

NUM_SHOWN = 8


def failures(run: Run) -> Markup:
    """A folded list a stage; a stage's counted drops stand even where it wrote no records."""
    parts: list[Child] = []
    for stage in run.stages:
        records = stage.failures
        counts = Counter({reason: num for reason, num in stage.dropped.items() if num}) or Counter(
            str(r.get("reason", "no reason")) for r in records
        )
        asked, refused = (
            round(stage.calls.get(word, 0)) for word in ("failed", "refused_by_budget")
        )
        if counts or asked:
            told = ", ".join(f"{count(num)} {reason}" for reason, num in counts.most_common())
            failed = f"{count(asked)} requests failed" if asked else ""
            failed += f", {count(refused)} of them refused by the budget" if refused else ""
            parts.append(
                folded(
                    [stage.name, h("small", "; ".join(filter(None, [told, failed])))],
                    _records(records, counts),
                )
            )
    return section(
        "failures",
        "Failures and left-out rows",
        "Nothing leaves without being counted; up to eight records of each reason.",
        parts or absent("Nothing failed and nothing was left out."),
    )


def _records(records: list[Row], counts: Counter[str]) -> Markup:
    shown: list[list[Child]] = []
    for reason, _ in counts.most_common():
        same = [r for r in records if str(r.get("reason", "no reason")) == reason]
        shown += [
            [reason, h("code", cut(str(r.get("id", "")), 80)), cut(str(r.get("detail") or ""), 300)]
            for r in same[:NUM_SHOWN]
        ]
    return (
        table(["Reason", "Row", "Detail"], shown, words=3)
        if shown
        else absent("No records were written.")
    )
