"""Prompts with instructions of form that a program can check."""

import random
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bezoar.bounds import Count, Natural
from bezoar.chat.row_types import RowType
from bezoar.chat.types import Chat, Filtered, Message
from bezoar.cost import Quote, exactly
from bezoar.references import FileRef
from bezoar.stage import Stage, StageContext, Stats
from bezoar.synth.drawn_rows import draw_rows
from bezoar.synth.topics import read_topics
from bezoar.verdicts.instructions import INSTRUCTIONS, phrase

_ASKED = (
    "Write about {topic}.",
    "Explain {topic} to a child.",
    "What should one know about {topic}?",
    "Tell me something about {topic}.",
    "Why is {topic} interesting?",
)
_WORDS = ("light", "small", "people", "often", "change", "world", "simple", "history", "new")
_STARTS, _ENDS = ("In short,", "Many people ask", "Let us see:"), ("That is all.", "Any questions?")
_VALUES: dict[str, Any] = {
    "at_least_words": (20, 30, 40),
    "at_most_words": (8, 12, 16),
    "sentences": (1, 2, 3),
    "paragraphs": (2, 3),
    "bullets": (2, 3, 4),
    "keyword": _WORDS,
    "forbidden": _WORDS,
    "begins_with": _STARTS,
    "ends_with": _ENDS,
}
_SECOND = ("keyword", "forbidden", "no_commas")
"""These go with any other; of the rest two need not go together."""


@dataclass(frozen=True)
class InstructionPrompts(Stage):
    """Prompts about topics with one or two instructions of form, without answers.

    `meta.instructions` has them as the reward `instructions` reads them. Words and topics are ours,
    and none is IFEval's, which measures the result.

    Example: {kind: instruction_prompts, num_rows: 400}
    """

    num_rows: Count
    """Prompts to write."""
    skip: Natural = 0
    """Prompts passed over, such as those that another stage trains on."""
    topics: FileRef = "bezoar:topics.txt"
    """Topics, one a line."""
    kinds: tuple[str, ...] = ()
    """Kinds of instructions; default: all."""
    kind: Literal["instruction_prompts"] = "instruction_prompts"
    gives = "rows"
    carries: ClassVar[frozenset[str]] = frozenset({"scheme", "instructions"})

    def __post_init__(self) -> None:
        if unknown := [name for name in self.kinds if name not in INSTRUCTIONS]:
            known = ", ".join(INSTRUCTIONS)
            raise ValueError(f"kinds: there is no instruction {unknown[0]!r}; known are {known}")

    def row_type(self, rows: Any, outputs: Any) -> RowType:
        """Chats."""
        return RowType("chats", self.carries)

    def quote(self, rows: Any) -> Quote:
        """All rows."""
        return Quote(exactly(self.num_rows))

    def run(self, context: StageContext) -> Stats:
        """Write the rows."""
        written = self.write(context.seed)
        return context.write_rows(written, len(written.rows) + len(written.dropped))

    def write(self, seed: int) -> Filtered[Chat]:
        """`num_rows` different prompts; equal seeds give equal rows."""
        topics = read_topics(self.topics)

        def make(number: int, rng: random.Random) -> Chat:
            return self._chat(number, rng.choice(topics), rng)

        drawn = draw_rows(self.kind, self.skip + self.num_rows, seed, make, lambda chat: "")
        return Filtered(drawn.rows[self.skip :], drawn.dropped)

    def _chat(self, number: int, topic: str, rng: random.Random) -> Chat:
        kinds = list(self.kinds or INSTRUCTIONS)
        chosen = [rng.choice(kinds)]
        # a second one that goes with any first
        others = [kind for kind in kinds if kind in _SECOND and kind not in chosen]
        if others and rng.random() < 0.5 and chosen[0] != "json":
            chosen.append(rng.choice(others))
        words = rng.sample(_WORDS, 2)
        instructions = []
        for name, word in zip(chosen, words, strict=False):
            values = _VALUES.get(name)
            value = word if values is _WORDS else rng.choice(values) if values else None
            instructions.append({"kind": name} | ({} if value is None else {"value": value}))
        said = [phrase(each["kind"], each.get("value")) for each in instructions]
        text = " ".join([rng.choice(_ASKED).format(topic=topic), *said])
        meta = {"scheme": self.kind, "instructions": instructions}
        return Chat(f"{self.kind}-{number}", (Message("user", text),), meta)
