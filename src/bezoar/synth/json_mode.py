"""Conversations in JSON mode, made from schemas with samplers and texts."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bezoar.chat.json_mode import json_prompt, schema_of
from bezoar.chat.row_types import RowType
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Message
from bezoar.data.files import locate_file
from bezoar.data.rows import read_file
from bezoar.llm.repair import parse_written
from bezoar.llm.types import Ask, Request
from bezoar.model.structured_output import form_of
from bezoar.prompts import fill, read_prompt
from bezoar.references import FileRef
from bezoar.rng import rng_for, seed_for
from bezoar.stage import Outputs
from bezoar.strict_json import NotJSONError, parse
from bezoar.synth.accepted import written
from bezoar.synth.drawn_rows import DrawnRows, draw_rows
from bezoar.synth.scheme import VARIED
from bezoar.synth.tools.catalogue import Function, read_schemas, schema_at
from bezoar.synth.tools.grounding import ungrounded
from bezoar.synth.tools.phrase import filled
from bezoar.synth.waves import Wished, ask_until
from bezoar.verdicts.tool_call import schema_faults

_REQUESTS = (
    "{text}\n\nGive me {what} as JSON.",
    "Extract {what} from this text:\n\n{text}",
    "{text}",
    "Put {what} into JSON: {text}",
    "What is {what} here? {text}",
)


@dataclass(frozen=True)
class JSONMode(DrawnRows):
    """Texts whose data are asked for in JSON, with the right object as the answer.

    The system message holds the JSON Schema as in Hermes' JSON mode. Without a teacher, values are
    drawn and the texts of the schema set say them. With one, which writes text and object, plain
    JSON Schemas will do: the object must be valid by the schema and its values stand in the text,
    else the teacher is told and asked again. `meta` has the schema's name; ours: schemas and texts.

    Source: arXiv 2408.11857 and NousResearch/Hermes-Function-Calling (the format)
    Example: {kind: json_mode, num_rows: 500}
    """

    schemas: FileRef = "bezoar:schemas.jsonl"
    """Schemas with name, description, parameters, requests; with a teacher also JSON Schemas."""
    structured: bool = False
    """With a teacher: hold its objects to their schema."""
    kind: Literal["json_mode"] = "json_mode"
    usual_tokens = 240.0

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats."""
        return RowType("chats", frozenset({"scheme", "schema"}))

    def write(self, seed: int) -> Filtered[Chat]:
        """`num_rows` different conversations; equal seeds give equal rows."""
        schemas = read_schemas(locate_file(self.schemas, Path(), "schemas"))

        def make(number: int, rng: random.Random) -> Chat:
            return self._chat(number, rng.choice(schemas), rng)

        return draw_rows(self.kind, written(self.num_rows), seed, make, json_fault)

    def ask_teacher(self, ask: Ask, seeds: Sequence[AnyRow], *, seed: int) -> Filtered[Chat]:
        """The conversations that a teacher wrote rightly. Dropped: unusable replies, "no JSON
        object", "does not fit the schema", "value not in the text", "double"."""
        tables = read_json_schemas(locate_file(self.schemas, Path(), "schemas"))
        prompt = read_prompt("bezoar:json_text.txt", "schema", "fields")
        drafts = [self._wished(number, tables, seed) for number in range(written(self.num_rows))]

        def text_request(draft: _Wished, attempt: int) -> Request:
            values = {"schema": _dump(draft.schema), "fields": ", ".join(draft.fields)}
            turns = (Message("user", fill(prompt, **values)),)
            return Request.sampled(turns, VARIED, seed_for(seed, draft.id, "text", attempt))

        def object_request(draft: _Wished, attempt: int) -> Request:
            turns = (json_prompt(draft.schema), Message("user", draft.text), *draft.dialogue)
            made = Request.sampled(turns, self.answers, seed_for(seed, draft.id, attempt))
            return replace(made, form=form_of(turns)) if self.structured else made

        # a weak teacher writes the same text for a schema again and again
        seen: set[str] = set()

        def read_text(draft: _Wished, text: str) -> str:
            is_double, draft.text = text in seen, text
            seen.add(text)
            return "double" if is_double else ""

        ask_until(drafts, ask, self.retries, text_request, read_text)
        ask_until(drafts, ask, self.retries, object_request, _read_object)
        return Filtered.split(draft.chat() for draft in drafts)

    def _wished(self, number: int, tables: Sequence[dict[str, Any]], seed: int) -> "_Wished":
        rng = rng_for("json_mode teacher", seed, number)
        table = rng.choice(tables)
        needed = table.get("required") or []
        # what is optional is told to the teacher for half of the rows each
        names = [n for n in table.get("properties", {}) if n in needed or rng.random() < 0.5]
        return _Wished(f"json_mode-{number}", table, names or list(table.get("properties", {})))

    def _chat(self, number: int, schema: Function, rng: random.Random) -> Chat:
        parts = rng.choice(schema.requests).choose(schema.required, rng)
        drawn = schema.draw(rng)
        # keys in the order of the schema, and what was not said is left out
        said = filled(parts, {gap: value.words for gap, value in drawn.items()})
        text = said[:1].upper() + said[1:]
        request = rng.choice(_REQUESTS).format(text=text, what=schema.description)
        answer = _dump(schema.call(parts, drawn).arguments)
        messages = (
            json_prompt(_table(schema)),
            Message("user", request),
            Message("assistant", answer),
        )
        return Chat(f"json_mode-{number}", messages, {"scheme": self.kind, "schema": schema.name})


@dataclass
class _Wished(Wished):
    """A conversation that a teacher writes."""

    schema: dict[str, Any]
    fields: list[str]
    text: str = ""
    answer: str = ""

    def chat(self) -> Chat | Dropped:
        """The conversation, or why there is none."""
        if self.reason:
            return Dropped(self.id, self.reason, f"{self.text} -> {self.detail}")
        turns = (json_prompt(self.schema), Message("user", self.text))
        meta = {"scheme": "json_mode", "schema": str(self.schema.get("title", ""))}
        return Chat(self.id, (*turns, Message("assistant", self.answer)), meta)


def _read_object(draft: _Wished, text: str) -> str:
    try:
        # many teachers put JSON into a fence; what is trained on has none
        value = parse_written(text)
    except NotJSONError as error:
        draft.tell(text, f"the answer is no JSON ({error})")
        return "no JSON object"
    if not isinstance(value, dict):
        draft.tell(text, "the answer is no JSON object")
        return "no JSON object"
    if wrong := schema_faults(value, draft.schema):
        draft.tell(text, wrong[0])
        return "does not fit the schema"
    # a value that nobody said teaches to make things up
    if lost := ungrounded(value, draft.text, draft.schema):
        draft.tell(text, f"the text does not say {lost}")
        return "value not in the text"
    draft.answer = _dump(value)
    return ""


def read_json_schemas(path: Path) -> list[dict[str, Any]]:
    """The JSON Schemas of a file, plain ones or those of a schema set. DataError names the row."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    tables = []
    for at, row in read_file(path, path.name):
        if "requests" in row:
            tables.append(_table(schema_at(at, row)))
            continue
        try:
            Draft202012Validator.check_schema(row)
        except SchemaError as error:
            raise at.wrong(f"the row is no JSON Schema: {error.message}; mend it.") from None
        if row.get("type") != "object":
            raise at.wrong("the schema is not one of an object (type: object); change it.")
        tables.append(dict(row))
    return tables


def _table(schema: Function) -> dict[str, Any]:
    return {"title": schema.name, **schema.tool.parameters}


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


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
