"""Whether an answer makes the calls that are expected, and whether calls fit their declarations.

The rules are those of the Berkeley Function-Calling Leaderboard: as many calls as expected, each
matching one of them in any order, names equal, arguments right (`call_arguments`). Where nothing is
expected, every answer without a call that can be read is right.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from bezoar.chat.json_mode import closed
from bezoar.chat.tool_calls import BadCall, read_calls
from bezoar.chat.types import Tool, ToolCall
from bezoar.errors import first_line
from bezoar.io import canonical
from bezoar.verdicts.call_arguments import Allowed, Fault, FaultKind, argument_fault

Expected = Sequence[Mapping[str, Allowed]]
"""Calls as {function: {parameter: allowed values}}; none where no call is right."""
_BY_DEPTH: tuple[FaultKind, ...] = (
    "wrong name",
    "missing argument",
    "extra argument",
    "wrong type",
    "wrong value",
)
"""From the fault that is found first to the one of a call that is nearly right."""


@dataclass(frozen=True)
class CallVerdict:
    """What an answer's calls are worth; `kind` names the fault and is empty for a right answer."""

    kind: FaultKind | Literal[""] = ""
    detail: str = ""
    calls: tuple[ToolCall | BadCall, ...] = ()
    """All calls of the answer, those that cannot be read included."""

    @property
    def right(self) -> bool:
        """Whether the answer is right as a whole."""
        return not self.kind


def judge_calls(text: str, tools: Sequence[Tool], expected: Expected | None) -> CallVerdict:
    """The verdict on an answer as the model wrote it.

    With `expected` None any call that can be read is right (the leaderboard's relevance). One call
    that cannot be read makes the whole answer one without calls, as vLLM's Hermes parser does.
    """
    calls = tuple(read_calls(text))
    bad = next((call for call in calls if isinstance(call, BadCall)), None)
    readable = [] if bad else [call for call in calls if isinstance(call, ToolCall)]
    fault = None
    if expected is not None and not expected:
        if readable:
            fault = Fault("needless call", f"{readable[0].name} is called, and no function fits")
    elif bad:
        kind: FaultKind = "bad JSON" if bad.fault == "bad JSON" else "malformed call"
        fault = Fault(kind, ": ".join(filter(None, (bad.fault, bad.detail))))
    elif not readable:
        fault = Fault("no call", "the answer calls nothing")
    elif expected is not None:
        fault = calls_fault(readable, tools, expected)
    return CallVerdict(fault.kind, fault.detail, calls) if fault else CallVerdict(calls=calls)


def calls_fault(
    calls: Sequence[ToolCall], tools: Sequence[Tool], expected: Expected
) -> Fault | None:
    """Why calls are not those expected, None if they are. Each expected one takes the first call
    left that fits it; the fault is that of the call that comes nearest to the first without one."""
    if len(calls) != len(expected):
        return Fault("wrong count", f"{len(calls)} calls, {len(expected)} expected")
    # all are matched before a fault is named: else a call that is right would be blamed
    left, without = list(calls), list[tuple[Tool | None, Allowed]]()
    for call_expected in expected:
        name, allowed = next(iter(call_expected.items()))
        tool = _declaration(tools, name)
        faults = [_call_fault(call, tool, allowed) for call in left]
        if None in faults:
            del left[faults.index(None)]
        else:
            without.append((tool, allowed))
    found = [fault for call in left if (fault := _call_fault(call, *without[0]))]
    return max(found, key=lambda fault: _BY_DEPTH.index(fault.kind), default=None)


def _declaration(tools: Sequence[Tool], name: str) -> Tool | None:
    # with one function the leaderboard goes by its name, whatever the answer says
    named = tools if len(tools) == 1 else [tool for tool in tools if tool.name == name]
    return named[0] if named else None


def _call_fault(call: ToolCall, tool: Tool | None, allowed: Allowed) -> Fault | None:
    if tool is None:
        return Fault("wrong name", "what is expected is no function that is offered")
    if call.name != tool.name:
        return Fault("wrong name", f"{call.name} is called, {tool.name} expected")
    return argument_fault(call.arguments, tool.parameters, allowed)


def as_expected(calls: Sequence[ToolCall]) -> Expected:
    """What is expected where exactly these calls are right."""
    return [
        {call.name: {name: [_options(value)] for name, value in call.arguments.items()}}
        for call in calls
    ]


def _options(value: Any) -> Any:
    """A value as one that is allowed: tables, also those in a list, have lists of values."""
    if isinstance(value, dict):
        return {key: [item] for key, item in value.items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [_options(item) if isinstance(item, dict) else item for item in value]
    return value


def schema_faults(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[str]:
    """What is wrong with arguments by their JSON Schema, a sentence each; a parameter that is not
    declared is wrong unless the schema allows more."""
    from jsonschema.exceptions import UnknownType
    from referencing.exceptions import Unresolvable

    try:
        validator = _validator(canonical(parameters))
        return [error.message for error in validator.iter_errors(dict(arguments))]
    # a check against the schema of schemas takes longer than thousands of calls
    except (UnknownType, Unresolvable, re.error, TypeError, ValueError, LookupError) as error:
        return [f"the schema of the parameters cannot be used ({first_line(error)})"]


@cache
def _validator(parameters: str) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    # declarations seldom say that nothing else is allowed, and servers take nothing else
    schema = closed(json.loads(parameters))
    # an empty registry: a schema from outside fetches nothing
    return Draft202012Validator(schema, registry=Registry())
