"""The AST rules of the function-calling leaderboard, on cases worked by hand."""

from typing import Any

import pytest

from bezoar.chat.tool_calls import write_call
from bezoar.chat.types import Tool, ToolCall
from bezoar.verdicts.tool_call import as_expected, judge_calls, schema_faults

PARAMETERS: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "whole": {"type": "integer"},
    "real": {"type": "number"},
    "flag": {"type": "boolean"},
    "names": {"type": "array", "items": {"type": "string"}},
    "counts": {"type": "array", "items": {"type": "integer"}},
    "reals": {"type": "array", "items": {"type": "number"}},
    "table": {"type": "object"},
    "tables": {"type": "array", "items": {"type": "object"}},
    "grid": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    "open": {"enum": [1, "a"]},
}


def tool(name: str = "f", *required: str) -> Tool:
    return Tool(name, "", {"type": "object", "properties": PARAMETERS, "required": list(required)})


def says(*calls: tuple[str, dict[str, Any]]) -> str:
    return "\n".join(write_call(ToolCall(name, arguments)) for name, arguments in calls)


@pytest.mark.parametrize(
    ("name", "value", "allowed", "kind"),
    [
        # types are exact; a whole number is right where a real one is asked for
        ("whole", 5, [5], ""),
        ("whole", 5.0, [5], "wrong type"),
        ("whole", "5", [5], "wrong type"),
        ("whole", True, [1], "wrong type"),
        ("flag", True, [True], ""),
        ("flag", 1, [True], "wrong type"),
        ("flag", "true", [True], "wrong type"),
        ("real", 5, [5.0], ""),
        ("real", 5, [5], ""),
        ("real", 5.0, [5], ""),
        ("real", "5.0", [5.0], "wrong type"),
        ("real", True, [1.0], "wrong type"),
        ("text", None, ["a"], "wrong type"),
        ("text", 5, ["5"], "wrong type"),
        ("table", [], [{}], "wrong type"),
        # an answer of another type than the declared one: a variable, compared as it is
        ("whole", "n", ["n"], ""),
        ("whole", "N", ["n"], "wrong value"),
        ("whole", 5, ["n"], "wrong value"),
        ("names", "list_a", ["list_a"], ""),
        ("open", 1, [1], ""),
        ("open", "A", ["a"], ""),
        ("open", 1.5, [1], "wrong type"),
        # strings: without blanks and , . / - _ * ^, in lower case, quotes alike
        ("text", "April 1, 2024", ["april 1 2024"], ""),
        ("text", "SAN_FRANCISCO/CA", ["San Francisco, CA"], ""),
        ("text", "x^2 * 3", ["x23"], ""),
        ("text", "the 'a'", ['the "a"'], ""),
        ("text", "a:b", ["ab"], "wrong value"),
        ("text", "a\tb", ["ab"], "wrong value"),
        ("text", "Paris", ["London", "paris"], ""),
        ("text", "Paris", ["London"], "wrong value"),
        ("text", "", [""], ""),
        ("text", "x", [""], "wrong value"),
        # lists: in order, each string as above, items checked one level deep
        ("names", ["A b", "c"], [["ab", "C."]], ""),
        ("names", ["c", "ab"], [["ab", "c"]], "wrong value"),
        ("names", ["ab"], [["ab", "c"]], "wrong value"),
        ("names", ["ab", 1], [["ab", "c"]], "wrong type"),
        ("names", [], [["ab"]], "wrong value"),
        ("names", [], ["", ["ab"]], ""),
        ("counts", [1, 2], [[2, 1], [1, 2]], ""),
        ("counts", [1, 2.0], [[1, 2]], "wrong type"),
        ("reals", [1, 2], [[1, 2]], ""),
        ("reals", [1.0, 2.0], [[1, 2]], ""),
        ("reals", [1, 2], [[1.0, 2.0]], "wrong type"),
        ("grid", [[1, 2], [3]], [[[1, 2], [3]]], ""),
        ("grid", [[1, "2"]], [[[1, 2]]], "wrong value"),
        ("grid", [1], [[[1]]], "wrong type"),
        # tables: every key by its own allowed values
        ("table", {"a": "X y", "b": 2}, [{"a": ["xy"], "b": [1, 2]}], ""),
        ("table", {"a": "xy"}, [{"a": ["xy"], "b": [1, ""]}], ""),
        ("table", {"a": "xy"}, [{"a": ["xy"], "b": [1]}], "wrong value"),
        ("table", {"a": "xy", "c": 1}, [{"a": ["xy"]}], "wrong value"),
        ("table", {"a": "z"}, [{"a": ["xy"]}, {"a": ["z"]}], ""),
        ("table", {"a": {"b": 1}}, [{"a": [{"b": 1}]}], ""),
        ("table", {"a": {"b": 1}}, [{"a": [{"b": [1]}]}], "wrong value"),
        ("table", {}, ["", {"a": ["x"]}], "wrong value"),
        ("tables", [{"a": 1}, {"a": 2}], [[{"a": [1]}, {"a": [2]}]], ""),
        ("tables", [{"a": 2}, {"a": 1}], [[{"a": [1]}, {"a": [2]}]], "wrong value"),
        ("tables", [{"a": 1}], [[{"a": [1]}, {"a": [2]}]], "wrong value"),
        ("tables", [{"a": 1}, 2], [[{"a": [1]}, {"a": [2]}]], "wrong type"),
        ("tables", [1], ["", [{"a": [1]}]], "wrong value"),
    ],
)
def test_an_argument_by_its_type_and_allowed_values(
    name: str, value: Any, allowed: list[Any], kind: str
) -> None:
    verdict = judge_calls(says(("f", {name: value})), [tool()], [{"f": {name: allowed}}])
    assert verdict.kind == kind, verdict.detail


@pytest.mark.parametrize(
    ("arguments", "allowed", "kind"),
    [
        ({"whole": 1}, {"whole": [1]}, ""),
        ({}, {"whole": [1]}, "missing argument"),  # required
        ({"whole": 1}, {"whole": [1], "text": ["a"]}, "missing argument"),  # asked for
        ({"whole": 1}, {"whole": [1], "text": ["a", ""]}, ""),
        ({"whole": 1, "text": "a"}, {"whole": [1], "text": ["a", ""]}, ""),
        ({"whole": 1, "text": "b"}, {"whole": [1], "text": ["a", ""]}, "wrong value"),
        ({"whole": 1, "text": "a"}, {"whole": [1]}, "extra argument"),  # declared, not asked for
        ({"whole": 1, "depth": 1}, {"whole": [1], "depth": [1]}, "extra argument"),  # not declared
        ({"whole": 2, "depth": 1}, {"whole": [1]}, "wrong value"),  # the first fault counts
    ],
)
def test_arguments_that_are_required_optional_or_unknown(
    arguments: dict[str, Any], allowed: dict[str, list[Any]], kind: str
) -> None:
    text = says(("f", arguments))
    assert judge_calls(text, [tool("f", "whole")], [{"f": allowed}]).kind == kind


A, B = ("f", {"whole": 1}), ("g", {"whole": 2})
BOTH = [{"f": {"whole": [1]}}, {"g": {"whole": [2]}}]


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [
        (says(A, B), BOTH, ""),
        (says(B, A), BOTH, ""),
        (says(A), BOTH, "wrong count"),
        (says(A, B, A), BOTH, "wrong count"),
        (says(A, A), BOTH, "wrong name"),
        (says(A, ("g", {"whole": 3})), BOTH, "wrong value"),
        # each call serves once
        (says(A, A), [BOTH[0], {"f": {"whole": [1, 2]}}], ""),
        (says(A, ("f", {"whole": 2})), [BOTH[0], BOTH[0]], "wrong value"),
        # greedy: the first expected call takes the first that fits it, as in the source
        (says(A, ("f", {"whole": 2})), [{"f": {"whole": [1, 2]}}, BOTH[0]], "wrong value"),
        (says(("f", {"whole": 2}), A), [{"f": {"whole": [1, 2]}}, BOTH[0]], ""),
        (says(("f.f", {"whole": 1})), BOTH[:1], "wrong name"),
        ("The answer is 1.", BOTH[:1], "no call"),
        ("", BOTH[:1], "no call"),
        ("<tool_call>\n{'name': 'f'}\n</tool_call>", BOTH[:1], "bad JSON"),
        (says(A) + "<tool_call>\n{", BOTH[:1], "bad JSON"),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', BOTH[:1], "malformed call"),
        ('<tool_call>{"arguments": {}}</tool_call>', BOTH[:1], "malformed call"),
        # the last call may be left open
        (says(A).removesuffix("</tool_call>"), BOTH[:1], ""),
        # irrelevance: right without a call that can be read
        ("No tool fits.", [], ""),
        ("<tool_call>\n{", [], ""),
        (says(A), [], "needless call"),
        # relevance: any call will do
        (says(("h", {})), None, ""),
        ("No.", None, "no call"),
        ("<tool_call>", None, "bad JSON"),
    ],
)
def test_calls_by_number_name_and_order(text: str, expected: Any, kind: str) -> None:
    assert judge_calls(text, [tool("f"), tool("g")], expected).kind == kind


def test_with_one_function_its_declared_name_counts() -> None:
    assert judge_calls(says(A), [tool("f")], [{"other": {"whole": [1]}}]).right


def test_calls_as_they_are_become_what_is_expected() -> None:
    calls = [
        ToolCall("f", {"table": {"a": 1}, "tables": [{"a": "x"}], "grid": [[1]], "names": []}),
        ToolCall("g", {"text": "a b", "flag": False}),
    ]
    text = "\n".join(map(write_call, calls))
    tools = [tool("f"), tool("g")]
    assert judge_calls(text, tools, as_expected(calls)).right
    assert not judge_calls(text.replace('"a": 1', '"a": 2'), tools, as_expected(calls)).right


def test_arguments_against_their_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1}, "unit": {"enum": ["C", "F"]}},
        "required": ["n"],
    }
    assert schema_faults({"n": 1, "unit": "C"}, schema) == []
    assert len(schema_faults({"n": 0, "unit": "K"}, schema)) == 2
    assert "required" in schema_faults({"unit": "C"}, schema)[0]
    assert "unexpected" in schema_faults({"n": 1, "m": 1}, schema)[0]
    assert schema_faults({"n": 1, "m": 1}, {**schema, "additionalProperties": True}) == []
    either = {"anyOf": [schema, {"properties": {"m": {"type": "integer"}}, "required": ["m"]}]}
    assert schema_faults({"m": 1}, either) == []
    assert len(schema_faults({"m": "one"}, either)) == 1


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "float"}}},
        {"properties": {"a": {"$ref": "http://localhost:9/none"}}},
        {"properties": {"a": {"pattern": "("}}},
    ],
)
def test_a_schema_that_cannot_be_used_is_a_fault_and_fetches_nothing(schema: Any) -> None:
    assert "schema" in schema_faults({"a": "x"}, schema)[0]
