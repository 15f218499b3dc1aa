"""Rows: messages, chats, comparisons, sampled answers, and what a step kept and dropped."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

from bezoar.chat.messages import Message as Message
from bezoar.chat.messages import Messages as Messages
from bezoar.chat.messages import Role as Role
from bezoar.chat.messages import Tool as Tool
from bezoar.chat.messages import ToolCall as ToolCall
from bezoar.chat.messages import from_rows, to_rows
from bezoar.chat.tool_calls import write_answer
from bezoar.errors import DataError, brief, first_line
from bezoar.io import Row


@dataclass(frozen=True)
class Chat:
    """A conversation; `meta` holds its provenance (source, category, verdict, ...), JSON values."""

    id: str
    messages: Messages
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def _is_answered(self) -> bool:
        return bool(self.messages) and self.messages[-1].role == "assistant"

    @property
    def prompt(self) -> Messages:
        """The messages before the answer; all of them if the chat does not end with one."""
        return self.messages[:-1] if self._is_answered else self.messages

    @property
    def answer(self) -> str:
        """What the assistant wrote in the last message, tool calls as text, else ""."""
        return write_answer(self.messages[-1]) if self._is_answered else ""

    def to_row(self) -> Row:
        """Columns `id`, `messages` (role, content, calls, tools), `meta` (JSON text)."""
        messages, meta = to_rows(self.messages), _to_text(self.meta)
        return {"id": self.id, "messages": messages, "meta": meta}

    @classmethod
    def from_row(cls, row: Row) -> "Chat":
        """The inverse of `to_row`."""
        return cls(row["id"], from_rows(row["messages"]), _table(row["meta"]))


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt; `chosen` is the preferred one."""

    id: str
    prompt: Messages
    chosen: str
    rejected: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The preferred answer."""
        return self.chosen

    def swap(self) -> "Comparison":
        """The same pair in the other order."""
        other = replace(self, chosen=self.rejected, rejected=self.chosen)
        if "ended" not in self.meta:
            return other
        return replace(other, meta={**self.meta, "ended": list(ended(self))[::-1]})

    def as_chat(self) -> Chat:
        """The prompt with the chosen answer."""
        messages = (*self.prompt, Message("assistant", self.chosen))
        if "ended" not in self.meta:
            return Chat(self.id, messages, self.meta)
        return Chat(self.id, messages, {**self.meta, "ended": ended(self)[0]})

    def to_row(self) -> Row:
        """Columns `id`, `prompt`, `chosen`, `rejected` (lists of messages), `meta` (JSON text)."""
        return {
            "id": self.id,
            "prompt": to_rows(self.prompt),
            "chosen": to_rows((Message("assistant", self.chosen),)),
            "rejected": to_rows((Message("assistant", self.rejected),)),
            "meta": _to_text(self.meta),
        }

    @classmethod
    def from_row(cls, row: Row) -> "Comparison":
        """The inverse of `to_row`."""
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        return cls(row["id"], from_rows(row["prompt"]), chosen, rejected, _table(row["meta"]))


@dataclass(frozen=True)
class SampledAnswers:
    """Several answers to one prompt; none of them is the row's own `answer`, which is empty.

    `numbers` holds named numbers of each (rewards, log-probabilities), nan where unknown.
    """

    id: str
    prompt: Messages
    answers: tuple[str, ...]
    numbers: dict[str, tuple[float, ...]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    answer: ClassVar[str] = ""

    def to_row(self) -> Row:
        """Columns `id`, `prompt` (messages), `answers` (texts), `numbers`, `meta` (JSON text)."""
        return {
            "id": self.id,
            "prompt": to_rows(self.prompt),
            "answers": list(self.answers),
            "numbers": json.dumps(self.numbers),
            "meta": _to_text(self.meta),
        }

    @classmethod
    def from_row(cls, row: Row) -> "SampledAnswers":
        """The inverse of `to_row`."""
        numbers = {name: tuple(values) for name, values in _table(row["numbers"]).items()}
        prompt, answers = from_rows(row["prompt"]), tuple(row["answers"])
        return cls(row["id"], prompt, answers, numbers, _table(row["meta"]))


AnyRow = Chat | Comparison | SampledAnswers


def ended(row: AnyRow) -> tuple[bool, ...]:
    """Whether each last answer of a row (of a pair: chosen, rejected) was written to its end.

    Of an answer that was cut off the end token is neither trained nor part of log P. The number
    `ended` of sampled answers says so, or `meta["ended"]`; where both are silent, all have ended.
    """
    num, found = 1, [row.meta.get("ended")]
    if isinstance(row, SampledAnswers):
        num, found = len(row.answers), list(row.numbers.get("ended", ()))
    elif isinstance(row, Comparison):
        num, found = 2, row.meta.get("ended") or []
    known = found if isinstance(found, list) and len(found) == num else [None] * num
    # 0 and false say that it was cut off; a text or nan says nothing
    return tuple(value != 0 for value in known)


def _to_text(table: dict[str, Any]) -> str:
    return json.dumps(table, ensure_ascii=False)


def _table(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError(f"a JSON {type(value).__name__} stands for a table")
    return value


def row_to_item(row: Row) -> AnyRow:
    """The chat, comparison or sampled answers in a Parquet row. DataError for any other row."""
    # the columns tell the three apart; a file that another program changed may have any
    try:
        if "answers" in row:
            return SampledAnswers.from_row(row)
        return Comparison.from_row(row) if "chosen" in row else Chat.from_row(row)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        row_id = brief(f"{row.get('id')!r}", 60)
        fault = f"it was not written by a stage ({first_line(error)})"
        raise DataError(f"row {row_id}: {fault}; run its stage again.") from None


@dataclass(frozen=True)
class Dropped:
    """A row that was left out: `reason` is one of a few that are counted, `detail` for people."""

    id: str
    reason: str
    detail: str = ""


ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Filtered(Generic[ItemT]):
    """What a step kept and what it dropped: no row leaves without being counted."""

    # rows and drops together, so that no caller can take the one and forget the other
    rows: list[ItemT]
    dropped: list[Dropped] = field(default_factory=list)

    @classmethod
    def split(cls, results: Iterable[ItemT | Dropped]) -> "Filtered[ItemT]":
        """The rows and the dropped ones among `results`, each in their order."""
        listed = list(results)
        dropped = [result for result in listed if isinstance(result, Dropped)]
        return cls([result for result in listed if not isinstance(result, Dropped)], dropped)


def count_reasons(dropped: Iterable[Dropped]) -> dict[str, int]:
    """How many rows were dropped for each reason, most first."""
    return dict(Counter(item.reason for item in dropped).most_common())


def as_chats(rows: Iterable[AnyRow]) -> list[Chat]:
    """Chats as they are, comparisons with their chosen answer. DataError for sampled answers."""
    return [as_chat(row) for row in rows]


def as_chat(row: AnyRow) -> Chat:
    """One row for `as_chats`."""
    if isinstance(row, SampledAnswers):
        fault = "it holds sampled answers and chats are needed"
        raise DataError(f"row {row.id}: {fault}; choose one first (kind: best_of_n).")
    return row.as_chat() if isinstance(row, Comparison) else row
