"""Conversations with tools that a teacher writes, kept where the call is right."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bezoar.chat.tool_calls import read_calls
from bezoar.chat.types import Chat, Dropped, Filtered, Message, Messages, Tool, ToolCall
from bezoar.data.files import locate_file
from bezoar.errors import DataError
from bezoar.llm.types import Ask, Request
from bezoar.model.spec import Sampling
from bezoar.model.structured_output import StructuredOutput
from bezoar.prompts import fill, read_prompt, seal
from bezoar.reading import read_jsonl
from bezoar.rng import rng_for, seed_for
from bezoar.strict_json import NotJSONError, parse
from bezoar.synth.scheme import VARIED
from bezoar.synth.tools.catalogue import Function
from bezoar.synth.tools.check import call_fault, chat_fault, uses_result
from bezoar.synth.tools.grounding import ungrounded
from bezoar.synth.tools.masking import masked
from bezoar.synth.tools.rows import MOST_TOOLS, Category
from bezoar.synth.waves import Wished, ask_until

_ONE_CALL = ("single", "multiple", "conversation")
_NO_CALL = ("irrelevance", "missing")
# a wrong call is told to the teacher; where it disagrees with what was asked for, it is not told
# so, since its agreement is the check
_TOLD = ("unreadable call", "does not fit the schema", "value not in the request")
_SILENT = Message("assistant", "")


@dataclass
class Draft(Wished):
    """A conversation on its way."""

    category: Category
    tools: list[Tool]
    wanted: list[Tool]
    num_calls: int
    lack: str = ""
    request: str = ""
    answer: Message = _SILENT
    results: list[Any] = field(default_factory=list)
    final: str = ""
    simulated: bool = False


@dataclass
class TeacherWriter:
    """Asks `ask` for requests, calls, missing results and final answers, a wave for each.

    `stubs` hold the functions that can be run; the results of others are the teacher's own, and
    their rows say `simulated`. `chats` are questions with answers that need no tool.
    """

    tools: Sequence[Tool]
    stubs: Mapping[str, Function]
    chats: Sequence[tuple[str, str]]
    ask: Ask
    answers: Sampling
    retries: int
    seed: int
    structured: bool = False
    """Whether answers are held to calls of the offered tools."""

    def __post_init__(self) -> None:
        self.request_prompt = read_prompt("bezoar:tool_request.txt", "tools", "task")
        self.answer_prompt = read_prompt("bezoar:tool_answer.txt", "tools", "request")
        self.result_prompt = read_prompt("bezoar:tool_result.txt", "tools", "call")
        self.final_prompt = read_prompt("bezoar:tool_final.txt", "request", "results")
        path = locate_file("bezoar:tool_tasks.jsonl", Path(), "tasks")
        self.tasks = {row["category"]: row["task"] for _, row in read_jsonl(path)}

    def write(self, plan: Sequence[tuple[Category, bool]]) -> Filtered[Chat]:
        """A conversation for each category and mask of `plan`, or why there is none.

        Dropped: unusable replies; "no parameter to leave out", "unreadable call", "no call",
        "call where none fits", "other function", "wrong number of calls", "no question",
        "does not fit the schema", "value not in the request", "unreadable result",
        "result not used", "double".
        """
        drafts = [self._draft(number, category) for number, (category, _) in enumerate(plan)]
        written = [draft for draft in drafts if draft.category != "chat"]
        self._wave(written, self._ask_request, self._read_request)
        self._mark_doubles(written)
        self._wave(written, self._ask_answer, self._read_answer)
        talks = [draft for draft in drafts if draft.category == "conversation"]
        for draft in talks:
            if not draft.reason:
                self._run(draft)
        self._wave([draft for draft in talks if draft.simulated], self._ask_result, _read_result)
        self._wave(talks, self._ask_final, _read_final)
        return Filtered.split(
            self._chat(draft, mask) for draft, (_, mask) in zip(drafts, plan, strict=True)
        )

    def _draft(self, number: int, category: Category) -> Draft:
        """The tools that are offered, and those that the request is to need."""
        rng = rng_for("tool_calls teacher", self.seed, number)
        num_wanted = rng.choice((2, 2, 3)) if category == "parallel_multiple" else 1
        least = max(num_wanted, 2 if category in ("multiple", "irrelevance") else 1)
        if len(self.tools) < least:
            what = f"{category} needs {least} different functions, and there are {len(self.tools)}"
            raise DataError(f"tool_calls: {what}; add some, or set its share to 0.")
        # what the request needs is drawn first: a teacher left free asks for the same few things
        wanted = rng.sample(list(self.tools), num_wanted)
        others = [tool for tool in self.tools if tool not in wanted]
        alone = category in ("single", "parallel")
        num = 0 if alone else rng.randint(least > num_wanted, MOST_TOOLS - num_wanted)
        offered = rng.sample(others, min(num, len(others)))
        offered += [] if category == "irrelevance" else wanted
        rng.shuffle(offered)
        num_calls = {"parallel": rng.choice((2, 2, 3)), "parallel_multiple": num_wanted}
        calls = num_calls.get(category, int(category in _ONE_CALL))
        draft = Draft(f"tool_calls-{number}", category, offered, wanted, calls)
        if category == "chat":
            draft.request, answer = rng.choice(self.chats)
            draft.answer = Message("assistant", answer)
        if category == "missing":
            required = wanted[0].parameters.get("required") or []
            draft.reason = "" if required else "no parameter to leave out"
            draft.lack = rng.choice(required) if required else ""
        return draft

    def _wave(
        self,
        drafts: Sequence[Draft],
        request: Callable[[Draft], str | Messages],
        read: Callable[[Draft, str], str],
    ) -> None:
        def make(draft: Draft, attempt: int) -> Request:
            return self._request(draft, request(draft), read, attempt)

        ask_until(drafts, self.ask, self.retries, make, read)

    def _mark_doubles(self, drafts: Sequence[Draft]) -> None:
        # a weak teacher repeats itself, and an answer to a double would be paid for in vain
        seen: set[str] = set()
        for draft in drafts:
            if not draft.reason and draft.request in seen:
                draft.reason = "double"
            seen.add(draft.request)

    def _request(
        self, draft: Draft, asked: str | Messages, read: Callable[[Draft, str], str], attempt: int
    ) -> Request:
        messages = (Message("user", asked),) if isinstance(asked, str) else asked
        # requests should differ from one another; what follows from them should not
        sampling = VARIED if read == self._read_request else self.answers
        request = Request.sampled(messages, sampling, seed_for(self.seed, draft.id, attempt))
        if self.structured and read == self._read_answer:
            return replace(request, form=StructuredOutput.calls(draft.tools))
        return request

    def _ask_request(self, draft: Draft) -> str:
        lack = draft.lack
        if lack:
            about = draft.wanted[0].parameters["properties"].get(lack, {}).get("description", "")
            lack = f"{lack} ({about})" if about else lack
        names = " and ".join(tool.name for tool in draft.wanted)
        values = {"names": names, "num": str(draft.num_calls), "lack": lack}
        task = fill(self.tasks[draft.category], **values)
        return fill(self.request_prompt, tools=_declared(draft.wanted), task=task)

    def _read_request(self, draft: Draft, text: str) -> str:
        draft.request = text
        return "wrote a call" if read_calls(text) else ""

    def _ask_answer(self, draft: Draft) -> Messages:
        # all offered tools, not those that are wanted: agreement with the request is the check;
        # sealed, so that no request can pass for instructions
        tools = _declared(draft.tools)
        text = seal(self.answer_prompt, tools=tools, request=draft.request)
        return (Message("user", text), *draft.dialogue)

    def _read_answer(self, draft: Draft, text: str) -> str:
        reason, detail = self._answer_fault(draft, text)
        if reason in _TOLD:
            draft.tell(text, detail)
        return reason

    def _answer_fault(self, draft: Draft, text: str) -> tuple[str, str]:
        """Why an answer is not what the request needs, and what the teacher is told."""
        found = read_calls(text)
        calls = [call for call in found if isinstance(call, ToolCall)]
        if len(calls) < len(found):
            return "unreadable call", "a call cannot be read as JSON with name and arguments"
        if draft.category in _NO_CALL:
            draft.answer = Message("assistant", text)
            if calls:
                return "call where none fits", ""
            return ("no question" if draft.lack and "?" not in text else ""), ""
        if not calls:
            return "no call", ""
        for call in calls:
            if wrong := call_fault(call, tuple(draft.tools)):
                return "does not fit the schema", wrong
            table = next(t.parameters for t in draft.tools if t.name == call.name)
            if lost := ungrounded(call.arguments, draft.request, table):
                return "value not in the request", f"the message does not say {lost}"
        if {call.name for call in calls} != {tool.name for tool in draft.wanted}:
            return "other function", ""
        if len(calls) != draft.num_calls or len(set(calls)) != len(calls):
            return "wrong number of calls", ""
        draft.answer = Message("assistant", "", tuple(calls))
        return "", ""

    def _run(self, draft: Draft) -> None:
        [call] = draft.answer.tool_calls
        if call.name in self.stubs:
            draft.results = [self.stubs[call.name].run(call.arguments)]
        else:
            draft.simulated = True

    def _ask_result(self, draft: Draft) -> str:
        [call] = draft.answer.tool_calls
        return fill(self.result_prompt, tools=_declared(draft.wanted), call=_dump(vars(call)))

    def _ask_final(self, draft: Draft) -> str:
        results = "\n".join(map(_dump, draft.results))
        return seal(self.final_prompt, request=draft.request, results=results)

    def _chat(self, draft: Draft, mask: bool) -> Chat | Dropped:
        messages = [Message("system", "", tools=tuple(draft.tools)), Message("user", draft.request)]
        messages.append(draft.answer)
        if draft.category == "conversation":
            messages += [Message("tool", _dump(result)) for result in draft.results]
            messages.append(Message("assistant", draft.final))
        meta: dict[str, Any] = {"scheme": "tool_calls", "category": draft.category}
        meta |= {"functions": [call.name for call in draft.answer.tool_calls], "masked": mask}
        if draft.simulated:
            meta["simulated"] = True
        # names are replaced last: the teacher reads the real ones
        shown = tuple(messages)
        if mask and not draft.reason:
            shown = masked(shown, random.Random(seed_for(self.seed, draft.id)))
        chat = Chat(draft.id, shown, meta)
        reason = draft.reason or chat_fault(chat)
        return Dropped(draft.id, reason, f"{draft.request} -> {draft.detail}") if reason else chat


def _read_result(draft: Draft, text: str) -> str:
    # most teachers put JSON into a fence
    inner = text.removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        result = parse(inner)
    except NotJSONError:
        return "unreadable result"
    draft.results = [result]
    return "" if isinstance(result, dict) and result else "unreadable result"


def _read_final(draft: Draft, text: str) -> str:
    draft.final = text
    return "" if all(uses_result(r, text) for r in draft.results) else "result not used"


def _declared(tools: Sequence[Tool]) -> str:
    return "\n".join(_dump(tool.to_json()["function"]) for tool in tools)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
