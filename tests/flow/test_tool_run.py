"""Chats with tools from a file to a model that other tools read, and a conversation with it."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bezoar.flow.chat import converse
from bezoar.flow.inspect_run import find_run
from tests.helpers.command import bezoar, refused

RECIPE = """\
name: toy
template: {{kind: {template}}}
models: {{base: {{path: "{model}", dtype: float32}}}}
stages:
  rows: {{kind: jsonl, path: rows.jsonl}}
  sft:
    {{kind: train, model: base, rows: rows, objective: {{kind: sft}}, validation: 0, batch_size: 2,
     max_length: 1500}}
"""
LAMP = {"name": "lamp", "description": "Switches a lamp.", "parameters": {"type": "object"}}


def row(number: int) -> dict[str, Any]:
    call = {
        "type": "function",
        "function": {"name": "lamp", "arguments": json.dumps({"n": number})},
    }
    return {
        "messages": [
            {"role": "user", "content": f"Lamp {number}!"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "a", **call}]},
            {"role": "tool", "tool_call_id": "a", "content": "lit"},
            {"role": "assistant", "content": "On."},
        ],
        "tools": [{"type": "function", "function": LAMP}],
    }


@pytest.fixture
def folder(roomy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lines = [json.dumps(row(number)) for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    (tmp_path / "tools.json").write_text(json.dumps([LAMP]))
    for template in ("hermes", "chatml"):
        text = RECIPE.format(model=roomy_model, template=template)
        (tmp_path / f"{template}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_rows_with_tools_to_a_conversation(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bezoar("run", "hermes.yaml")
    run = "runs/toy"
    # 1) people see calls and tools; in brackets stands what is trained
    shown = bezoar("rows", run, "rows", "-n", 1)
    assert '{"name": "lamp", "arguments": {"n": 0}}' in shown
    assert "Switches a lamp." in shown
    tokens = bezoar("rows", run, "sft", "--tokens", "-n", 1).replace("\n", "")
    trained = "".join(re.findall(r"\[([^\[\]]+)\]", tokens))
    assert trained == (
        '<tool_call>{"name": "lamp", "arguments": {"n": 0}}</tool_call><|im_end|>On.<|im_end|>'
    )
    # 2) what is saved has the template with tools and how answers are read
    adapter = folder / run / "02-sft" / "adapter"
    assert "<tool_response>" in (adapter / "chat_template.jinja").read_text()
    settings = json.loads((adapter / "tokenizer_config.json").read_text())
    assert "tool_calls" in settings["response_template"]["fields"]
    # 3) an untrained model writes no call; the conversation goes on
    monkeypatch.setattr("sys.stdin", io.StringIO("Lamp 1!\n/q\n"))
    capsys.readouterr()
    converse(*find_run(Path(run)), "sft", start=(), temperature=0.0, tools="tools.json")
    assert "sft is listening" in capsys.readouterr().err


def test_init_takes_the_template_that_writes_tools(folder: Path) -> None:
    bezoar("init", "rows.jsonl", "--out", "mine.yaml")
    assert "template: {kind: hermes}   # rows have tools" in Path("mine.yaml").read_text()


def test_a_template_without_tools_and_a_bad_file_are_one_sentence(folder: Path) -> None:
    told = refused("run", "chatml.yaml")
    assert "template chatml: the chat has tools or calls of them" in told
    told = refused("chat", "chatml.yaml", "--model", "base", "--tools", "tools.json")
    assert "template chatml: the chat has tools" in told
    assert "no such file" in refused("chat", "hermes.yaml", "--tools", "x.json", "--model", "base")
    told = refused("ask", "hermes.yaml", "hi", "--model", "base", "--tools", "rows.jsonl")
    assert "rows.jsonl:1: a tool has no name" in told
    # 128 tools in bytes, each a token
    told = refused("chat", "hermes.yaml", "--model", "base", "--tools", "bezoar:tools.jsonl")
    assert re.search(r"128 tools take \d+ tokens, and the model reads 8192; name some of", told)
