"""Conversations with tools from the shipped catalogue: right calls, exact shares, equal seeds."""

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bezoar.chat.tool_calls import read_answer, write_answer
from bezoar.chat.types import Chat, Message, Tool, ToolCall
from bezoar.errors import DataError
from bezoar.reading import read_jsonl
from bezoar.synth.tool_calls import DEFAULT_SHARES, ToolCalls
from bezoar.synth.tools.catalogue import Function, read_catalogue
from bezoar.synth.tools.check import call_fault, chat_fault
from bezoar.synth.tools.phrase import Phrase, filled
from bezoar.synth.tools.stubs import compute, run_stub
from bezoar.synth.tools.values import COUNT_WORDS, check_words, draw, schema

SHIPPED = Path(__file__).parents[2] / "src" / "bezoar" / "seeds" / "tools.jsonl"


@pytest.fixture(scope="module")
def functions() -> list[Function]:
    return read_catalogue(SHIPPED)


@pytest.fixture(scope="module")
def rows() -> list[Chat]:
    found = ToolCalls(800, masked=0.25).write(3)
    assert not {item.reason for item in found.dropped} - {"double"}
    return found.rows


def of(rows: list[Chat], category: str) -> list[Chat]:
    return [row for row in rows if row.meta["category"] == category]


def calls(row: Chat) -> list[ToolCall]:
    return [call for message in row.messages for call in message.tool_calls]


def test_the_shipped_catalogue_is_large_and_varied(functions: list[Function]) -> None:
    check_words()
    assert len(functions) >= 100
    types: Counter[str] = Counter()
    for function in functions:
        tool = function.tool
        Draft202012Validator.check_schema(tool.parameters)
        assert len(function.requests) >= 3
        said = {name for p in function.requests for part in p.parts for name in part.arguments}
        assert said == set(tool.parameters["properties"]), function.name
        types.update(p["type"] for p in tool.parameters["properties"].values())
        types.update("enum" for p in tool.parameters["properties"].values() if "enum" in p)
    assert types.keys() == {"string", "integer", "number", "boolean", "array", "object", "enum"}
    assert sum(bool(function.optional) for function in functions) > 50


def test_no_function_of_the_catalogue_is_one_of_bfcl(functions: list[Function]) -> None:
    if not os.environ.get("BEZOAR_DATA"):
        pytest.skip("BEZOAR_DATA names the folder of BFCL's files")
    files = list(Path(os.environ["BEZOAR_DATA"], "bfcl").glob("*.json"))
    theirs = {f["name"] for path in files for _, row in read_jsonl(path) for f in row["function"]}
    assert len(theirs) > 500
    assert not theirs & {function.name for function in functions}


def test_each_row_can_be_trained_on(rows: list[Chat]) -> None:
    assert len(rows) == 800
    assert len({row.id for row in rows}) == 800
    for row in rows:
        offered = {tool.name: tool for tool in row.messages[0].tools}
        assert 1 <= len(offered) <= 4
        assert row.messages[-1].role == "assistant"
        for message in row.messages:
            if message.role == "assistant":
                assert read_answer(write_answer(message)) == message
        for call in calls(row):
            table = {**offered[call.name].parameters, "additionalProperties": False}
            Draft202012Validator(table).validate(call.arguments)


def test_shares_and_masks_are_exact_and_seeds_decide(rows: list[Chat]) -> None:
    counts = Counter(row.meta["category"] for row in rows)
    for category, share in DEFAULT_SHARES.items():
        assert abs(counts[category] - 800 * share) <= 1
    assert sum(row.meta["masked"] for row in rows) == 200
    again, other = ToolCalls(50).write(1), ToolCalls(50).write(2)
    assert again == ToolCalls(50).write(1)
    assert [row.messages for row in again.rows] != [row.messages for row in other.rows]
    only = ToolCalls(40, shares={"parallel": 1.0}).write(0).rows
    assert {row.meta["category"] for row in only} == {"parallel"}
    with pytest.raises(ValueError, match="one of them above 0"):
        ToolCalls(4, shares={"parallel": 0.0})


def test_rows_that_offer_one_tool_stand_side_by_side() -> None:
    shares: dict[Any, float] = {"single": 0.4, "parallel": 0.1, "irrelevance": 0.5}
    rows = ToolCalls(96, shares=shares, masked=0.5, rows_per_tool=8).write(1).rows
    blocks = [rows[place : place + 8] for place in range(0, 96, 8)]
    for block in blocks:
        [system] = {row.messages[0] for row in block}
        assert len(system.tools) == 1
        assert {call.name for row in block for call in calls(row)} <= {system.tools[0].name}
    assert sum(block[0].meta["masked"] for block in blocks) == 6
    # a fitting request and one that does not fit, of most tools
    assert sum(len({bool(row.meta["functions"]) for row in b}) == 2 for b in blocks) > 9
    assert len({row.messages[1].content for row in rows}) == 96
    with pytest.raises(ValueError, match="without a teacher"):
        ToolCalls(4, teacher="t", rows_per_tool=2)


def test_what_no_function_fits_can_be_of_another_domain(tmp_path: Path) -> None:
    own, words = tmp_path / "own.jsonl", {"ask": "x", "bid": "x", "cry": "y", "dig": "y"}
    lines = []
    for word, domain in words.items():
        line: dict[str, Any] = {"name": word, "domain": domain, "description": f"To {word}."}
        line |= {"parameters": {"n": ["int 1 999", "N."]}, "requests": [f"Now {word} {{n}} times"]}
        lines.append(json.dumps(line | {"answers": ["{x}"], "result": {"x": "city"}}))
    own.write_text("\n".join(lines))
    found: dict[str, set[tuple[str, str]]] = {}
    for unfitting in ("any", "far"):
        how: dict[str, Any] = {"catalogue": str(own), "unfitting": unfitting, "masked": 0.0}
        rows = ToolCalls(90, shares={"irrelevance": 1.0}, **how).write(0).rows
        found[unfitting] = {
            (tool.name, next(w for w in words if f" {w} " in row.messages[1].content.lower()))
            for row in rows
            for tool in row.messages[0].tools
        }
    pairs = {(one, other) for one in words for other in words if one != other}
    far = {(one, other) for one, other in pairs if words[one] != words[other]}
    assert found == {"any": pairs, "far": far}
    own.write_text("\n".join(lines[:2]))
    with pytest.raises(DataError, match=r"own\.jsonl: unfitting: far, and all its functions"):
        ToolCalls(9, unfitting="far", catalogue=str(own)).write(0)
    with pytest.raises(ValueError, match="of which there are none"):
        ToolCalls(9, shares={"single": 1.0}, unfitting="far")


def test_the_categories_are_what_they_are_called(rows: list[Chat]) -> None:
    for row in of(rows, "single"):
        assert len(row.messages[0].tools) == len(calls(row)) == 1
    for row in of(rows, "multiple"):
        assert len(row.messages[0].tools) > 1 == len(calls(row))
    for row in of(rows, "parallel"):
        made = calls(row)
        assert len(made) > 1 == len({call.name for call in made})
        assert len({json.dumps(call.arguments) for call in made}) == len(made)
    for row in of(rows, "parallel_multiple"):
        assert len({call.name for call in calls(row)}) == len(calls(row)) > 1
    for row in [*of(rows, "irrelevance"), *of(rows, "chat")]:
        assert not calls(row)
        assert row.answer
    for row in of(rows, "missing"):
        assert row.messages[2].content.endswith(("?", "."))
        assert not row.messages[2].tool_calls
    places = [[tool.name for tool in r.messages[0].tools] for r in of(rows, "multiple")]
    first = [
        names.index(calls(r)[0].name) for names, r in zip(places, of(rows, "multiple"), strict=True)
    ]
    assert len(set(first)) == 4  # the tool that fits stands anywhere


def plain_words(value: Any) -> set[str]:
    """Some ways in which a value may stand in a request."""
    if isinstance(value, int) and value <= 12:
        return {str(value), COUNT_WORDS[value]}
    if isinstance(value, float):
        return {str(value), f"{value * 100:.0f}%", f"{value * 100:.0f} %", f"{value * 100:.0f} p"}
    return {str(value), f"{value:,}"} if isinstance(value, int) else {str(value)}


def test_values_stand_in_the_request(rows: list[Chat], functions: list[Function]) -> None:
    kinds = {function.name: function.kinds for function in functions}
    checked = 0
    for row in rows:
        text = " ".join(m.content for m in row.messages if m.role == "user")
        for name, call in zip(row.meta["functions"], calls(row), strict=True):
            for key, value in call.arguments.items():
                kind = "" if row.meta["masked"] else kinds[name].get(key, "")
                if kind.partition(" ")[0] in ("", "date", "time", "bool", "list"):
                    continue
                assert any(words in text for words in plain_words(value)), (text, key, value)
                checked += 1
    assert checked > 800


def test_results_come_from_the_stub_and_stand_in_the_answer(
    rows: list[Chat], functions: list[Function]
) -> None:
    by_name = {function.name: function for function in functions}
    errors = 0
    for row in of(rows, "conversation"):
        results = [json.loads(m.content) for m in row.messages if m.role == "tool"]
        if row.meta["masked"]:
            continue
        for call, result in zip(calls(row), results, strict=True):
            assert by_name[call.name].run(call.arguments) == result
            assert "cannot be computed" not in result.get("error", "")
            errors += "error" in result
    assert errors > 0
    good = of(rows, "conversation")[0]
    bad = Chat("x", (*good.messages[:-1], Message("assistant", "Done.")))
    assert chat_fault(good) == ""
    assert chat_fault(bad) == "result not used"


def test_masks_hide_names_and_nothing_else(rows: list[Chat], functions: list[Function]) -> None:
    names = {function.name for function in functions}
    by_text = {function.description: function for function in functions}
    for row in rows:
        for tool in row.messages[0].tools:
            plain = by_text[tool.description].tool
            own, hidden = (t.parameters["properties"] for t in (plain, tool))
            assert all(value in own.values() for value in hidden.values())
            assert len(tool.parameters["required"]) == len(plain.parameters["required"])
            assert (tool.name not in names) == row.meta["masked"]
            assert (hidden.keys() <= own.keys()) != row.meta["masked"]


def test_declarations_differ_from_row_to_row(rows: list[Chat], functions: list[Function]) -> None:
    plain = {f.name: list(f.tool.parameters["properties"]) for f in functions}
    seen = [
        (plain[tool.name], list(tool.parameters["properties"]))
        for row in rows
        if not row.meta["masked"]
        for tool in row.messages[0].tools
    ]
    assert 0.1 < sum(len(own) > len(shown) for own, shown in seen) / len(seen) < 0.6
    assert any(own != shown and sorted(own) == sorted(shown) for own, shown in seen)
    for row in rows:
        tables = {tool.name: tool.parameters for tool in row.messages[0].tools}
        for call in calls(row):
            order = list(tables[call.name]["properties"])
            assert list(call.arguments) == sorted(call.arguments, key=order.index)


def test_a_call_that_does_not_fit_is_told() -> None:
    table = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tools = (Tool("f", "", table),)
    assert call_fault(ToolCall("f", {"n": 1}), tools) == ""
    assert call_fault(ToolCall("g", {"n": 1}), tools) == "there is no function g"
    assert "'n' is a required property" in call_fault(ToolCall("f", {}), tools)
    assert "is not of type 'integer'" in call_fault(ToolCall("f", {"n": "1"}), tools)
    assert "'m' was unexpected" in call_fault(ToolCall("f", {"n": 1, "m": 2}), tools)
    chat = Chat("x", (Message("system", "", tools=tools), Message("assistant", "")))
    assert chat_fault(chat) == "empty answer"


def test_formulas_are_computed_in_postfix_order() -> None:
    given = {"a": 7, "b": 2, "v": [1, 2, 6], "box": {"w": 3}, "d": "2026-01-30", "e": "2026-02-02"}
    assert compute("a b - 10 *", given) == 50
    assert compute("box.w 2 ^ 16 + sqrt", given) == 5
    assert compute("v mean v max +", given) == 9
    assert compute("d e days", given) == 3
    assert compute("a 3 / 2 round", given) == 2.33
    with pytest.raises(ValueError, match="lacks operands"):
        compute("a +", given)
    assert "error" in run_stub("f", {"x": "= a 0 /"}, given)
    assert run_stub("f", {"x": "city"}, given) == run_stub("f", {"x": "city"}, given)


def test_a_phrase_leaves_out_what_is_not_said() -> None:
    phrase = Phrase("Find {a*}[ in {b}][ by {c}][, fast|d=true]")
    assert phrase.listable == "a"
    assert phrase.can_lack(["a", "b"]) == ["b"]
    required, rng = ["a", "b"], random.Random(0)
    words = {"a": "an owl", "b": "Oslo", "c": "Ann"}
    texts = {filled(phrase.choose(required, rng), words) for _ in range(60)}
    assert texts == {
        "Find an owl in Oslo",
        "Find an owl in Oslo by Ann",
        "Find an owl in Oslo, fast",
        "Find an owl in Oslo by Ann, fast",
    }
    assert "Oslo" not in filled(phrase.choose(required, rng, "b"), words)
    assert Phrase('See "{a*}"').listed(["x", "y", "z"]) == 'x", "y" and "z'


@pytest.mark.parametrize("kind", ["int 2 9", "num 0.5 2 1", "rate 5 9", "list city 2 3", "time"])
def test_a_drawn_value_fits_its_schema(kind: str) -> None:
    for number in range(50):
        Draft202012Validator(schema(kind)).validate(draw(kind, random.Random(number)).value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"requests": ["Do {x}"]}, "names a parameter that is not declared"),
        ({"requests": ["Do it"]}, "does not say n"),
        ({"answers": ["Done."]}, "tells nothing of the result"),
        ({"parameters": {"n": ["nonsense", "A number."]}}, "'nonsense' is no kind of value"),
        ({"result": None}, "cannot be used"),
        ({"name": None}, "needs 'name'"),
        ({"parameters": {"n": ["int", "N."]}}, "cannot be used"),
        ({"parameters": {"n": ["int 9 1", "N."]}}, "cannot be used"),
        ({"parameters": {"n": ["int 1 9", "N."], "m?": ["bool", "M."]}}, "m. needs a kind"),
        ({"parameters": {"n": ["list enum a|b 3 3", "N."]}}, "too few values"),
        ({"result": {"x": "= n 2"}}, "leaves 2 values"),
        ({"result": {"x": "= y 2 *"}}, "needs 'y'"),
        ({"answers": ["{x} {y}"]}, "neither argument nor result"),
    ],
)
def test_a_broken_catalogue_names_the_row(
    tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    row: dict[str, Any] = {"name": "f", "domain": "d", "description": "Do.", "answers": ["{x}"]}
    row |= {"parameters": {"n": ["int 1 9", "N."]}, "requests": ["Do {n}"], "result": {"x": "city"}}
    row = {key: value for key, value in (row | change).items() if key != "name" or value}
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=f"own.jsonl:1: .*{fault}"):
        read_catalogue(path)


def test_sentences_end_before_the_next_begins(rows: list[Chat]) -> None:
    for row in rows:
        text = row.messages[1].content
        for opener in (" Also, ", " Then ", " After that, ", " Finally, ", " Besides, "):
            for before in text.split(opener)[:-1]:
                assert before[-1] in ".?", text
