"""Tools in a conversation in the terminal: calls are executed, typed or shown as what they are."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bezoar.chat.messages import with_tools
from bezoar.chat.tool_calls import write_answer
from bezoar.chat.types import Message, Messages, Tool, ToolCall
from bezoar.errors import DataError, RecipeError
from bezoar.flow.tool_chat import MOST_ROUNDS, Toolbox, open_tools, respond
from bezoar.terminal import Console

NAMES = "bezoar:tools.jsonl#pantry.scale_recipe"
SCALE = ToolCall("pantry.scale_recipe", {"dish": "bread", "servings": 8})
OWN = Tool("lamp", "Switches a lamp.", {"type": "object", "properties": {"on": {}}})
USER = Message("user", "Hi")


def saying(*texts: str) -> Callable[[Messages], str]:
    script = iter(texts)
    return lambda _: next(script)


def called(*calls: ToolCall) -> str:
    return write_answer(Message("assistant", "I look.", calls))


def talk(box: Toolbox, *texts: str, typed: str | None = None) -> tuple[Messages, str]:
    out = io.StringIO()
    start = with_tools((USER,), box.tools)
    after = respond(saying(*texts), start, box, lambda _: typed, Console(file=out, width=999))
    return (after or ())[len(start) :], out.getvalue()


def test_a_shipped_function_is_called_and_its_result_goes_back() -> None:
    box = open_tools(NAMES)
    said, shown = talk(box, called(SCALE), "So much.")
    call, result, last = said
    assert call == Message("assistant", "I look.", (SCALE,))
    assert json.loads(result.content) == box.functions[SCALE.name].run(SCALE.arguments)
    assert last == Message("assistant", "So much.")
    assert f'{SCALE.name}({{"dish": "bread", "servings": 8}}) gives {{' in shown


def test_the_user_types_what_another_function_gives_and_parallel_calls_keep_their_order() -> None:
    box = Toolbox((OWN, *open_tools(NAMES).tools), open_tools(NAMES).functions)
    said, shown = talk(box, called(ToolCall("lamp", {"on": True}), SCALE), "Done.", typed="lit")
    assert [m.role for m in said] == ["assistant", "tool", "tool", "assistant"]
    assert said[1].content == "lit"
    assert 'lamp({"on": true}): no shipped function has this name; type what it gives' in shown
    ended, _ = talk(box, called(ToolCall("lamp", {"on": True})), typed=None)
    assert not ended


def test_bad_calls_are_shown_as_what_they_are() -> None:
    box = open_tools(NAMES)
    said, shown = talk(box, "<tool_call>{'a'}</tool_call>")
    assert said == (Message("assistant", "<tool_call>{'a'}</tool_call>"),)
    assert "this call cannot be read and is not made: not valid JSON" in shown
    said, shown = talk(box, called(ToolCall("nap", {})), called(ToolCall(SCALE.name, {})), "Sorry.")
    faults = [json.loads(m.content)["error"] for m in said if m.role == "tool"]
    assert faults[0].startswith("there is no function nap; call this function again")
    assert "'dish' is a required property" in faults[1]
    assert shown.count("does not fit the tools") == 2


def test_a_model_that_only_calls_gives_the_turn_back() -> None:
    said, shown = talk(open_tools(NAMES), *[called(SCALE)] * MOST_ROUNDS)
    assert len(said) == 2 * MOST_ROUNDS
    assert "5 rounds of calls without an answer" in shown
    plain, _ = talk(Toolbox(), called(SCALE))
    assert plain == (Message("assistant", called(SCALE)),)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, r"--tools: no such file: "),
        ("[{", r"tools.json:1: not valid JSON"),
        ("[5]", r"tools.json: row 1: the row is a JSON int, not an object"),
        ('[{"description": "x"}]', r"tools.json: row 1: a tool has no name"),
        ('[{"name": "f", "parameters": {"type": 5}}]', r"the parameters of f are no JSON Schema"),
        ('[{"name": "f"}, {"name": "f"}]', r"tools.json: row 2: f is declared twice; rename one"),
        ("[]", r"tools.json: the file holds no rows"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_sentence(
    content: str | None, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("tools.json").write_text(content)
    with pytest.raises((DataError, RecipeError), match=fault) as error:
        open_tools("tools.json")
    assert error.value.exit_code == 2
    with pytest.raises(RecipeError, match="named 'scale_recipe'"):
        open_tools("bezoar:tools.jsonl#scale_recipe")
