"""The form that an answer is held to while it is drawn (structured outputs)."""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bezoar.chat.json_mode import PARTS, closed, schema_of
from bezoar.chat.messages import Messages, Tool, offered
from bezoar.chat.tool_calls import CLOSE, OPEN

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

Kind = Literal["json", "regex", "choice", "tools"]
# as `json.dumps` writes: without free white space, which a weak model fills its answer with
_JSON_STYLE: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


@dataclass(frozen=True)
class StructuredOutput:
    """An answer in JSON by a schema, by a regular expression, one of several texts, or text and
    calls of tools.

    One of json, regex, choice and tools is set; the names are vLLM's and OpenAI's. The form is of
    the whole answer, which is no draw of the model itself: log-probabilities, wherever they are
    given, are those of the model without the form.
    """

    json: str = ""
    """A JSON Schema, as JSON; the answer is on one line, as `json.dumps` writes it."""
    regex: str = ""
    """Of the whole answer, in the syntax of Rust's crate regex: no look-around."""
    choice: tuple[str, ...] = ()
    tools: str = ""
    """Declarations, a JSON list in OpenAI's form: what stands in `<tool_call>` is a call of one."""
    tool_choice: Literal["", "required"] = ""
    """required: the answer is calls, at least one; else it is text, calls, or text and calls."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.json, self.regex, self.choice, self.tools))) != 1:
            raise ValueError("a structured output is json, regex, choice or tools; give one")

    @property
    def kind(self) -> Kind:
        """The field that is set."""
        kinds: tuple[Kind, ...] = ("json", "regex", "choice", "tools")
        return next(kind for kind in kinds if getattr(self, kind))

    @classmethod
    def schema(cls, schema: Mapping[str, Any]) -> "StructuredOutput":
        """JSON that is valid by `schema`; its properties stand in the schema's order."""
        return cls(json=json.dumps(schema, ensure_ascii=False))

    @classmethod
    def calls(cls, tools: Sequence[Tool], *, required: bool = False) -> "StructuredOutput":
        """Calls that are valid by the parameters of `tools`, behind text or alone."""
        declared = json.dumps([tool.to_json() for tool in tools], ensure_ascii=False)
        return cls(tools=declared, tool_choice="required" if required else "")

    def grammar(self, tokens: Container[str] = ()) -> str:
        """The form as llguidance reads it, for a tokenizer with these added tokens."""
        from llguidance import LLMatcher

        if self.json:
            return LLMatcher.grammar_from_json_schema(self.json, overrides=_JSON_STYLE)
        if self.regex:
            return LLMatcher.grammar_from_regex(self.regex)
        if self.tools:
            return LLMatcher.grammar_from_lark(self._calls(tokens))
        texts = " | ".join(json.dumps(text) for text in self.choice)
        return LLMatcher.grammar_from_lark(f"start: {texts}")

    def _calls(self, tokens: Container[str]) -> str:
        """What `chat.tool_calls.write_answer` writes, in Lark."""
        ways: list[dict[str, Any]] = []
        for tool in map(Tool.from_json, json.loads(self.tools)):
            parts = {"name": {"const": tool.name}, "arguments": tool.parameters}
            ways.append(_for_call({"type": "object", "properties": parts, "required": [*parts]}))
        is_token = OPEN in tokens and CLOSE in tokens
        begin, end = (OPEN, CLOSE) if is_token else (f'"{OPEN}"', f'"{CLOSE}"')
        # of text and tag together the tag ends the lexeme where it stands first
        head = f"TEXT {OPEN}" if is_token else "head"
        start = f"{begin} rest" if self.tool_choice else f"TEXT | {head} rest"
        return "\n".join(
            (
                "%llguidance {}",
                f"start: {start}",
                f'rest: body ("\\n" {begin} body)*',
                f'body: "\\n" call "\\n" {end}',
                rf"head[lazy]: /(.|\n)*{OPEN}/",
                rf"TEXT: /(.|\n)*/ & ~/(.|\n)*{OPEN}(.|\n)*/",
                f"call: %json {json.dumps({'anyOf': ways, 'x-guidance': _JSON_STYLE})}",
            )
        )


def form_of(messages: Messages) -> StructuredOutput | None:
    """The form that a conversation asks for: JSON mode's schema, or calls of the offered tools."""
    schema, tools = schema_of(messages), offered(messages)
    if schema is not None:
        # what is not declared counts as wrong
        return StructuredOutput.schema(closed(schema))
    return StructuredOutput.calls(tools) if tools else None


def _for_call(schema: Any) -> Any:
    """A JSON Schema of what may stand in a call: only arguments that are declared, and no `</` in a
    free text, since a closing tag in a text would end the call."""
    if isinstance(schema, list):
        return [_for_call(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    as_it_is = ("enum", "const", "default", "examples", "required")
    made = {k: value if k in as_it_is else _for_call(value) for k, value in schema.items()}
    if schema.get("type") == "string" and not {"enum", "const", "pattern", "format"} & made.keys():
        made["pattern"] = "^([^<]|<+[^</])*<*$"
    if "properties" in made and not (PARTS | {"patternProperties"}) & made.keys():
        made.setdefault("additionalProperties", False)
    return made
