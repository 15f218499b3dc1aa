"""Stages whose rows are drawn without a model, or that a teacher writes where one is named."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

from bezoar.bounds import Natural
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered
from bezoar.cost import Estimate, Quote, RequestEstimate, exactly
from bezoar.data.files import locate_file
from bezoar.launch import AskLaunch
from bezoar.llm.types import Ask
from bezoar.model.spec import Sampling
from bezoar.references import BackendRef
from bezoar.rng import rng_for
from bezoar.stage import Stage, StageContext, Stats
from bezoar.synth.accepted import Accepted, Remembering, RowCount, Waves, written
from bezoar.synth.tools.values import WORDS

_TRIES = 20


def draw_rows(
    name: str,
    num: int,
    seed: int,
    make: Callable[[int, random.Random], Chat],
    fault: Callable[[Chat], str],
    may_repeat: Callable[[Chat], bool] = lambda chat: False,
) -> Filtered[Chat]:
    """`num` rows of `make(number, rng)`; `may_repeat` says which may have another's words.

    Dropped: "double", and what `fault` says; another draw takes the place of a dropped one, 20
    times at most.
    """
    seen: set[str] = set()
    results: list[Chat | Dropped] = []
    for number in range(num):
        # a catalogue of few values may have no other row left
        for attempt in range(_TRIES):
            chat = make(number, rng_for(name, seed, number, attempt))
            text = "\n".join(m.content for m in chat.messages if m.role == "user")
            reason = "double" if text in seen and not may_repeat(chat) else fault(chat)
            # also of those that fail: the same words would fail again
            seen.add(text)
            dropped = Dropped(f"{chat.id}.{attempt}", reason, text[:400])
            results.append(dropped if reason else chat)
            if not reason:
                break
    return Filtered.split(results)


@dataclass(frozen=True)
class DrawnRows(Stage):
    """Rows that are drawn, or that a teacher writes."""

    num_rows: RowCount
    """Conversations to write, or with a teacher to try; without one equal ones are replaced.
    {accepted: N}, with a teacher: as many as the filters behind need to keep N."""
    teacher: BackendRef = field(default="", kw_only=True)
    """The language model that writes; without it rows are drawn."""
    retries: Natural = field(default=1, kw_only=True)
    """With a teacher: how often a reply that is empty, cut or wrong is requested again."""
    answers: Sampling = field(default_factory=Sampling, kw_only=True)
    """With a teacher: how what follows on a request is drawn."""
    launch: AskLaunch | None = field(default=None, kw_only=True)
    """With a teacher: what sends its requests; default: where the recipe's `launch` says."""
    gives = "rows"
    # of a row of what ships, about, with the prompt's words and declarations
    usual_tokens: ClassVar[float]

    def __post_init__(self) -> None:
        defaults: dict[str, object] = {"seeds": "", "retries": 1, "answers": Sampling()}
        defaults |= {"launch": None, "structured": False}
        unused = [key for key, value in defaults.items() if getattr(self, key, value) != value]
        if unused and not self.teacher:
            raise ValueError(f"{unused[0]} needs a teacher; name one or leave it out")
        if self.wanted and not self.teacher:
            raise ValueError("num_rows: {accepted: ...} needs a teacher; write a number")

    @property
    def wanted(self) -> Accepted | None:
        """How many rows the filters behind it are to accept, if that is what counts."""
        return self.num_rows if isinstance(self.num_rows, Accepted) else None

    def sized(self, num: int) -> Self:
        """The scheme for so many rows, in place of as many as are accepted."""
        return replace(self, num_rows=num)

    def first(self, num: int, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """The rows of the first `num` that a teacher tries; those of more hold all of them."""
        return self.sized(num).ask_teacher(ask, seeds, seed=seed)

    def files(self) -> list[Path]:
        """The words that values are drawn from."""
        return [locate_file(WORDS, Path(), "words")]

    def write(self, seed: int) -> Filtered[Chat]:
        """`num_rows` different conversations without a teacher; equal seeds give equal rows."""
        raise NotImplementedError

    def ask_teacher(self, ask: Ask, seeds: Sequence[AnyRow], *, seed: int) -> Filtered[Chat]:
        """The conversations of `num_rows` that a teacher wrote rightly, and why not the others."""
        raise NotImplementedError

    def read_seeds(self, context: StageContext) -> list[AnyRow]:
        """The rows that the teacher writes from."""
        return []

    def requests(self) -> Estimate:
        """How many requests a teacher gets before any is tried again."""
        num = written(self.num_rows)
        return Estimate(num, 2 * num, 2 * num)

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """All rows; with a teacher at least a quarter of them, and the requests for all."""
        if not self.teacher:
            return Quote(exactly(written(self.num_rows)))
        num, most = self.requests(), self.answers.max_tokens
        num = Estimate(num.low, num.expected, num.high * (1 + self.retries))
        requests = RequestEstimate(num, exactly(500), Estimate(most / 8, most / 4, most))
        rows_out = exactly(written(self.num_rows)) * Estimate(0.25, 0.6, 1)
        return Quote(rows_out, [(self.teacher, requests)])

    def run(self, context: StageContext) -> Stats:
        """Write the rows."""
        if not self.teacher:
            drawn = self.write(context.seed)
            return context.write_rows(drawn, len(drawn.rows) + len(drawn.dropped))
        seeds, ask = self.read_seeds(context), context.ask(self.teacher).ask_all
        if self.wanted is None:
            made = self.ask_teacher(ask, seeds, seed=context.seed)
            return context.write_rows(made, written(self.num_rows))
        first = partial(self.first, seeds=seeds, ask=Remembering(ask), seed=context.seed)
        return context.write_rows(Waves.of(context, self.wanted, first).buy())
