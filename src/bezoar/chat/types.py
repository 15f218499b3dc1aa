"""Rows: messages, chats, comparisons, sampled answers, and what a step kept and dropped."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

from bezoar.errors import DataError, brief, first_line
from bezoar.io import Row, canonical

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class ToolCall:
    """A call of a named function with JSON arguments."""

    name: str
    arguments: dict[str, Any]

    def __hash__(self) -> int:
        # prompts are keys of tables, and a dict by itself has no hash
        return hash((self.name, canonical(self.arguments)))


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()


Messages = tuple[Message, ...]


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
        """The content of the last message if that is the assistant's, else the empty string."""
        return self.messages[-1].content if self._is_answered else ""

    def to_row(self) -> Row:
        """Columns `id`, `messages` (role, content), `meta` (JSON text)."""
        messages, meta = _to_list(self.messages), _to_text(self.meta)
        return {"id": self.id, "messages": messages, "meta": meta}

    @classmethod
    def from_row(cls, row: Row) -> "Chat":
        """The inverse of `to_row`."""
        return cls(row["id"], _from_list(row["messages"]), _table(row["meta"]))


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
            "prompt": _to_list(self.prompt),
            "chosen": _to_list((Message("assistant", self.chosen),)),
            "rejected": _to_list((Message("assistant", self.rejected),)),
            "meta": _to_text(self.meta),
        }

    @classmethod
    def from_row(cls, row: Row) -> "Comparison":
        """The inverse of `to_row`."""
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        return cls(row["id"], _from_list(row["prompt"]), chosen, rejected, _table(row["meta"]))


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
            "prompt": _to_list(self.prompt),
            "answers": list(self.answers),
            "numbers": json.dumps(self.numbers),
            "meta": _to_text(self.meta),
        }

    @classmethod
    def from_row(cls, row: Row) -> "SampledAnswers":
        """The inverse of `to_row`."""
        numbers = {name: tuple(values) for name, values in _table(row["numbers"]).items()}
        prompt, answers = _from_list(row["prompt"]), tuple(row["answers"])
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


def _to_list(messages: Messages) -> list[Row]:
    rows = []
    for message in messages:
        calls = [vars(call) for call in message.tool_calls]
        # as text: arguments differ from call to call, and a Parquet column has one type
        text = json.dumps(calls) if calls else ""
        rows.append({"role": message.role, "content": message.content, "tool_calls": text})
    return rows


def _from_list(rows: list[Row]) -> Messages:
    messages = []
    for row in rows:
        if not isinstance(row["content"], str) or row["role"] not in get_args(Role):
            raise TypeError("a message has no text or no role")
        calls = tuple(ToolCall(**call) for call in json.loads(row["tool_calls"] or "[]"))
        messages.append(Message(row["role"], row["content"], calls))
    return tuple(messages)


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
    chats = []
    for row in rows:
        if isinstance(row, SampledAnswers):
            fault = "it holds sampled answers and chats are needed"
            raise DataError(f"row {row.id}: {fault}; choose one first (kind: best_of_n).")
        chats.append(row.as_chat() if isinstance(row, Comparison) else row)
    return chats
