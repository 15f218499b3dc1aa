"""Our verdicts beside those of the leaderboard's own checker, on its answers and damaged ones."""

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bezoar.chat.tool_calls import write_call
from bezoar.chat.types import ToolCall
from bezoar.evals.bfcl import read_bfcl
from bezoar.verdicts.tool_call import judge_calls

pytest.importorskip("bfcl_eval", reason="needs pip install --no-deps bfcl-eval")
CLASSES = ("simple_python", "multiple", "parallel", "parallel_multiple", "live_simple")
CLASSES += ("live_multiple", "live_parallel", "live_parallel_multiple")
_UNUSED = "bfcl_eval.eval_checker.ast_eval.type_convertor.{}_type_converter"
Calls = list[dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def checker() -> Iterator[Any]:
    """`ast_checker`, without the packages of the vendors' models that its imports ask for."""
    names = {_UNUSED.format(name): {f"{name}_type_converter": None} for name in ("java", "js")}
    config = {"MODEL_CONFIG_MAPPING": {"ours": SimpleNamespace(underscore_to_dot=False)}}
    names["bfcl_eval.constants.model_config"] = config
    before = set(sys.modules)
    for name, values in names.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(values)
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    yield ast_checker
    for name in set(sys.modules) - before:
        del sys.modules[name]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.open()]


def drawn(options: Any, rng: Random) -> Any:
    """One of the allowed values, in whose tables each value may be a list of allowed ones again."""
    if not isinstance(options, list):
        return options
    value = rng.choice([option for option in options if option != ""] or [""])
    if isinstance(value, list):
        return [table(part, rng) if isinstance(part, dict) else part for part in value]
    return table(value, rng) if isinstance(value, dict) else value


def table(value: dict[str, Any], rng: Random) -> dict[str, Any]:
    """One of the tables that a table of allowed values allows."""
    needed = {k: v for k, v in value.items() if not (isinstance(v, list) and "" in v)}
    return {key: drawn(options, rng) for key, options in needed.items()}


def right(truth: list[dict[str, Any]], rng: Random) -> Calls:
    """The calls that are expected; what may be left out is sometimes there."""
    return [
        {
            name: {
                key: drawn(options, rng)
                for key, options in allowed.items()
                if "" not in options or (rng.random() < 0.5 and set(map(str, options)) != {""})
            }
        }
        for call in truth
        for name, allowed in call.items()
    ]


def damaged(calls: Calls, rng: Random) -> Calls:
    """The calls with one thing changed."""
    calls = copy.deepcopy(calls)
    call = rng.choice(calls)
    [(name, arguments)] = call.items()
    key = rng.choice(list(arguments) or [""])
    value = arguments.get(key)
    others: list[Any] = [str(value), [value], {"a": value}, None, True, 0, 1.5, ""]
    if isinstance(value, str):
        others += [value.upper(), value.replace(" ", "-"), value.replace("'", '"'), value + "s"]
    if isinstance(value, int | float):
        others += [value + 1, float(value), int(value)]
    if isinstance(value, list):
        others += [value[::-1], value[1:], [*map(str, value)], [[part] for part in value]]
    if isinstance(value, dict):
        others += [{**value, "a": 1}, dict(list(value.items())[1:])]
        others += [{k: str(v).upper() for k, v in value.items()}]
    change = rng.choice(
        ("value", "value", "value", "key", "extra", "name", "order", "more", "fewer")
    )
    if change == "value" and key:
        arguments[key] = rng.choice(others)
    elif change == "key":
        arguments.pop(key, None)
    elif change == "extra":
        arguments["no_such"] = 1
    elif change == "name":
        call[f"{name}_2"] = call.pop(name)
    elif change == "order":
        calls.reverse()
    elif change == "more":
        calls.append(copy.deepcopy(call))
    else:
        calls.remove(call)
    return calls


@pytest.mark.parametrize("name", CLASSES)
def test_equal_verdicts(name: str, checker: Any) -> None:
    import bfcl_eval
    from bfcl_eval.constants.enums import Language

    folder, rng = Path(bfcl_eval.__path__[0]) / "data", Random(f"bfcl {name}")
    file = f"BFCL_v4_{name}.json"
    truths = {row["id"]: row["ground_truth"] for row in rows(folder / "possible_answer" / file)}
    items = {item.id: item for item in read_bfcl(folder / file)}
    num_right = 0
    for row in rows(folder / file):
        truth, item = truths[row["id"]], items[row["id"]]
        calls = right(truth, rng)
        for tried in (calls, damaged(calls, rng), damaged(calls, rng)):
            functions, copied = copy.deepcopy((row["function"], tried))
            theirs = checker(functions, copied, copy.deepcopy(truth), Language.PYTHON, name, "ours")
            text = "\n".join(write_call(ToolCall(n, a)) for c in tried for n, a in c.items())
            ours = judge_calls(text, item.tools, item.expected)
            assert ours.right == theirs["valid"], (row["id"], tried, ours, theirs)
            num_right += ours.right
    # neither all right nor all wrong, or nothing would have been compared
    assert len(items) <= num_right < 2.5 * len(items)
