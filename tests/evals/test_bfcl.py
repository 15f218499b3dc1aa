"""The function-calling leaderboard's files, its sums, and the section that asks its items."""

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.chatml import WORDS_AROUND_TOOLS
from bezoar.chat.messages import with_tools
from bezoar.chat.templates import ChatML
from bezoar.chat.tool_calls import write_call
from bezoar.chat.types import Chat, Message, Tool, ToolCall
from bezoar.cost import text_tokens
from bezoar.errors import DataError
from bezoar.evals.bfcl import CallItem, read_bfcl, sums
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.function_calling import FunctionCalling
from bezoar.evals.outcome import EvalContext, remarks
from bezoar.llm.types import Reply, Request
from bezoar.stage import TrainedStage
from bezoar.verdicts.tool_call import judge_calls
from tests.helpers.command import bezoar, refused

BFCL = Path(os.environ.get("BEZOAR_DATA", "/nowhere")) / "bfcl"
CLASSES = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")
CLASSES += ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
CLASSES += ("live_irrelevance", "live_relevance")


def function(name: str, **types: Any) -> dict[str, Any]:
    properties = {key: {"type": kind, "description": key} for key, kind in types.items()}
    parameters = {"type": "dict", "properties": properties, "required": list(types)[:1]}
    return {"name": name, "description": f"Does {name}.", "parameters": parameters}


def row(item_id: str, asked: str, *functions: dict[str, Any]) -> dict[str, Any]:
    question = [[{"role": "user", "content": asked}]]
    return {"id": item_id, "question": question, "function": list(functions)}


AREA = function("shape.area", base="float", height="float", unit="string")
SPIN = function("spin", times="integer", wheel="any", steps="tuple")
FILES: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "simple_python": [
        (
            row("simple_python_0", "Area of 3 by 4?", AREA),
            [{"shape.area": {"base": [3], "height": [4], "unit": ["m", ""]}}],
        ),
        (
            row("simple_python_1", "Area of 5 by 6?", AREA),
            [{"shape.area": {"base": [5], "height": [6], "unit": ["m", ""]}}],
        ),
    ],
    "parallel": [
        (
            row("parallel_0", "Spin 2 and 3 times.", SPIN),
            [{"spin": {"times": [2]}}, {"spin": {"times": [3]}}],
        )
    ],
    "irrelevance": [(row("irrelevance_0", "Who are you?", SPIN), None)],
    "live_relevance": [(row("live_relevance_0-0-0", "Spin!", SPIN), None)],
}


def write(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in FILES.items():
        file = f"BFCL_v4_{name}.json"
        write(tmp_path / "bfcl" / file, [r for r, _ in rows])
        answers = [{"id": r["id"], "ground_truth": truth} for r, truth in rows if truth]
        if answers:
            write(tmp_path / "bfcl" / "possible_answer" / file, answers)
    (tmp_path / "bfcl" / "BFCL_v4_multi_turn_base.json").write_text("{}\n")
    return tmp_path / "bfcl"


def said(name: str, /, **arguments: Any) -> str:
    return write_call(ToolCall(name, arguments))


ANSWERS = {
    "simple_python_0": said("shape.area", base=3, height=4.0),
    "simple_python_1": "Surely 30.",
    "parallel_0": said("spin", times=3) + "\n" + said("spin", times=2, speed=9),
    "irrelevance_0": said("spin", times="often"),
    "live_relevance_0-0-0": "<tool_call>\n{broken\n</tool_call>",
}


def context(texts: dict[str, str], seen: list[Request] | None = None) -> EvalContext:
    by_question = {
        r["question"][0][0]["content"]: r["id"] for rows in FILES.values() for r, _ in rows
    }

    def ask(requests: Sequence[Request]) -> list[Reply]:
        if seen is not None:
            seen.extend(requests)
        ids = [by_question[request.messages[-1].content] for request in requests]
        return [
            Reply(texts[i], "length" if "broken" in texts[i] else "stop", completion_tokens=5)  # type: ignore[arg-type]
            for i in ids
        ]

    return EvalContext(
        ChatML(),
        open_model=lambda name: None,
        ask_model=lambda name: ask,
        ask=lambda name: ask,
        rows=lambda name: [],
    )


def section(folder: Path, **more: Any) -> FunctionCalling:
    return FunctionCalling(tuple(str(folder / f"BFCL_v4_{name}.json") for name in FILES), **more)


def test_a_file_becomes_prompts_with_json_schemas_and_what_is_expected(folder: Path) -> None:
    first, second = read_bfcl(folder / "BFCL_v4_simple_python.json")
    assert (first.id, first.group) == ("simple_python_0", "simple_python")
    assert first.prompt[0].tools == first.tools
    assert first.prompt[-1].content == "Area of 3 by 4?"
    parameters = first.tools[0].parameters
    assert parameters["type"] == "object"
    assert parameters["properties"]["base"] == {"type": "number", "description": "base"}
    (spins,) = read_bfcl(folder / "BFCL_v4_parallel.json", dots=False)
    kinds = [p["type"] for p in spins.tools[0].parameters["properties"].values()]
    assert kinds == ["integer", "string", "array"]
    assert read_bfcl(folder / "BFCL_v4_irrelevance.json")[0].expected == []
    assert read_bfcl(folder / "BFCL_v4_live_relevance.json")[0].expected is None
    renamed = read_bfcl(folder / "BFCL_v4_simple_python.json", dots=False)[1]
    assert renamed.tools[0].name == renamed.prompt[0].tools[0].name == "shape_area"
    assert renamed.expected == [{"shape_area": second.expected[0]["shape.area"]}]  # type: ignore[index]


def test_every_figure_by_class_with_its_items_and_what_failed(folder: Path) -> None:
    seen: list[Request] = []
    outcome = Evaluate("m", function_calling=section(folder)).measure(context(ANSWERS, seen))
    assert all(request.temperature == 0 and request.messages[0].tools for request in seen)
    figures = {s.name: (s.value, s.n, s.num_failed) for s in outcome.scores}
    assert figures == {
        "BFCL simple_python/accuracy": (0.5, 2, 0),
        "BFCL parallel/accuracy": (0.0, 1, 0),
        "BFCL irrelevance/accuracy": (0.0, 1, 0),
        "BFCL live_relevance/accuracy": (0.0, 1, 0),
        "BFCL calls where asked": (0.75, 4, 0),
        "BFCL calls in valid JSON": (0.8, 5, 0),
        "BFCL calls that fit their schema": (0.4, 5, 0),
        "BFCL answers that stop": (0.8, 5, 0),
    }
    assert all(s.low is not None for s in outcome.scores)
    values = {(i["benchmark"], i["id"]): i["value"] for i in outcome.items}
    assert values["BFCL simple_python/accuracy", "simple_python_1"] == 0.0
    assert values["BFCL calls that fit their schema", "parallel_0"] == 0.5
    assert ("BFCL calls in valid JSON", "simple_python_1") not in values
    facts = outcome.info["function_calling"]
    assert facts["kinds"] == {
        "simple_python": {"right": 1, "no call": 1},
        "parallel": {"extra argument": 1},
        "irrelevance": {"needless call": 1},
        "live_relevance": {"bad JSON": 1},
    }
    (shown,) = facts["examples"]["extra argument"]
    assert (shown["id"], shown["asked"]) == ("parallel_0", "Spin 2 and 3 times.")
    assert "speed" in shown["detail"]
    assert "speed" in shown["text"]


def test_a_model_that_never_calls_is_right_where_no_call_is_and_has_no_json(folder: Path) -> None:
    silent = dict.fromkeys(ANSWERS, "No.")
    outcome = Evaluate("m", function_calling=section(folder)).measure(context(silent))
    figures = {s.name: s for s in outcome.scores}
    assert figures["BFCL irrelevance/accuracy"].value == 1.0
    assert figures["BFCL calls where asked"].value == 0.0
    assert figures["BFCL calls in valid JSON"].value is None
    assert "no call" in str(figures["BFCL calls in valid JSON"])


def test_limit_and_conditions(folder: Path) -> None:
    seen: list[Request] = []
    one = section(folder, limit=1)
    outcome = Evaluate("m", function_calling=one).measure(context(ANSWERS, seen))
    assert len(seen) == 4
    conditions = outcome.info["function_calling"]["conditions"]
    whole = Evaluate("m", function_calling=section(folder)).measure(context(ANSWERS))
    others = whole.info["function_calling"]["conditions"]
    assert conditions["BFCL parallel/"] == others["BFCL parallel/"]
    assert conditions["BFCL simple_python/"] != others["BFCL simple_python/"]
    assert "ChatML" in conditions["BFCL"]["prompt format"]
    assert {path.name for path in one.files()} == {
        "BFCL_v4_simple_python.json",
        "BFCL_v4_parallel.json",
    }
    ((name, requests),) = one.quote({})
    assert (name, requests.num.expected) == ("", 4)
    assert requests.prompt_tokens.expected > text_tokens(WORDS_AROUND_TOOLS)


def trained(rows: list[Chat], texts: dict[str, str] = ANSWERS) -> EvalContext:
    lineage = lambda name: [TrainedStage("sft", "base", "rows")]  # noqa: E731
    return replace(context(texts), rows=lambda name: rows, lineage=lineage)


@pytest.mark.parametrize(
    ("name", "description", "meta", "shared"),
    [
        ("shape.area", "Other words.", {}, ["shape.area"]),
        ("Shape_Area", "Other words.", {}, ["shape.area"]),
        ("qxz.vb2", "does  SHAPE.area.", {}, ["shape.area"]),  # masked, by its description
        ("qxz.vb2", "Other words.", {"functions": ["shape.area"]}, ["shape.area"]),
        ("shape.perimeter", "Other words.", {"functions": "shape.area"}, []),
    ],
)
def test_functions_of_training_rows_are_told_also_where_they_are_masked(
    folder: Path, name: str, description: str, meta: dict[str, Any], shared: list[str]
) -> None:
    messages = (Message("user", "q"), Message("assistant", "a"))
    rows = [
        Chat("1", with_tools(messages, [Tool(name, description)]), meta),
        Chat("2", messages, {}),
    ]
    stage = Evaluate("m", function_calling=section(folder))
    outcome = stage.measure(trained(rows))
    facts = outcome.info["function_calling"]["shared"]
    assert facts == {"rows": 1, "items": 5, "shared": 2 * len(shared), "functions": shared}
    (line,) = [s for s in remarks(outcome.info) if "trained on" in s]
    assert ("no function of its 5 items" in line) == (not shared)
    assert "2 of its 5 items" in line or not shared


def test_the_prompt_format_is_told_with_the_numbers(folder: Path) -> None:
    outcome = Evaluate("m", function_calling=section(folder)).measure(context(ANSWERS))
    told = "BFCL: prompt format chatml, greedy, at most 256 tokens an answer."
    assert remarks(outcome.info) == [told]
    asked = replace(context(ANSWERS), answers_only=True)
    other = Evaluate("m", function_calling=section(folder)).measure(asked)
    assert remarks(other.info)[0].startswith("BFCL: prompt format its own")
    pair = [o.info["function_calling"]["conditions"]["BFCL"] for o in (outcome, other)]
    assert pair[0]["prompt format"] != pair[1]["prompt format"]


def numbered(classes: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {name: {f"{name}_{i}": v for i, v in enumerate(own)} for name, own in classes.items()}


def test_the_leaderboards_sums() -> None:
    classes = dict.fromkeys(
        ("simple_python", "multiple", "parallel", "parallel_multiple", "live_multiple"), [0.0] * 9
    )
    classes |= dict.fromkeys(("live_simple", "live_parallel", "live_parallel_multiple"), [0.0] * 3)
    never = classes | {"irrelevance": [1.0] * 4, "live_irrelevance": [1.0] * 5}
    silent = {s.name: s for s in sums(numbered(never)).scores}
    assert {name: s.value for name, s in silent.items()} == {
        "BFCL mean non-live": 0.0,
        "BFCL mean live": 0.0,
        "BFCL mean irrelevance": 1.0,
        "BFCL mean overall": pytest.approx(0.1),
    }
    assert (silent["BFCL mean non-live"].low, silent["BFCL mean irrelevance"].high) == (0.0, 1.0)
    assert 0 < silent["BFCL mean non-live"].high < 0.4  # type: ignore[operator]
    mixed = never | {
        "simple_python": [1.0, 0.0],
        "simple_java": [1.0],
        "multiple": [1.0] * 4,
        "live_multiple": [1.0] * 3 + [0.0] * 9,
        "live_simple": [1.0] * 3,
        "irrelevance": [0.0],
    }
    outcome = sums(numbered(mixed))
    figures = {s.name: s for s in outcome.scores}
    non_live = (0.75 + 1 + 0 + 0) / 4
    live = 6 / 21  # over items: 3 of 12, 3 of 3, none of 3 and of 3
    assert figures["BFCL mean non-live"].value == pytest.approx(non_live)
    assert figures["BFCL mean live"].value == pytest.approx(live)
    assert figures["BFCL mean overall"].value == pytest.approx(0.1 * (non_live + live + 0.5))
    assert figures["BFCL mean live"].low < live < figures["BFCL mean live"].high  # type: ignore[operator]
    # a paired test over the items is one of the sum
    for name, figure in figures.items():
        values = [row["value"] for row in outcome.items if row["benchmark"] == name]
        assert len(values) == figure.n
        assert sum(values) / len(values) == pytest.approx(figure.value)
    assert sums(numbered({"simple_python": [1.0], "irrelevance": [1.0]})).scores == []


@pytest.mark.parametrize(
    ("file", "change", "place", "what"),
    [
        ("BFCL_v4_simple_python.json", {"id": 3}, ":2", "the id is '3'"),
        ("BFCL_v4_simple_python.json", {"id": "simple_python_0"}, ":2", "stands in"),
        ("BFCL_v4_simple_python.json", {"id": "simple_python_9"}, ":2", "has no answer to"),
        ("BFCL_v4_simple_python.json", {"id": "simple_java_1"}, ":2", "not measured here"),
        ("BFCL_v4_simple_python.json", {"question": "?"}, ":2", "question is no list"),
        ("BFCL_v4_simple_python.json", {"question": [[], []]}, ":2", "2 turns"),
        ("BFCL_v4_simple_python.json", {"question": [[{"role": "x"}]]}, ":2", "no role"),
        ("BFCL_v4_simple_python.json", {"question": [[]]}, ":2", "end with a message of the user"),
        ("BFCL_v4_simple_python.json", {"function": "f"}, ":2", "no list of declarations"),
        ("BFCL_v4_simple_python.json", {"function": [{"name": ""}]}, ":2", "has no name"),
        ("possible_answer/BFCL_v4_simple_python.json", {"ground_truth": []}, ":2", "no list"),
        ("possible_answer/BFCL_v4_simple_python.json", {"ground_truth": [{}]}, ":2", "is not {"),
        (
            "possible_answer/BFCL_v4_simple_python.json",
            {"ground_truth": [{"f": {"a": 1}}]},
            ":2",
            "allowed values",
        ),
    ],
)
def test_a_broken_file_is_one_sentence_with_its_line(
    folder: Path, file: str, change: dict[str, Any], place: str, what: str
) -> None:
    path = folder / file
    first, second = map(json.loads, path.read_text().splitlines())
    write(path, [first, {**second, **change}])
    with pytest.raises(DataError) as caught:
        read_bfcl(folder / "BFCL_v4_simple_python.json")
    message = str(caught.value)
    assert message.startswith(f"{path}{place}: ")
    assert what in message
    assert "\n" not in message


def test_without_its_answers_a_file_is_refused_by_name(folder: Path) -> None:
    path = folder / "possible_answer" / "BFCL_v4_parallel.json"
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_bfcl(folder / "BFCL_v4_parallel.json")


@pytest.mark.parametrize("form", ["text", "result", "calls", "python"])
def test_texts_of_any_model_are_scored_without_it(folder: Path, tmp_path: Path, form: str) -> None:
    spins = [{"spin": '{"times": 3}'}, {"spin": '{"times": 2}'}]
    right: dict[str, Any] = {
        "text": {"text": said("spin", times=3) + said("spin", times=2)},
        "result": {"result": said("spin", times=3) + said("spin", times=2)},
        "calls": {"result": spins},
        "python": {"result": "[spin(times=3), spin(times=2)]"},
    }
    texts = [
        {"id": "simple_python_0", "text": "shape.area(base=3.0, height=4)"},
        {"id": "simple_python_1", "text": "[print(1)]"},
        {"id": "parallel_0", **right[form]},
        {"id": "irrelevance_0", "text": "I am a model."},
        {"id": "elsewhere_7", "text": "is left out"},
    ]
    write(tmp_path / "answers.jsonl", texts)
    out = tmp_path / "out"
    bezoar("eval", tmp_path / "answers.jsonl", "--tools", folder, "--out", out)
    rows = json.loads((out / "scores.json").read_text())["scores"]
    figures = {r["name"]: (r["value"], r["n"], r["num_failed"]) for r in rows}
    assert figures["BFCL simple_python/accuracy"] == (0.5, 2, 0)
    assert figures["BFCL parallel/accuracy"] == (1.0, 1, 0)
    assert figures["BFCL irrelevance/accuracy"] == (1.0, 1, 0)
    assert figures["BFCL live_relevance/accuracy"] == (None, 0, 1)  # not in the file
    assert figures["BFCL answers that stop"] == (None, 0, 0)  # a text does not tell


def test_texts_for_other_items_are_refused(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "answers.jsonl", [{"id": "x", "text": "y"}])
    command = ["eval", tmp_path / "answers.jsonl", "--tools", folder, "--out", tmp_path / "out"]
    assert "answers.jsonl: it answers none of the items; check" in refused(*command)


def right_answer(item: CallItem) -> str:
    """An answer with the first allowed value of every parameter that has one."""

    def one(values: list[Any]) -> Any:
        return next((value for value in values if value != ""), "")

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: one(options) for key, options in value.items() if one(options) != ""}
        return [plain(part) for part in value] if isinstance(value, list) else value

    calls = [pair for call in item.expected or [] for pair in call.items()]
    return "\n".join(
        said(name, **{key: plain(one(v)) for key, v in allowed.items() if one(v) != ""})  # type: ignore[arg-type]
        for name, allowed in calls
    )


WRONG = {
    "parallel_multiple_12": "extra argument",
    "parallel_multiple_26": "extra argument",
    "live_simple_106-63-0": "missing argument",
    "live_simple_112-68-0": "missing argument",
    "live_multiple_507-149-4": "missing argument",
    "live_multiple_862-181-3": "extra argument",
    "live_multiple_964-207-0": "missing argument",
}
"""Of 2,351 entries those whose answer is wrong by the rules, if every parameter that has one gets
its first value that is not empty."""


def data_folders() -> list[Path]:
    package = importlib.util.find_spec("bfcl_eval")
    places = (
        [Path(place) / "data" for place in package.submodule_search_locations or ()]
        if package
        else []
    )
    return [folder for folder in (BFCL, *places) if folder.is_dir()]


@pytest.mark.skipif(not data_folders(), reason="needs BEZOAR_DATA/bfcl or the package bfcl-eval")
@pytest.mark.parametrize("folder", data_folders(), ids=["mirror", "package"][: len(data_folders())])
def test_the_leaderboards_own_answers_are_right_but_for_those_that_are_wrong(folder: Path) -> None:
    items = [
        item
        for name in CLASSES
        if (file := folder / f"BFCL_v4_{name}.json").is_file()
        for item in read_bfcl(file)
    ]
    asked = [item for item in items if item.expected]
    assert len(asked) in (1000, 2351)
    verdicts = {i.id: judge_calls(right_answer(i), i.tools, i.expected) for i in asked}
    wrong = {name: v.kind for name, v in verdicts.items() if not v.right}
    assert wrong == {name: kind for name, kind in WRONG.items() if name in verdicts}
    assert len(wrong) == (2 if len(asked) == 1000 else 7)
