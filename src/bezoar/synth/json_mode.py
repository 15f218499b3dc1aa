"""Conversations in JSON mode, made from schemas with samplers and texts."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bezoar.bounds import Count
from bezoar.chat.json_mode import json_prompt, schema_of
from bezoar.chat.row_types import RowType
from bezoar.chat.types import Chat, Filtered, Message
from bezoar.cost import Estimate, Quote, exactly
from bezoar.data.files import locate_file
from bezoar.references import FileRef
from bezoar.stage import Outputs, Stage, StageContext, Stats
from bezoar.strict_json import NotJSONError, parse
from bezoar.synth.drawn_rows import draw_rows
from bezoar.synth.tools.catalogue import Function, read_schemas
from bezoar.synth.tools.phrase import filled
from bezoar.verdicts.tool_call import schema_faults

_REQUESTS = (
    "{text}\n\nGive me {what} as JSON.",
    "Extract {what} from this text:\n\n{text}",
    "{text}",
    "Put {what} into JSON: {text}",
    "What is {what} here? {text}",
)


@dataclass(frozen=True)
class JSONMode(Stage):
    """Texts whose data are asked for in JSON, with the right object as the answer, no teacher.

    The system message holds the JSON Schema as in Hermes' JSON mode; values are drawn, the texts of
    the schema set say them, and the answer is one object that is valid by the schema and holds what
    was said. `meta` has the schema's name. Schemas and texts are ours.

    Source: arXiv 2408.11857 and NousResearch/Hermes-Function-Calling (the format)
    Example: {kind: json_mode, num_rows: 500}
    """

    num_rows: Count
    """Conversations to write; equal ones are replaced."""
    schemas: FileRef = "bezoar:schemas.jsonl"
    """JSON Lines of schemas with name, description, parameters and requests, as in a catalogue."""
    kind: Literal["json_mode"] = "json_mode"
    gives = "rows"

    def files(self) -> list[Path]:
        """The words that values are drawn from."""
        return [locate_file("bezoar:words.jsonl", Path(), "words")]

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats."""
        return RowType("chats", frozenset({"scheme", "schema"}))

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """All rows; no requests."""
        return Quote(exactly(self.num_rows))

    def run(self, context: StageContext) -> Stats:
        """Write the rows."""
        written = self.write(context.seed)
        return context.write_rows(written, len(written.rows) + len(written.dropped))

    def write(self, seed: int) -> Filtered[Chat]:
        """`num_rows` different conversations; equal seeds give equal rows."""
        schemas = read_schemas(locate_file(self.schemas, Path(), "schemas"))

        def make(number: int, rng: random.Random) -> tuple[Chat, bool]:
            return self._chat(number, rng.choice(schemas), rng), False

        return draw_rows(self.kind, self.num_rows, seed, make, json_fault)

    def _chat(self, number: int, schema: Function, rng: random.Random) -> Chat:
        parts = rng.choice(schema.requests).choose(schema.required, rng)
        drawn = schema.draw(rng)
        # keys in the order of the schema, and what was not said is left out
        said = filled(parts, {gap: value.words for gap, value in drawn.items()})
        text = said[:1].upper() + said[1:]
        request = rng.choice(_REQUESTS).format(text=text, what=schema.description)
        table: dict[str, Any] = {"title": schema.name, **schema.tool.parameters}
        answer = json.dumps(schema.call(parts, drawn).arguments, ensure_ascii=False)
        messages = (json_prompt(table), Message("user", request), Message("assistant", answer))
        return Chat(f"json_mode-{number}", messages, {"scheme": self.kind, "schema": schema.name})


def json_fault(chat: Chat) -> str:
    """Why an answer in JSON mode is wrong: "no JSON object" or "does not fit the schema"."""
    schema = schema_of(chat.messages)
    try:
        value = parse(chat.answer)
    except NotJSONError:
        return "no JSON object"
    if schema is None or not isinstance(value, dict):
        return "no JSON object"
    return "does not fit the schema" if schema_faults(value, schema) else ""
