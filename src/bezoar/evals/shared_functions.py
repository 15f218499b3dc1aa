"""Functions of evaluation items that stand in the rows that a model was trained on."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bezoar.chat.messages import offered
from bezoar.chat.types import AnyRow, Chat, Tool
from bezoar.evals.outcome import EvalContext
from bezoar.io import Row

MOST_NAMED = 20
_NO_WORD = re.compile(r"[\W_]+")


class Functions(NamedTuple):
    """What functions are known by: a name under which a row masks one hides no description."""

    names: frozenset[str]
    descriptions: frozenset[str]

    @classmethod
    def of(cls, tools: Sequence[Tool], names: Sequence[str] = ()) -> "Functions":
        """Those of declarations, and further names; case, `.`, `_` and blanks do not count."""
        known = [*(tool.name for tool in tools), *names]
        # a name that training rows mask leaves its description as it was
        described = [tool.description for tool in tools]
        return cls(frozenset(map(_plain, known)) - {""}, frozenset(map(_plain, described)) - {""})

    def shares(self, other: "Functions") -> bool:
        """Whether one function of the one is among the other's."""
        return bool(self.names & other.names or self.descriptions & other.descriptions)


def shared_functions(
    items: Mapping[str, Sequence[Tool]], model: str, context: EvalContext
) -> Row | None:
    """How many rows of the trainings below a model offer tools, and which items (id -> tools) share
    a function with one; None for a model without a training."""
    # several trainings may have read the same rows
    stages = dict.fromkeys(stage.rows for stage in context.lineage(model))
    if not stages:
        return None
    num_rows, names, descriptions = 0, set[str](), set[str]()
    for stage in stages:
        for row in (context.stored_rows or context.rows)(stage):
            own = _functions(row)
            num_rows += bool(own.names)
            names |= own.names
            descriptions |= own.descriptions
    # of all rows at once: an item is known whichever row has its function
    trained = Functions(frozenset(names), frozenset(descriptions))
    shared = {name: tools for name, tools in items.items() if Functions.of(tools).shares(trained)}
    # those that are shared themselves, not the others that an item offers beside them
    found = dict.fromkeys(
        tool.name
        for tools in shared.values()
        for tool in tools
        if Functions.of([tool]).shares(trained)
    )
    return {
        "rows": num_rows,
        "items": len(items),
        "shared": len(shared),
        "functions": list(found)[:MOST_NAMED],
    }


def in_words(facts: Row) -> str:
    """The counts of `shared_functions` as a sentence."""
    rows = f"the {facts['rows']:,} rows with tools that it was trained on"
    if not facts["shared"]:
        return f"no function of its {facts['items']:,} items stands in {rows}"
    names = ", ".join(facts["functions"])
    of = f"{facts['shared']:,} of its {facts['items']:,} items"
    return f"{of} have a function that stands in {rows} ({names}); their scores may show memory"


def _functions(row: AnyRow) -> Functions:
    messages = row.messages if isinstance(row, Chat) else row.prompt
    # a row that masks its functions says in its provenance which they were
    told = row.meta.get("functions")
    names = [name for name in told if isinstance(name, str)] if isinstance(told, list) else []
    called = [call.name for message in messages for call in message.tool_calls]
    return Functions.of(offered(messages), [*names, *called])


def _plain(text: str) -> str:
    return _NO_WORD.sub("", text.casefold())
