"""Answers to rows of one's own whose rightness a program can tell.

Each turn of the assistant is an item, asked with the row's own turns before it. Its form says what
is checked: calls, by the AST rules against the row's; an answer behind results of calls, whether it
holds a value of each; an answer without a call where tools are offered, whether there is none; JSON
mode, whether the answer fits the schema and equals the row's; documents, whether each cited span
stands in its document, and that is one that the row cites; `meta.instructions`, whether the answer
keeps all of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from bezoar.bounds import Count
from bezoar.chat.citations import cited_line, documents_in, is_quoted, read_citations
from bezoar.chat.json_mode import schema_of
from bezoar.chat.messages import offered
from bezoar.chat.row_types import TEXTS, RowNeed
from bezoar.chat.tool_calls import write_answer
from bezoar.chat.types import Chat, Message, Messages, as_chats
from bezoar.cost import Estimate, RequestEstimate, exactly
from bezoar.errors import DataError
from bezoar.evals.answer_kinds import Answered, kinds_of
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.power import detectable
from bezoar.evals.section import (
    HELD,
    Section,
    asked_alike,
    expected_rows,
    greedy_requests,
    item_rows,
)
from bezoar.evals.stats import clustered_score, score
from bezoar.io import content_hash
from bezoar.model.structured_output import form_of
from bezoar.references import RowsRef
from bezoar.strict_json import NotJSONError, parse
from bezoar.synth.tools.check import uses_result
from bezoar.train.rewards.instructions import Instructions
from bezoar.train.rewards.program import check_rows
from bezoar.verdicts.tool_call import as_expected, judge_calls, schema_faults

Shares = Mapping[str, Sequence[float]]
"""Figure -> values from 0 to 1 of one answer: one, or one for each thing that it counts."""


class Checked(NamedTuple):
    """What a program says of an answer; `kind` names what is wrong, "" if it is right."""

    kind: str
    shares: Shares
    detail: str = ""


class Item(NamedTuple):
    """A turn that is asked, of a class, and what checks an answer to it."""

    id: str
    group: str
    prompt: Messages
    answer: Message
    check: Callable[["Item", str], Checked]


@dataclass(frozen=True)
class CheckedAnswers(Section):
    """Calls, use of their results, JSON mode and citations on rows of one's own, held out.

    Each turn of the assistant in a row is asked. Rows without tools, schema or documents cannot be
    checked and are counted.

    Source: the formats of Hermes 3, arXiv 2408.11857; the checks are ours
    Example: {rows: held-out, limit: 100}
    """

    rows: RowsRef
    """The stage whose rows are asked, such as those of tool_calls, json_mode or cited_answers."""
    limit: Count | None = None
    """Number of turns of each class, the first ones; null for all."""
    max_tokens: Count = 256
    """Most tokens of an answer."""
    structured: bool = False
    """Hold answers to the form that is asked for: calls of the offered tools, or the schema.
    Answers that cite documents have none."""

    def takes(self) -> Mapping[str, RowNeed]:
        """Rows with an answer that counts."""
        return {"rows": TEXTS}

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """Greedy answers of the named model, checked; the journal keeps them."""
        items, unchecked = first_items(as_chats(context.rows(self.rows)), self.limit)
        if not items:
            what = "has tools, a JSON Schema or documents, so nothing can be checked"
            raise DataError(f"checked_answers: no row of {self.rows} {what}; name other rows.")
        how = self.max_tokens, self.structured
        replies = context.ask_model(model)(greedy_requests((i.prompt for i in items), *how))
        texts = [None if reply.finish == "error" else reply.text for reply in replies]
        outcome = checked(items, texts)
        groups: dict[str, list[Item]] = {}
        for item in items:
            groups.setdefault(item.group, []).append(item)
        facts = outcome.info["checked_answers"]
        # answers that cite have no form: theirs are drawn as they are without `structured`
        held = {
            g
            for g, own in groups.items()
            if self.structured and any(form_of(i.prompt) for i in own)
        }
        facts |= HELD if held else {}
        facts["conditions"] = {
            group: {
                **asked_alike(context, self.max_tokens, group in held),
                "items": content_hash([_content(item) for item in own]),
            }
            for group, own in groups.items()
        }
        facts["unchecked"] = unchecked
        if unchecked:
            what = "have no tools, no JSON Schema and no documents and were not asked"
            facts["remarks"] = [f"checked_answers: {unchecked} rows {what}."]
        asked = {
            group: [(i.id, i.prompt[-1].content, write_answer(i.answer)) for i in own]
            for group, own in groups.items()
        }
        return outcome + Outcome(texts=asked)

    def quote(self, rows: Mapping[str, Estimate]) -> list[tuple[str, RequestEstimate]]:
        """One answer a row, which is the least."""
        num = exactly(expected_rows(rows, self.rows, None))
        answer = Estimate(10, self.max_tokens * 0.4, self.max_tokens)
        return [("", RequestEstimate(num, Estimate(100, 400, 2000), answer))]

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """Over all rows, where their number is known."""
        num = expected_rows(rows, self.rows, None)
        return {"checked answers": detectable(num)} if num else {}


def first_items(chats: Sequence[Chat], limit: int | None) -> tuple[list[Item], int]:
    """The first `limit` turns of each class, and how many rows have none that can be checked."""
    num, kept, unchecked = dict[str, int](), list[Item](), 0
    for chat in chats:
        items = list(_items(chat))
        unchecked += not items
        for item in items:
            num[item.group] = num.get(item.group, 0) + 1
            if limit is None or num[item.group] <= limit:
                kept.append(item)
    return kept, unchecked


def _items(chat: Chat) -> Iterator[Item]:
    if "instructions" in chat.meta:
        check_rows([Instructions()], [chat])
        kept, answer = partial(_instructions_kept, chat), Message("assistant", chat.answer)
        yield Item(chat.id, "instructions", chat.prompt, answer, kept)
        return
    for index, message in enumerate(chat.messages):
        if message.role != "assistant" or not index:
            continue
        prompt = chat.messages[:index]
        check, group = _check(prompt, message)
        if check:
            yield Item(f"{chat.id}/{index}", group, prompt, message, check)


def _check(prompt: Messages, answer: Message) -> tuple[Callable[[Item, str], Checked] | None, str]:
    """What checks an answer of this form, and the class it is of."""
    if schema_of(prompt) is not None:
        return _json_mode, "JSON mode"
    if documents_in(prompt):
        return _cited, "cited documents"
    if answer.tool_calls:
        return _called, "tool calls"
    if prompt[-1].role == "tool":
        return _result_used, "results of calls"
    return (_not_called, "no call needed") if offered(prompt) else (None, "")


def checked(items: Sequence[Item], answers: Sequence[str | None]) -> Outcome:
    """Every figure with its items; None for an answer that could not be had."""
    figures: dict[str, dict[str, Sequence[float] | None]] = {}
    said = []
    for item, answer in zip(items, answers, strict=True):
        asked = item.prompt[-1].content
        found = None if answer is None else item.check(item, answer)
        if found is None:
            said.append(Answered(item.id, item.group, "no answer", asked))
            figures.setdefault(f"{item.group}/accuracy", {})[item.id] = None
            continue
        said.append(Answered(item.id, item.group, found.kind, asked, answer or "", found.detail))
        right = {f"{item.group}/accuracy": [float(not found.kind)]}
        for name, values in {**right, **found.shares}.items():
            figures.setdefault(name, {})[item.id] = values
    outcome = Outcome()
    for name, table in figures.items():
        counted = {key: own for key, own in table.items() if own is None or own}
        means = [None if own is None else sum(own) / len(own) for own in counted.values()]
        # several values of one answer are drawn together
        several = any(own is not None and len(own) > 1 for own in counted.values())
        groups = [[None] if own is None else list(own) for own in counted.values()]
        figure = clustered_score(name, groups, share=True) if several else score(name, means)
        outcome += Outcome([figure], item_rows(name, list(counted), means))
    return outcome + Outcome(info={"checked_answers": kinds_of(said)})


def _content(item: Item) -> list[object]:
    chat = Chat(item.id, (*item.prompt, item.answer))
    return [chat.to_row()]


def _instructions_kept(chat: Chat, item: Item, answer: str) -> Checked:
    share = Instructions().score(chat, answer)
    return Checked("" if share == 1 else "not all kept", {"instructions/share kept": [share]})


def _called(item: Item, answer: str) -> Checked:
    verdict = judge_calls(answer, offered(item.prompt), as_expected(item.answer.tool_calls))
    return Checked(verdict.kind, {}, verdict.detail)


def _not_called(item: Item, answer: str) -> Checked:
    verdict = judge_calls(answer, offered(item.prompt), [])
    return Checked(verdict.kind, {}, verdict.detail)


def _result_used(item: Item, answer: str) -> Checked:
    called = judge_calls(answer, offered(item.prompt), []).calls
    if called:
        return Checked("needless call", {}, "the results are there")
    unused = [text for text in _results(item.prompt) if not uses_result(_value(text), answer)]
    return Checked("result not used" if unused else "", {}, "; ".join(unused))


def _results(prompt: Messages) -> list[str]:
    """The results that the last answer is to use: those behind the last turn of the assistant."""
    behind = [message.content for message in prompt if message.role == "tool"]
    num = next((i for i, m in enumerate(reversed(prompt)) if m.role != "tool"), len(prompt))
    return behind[len(behind) - num :]


def _value(text: str) -> object:
    try:
        return parse(text)
    except NotJSONError:
        return text


def _json_mode(item: Item, answer: str) -> Checked:
    schema, name = schema_of(item.prompt) or {}, "JSON mode/valid by schema"
    try:
        value = parse(answer)
    except NotJSONError as error:
        return Checked("bad JSON", {name: [0.0]}, str(error).partition(";")[0])
    faults = schema_faults(value, schema) if isinstance(value, dict) else ["it is no object"]
    if faults:
        return Checked("does not fit the schema", {name: [0.0]}, faults[0])
    kind = "" if value == _value(item.answer.content) else "wrong value"
    return Checked(kind, {name: [1.0]}, "" if not kind else "another object than the row's")


def _cited(item: Item, answer: str) -> Checked:
    documents, citations = documents_in(item.prompt), read_citations(answer)
    wanted = {n for c in read_citations(item.answer.content) for n in c.documents}
    good = [is_quoted(c, documents) and set(c.documents) <= wanted for c in citations]
    shares = {"cited documents/citation precision": list(map(float, good))}
    used = {number for citation in citations for number in citation.documents}
    if not all(good):
        wrong = next(c for c, is_good in zip(citations, good, strict=True) if not is_good)
        return Checked("wrong citation", shares, wrong.span[:200])
    if used != wanted:
        kind = "no citation" if not used else "needless citation" if not wanted else "not all cited"
        return Checked(kind, shares)
    closing = set(cited_line(answer) or ())
    return Checked("" if closing == used else "wrong closing line", shares)
