"""The form that an answer is held to while it is drawn (structured outputs)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

Kind = Literal["json", "regex", "choice"]
# as `json.dumps` writes: without free white space, which a weak model fills its answer with
_JSON_STYLE: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


@dataclass(frozen=True)
class StructuredOutput:
    """An answer in JSON by a schema, by a regular expression, or one of several texts.

    Exactly one field is set; the names are vLLM's. The form is of the whole answer, which is no
    draw of the model itself: log-probabilities, wherever they are given, are those of the model
    without the form.
    """

    json: str = ""
    """A JSON Schema, as JSON; the answer is on one line, as `json.dumps` writes it."""
    regex: str = ""
    """Of the whole answer, in the syntax of Rust's crate regex: no look-around."""
    choice: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if sum(map(bool, (self.json, self.regex, self.choice))) != 1:
            raise ValueError("a structured output is one of json, regex and choice; give one")

    @property
    def kind(self) -> Kind:
        """The field that is set."""
        return "json" if self.json else "regex" if self.regex else "choice"

    @classmethod
    def schema(cls, schema: Mapping[str, Any]) -> "StructuredOutput":
        """JSON that is valid by `schema`; its properties stand in the schema's order."""
        return cls(json=json.dumps(schema, ensure_ascii=False))

    def grammar(self) -> str:
        """The form as llguidance reads it."""
        from llguidance import LLMatcher

        if self.json:
            return LLMatcher.grammar_from_json_schema(self.json, overrides=_JSON_STYLE)
        if self.regex:
            return LLMatcher.grammar_from_regex(self.regex)
        texts = " | ".join(json.dumps(text) for text in self.choice)
        return LLMatcher.grammar_from_lark(f"start: {texts}")
