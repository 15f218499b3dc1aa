"""Where a row comes from: seeds and their licence, the scheme, the requests that made and judged it
with their journal keys, and what they cost."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.chat.types import AnyRow, Chat, as_chats
from bezoar.cost import cents
from bezoar.data.files import locate_file
from bezoar.data.licences import seed_terms
from bezoar.data.source import Source
from bezoar.errors import DataError
from bezoar.flow.recipe import Recipe
from bezoar.flow.rundir import RunDir, StoredRows
from bezoar.io import read_jsonl, read_own
from bezoar.judge.stages import JudgeFilter
from bezoar.llm.journal_upkeep import ABSENT, Choice, JournalUpkeep
from bezoar.llm.types import FINAL, Reply, Request
from bezoar.reading import read_text
from bezoar.references import RowsRef

_SEEDS = ("seed", "seeds")
_TOLD = ("scheme", "op", "ops", "round", "rounds", *_SEEDS, "verdict", "reason", "score", "licence")
_END = 20
"""Characters of a text's end by which a reply is found: its start may have been begun for it."""


@dataclass
class Trace:
    """What is known of the row `row_id` of a run; `lines` tells it."""

    recipe: Recipe
    run: RunDir
    journal: JournalUpkeep | None
    row_id: str
    total_usd: float = 0.0

    def lines(self, stage: str = "") -> Iterator[str]:
        """A line a fact. DataError if no stage (or not `stage`) has such a row."""
        names = [name for name, s in self.recipe.stages.items() if s.gives == "rows"]
        places = {name: self._find(name) for name in names if not stage or name == stage}
        found = {name: place for name, place in places.items() if place}
        if not found:
            where = f"the stage {stage} has" if stage else "no stage has"
            fix = "`bezoar rows` shows the rows of a stage with their ids"
            raise DataError(f"{self.run.path}: {where} a row with the id {self.row_id!r}; {fix}.")
        # 1) From the last stage that had it back to the one that made it.
        way = [list(found)[-1]]
        while (before := self._reads(way[0])) and self._find(before):
            way.insert(0, before)
        others = [name for name in found if name not in way]
        yield f"row {self.row_id}: {' -> '.join(way)}, {found[way[-1]][1] or 'kept'}"
        if others:
            yield f"  rows of this id are also in {', '.join(others)}; --stage chooses"
        # 2) How it was made, then what each filter asked about it.
        row = next((r for name in reversed(way) for r in [self._row(name)] if r), None)
        if row is not None:
            yield from self._made(way[0], row)
            for name, before in zip(way[1:], way, strict=False):
                judged = self._row(before)
                if judged is not None:
                    yield from self._judged(name, judged)
            yield from self._price(way)

    def _find(self, stage: str) -> tuple[AnyRow | None, str] | None:
        """The row in a stage's output and why it was left out, "" if it was kept; None if the stage
        never had it."""
        folder = self.run.stage_dir(stage)
        if folder is None:
            return None
        for file, fate in (("rows.parquet", ""), ("rejected.parquet", "left out")):
            rows = StoredRows(folder / file) if (folder / file).is_file() else ()
            for row in rows:
                if row.id == self.row_id:
                    why = f"{row.meta.get('verdict')}: {row.meta.get('reason')}"
                    return row, fate and f"left out by {stage} ({why})"
        for _, dropped in read_jsonl(folder / "failures.jsonl", broken=[]):
            if dropped.get("id") == self.row_id:
                return None, f"left out by {stage} ({dropped['reason']}: {dropped['detail']})"
        return None

    def _row(self, stage: str) -> AnyRow | None:
        found = self._find(stage)
        return found[0] if found else None

    def _reads(self, stage: str) -> str:
        """The stage whose rows a filter passes on; "" for what makes rows."""
        return next((r.name for r in self.recipe.inputs(stage) if r.path == "rows"), "")

    def _made(self, name: str, row: AnyRow) -> Iterator[str]:
        stage, meta = self.recipe.stages[name], row.meta
        if isinstance(stage, Source):
            yield f"source: {stage.kind}, {_licence(stage, row)}"
            return
        yield f"scheme: {meta.get('scheme', stage.kind)}"
        for key, label in (("op", "operation"), ("round", "round"), ("ops", "operations so far")):
            if key in meta:
                told = meta[key]
                yield f"{label}: {', '.join(told) if isinstance(told, list) else told}"
        seeds = list(self._seeds(name, meta))
        for seed, origin, licence in seeds:
            yield f"seed: {seed.id} of {origin}, {licence}"
        rest = {k: v for k, v in meta.items() if k not in _TOLD}
        if rest:
            yield f"more: {json.dumps(rest, ensure_ascii=False)}"
        for ref in self.recipe.inputs(name):
            if ref.kind == "backend" and isinstance(row, Chat):
                shown = [seed.prompt[-1].content for seed, _, _ in seeds if seed.prompt]
                yield from self._written(name, ref.name, row, shown)

    def _seeds(self, name: str, meta: dict[str, Any]) -> Iterator[tuple[AnyRow, str, str]]:
        """The rows that a row was written from, their stage, and their licence."""
        ids = [meta.get("seed"), *(meta.get("seeds") or [])]
        origin = next((r.name for r in self.recipe.inputs(name) if r.path == "seeds"), "")
        if not origin or self.run.stage_dir(origin) is None:
            return
        found = {row.id: row for row in self.run.stored_rows(origin) if row.id in ids}
        sources = _sources(self.recipe, origin)
        for row in (found[name] for name in ids if name in found):
            licences = dict.fromkeys(_licence(source, row) for source in sources)
            yield row, origin, ", ".join(licences) or "licence unknown"

    def _written(self, stage: str, backend: str, row: Chat, seeds: Sequence[str]) -> Iterator[str]:
        """The requests whose replies became the row's messages; those that no reply holds, such as
        a seed's own prompt, are left out, but for the answer."""
        said: list[str] = []
        for message in row.messages:
            text = message.content or next((call.name for call in message.tool_calls), "")
            if message.role in ("user", "assistant") and text:
                # an answer to what was said before it, an instruction after the seeds
                is_answer = message.role == "assistant"
                found = self._holding(stage, backend, text, said[-1:] if is_answer else seeds)
                if found or is_answer:
                    what = "answer" if is_answer else "instruction"
                    yield from self._calls(what, stage, backend, found[:1])
            said += [text] if text and message.role != "system" else []

    def _holding(
        self, stage: str, backend: str, text: str, asked: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The entries whose reply, with what was begun for it, holds a text, the likeliest first:
        those whose question holds all of `asked`, the last as its last message."""
        if self.journal is None:
            return []
        identity, end = self.recipe.backends[backend].identity, text.strip()[-_END:]
        found = [
            entry
            for entry in self.journal.holding(identity, "", end)
            if not entry["request"]["choices"]
            and text.strip() in entry["request"]["prefill"] + entry["reply"]["text"]
            and text.strip() not in entry["request"]["prefill"]
        ]
        last = asked[-1] if asked else ""

        def unlike(entry: dict[str, Any]) -> tuple[bool, ...]:
            return (
                not all(part in _asked(entry) for part in asked),
                entry["request"]["messages"][-1]["content"] != last,
                (entry["request"]["prefill"] + entry["reply"]["text"]).strip() != text.strip(),
                entry["stage"] != stage,
            )

        return sorted(found, key=unlike)

    def _judged(self, name: str, row: AnyRow) -> Iterator[str]:
        """The verdict of a filter, and the requests about this row alone."""
        stage, found = self.recipe.stages[name], self._find(name)
        if found is None:
            return
        meta, is_judge = found[0].meta if found[0] else {}, isinstance(stage, JudgeFilter)
        verdict = f"{meta.get('verdict')}: {meta.get('reason')}" if is_judge else "kept"
        score = f", score {meta['score']}" if is_judge and "score" in meta else ""
        yield f"{name} ({stage.kind}): {found[1] or verdict}{score}"
        if not isinstance(stage, JudgeFilter) or self.journal is None:
            return
        journal, keys = self.journal, list[str]()
        identity = self.recipe.backends[stage.judge].identity

        def ask(requests: Sequence[Request]) -> list[Reply]:
            # a filter makes the same request about a row, whatever stands beside it
            own = [request.key(identity) for request in requests]
            known = journal.get_many(own)
            keys.extend(own)
            return [known.get(key, ABSENT) for key in own]

        stage.judge_rows(as_chats([row]), stage.repaired(ask))
        entries = [next(filter(_answers, journal.chosen(Choice(key=key))), None) for key in keys]
        yield from self._calls("verdict", name, stage.judge, [e for e in entries if e])

    def _calls(
        self, what: str, stage: str, backend: str, entries: Sequence[dict[str, Any]]
    ) -> Iterator[str]:
        for entry in entries:
            self.total_usd += entry["cost_usd"]
            model = getattr(self.recipe.backends[backend], "model", "") or backend
            files = ", ".join(self._prompt_files(stage, _asked(entry)))
            prompt = f", prompt file {files}" if files else ""
            price = f"{cents(entry['cost_usd'])} USD"
            yield f"{what}: model {model}, journal key {entry['key']}, {price}{prompt}"
        if not entries:
            yield f"{what}: no reply in the journal holds it"

    def _prompt_files(self, stage: str, asked: str) -> Iterator[str]:
        """The prompt files of a stage that a question was filled from: all that is fixed in them
        stands in it."""
        for ref in self.recipe.inputs(stage):
            if ref.kind == "file":
                text = read_text(locate_file(ref.name, self.recipe.path.parent, ref.path))
                fixed = [part.strip() for part in re.split(r"\{\w+\}", text)]
                if any(fixed) and all(part in asked for part in fixed):
                    yield self._as_written(stage, ref.path, ref.name)

    def _as_written(self, stage: str, path: str, name: str) -> str:
        """A file as the recipe names it."""
        written = self.recipe.written.get(stage)
        return str(getattr(written, path, name)) if "." not in path else name

    def _price(self, way: Sequence[str]) -> Iterator[str]:
        stats = [read_own(self.run.output_dir(n) / "stats.json") for n in way if self._find(n)]
        spent = sum((stat.get("calls") or {}).get("cost_usd", 0.0) for stat in stats)
        kept = stats[-1].get("rows_out") or 0
        share = f"; {cents(spent / kept)} USD with its share of what was dropped" if kept else ""
        yield f"price: {cents(self.total_usd)} USD for these requests{share}"


def _answers(entry: dict[str, Any]) -> bool:
    """Whether an entry is the journal's answer to its question, and no failure that passed."""
    reply = entry["reply"]
    return reply.get("finish") != "error" or reply.get("failure") in FINAL


def _asked(entry: dict[str, Any]) -> str:
    return "\n".join(message["content"] for message in entry["request"]["messages"])


def _sources(recipe: Recipe, stage: RowsRef) -> list[Source[Any]]:
    """The sources that a stage's rows come from."""
    own = recipe.stages[stage]
    if isinstance(own, Source):
        return [own]
    return [s for name in recipe.upstream(stage) for s in _sources(recipe, name)]


def _licence(source: Source[Any], row: AnyRow) -> str:
    named = row.meta.get("licence") or seed_terms(str(source.path)).licence
    place = str(source.path)
    return f"{Path(place).name if '/' in place else place}, licence {named}"


def trace(recipe: Recipe, run: RunDir, row_id: str, stage: str = "") -> Iterator[str]:
    """What is known of a row, a line a fact."""
    if run.journal is None:
        yield from Trace(recipe, run, None, row_id).lines(stage)
        return
    with JournalUpkeep(run.journal) as journal:
        yield from Trace(recipe, run, journal, row_id).lines(stage)
