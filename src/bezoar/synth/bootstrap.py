"""Answers of a steered model under levels of good answers: SteerLM's bootstrap."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bezoar.chat.attribute_levels import attribute_text, steered
from bezoar.chat.row_types import RowNeed, RowType
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Message
from bezoar.cost import Estimate, Quote
from bezoar.errors import DataError
from bezoar.model.completions import draw_completions
from bezoar.model.spec import Sampling
from bezoar.references import ModelRef, RowsRef
from bezoar.rng import rng_for
from bezoar.stage import Outputs, Stage, StageContext, Stats


@dataclass(frozen=True)
class Bootstrap(Stage):
    """A steered model answers each prompt, told levels that are drawn from those of good answers.

    They are drawn uniformly from the different levels of those chats of `levels` that have the
    highest level of `best` that occurs. The chats go on without levels, which `label` gives them
    anew: steer them and train again. Ours: helpfulness in the place of quality, which HelpSteer2
    lacks, and the highest level that occurs in the place of the scale's highest.

    Source: SteerLM, arXiv 2310.05344, step 4 (quality 9, top-k 50)
    Example: {kind: bootstrap, seeds: prompts, levels: labelled, model: steerlm}
    """

    seeds: RowsRef
    """The stage whose prompts are answered."""
    levels: RowsRef
    """A stage of labelled chats, whose levels are drawn from."""
    model: ModelRef
    """A model that was trained on steered chats."""
    best: str = "helpfulness"
    """The attribute that makes a chat a good one."""
    answers: Sampling = field(default_factory=lambda: Sampling(1.0, 1.0, 256, 50))
    """How answers are drawn."""
    kind: Literal["bootstrap"] = "bootstrap"
    gives = "rows"
    renders = True

    def takes(self) -> Mapping[str, RowNeed]:
        """Levels are read from chats that have `best`."""
        return {"levels": (RowType("chats", frozenset({"attributes", f"attributes.{self.best}"})),)}

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats that say under which levels they were written."""
        return RowType("chats", frozenset({"asked"}))

    def run(self, context: StageContext) -> Stats:
        """Draw levels and answers, and write the chats."""
        rows = context.rows(self.seeds)
        return context.write_rows(self.sample(rows, context), len(rows))

    def sample(self, rows: Sequence[AnyRow], context: StageContext) -> Filtered[Chat]:
        """A chat a prompt, `meta["asked"]` its levels; an answer that was cut off says `ended`.

        Dropped: "too long" without room in the context, "empty answer".
        """
        tables = self.tables(context.rows(self.levels))
        told = f"{len(tables)} different levels with {self.best} {tables[0][self.best]}"
        context.progress.say(f"  {context.progress.stage}: {told}")
        asked = [rng_for("bootstrap", context.seed, row.id).choice(tables) for row in rows]
        drawn = draw_completions(
            context.open_model(self.model),
            context.template,
            [steered(row.prompt, table) for row, table in zip(rows, asked, strict=True)],
            self.answers,
            num=1,
            seed=context.seed,
        )
        results: list[Chat | Dropped] = []
        for row, table, completions in zip(rows, asked, drawn, strict=True):
            [(answer, ended)] = completions or [("", True)]
            if not answer.strip():
                results.append(Dropped(row.id, "empty answer" if completions else "too long"))
                continue
            meta = {"asked": attribute_text(table), **({} if ended else {"ended": False})}
            messages = (*row.prompt, Message("assistant", answer))
            results.append(Chat(row.id, messages, meta))
        return Filtered.split(results)

    def tables(self, rows: Sequence[AnyRow]) -> list[dict[str, int]]:
        """The different levels to draw from, in order. DataError if no row has `best`."""
        found: dict[str, dict[str, int]] = {}
        for row in rows:
            levels = row.meta.get("attributes")
            if isinstance(levels, dict) and self.best in levels:
                # halves up, as `label` and `steer` round
                whole = {name: math.floor(value + 0.5) for name, value in levels.items()}
                found[attribute_text(whole)] = whole
        if not found:
            advice = "name a stage of kind label or attributes"
            raise DataError(f"{self.levels}: no chat has a level of {self.best}; {advice}.")
        highest = max(table[self.best] for table in found.values())
        return [found[text] for text in sorted(found) if found[text][self.best] == highest]

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """All seeds; no requests."""
        return Quote(rows[self.seeds])
