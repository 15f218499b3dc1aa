"""How an endpoint is asked for an answer of a form: found out once, by a probe.

OpenAI, vLLM, llama.cpp and Ollama take a JSON Schema as `response_format`; vLLM takes it and other
forms as `structured_outputs`. Many servers pass over what they do not know and answer freely.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from bezoar.chat.types import Message
from bezoar.llm.types import Reply, Request
from bezoar.model.structured_output import Kind, StructuredOutput

HeldBy = Literal["response_format", "structured_outputs"]
"""The key of a request that names the form."""
KEYS: Mapping[Kind, tuple[HeldBy, ...]] = {
    "json": ("response_format", "structured_outputs"),
    "regex": ("structured_outputs",),
    "choice": ("structured_outputs",),
    # servers of tools hold calls by rules of their own, and give no text that holds them
    "tools": (),
}
# a text that nobody writes who is not held to it
_SAID = "violet 4711"
_SCHEMA = {
    "type": "object",
    "properties": {"said": {"type": "string", "enum": [_SAID]}},
    "required": ["said"],
    "additionalProperties": False,
}


def probe(kind: Kind, by: HeldBy) -> Request:
    """A question whose answer tells whether the server holds it to a form of this kind."""
    form = {"json": StructuredOutput.schema(_SCHEMA), "regex": StructuredOutput(regex=_SAID)}.get(
        kind, StructuredOutput(choice=(_SAID,))
    )
    asked = (Message("user", "Name a river. Answer with its name alone."),)
    # the seed, which is not sent without sampling, makes a question of each key
    return Request(asked, max_tokens=40, form=form, seed=KEYS[kind].index(by))


def find_key(kind: Kind, ask: Callable[[HeldBy], Reply]) -> tuple[HeldBy | None, str]:
    """The first key by which the server holds answers to such a form; else None, and why not."""
    whys = []
    for by in KEYS[kind]:
        reply = ask(by)
        if is_held(kind, reply.text):
            return by, ""
        whys.append(f"{by}: {reply.error or 'it answered ' + repr(reply.text[:60])}")
    return None, "; ".join(whys) or "only a local model is held to calls"


def is_held(kind: Kind, text: str) -> bool:
    """Whether this answer to a probe is of its form."""
    if kind != "json":
        return text == _SAID
    try:
        return bool(json.loads(text) == {"said": _SAID})
    except ValueError:
        return False


def form_keys(form: StructuredOutput, by: HeldBy) -> dict[str, Any]:
    """What a request says of the form."""
    if by == "structured_outputs":
        values = {"regex": form.regex, "choice": list(form.choice)}
        return {by: {form.kind: json.loads(form.json) if form.json else values[form.kind]}}
    inner = {"name": "answer", "schema": json.loads(form.json), "strict": True}
    return {by: {"type": "json_schema", "json_schema": inner}}
