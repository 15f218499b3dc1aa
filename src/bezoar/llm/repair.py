"""Replies that cannot be read: mended without a call, else by one question that names the fault."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bezoar.chat.types import Message, Messages
from bezoar.llm.types import Ask, Reply, Request
from bezoar.strict_json import NotJSONError, parse

NOT_RIGHT = "That is not right: "
"""How the question begins that names a fault."""
_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
# a string, which stays, or a comma before a closing bracket, which goes
_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]|\\.)*+")|,(?=\s*+[}\]])', re.DOTALL)


def parse_written(text: str) -> Any:
    """The value of a JSON text as language models write it: in a fence, among words, with a comma
    too many. NotJSONError, that of the whole text, for all else: nothing is made up."""
    try:
        return parse(text)
    except NotJSONError as error:
        fault = error
    fenced = _FENCE.search(text)
    starts, ends = re.search(r"[{\[]", text), max(text.rfind("}"), text.rfind("]"))
    parts = [fenced[1]] if fenced else []
    parts += [text[starts.start() : ends + 1]] if starts and ends > starts.start() else []
    for part in parts:
        for written in (part, _STRING_OR_COMMA.sub(lambda match: match[1] or "", part)):
            try:
                return parse(written)
            except NotJSONError:
                continue
    raise fault


def told(text: str, wrong: str, fix: str = "Write the whole answer again.") -> Messages:
    """The turns that say what was wrong with an answer; one that is empty is no turn."""
    answer = (Message("assistant", text),) if text.strip() else ()
    return (*answer, Message("user", f"{NOT_RIGHT}{wrong}. {fix}"))


def repairing(ask: Ask, fault: Callable[[Reply], str], fix: str, times: int) -> Ask:
    """An `Ask` that tells whoever answered what `fault` finds wrong with a reply ("" for nothing),
    and what to do (`fix`), up to `times` times. The first reply stands where no better one comes,
    and a request that failed is not asked again."""

    def ask_repaired(requests: Sequence[Request]) -> list[Reply]:
        replies = list(ask(requests))
        last, asked = list(replies), list(requests)
        pending = list(range(len(replies)))
        for _ in range(times):
            pending = [i for i in pending if last[i].finish != "error" and fault(last[i])]
            for i in pending:
                turns = told(last[i].text, fault(last[i]), fix)
                asked[i] = replace(asked[i], messages=(*asked[i].messages, *turns))
            again = ask([asked[i] for i in pending]) if pending else []
            for i, reply in zip(pending, again, strict=True):
                last[i] = reply
                if reply.finish != "error" and not fault(reply):
                    replies[i] = reply
        return replies

    return ask_repaired
