"""Rows for attribute-conditioned fine-tuning: each chat with the levels of its own answer in its
prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bezoar.chat.attribute_levels import steered
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, as_chats
from bezoar.errors import DataError, brief
from bezoar.judge.predict_attributes import HIGHEST, LOWEST, level
from bezoar.judge.stages import RuleFilter


@dataclass(frozen=True)
class Steer(RuleFilter):
    """Recipe keys. Chats with `meta["attributes"]`, from people or from the stages `label` and
    `attributes`, get them into their system message (SteerLM, arXiv 2310.05344, step 3); `only`
    names the attributes that are written, default all.

    Train on them with `{kind: sft, loss_on: last}`: the levels are those of the last answer.
    """

    only: tuple[str, ...] = ()
    kind: Literal["steer"] = "steer"

    def sift(self, rows: Sequence[AnyRow]) -> Filtered[Chat]:
        """The steered chats; those without an attribute that is wanted are dropped as "no
        attributes". DataError for what is no level."""
        kept: list[Chat] = []
        dropped: list[Dropped] = []
        for row in as_chats(rows):
            attributes = row.meta.get("attributes") or {}
            names = (
                [name for name in self.only or attributes if name in attributes]
                if isinstance(attributes, dict)
                else []
            )
            if not isinstance(attributes, dict) or not all(
                _is_level(attributes[name]) for name in names
            ):
                shown = brief(repr(attributes), 200)
                raise DataError(
                    f"row {row.id}: meta.attributes is {shown}, not a table of levels from 0 to 4;"
                    " mend the row."
                )
            wanted = {name: level(attributes[name]) for name in names}
            if not wanted or len(wanted) < len(self.only):
                dropped.append(Dropped(row.id, "no attributes"))
            else:
                kept.append(replace(row, messages=steered(row.messages, wanted)))
        return Filtered(kept, dropped)


def _is_level(value: Any) -> bool:
    return isinstance(value, (int, float)) and LOWEST <= value <= HIGHEST
