"""Runs in the Python of vLLM's environment: its own parser of Hermes' tool calls.

Standard input is {tokenizer, texts}; standard output a list of {content, calls} of the texts.
"""

import json
import sys

from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest  # type: ignore[import-not-found]
from vllm.tool_parsers import ToolParserManager  # type: ignore[import-not-found]

asked = json.load(sys.stdin)
kind = ToolParserManager.get_tool_parser("hermes")
tokenizer = AutoTokenizer.from_pretrained(asked["tokenizer"])
request = ChatCompletionRequest(messages=[{"role": "user", "content": ""}])
answers = []
for text in asked["texts"]:
    found = kind(tokenizer).extract_tool_calls(text, request)
    calls = [[call.function.name, json.loads(call.function.arguments)] for call in found.tool_calls]
    answers.append({"content": found.content or "", "calls": calls})
print("\n" + json.dumps(answers))
