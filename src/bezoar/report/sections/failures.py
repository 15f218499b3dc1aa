"""What was left out or failed, a folded list per stage."""

from collections import Counter

from bezoar.evals.outcome import read_items
from bezoar.io import Row
from bezoar.report.components import absent, cut, folded, section, table
from bezoar.report.formatting import count
from bezoar.report.markup import Child, Markup, h
from bezoar.report.run import Run, StageRecord

NUM_RECORDS = 8


def failures(run: Run) -> Markup | None:
    """A few records of each reason by stage; None if nothing failed and nothing was left out."""
    parts: list[Child] = []
    words: list[Child] = []
    for stage in run.stages:
        records = [*stage.failures, *_without_value(stage)]
        # The counts of stats.json are complete; records may be missing or cut.
        reasons = Counter({reason: num for reason, num in stage.dropped.items() if num})
        reasons = reasons or Counter(map(_reason, records))
        num_failed = round(stage.calls.get("failed", 0))
        notes = [", ".join(f"{count(num)} {reason}" for reason, num in reasons.most_common())]
        if num_failed:
            notes.append(f"{count(num_failed)} requests failed")
        if stage.unfinished:
            notes.append(f"not finished: {stage.unfinished}")
        words += notes
        if reasons or num_failed or stage.unfinished:
            summary = [stage.name, h("small", "; ".join(filter(None, notes)))]
            parts.append(folded(summary, _records(records, reasons)))
    intro = "Nothing leaves without being counted; up to eight records of each reason."
    title = "Failures and left-out rows"
    return section("failures", title, intro, parts, terms_of=words) if parts else None


def _without_value(stage: StageRecord) -> list[Row]:
    """The items of an evaluation that have no value and say why, once for all its scores."""
    items = read_items(stage.folder, lenient=True) if stage.folder else []
    failed = [item for item in items if item.get("value") is None and item.get("reason")]
    return list({(str(item.get("id")), _reason(item)): item for item in failed}.values())


def _reason(record: Row) -> str:
    return str(record.get("reason", "no reason"))


def _records(records: list[Row], reasons: Counter[str]) -> Markup:
    shown: list[list[Child]] = []
    for reason, _ in reasons.most_common():
        same = [record for record in records if _reason(record) == reason][:NUM_RECORDS]
        for record in same:
            row_id, detail = str(record.get("id", "")), str(record.get("detail") or "")
            shown.append([reason, h("code", cut(row_id, 80)), cut(detail, 300)])
    if not shown:
        return absent("No records were written.")
    return table(["Reason", "Row", "Detail"], shown, words=3)
