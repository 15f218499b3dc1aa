"""The journal as people read it: a line an entry, one entry whole, or a file of all."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bezoar.cost import cents
from bezoar.errors import DataError, brief
from bezoar.flow.inspect_run import find_run
from bezoar.io import atomic_file
from bezoar.llm.journal_upkeep import Choice, JournalUpkeep
from bezoar.llm.types import Request

_SHOWN = 100
_DEFAULTS = vars(Request(()))


def find_journal(place: Path) -> tuple[Path, str]:
    """The journal of a run directory or recipe, and the run's name; of a journal's own file "".

    DataError where there is none.
    """
    if place.is_file() and place.suffix not in (".yaml", ".yml"):
        return place, ""
    recipe, run = find_run(place)
    if run.journal is None:
        raise DataError(f"{run.path}: there is no journal yet; run the recipe first.")
    return run.journal, recipe.name


def day(text: str) -> float | None:
    """Seconds since 1970 at the beginning of a day such as 2026-01-31 (UTC); None for ""."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() if text else None
    except ValueError:
        raise DataError(f"{text!r} is no day; write one such as 2026-01-31.") from None


def one_line(entry: dict[str, Any]) -> str:
    """Key, time, stage, outcome, tokens, money, and the beginnings of question and answer."""
    reply = entry["reply"]
    tokens = f"{reply.get('prompt_tokens', 0)} + {reply.get('completion_tokens', 0)} tokens"
    told = [entry["key"], _time(entry), entry["stage"] or "-", _outcome(reply), tokens]
    if reply.get("cost_usd"):
        told.append(f"{cents(reply['cost_usd'])} USD")
    asked = brief(_text(entry["request"]["messages"][-1:]), _SHOWN + 120)[:_SHOWN]
    said = reply.get("error") or reply.get("text") or _chosen(entry)
    return f"{'  '.join(told)}\n    {asked} -> {brief(said, _SHOWN + 120)[:_SHOWN]}"


def whole(entry: dict[str, Any]) -> Iterator[str]:
    """Everything about an entry, a line each."""
    reply, request = entry["reply"], entry["request"]
    yield f"key {entry['key']}, entry {entry['id']}, {_time(entry)}"
    yield f"asked by run {entry['run']}, stage {entry['stage']}, of {entry['model']}"
    settings = {
        name: value
        for name, value in request.items()
        if name != "messages" and value and value != _DEFAULTS.get(name)
    }
    yield f"settings: {json.dumps(settings, ensure_ascii=False)}"
    for message in request["messages"]:
        yield f"{message['role']}: {_text([message])}"
    yield f"reply ({_outcome(reply)}): {reply.get('text') or _chosen(entry)}"
    if reply.get("error"):
        yield f"error: {reply['error']}"
    tokens = f"{reply.get('prompt_tokens', 0)} tokens read, {reply.get('completion_tokens', 0)}"
    yield f"{tokens} written, {cents(reply.get('cost_usd', 0.0))} USD"
    if entry["body"] is not None:
        yield f"as the server sent it: {entry['body']}"


def search(journal: JournalUpkeep, choice: Choice, text: str) -> Iterator[dict[str, Any]]:
    """The entries whose question or answer holds `text`, in whatever case."""
    wanted = text.casefold()
    for entry in journal.chosen(choice, newest=True):
        said = f"{entry['reply'].get('text', '')}\n{entry['reply'].get('error', '')}"
        if wanted in f"{_text(entry['request']['messages'])}\n{said}".casefold():
            yield entry


def export(journal: JournalUpkeep, choice: Choice, out: Path) -> int:
    """Write the entries as JSON Lines, for their owner alone; how many. Nothing is overwritten."""
    if out.exists():
        raise DataError(f"{out}: the file is there already; name another.")
    num = 0
    with atomic_file(out) as partial, partial.open("w", encoding="utf-8") as stream:
        for entry in journal.chosen(choice):
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
            num += 1
    out.chmod(0o600)
    return num


def choose(
    place: Path, *, stage: str, model: str = "", key: str = "", failed: bool = False
) -> tuple[Path, Choice]:
    """The journal at `place` and what is meant of it: of a run, what that run has asked."""
    path, run = find_journal(place)
    return path, replace(Choice(run, stage, model), key=key, failed=failed)


def _text(messages: list[dict[str, Any]]) -> str:
    parts = [[m["content"], *map(json.dumps, m.get("tool_calls") or ())] for m in messages]
    return "\n".join(part for texts in parts for part in texts if part)


def _time(entry: dict[str, Any]) -> str:
    return datetime.fromtimestamp(entry["time_s"], UTC).isoformat(" ", "seconds")[:19]


def _outcome(reply: dict[str, Any]) -> str:
    if not reply:
        return "not read yet"
    return str(reply.get("failure") or reply.get("finish"))


def _chosen(entry: dict[str, Any]) -> str:
    pairs = zip(entry["request"]["choices"], entry["reply"].get("logprobs", ()), strict=False)
    return ", ".join(f"{choice} {logprob:.3f}" for choice, logprob in pairs)
