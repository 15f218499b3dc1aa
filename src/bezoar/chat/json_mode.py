"""JSON mode: a system message that holds a JSON Schema, and an answer that is one JSON object.

Source: NousResearch/Hermes-Function-Calling, jsonmode.py
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from bezoar.chat.messages import Message, Messages
from bezoar.strict_json import NotJSONError, parse

PROMPT = (
    "You are a helpful assistant that answers in JSON. Here's the json schema you must adhere to:\n"
    "<schema>\n{schema}\n</schema>"
)
PARTS = frozenset({"allOf", "anyOf", "oneOf", "$ref", "if"})
"""Keys of a schema whose parts declare properties that `additionalProperties` does not see."""
_SCHEMA = re.compile(r"<schema>\n(.*)\n</schema>", re.DOTALL)


def json_prompt(schema: dict[str, Any]) -> Message:
    """The system message of JSON mode."""
    return Message("system", PROMPT.replace("{schema}", json.dumps(schema, ensure_ascii=False)))


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object that has nothing but what is declared, where neither it nor a part of
    it says that more may be there."""
    bound = {} if PARTS & schema.keys() else {"additionalProperties": False}
    return {"type": "object", **bound, **schema}


def schema_of(messages: Messages) -> dict[str, Any] | None:
    """The schema that a conversation in JSON mode must adhere to; None for any other."""
    # to the last closing tag, since a schema may hold one in a string
    found = _SCHEMA.search(messages[0].content) if messages else None
    try:
        schema = parse(found[1]) if found else None
    except NotJSONError:
        return None
    return schema if isinstance(schema, dict) else None
