"""A catalogue: function declarations that come with samplers of arguments, phrasings and stubs."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bezoar.chat.types import Tool, ToolCall
from bezoar.data.rows import Placed, RowOrigin, read_file
from bezoar.errors import DataError
from bezoar.synth.tools.phrase import Part, Phrase, filled
from bezoar.synth.tools.stubs import compute, run_stub
from bezoar.synth.tools.values import Said, draw_different, listed, schema

Kinds = Mapping[str, Any]
SHIPPED = "bezoar:tools.jsonl"
"""The catalogue of the package."""


@dataclass(frozen=True)
class Function:
    """A function of a catalogue; `parameters` is its table of [kind, description, default]."""

    name: str
    domain: str
    description: str
    parameters: Mapping[str, list[Any]]
    requests: tuple[Phrase, ...]
    result: Mapping[str, str]
    answers: tuple[str, ...]
    error: str = ""

    @cached_property
    def required(self) -> tuple[str, ...]:
        """The parameters that every call has."""
        return tuple(name for name in self.parameters if not name.endswith("?"))

    @cached_property
    def optional(self) -> dict[str, Any]:
        """The other parameters with their defaults."""
        return {name[:-1]: p[2] for name, p in self.parameters.items() if name.endswith("?")}

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kind of every gap: `city`, and `wall.width` for a part of an object."""
        found: dict[str, str] = {}
        for name, (kind, _, *more) in self.parameters.items():
            if kind == "object":
                found |= {f"{name}.{inner}": p[0] for inner, p in more[0].items()}
            else:
                found[name.removesuffix("?")] = kind
        return found

    @cached_property
    def describing(self) -> dict[str, str]:
        """The description of each parameter."""
        return {name.removesuffix("?"): p[1] for name, p in self.parameters.items()}

    @cached_property
    def tool(self) -> Tool:
        """The declaration, with defaults in the descriptions."""
        properties = {}
        for name, (kind, text, *more) in self.parameters.items():
            if kind == "object":
                inner = {key: schema(p[0]) | {"description": p[1]} for key, p in more[0].items()}
                value: dict[str, Any] = {"type": "object", "properties": inner}
                value |= {"required": list(inner)}
            else:
                value = schema(kind)
            value["description"] = text
            if name.endswith("?") and more[0] is not None:
                value["description"] += f" Default is {_shown(more[0])}."
            properties[name.removesuffix("?")] = value
        parameters = {"type": "object", "properties": properties, "required": list(self.required)}
        return Tool(self.name, self.description, parameters)

    def draw(self, rng: random.Random) -> dict[str, Said]:
        """Values for all gaps; those of one kind differ, and dates are in order."""
        drawn = draw_different(self.kinds, rng)
        # from a date to an earlier one would be a mistake in the request
        days = [gap for gap, kind in self.kinds.items() if kind == "date"]
        ordered = sorted((drawn[gap] for gap in days), key=lambda said: str(said.value))
        return drawn | dict(zip(days, ordered, strict=True))

    def call(self, parts: tuple[Part, ...], drawn: Mapping[str, Said]) -> ToolCall:
        """The call that a request of these parts asks for."""
        said: dict[str, Any] = {gap: drawn[gap].value for part in parts for gap in part.gaps}
        said |= dict(part.sets for part in parts if part.sets)
        arguments: dict[str, Any] = {}
        for gap in self.kinds:
            name, _, inner = gap.partition(".")
            if gap in said:
                if inner:
                    arguments.setdefault(name, {})[inner] = said[gap]
                else:
                    arguments[name] = said[gap]
        return ToolCall(self.name, arguments)

    def run(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The stub's result, or `{"error": ...}`."""
        # a function knows its own defaults
        known = {**self.optional, **arguments}
        error = _fill(self.error, known) if self.error else ""
        return run_stub(self.name, self.result, known, error)

    def answer(
        self, arguments: Mapping[str, Any], result: Mapping[str, Any], rng: random.Random
    ) -> str:
        """A final answer that tells the result."""
        return _fill(rng.choice(self.answers), {**self.optional, **arguments, **result})


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "none" if not value else listed([str(item) for item in value])
    return f"'{value}'" if isinstance(value, str) else str(value)


def shown(value: Any) -> str:
    """A value of a result as a text says it."""
    return listed([str(item) for item in value]) if isinstance(value, list) else str(value)


def _fill(text: str, values: Mapping[str, Any]) -> str:
    words = {}
    for name, value in values.items():
        words[name] = shown(value)
        if isinstance(value, dict):
            words |= {f"{name}.{key}": shown(inner) for key, inner in value.items()}
    answer = filled(Phrase(text).parts, words)
    return answer[:1].upper() + answer[1:]


def read_catalogue(path: Path) -> list[Function]:
    """The functions of a catalogue file. DataError names the row that is wrong."""
    functions = list(_functions(read_file(path, path.name)))
    names = [function.name for function in functions]
    double = next((name for name in names if names.count(name) > 1), "")
    if double:
        raise DataError(f"{path}: {double} is declared twice; rename one.")
    return functions


def read_schemas(path: Path) -> list[Function]:
    """The schemas of a file, as functions without result. DataError names a row that is wrong."""
    return [schema_at(at, row) for at, row in read_file(path, path.name)]


def schema_at(at: RowOrigin, row: Mapping[str, Any]) -> Function:
    """The schema in a row."""
    lacking = {"domain": "", "result": {}, "answers": []}
    [schema] = _functions(iter([(at, {**lacking, **row})]))
    return schema


def read_declarations(path: Path) -> tuple[list[Tool], dict[str, Function]]:
    """The tools of a file of declarations (OpenAI's form) or of a catalogue, and those that can be
    run. DataError names the row that is wrong."""
    tools: dict[str, Tool] = {}
    stubs: dict[str, Function] = {}
    for at, row in read_file(path, path.name):
        if "requests" in row:
            [function] = _functions(iter([(at, row)]))
            stubs[function.name], tool = function, function.tool
        else:
            tool = _declared(at, row)
        if tool.name in tools:
            raise at.wrong(f"{tool.name} is declared twice; rename one.")
        tools[tool.name] = tool
    return list(tools.values()), stubs


def _declared(at: RowOrigin, row: Mapping[str, Any]) -> Tool:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        tool = Tool.from_json(row)
        Draft202012Validator.check_schema(tool.parameters)
    except DataError as error:
        raise at.wrong(f"{error}") from None
    except SchemaError as error:
        what = f"the parameters of {tool.name} are no JSON Schema: {error.message}"
        raise at.wrong(f"{what}; mend them.") from None
    return tool


def _functions(rows: Iterator[Placed]) -> Iterator[Function]:
    for at, row in rows:
        if "requests" not in row:
            what = "a declaration without requests, result and answers needs a teacher"
            raise at.wrong(f"{what}; name one (teacher: NAME) or add them.")
        try:
            function = Function(
                row["name"],
                row["domain"],
                row["description"],
                row["parameters"],
                tuple(map(Phrase, row["requests"])),
                row["result"],
                tuple(row["answers"]),
                row.get("error", ""),
            )
            check_function(function)
        except KeyError as error:
            raise at.wrong(f"a function of a catalogue needs {error}; add it.") from None
        except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
            raise at.wrong(f"the function cannot be used: {error}; mend it.") from None
        yield function


def check_function(function: Function) -> None:
    """ValueError where declaration, phrases, result and answers do not fit together."""
    for name, row in function.parameters.items():
        if len(row) < 2 + (name.endswith("?") or row[0] == "object"):
            raise ValueError(f"{name} needs a kind, a description and, if optional, a default")
    for kind in [*function.kinds.values(), *function.result.values()]:
        if not kind.startswith("= "):
            schema(kind)
    names = {*function.required, *function.optional}
    for phrase in function.requests:
        said = {name for part in phrase.parts for name in part.arguments}
        gaps = {gap for part in phrase.parts for gap in part.gaps}
        if not gaps <= function.kinds.keys() or not said <= names:
            raise ValueError(f"{phrase.text!r} names a parameter that is not declared")
        missing = set(function.required) - said
        if missing:
            raise ValueError(f"{phrase.text!r} does not say {', '.join(sorted(missing))}")
    for text in function.answers:
        gaps = {gap for part in Phrase(text).parts for gap in part.gaps}
        if not gaps <= {*function.kinds, *function.result}:
            raise ValueError(f"the answer {text!r} names what is neither argument nor result")
        if not set(function.result) & gaps:
            raise ValueError(f"the answer {text!r} tells nothing of the result")
    if not function.requests or (function.result and not function.answers):
        raise ValueError("it has no requests or no answers")
    # a wrong formula or a kind without its numbers shows in the first call
    rng = random.Random(0)
    call = function.call(function.requests[0].choose(function.required, rng), function.draw(rng))
    for formula in (kind for kind in function.result.values() if kind.startswith("= ")):
        compute(formula[2:], {**function.optional, **call.arguments})
    if "error" not in (result := function.run(call.arguments)) and function.answers:
        function.answer(call.arguments, result, rng)
