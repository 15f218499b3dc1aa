"""Conversations with tools, made from function declarations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bezoar.bounds import Count, NotNegative, Share
from bezoar.chat.row_types import RowType
from bezoar.chat.types import Chat, Dropped, Filtered
from bezoar.cost import Estimate, Quote, exactly
from bezoar.data.files import locate_file
from bezoar.reading import read_jsonl
from bezoar.references import FileRef
from bezoar.rng import rng_for
from bezoar.stage import Outputs, Stage, StageContext, Stats
from bezoar.synth.tools.catalogue import read_catalogue
from bezoar.synth.tools.check import chat_fault
from bezoar.synth.tools.masking import masked
from bezoar.synth.tools.rows import Category, Writer

CHATS = "bezoar:instructions.jsonl"
DEFAULT_SHARES: dict[Category, float] = {
    "single": 0.24,
    "multiple": 0.2,
    "parallel": 0.16,
    "parallel_multiple": 0.14,
    "irrelevance": 0.12,
    "chat": 0.03,
    "missing": 0.04,
    "conversation": 0.07,
}
_LONGEST_CHAT = 400
_TRIES = 20


@dataclass(frozen=True)
class ToolCalls(Stage):
    """Conversations with tools from a catalogue of functions, each checked, without a teacher.

    Requests are phrasings of the catalogue filled with drawn values; calls follow from them, run in
    the catalogue's stubs, and are valid by the JSON Schema. In a share of the rows the names of
    functions and parameters are replaced by random ones (Hammer), so that descriptions are read.

    Source: arXiv 2408.11857 (the format); Hammer, arXiv 2410.04587 (masking); the shares are ours
    Example: {kind: tool_calls, num_rows: 2000}
    """

    num_rows: Count
    """Conversations to write; equal ones count once."""
    catalogue: FileRef = "bezoar:tools.jsonl"
    """JSON Lines of functions with parameters, requests, result and answers."""
    shares: dict[Category, NotNegative] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    """Weight of each category; one that is not named gets none."""
    masked: Share = 0.33
    """Share of the rows whose functions and parameters get random names."""
    kind: Literal["tool_calls"] = "tool_calls"
    gives = "rows"

    def __post_init__(self) -> None:
        if not any(self.shares.values()):
            raise ValueError("shares are weights, one of them above 0; raise one")

    def files(self) -> list[Path]:
        """The words and the questions without tools that rows are made of."""
        return [locate_file(ref, Path(), "seeds") for ref in ("bezoar:words.jsonl", CHATS)]

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats."""
        return RowType("chats", frozenset({"scheme", "category", "functions", "masked"}))

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """All rows; no requests."""
        return Quote(exactly(self.num_rows))

    def run(self, context: StageContext) -> Stats:
        """Write the rows."""
        written = self.write(context.seed)
        return context.write_rows(written, len(written.rows) + len(written.dropped))

    def write(self, seed: int) -> Filtered[Chat]:
        """`num_rows` different conversations; equal seeds give equal rows.

        Dropped: "double", which another one replaces, and what fails a check.
        """
        path = locate_file(self.catalogue, Path(), "catalogue")
        writer = Writer(read_catalogue(path), read_chats())
        plan = self._plan(seed)
        seen: set[str] = set()
        rows: list[Chat] = []
        dropped: list[Dropped] = []
        for number, (category, is_masked) in enumerate(plan):
            for attempt in range(_TRIES):
                rng = rng_for("tool_calls", seed, number, attempt)
                messages, called = writer.write(category, rng)
                text = "\n".join(message.content for message in messages if message.role == "user")
                meta = {"scheme": "tool_calls", "category": category, "functions": called}
                if is_masked:
                    messages = masked(messages, rng)
                chat = Chat(f"tool_calls-{number}", messages, {**meta, "masked": is_masked})
                reason = "double" if text in seen and category != "chat" else chat_fault(chat)
                if not reason:
                    seen.add(text)
                    rows.append(chat)
                    break
                dropped.append(Dropped(f"{chat.id}.{attempt}", reason, text[:400]))
        return Filtered(rows, dropped)

    def _plan(self, seed: int) -> list[tuple[Category, bool]]:
        """The category of each row and whether it is masked, by exact shares in a random order."""
        total, rng = sum(self.shares.values()), rng_for("tool_calls plan", seed)
        ends, sum_so_far = [], 0.0
        for category, weight in self.shares.items():
            sum_so_far += weight
            ends.append((category, round(self.num_rows * sum_so_far / total)))
        categories: list[Category] = []
        for category, end in ends:
            categories += [category] * (end - len(categories))
        rng.shuffle(categories)
        hidden = set(rng.sample(range(self.num_rows), round(self.num_rows * self.masked)))
        return [(category, number in hidden) for number, category in enumerate(categories)]


def read_chats() -> list[tuple[str, str]]:
    """Shipped questions that need no tool, with their short answers."""
    path = locate_file(CHATS, Path(), "questions")
    return [
        (row["instruction"], row["response"])
        for _, row in read_jsonl(path)
        if not row["context"] and len(row["response"]) <= _LONGEST_CHAT
    ]
