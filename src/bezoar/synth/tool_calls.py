"""Conversations with tools, made from function declarations."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bezoar.bounds import Count, NotNegative, Share
from bezoar.chat.messages import offered
from bezoar.chat.row_types import RowNeed, RowType
from bezoar.chat.types import AnyRow, Chat, Filtered, Tool
from bezoar.cost import Estimate
from bezoar.data.files import locate_file
from bezoar.errors import DataError
from bezoar.llm.types import Ask
from bezoar.reading import read_jsonl
from bezoar.references import FileRef, RowsRef
from bezoar.rng import rng_for, seed_for
from bezoar.stage import Outputs, StageContext
from bezoar.synth.accepted import written
from bezoar.synth.drawn_rows import DrawnRows, draw_rows
from bezoar.synth.tools.catalogue import SHIPPED, Function, read_catalogue, read_declarations
from bezoar.synth.tools.check import chat_fault
from bezoar.synth.tools.masking import masked
from bezoar.synth.tools.rows import Category, Writer
from bezoar.synth.tools.teacher import TeacherWriter
from bezoar.synth.tools.varying import varied

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
_BLOCK = 100
"""Rows of `accepted` whose shares are exact."""


@dataclass(frozen=True)
class ToolCalls(DrawnRows):
    """Conversations with tools from declarations of functions, each checked.

    Without a teacher, requests are phrasings of the catalogue filled with drawn values; calls
    follow from them and run in the catalogue's stubs. With one, it writes request, call and final
    answer, and a row is kept if the call is valid by its JSON Schema, has its values from the
    request and is what was asked for, and the answer tells the result; a wrong call is told to the
    teacher, which may mend it. Without a stub the result is the teacher's, and the row says
    `simulated`. In a share of the rows functions and parameters get random names (Hammer), so that
    descriptions are read.

    Source: arXiv 2408.11857 (the format); Hammer, arXiv 2410.04587 (masking); the shares are ours
    Example: {kind: tool_calls, num_rows: 2000}
    """

    catalogue: FileRef = SHIPPED
    """A catalogue of functions; with a teacher also plain declarations in OpenAI's form."""
    shares: dict[Category, NotNegative] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    """Weight of each category; one that is not named gets none."""
    masked: Share = 0.33
    """Share of the rows whose functions and parameters get random names."""
    rows_per_tool: Count = 1
    """Rows side by side that offer the same tool: with and without a fitting request. `train` reads
    what their prompts have in common once, with shuffle: false."""
    unfitting: Literal["any", "far"] = "any"
    """What irrelevance rows ask for: what `any` other function does, half of them of the offered
    one's domain, or one of a `far` domain, which a base tells apart by itself."""
    seeds: RowsRef = ""
    """With a teacher: a stage whose rows offer the tools, in place of the catalogue."""
    structured: bool = False
    """With a local teacher: hold its answers to valid calls of the offered tools."""
    kind: Literal["tool_calls"] = "tool_calls"
    usual_tokens = 540.0

    def __post_init__(self) -> None:
        if not any(self.shares.values()):
            raise ValueError("shares are weights, one of them above 0; raise one")
        super().__post_init__()
        if self.teacher and self.rows_per_tool > 1:
            raise ValueError("rows_per_tool is of rows without a teacher; remove one of them")
        if self.unfitting == "far" and (self.teacher or not self.shares.get("irrelevance")):
            what = "unfitting: far is of irrelevance rows without a teacher"
            raise ValueError(f"{what}, of which there are none; remove the key")
        if self.seeds and self.catalogue != SHIPPED:
            raise ValueError("tools come from seeds or from catalogue; leave one of them out")

    def files(self) -> list[Path]:
        """The words and the questions without tools that rows are made of."""
        return [*super().files(), locate_file(CHATS, Path(), "seeds")]

    def takes(self) -> Mapping[str, RowNeed]:
        """Chats that offer tools."""
        return {"seeds": (RowType("chats"),)} if self.seeds else {}

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats."""
        return RowType("chats", frozenset({"scheme", "category", "functions", "masked"}))

    def requests(self) -> Estimate:
        """Two for a row, none for a question without tools, and four for a conversation."""
        # questions without tools are shipped, and conversations need two requests more
        total = sum(self.shares.values())
        num_rows = written(self.num_rows)
        asked = num_rows * (1 - self.shares.get("chat", 0) / total)
        talks = num_rows * self.shares.get("conversation", 0) / total
        return Estimate(asked, 2 * asked + 2 * talks, 2 * asked + 2 * talks)

    def read_seeds(self, context: StageContext) -> list[AnyRow]:
        """The rows whose tools are offered."""
        return context.rows(self.seeds) if self.seeds else []

    def write(self, seed: int) -> Filtered[Chat]:
        """`num_rows` different conversations without a teacher; equal seeds give equal rows.

        Dropped: "double", which another one replaces, and what fails a check.
        """
        path = locate_file(self.catalogue, Path(), "catalogue")
        functions = read_catalogue(path)
        if self.unfitting == "far" and len({function.domain for function in functions}) < 2:
            fault = "unfitting: far, and all its functions are of one domain"
            raise DataError(f"{path}: {fault}; add others or remove the key.")
        writer = Writer(functions, read_chats(), far=self.unfitting == "far")
        plan = self._plan(seed)

        def make(number: int, rng: random.Random) -> Chat:
            category, is_masked = plan[number]
            # rows that offer the same tool show it alike
            place = number // self.rows_per_tool
            shared = rng_for("tool_calls tool", seed, place) if self.rows_per_tool > 1 else None
            messages, called = writer.write(category, rng, shared)
            shown = varied(messages, shared or rng, whole=shared is not None)
            shown = masked(shown, shared or rng) if is_masked else shown
            meta = {"scheme": self.kind, "category": category, "functions": called}
            return Chat(f"tool_calls-{number}", shown, {**meta, "masked": is_masked})

        def may_repeat(chat: Chat) -> bool:
            return bool(chat.meta["category"] == "chat")

        num_rows = written(self.num_rows)
        return draw_rows(self.kind, num_rows, seed, make, chat_fault, may_repeat)

    def ask_teacher(self, ask: Ask, seeds: Sequence[AnyRow], *, seed: int) -> Filtered[Chat]:
        """The conversations of `num_rows` that a teacher wrote rightly, and why not the others.

        DataError where there are no tools, or too few for a category.
        """
        return self._teach(self._plan(seed), ask, seeds, seed)

    def first(self, num: int, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """The rows of the first `num` that a teacher tries, whose shares are exact in blocks."""
        # a plan of another number of rows would be another order, and all other questions
        blocks = (seed_for(seed, "block", number) for number in range(math.ceil(num / _BLOCK)))
        plan = [part for block in blocks for part in self.sized(_BLOCK)._plan(block)]
        return self._teach(plan[:num], ask, seeds, seed)

    def _teach(
        self, plan: Sequence[tuple[Category, bool]], ask: Ask, seeds: Sequence[AnyRow], seed: int
    ) -> Filtered[Chat]:
        stubs: dict[str, Function] = {}
        if self.seeds:
            tools = list({tool.name: tool for row in seeds for tool in _offered(row)}.values())
        else:
            tools, stubs = read_declarations(locate_file(self.catalogue, Path(), "catalogue"))
        if not tools:
            raise DataError(f"{self.seeds}: no row offers tools; name other rows or a catalogue.")
        how = (self.answers, self.retries, seed, self.structured)
        return TeacherWriter(tools, stubs, read_chats(), ask, *how).write(plan)

    def _plan(self, seed: int) -> list[tuple[Category, bool]]:
        """The category of each row and whether it is masked, by exact shares in a random order."""
        num_rows = written(self.num_rows)
        total, rng = sum(self.shares.values()), rng_for("tool_calls plan", seed)
        # rounded sums, not rounded shares: they add up to all rows
        ends, sum_so_far = [], 0.0
        for category, weight in self.shares.items():
            sum_so_far += weight
            ends.append((category, round(num_rows * sum_so_far / total)))
        categories: list[Category] = []
        for category, end in ends:
            categories += [category] * (end - len(categories))
        rng.shuffle(categories)
        num_tools = math.ceil(num_rows / self.rows_per_tool)
        hidden = set(rng.sample(range(num_tools), round(num_tools * self.masked)))
        return [(each, i // self.rows_per_tool in hidden) for i, each in enumerate(categories)]


def read_chats() -> list[tuple[str, str]]:
    """Shipped questions that need no tool, with their short answers."""
    path = locate_file(CHATS, Path(), "questions")
    return [
        (row["instruction"], row["response"])
        for _, row in read_jsonl(path)
        if not row["context"] and len(row["response"]) <= _LONGEST_CHAT
    ]


def _offered(row: AnyRow) -> tuple[Tool, ...]:
    messages = row.messages if isinstance(row, Chat) else row.prompt
    return offered(messages)
