"""Whether the answer is JSON that fits the row's schema."""

from dataclasses import dataclass
from typing import Any, Literal

from bezoar.chat.json_mode import schema_of
from bezoar.chat.types import AnyRow
from bezoar.strict_json import NotJSONError, parse
from bezoar.train.rewards.program import Program
from bezoar.verdicts.tool_call import schema_faults


@dataclass(frozen=True)
class JSONAnswer(Program):
    """1 if the whole answer is one JSON object that is valid by the row's schema, else 0.

    The schema is that of the row's system message (Hermes' JSON mode, as `json_mode` writes it).
    With `equal` the object must also be that of the row's own answer.

    Example: {kind: json, equal: true}
    """

    equal: bool = False
    """Whether the values must be those of the row's own answer too."""
    kind: Literal["json"] = "json"

    def read(self, row: AnyRow) -> tuple[dict[str, Any], Any]:
        """The schema, and the object that is right, None where any is."""
        schema = schema_of(row.prompt)
        if schema is None:
            raise ValueError("its system message holds no <schema>")
        try:
            return schema, parse(row.answer) if self.equal else None
        except NotJSONError:
            raise ValueError("its own answer is no JSON") from None

    def score(self, row: AnyRow, text: str) -> float:
        schema, right = self.read(row)
        try:
            value = parse(text)
        except NotJSONError:
            return 0.0
        fits = isinstance(value, dict) and not schema_faults(value, schema)
        return float(fits and (not self.equal or value == right))
