"""What the schemes share: stages in which a teacher answers drafts that were made from seeds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from bezoar.bounds import Natural
from bezoar.chat.row_types import TEXTS, RowNeed, RowType
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Message, Messages
from bezoar.cost import Estimate, RequestEstimate, exactly
from bezoar.launch import AskLaunch
from bezoar.llm.types import Ask, Reply, Request, fault
from bezoar.model.spec import Sampling
from bezoar.references import BackendRef, RowsRef
from bezoar.rng import seed_for
from bezoar.stage import Outputs, Rows, Stage, StageContext, Stats, in_parts
from bezoar.synth.accepted import Accepted, Remembering, Waves

VARIED = Sampling(temperature=1.0, top_p=0.95)
"""For instructions, which should differ from one another."""


@dataclass(frozen=True)
class Draft:
    """A row without its answer."""

    id: str
    prompt: Messages
    meta: dict[str, Any] = field(default_factory=dict)
    teacher_prompt: Messages = ()
    """What the teacher reads, if not `prompt`."""


@dataclass(frozen=True)
class Scheme(Stage):
    """Rows that a teacher writes from seeds."""

    seeds: RowsRef
    """The stage whose rows are the seeds."""
    teacher: BackendRef
    """The language model that writes."""
    retries: Natural = field(default=1, kw_only=True)
    """How often an answer that is empty or was cut at `max_tokens` is requested again."""
    answers: Sampling = field(default_factory=Sampling, kw_only=True)
    """How answers are drawn."""
    launch: AskLaunch | None = field(default=None, kw_only=True)
    """What sends its requests; default: where the recipe's `launch` says."""
    gives = "rows"
    # the keys of `meta` that every row has; None where that is not known
    carries: ClassVar[frozenset[str] | None] = None
    # whether as many rows come as are asked for, unless the scheme cannot give more
    fills: ClassVar[bool] = False
    # whether what becomes of a seed depends on no other one
    row_by_row: ClassVar[bool] = False
    # the key that says how many rows, which may be counted behind the filters
    counted: ClassVar[str] = "num_rows"

    def generate(self, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """The new rows, and what was dropped on the way; equal replies give equal rows."""
        raise NotImplementedError

    def each(
        self, seeds: Rows, ask: Ask, *, seed: int, work_dir: Path | None = None, whole: bool = False
    ) -> Iterator[Chat | Dropped]:
        """What `generate` gives, as it comes; `work_dir` is for temporary files. `whole`: all is
        asked for at once, in place of a part at a time."""
        parts = in_parts(seeds, whole=whole or not self.row_by_row)
        return one_by_one(self.generate(part, ask, seed=seed) for part in parts)

    @property
    def wanted(self) -> Accepted | None:
        """How many rows the filters behind it are to accept, if that is what counts."""
        num = getattr(self, self.counted, None)
        return num if isinstance(num, Accepted) else None

    @property
    def most_each(self) -> int:
        """The most rows of one unit of its size."""
        return 1

    def sized(self, num: int) -> Self:
        """The scheme for so many units, in place of as many as are accepted."""
        size: dict[str, Any] = {self.counted: num}
        return replace(self, **size)

    def first(self, num: int, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """The rows of the first `num` units; those of more hold all of them."""
        return self.sized(num).generate(seeds, ask, seed=seed)

    def num_read(self, seeds: Rows) -> int:
        """How many of the seeds are worked on."""
        return len(seeds)

    def takes(self) -> Mapping[str, RowNeed]:
        """Rows with one answer that counts."""
        return {"seeds": TEXTS}

    def row_type(self, rows: Mapping[str, RowType], outputs: Mapping[str, Outputs]) -> RowType:
        """Chats."""
        return RowType("chats", self.carries)

    def run(self, context: StageContext) -> Stats:
        """Ask the teacher and write the rows."""
        pool = context.ask(self.teacher)
        ask = pool.ask_all
        if self.wanted is None:
            stored, seed, work_dir = context.stored_rows(self.seeds), context.seed, context.work_dir
            each = self.each(stored, ask, seed=seed, work_dir=work_dir, whole=pool.whole)
            return context.write_each(each, self.num_read(stored))
        seeds = context.rows(self.seeds)
        first = partial(self.first, seeds=seeds, ask=Remembering(ask), seed=context.seed)
        how = {"each": self.most_each, "fills": self.fills}
        made = Waves.of(context, self.wanted, first, **how).buy()
        return context.write_rows(made, self.num_read(seeds))

    def answer(
        self, drafts: Sequence[Draft], ask: Ask, *, seed: int, system: str = ""
    ) -> Filtered[Chat]:
        """The drafts with answers, in their order; the rows do not hold the `system` message.

        After the last retry an unusable answer drops its draft as "empty" or "truncated". A request
        that failed is not retried: either its failure is final, or the stage stays unfinished.
        """
        prefix = (Message("system", system),) if system else ()
        # By index, not by id, so that rows of equal ids stay apart. The first attempt fills all
        # indices in order, and later ones only replace values: the order of the drafts stays.
        results: dict[int, Chat | Dropped] = {}
        pending = list(range(len(drafts)))
        for attempt in range(self.retries + 1):
            requests = []
            for draft in (drafts[i] for i in pending):
                messages = (*prefix, *(draft.teacher_prompt or draft.prompt))
                draw = seed_for(seed, draft.id, attempt)
                requests.append(Request.sampled(messages, self.answers, draw))
            replies = dict(zip(pending, ask(requests) if requests else [], strict=True))
            results |= {i: _answered(drafts[i], reply) for i, reply in replies.items()}
            unusable = [i for i in pending if isinstance(results[i], Dropped)]
            pending = [i for i in unusable if replies[i].finish != "error"]
        return Filtered.split(results.values())

    def answer_each(
        self, drafts: Iterable[Draft], ask: Ask, *, seed: int, system: str = "", whole: bool = False
    ) -> Iterator[Chat | Dropped]:
        """`answer` for drafts that come one by one, of which a part is in memory."""
        parts = in_parts(drafts, whole=whole)
        return one_by_one(self.answer(part, ask, seed=seed, system=system) for part in parts)

    def quote_answers(self, num: Estimate, prompt_tokens: float) -> RequestEstimate:
        """Requests for answers to `num` prompts of about so many tokens.

        Low: an eighth of `max_tokens` each; high: every retry is used up.
        """
        # One answer in ten is assumed to be requested a second time.
        expected = num.expected * (1 + 0.1 * (self.retries > 0))
        most = self.answers.max_tokens
        return RequestEstimate(
            Estimate(num.low, expected, num.high * (1 + self.retries)),
            exactly(prompt_tokens),
            Estimate(most / 8, most / 3, most),
        )


def one_by_one(parts: Iterable[Filtered[Chat]]) -> Iterator[Chat | Dropped]:
    """The rows and the dropped ones of parts, each part forgotten before the next is made."""
    for part in parts:
        yield from part.rows
        yield from part.dropped
        del part


def _answered(draft: Draft, reply: Reply) -> Chat | Dropped:
    reason = fault(reply)
    if not reason:
        messages = (*draft.prompt, Message("assistant", reply.text.strip()))
        return Chat(draft.id, messages, draft.meta)
    text = f"{draft.prompt[-1].content} -> {reply.text}"
    shown = text if len(text) <= 400 else text[:400] + " ..."
    return Dropped(draft.id, reason, reply.error or shown)


def first_user_message(row: Chat) -> str:
    """The text of a row's first message by the user; "" if it has none."""
    return next((m.content for m in row.prompt if m.role == "user"), "")


def at_most(estimate: Estimate, most: float) -> Estimate:
    """An estimate whose values do not exceed `most`."""
    low, expected, high = estimate.low, estimate.expected, estimate.high
    return Estimate(min(low, most), min(expected, most), min(high, most))
