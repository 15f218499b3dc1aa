"""The Evol-Instruct scheme (WizardLM, arXiv 2304.12244): instructions are made harder, or new ones
rarer, round by round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Message, as_chats
from bezoar.cost import Estimate, Quote, RequestEstimate, exactly
from bezoar.llm.types import Ask, Request, fault
from bezoar.model.spec import Sampling
from bezoar.prompts import read_prompt
from bezoar.references import FileRef
from bezoar.rng import rng_for, seed_for
from bezoar.synth.answering import INVENTION, Draft, answer, quote_answers
from bezoar.synth.evol_rules import Comparer, by_answer, copies_prompt
from bezoar.synth.evol_write import OPS, Line, Op, Wording, evolved_text, read_wording
from bezoar.synth.scheme import Scheme

MIN_NATS = 30.0


@dataclass(frozen=True)
class EvolInstruct(Scheme):
    """Recipe keys. Each of `rounds` rounds draws one of `ops` uniformly for every seed and has the
    instruction rewritten.

    An evolution is eliminated when (1) the teacher calls it equal to what it came from, (2) its
    answer contains "sorry" in fewer than 80 words, (3) its answer holds nothing but punctuation and
    stop words, (4) it copies words of the prompt. `keep: last` gives the last surviving evolution
    of a seed alone, `all` each of them (the paper's). `system` is said to the teacher when it
    answers (the paper's teacher gets the instruction alone) and is not part of the row.

    For weak teachers: `equality: logprob` decides rule 1 without their words: with d(a, b) = log
    p(Equal) - log p(Not Equal), an evolution b of a is equal when d(a, b) >= d(a, a), so that a
    liking for one of the words has no effect. `equality: information` asks for what b tells beyond
    a: b is equal when a teacher that is to repeat a would write it with more than probability
    exp(-`min_nats`) (for teachers in this process: an endpoint does not score whole texts).
    `worked` names a file of rewritings (op, before, after), of which three are shown as earlier
    turns. `begin` begins the reply as the worked ones begin, or with the first paragraph of the
    instruction (see Wording.opening); such a reply ends with its line, and the paragraphs behind
    the first stay.

    Ours, as the paper is silent: after an elimination the next round starts from what was there
    before; rule 4 is checked first, as it costs nothing; a text without change counts as equal
    unasked; an equality that cannot be read eliminates; an instruction or answer that failed or was
    cut does too; a fixed number of rounds for `num_seeds` random seeds (all: null).
    """

    rounds: int = 4
    num_seeds: int | None = None
    ops: tuple[Op, ...] = OPS
    equality: Literal["text", "logprob", "information"] = "text"
    min_nats: float = MIN_NATS
    keep: Literal["all", "last"] = "all"
    begin: bool = False
    retries: int = 1
    depth: FileRef = "bezoar:evol_depth.txt"
    breadth: FileRef = "bezoar:evol_breadth.txt"
    methods: FileRef = "bezoar:evol_methods.jsonl"
    equal: FileRef = "bezoar:evol_equal.txt"
    repeat: FileRef = "bezoar:evol_repeat.txt"
    worked: FileRef = ""
    system: FileRef = ""
    evolutions: Sampling = INVENTION
    answers: Sampling = field(default_factory=Sampling)
    kind: Literal["evol_instruct"] = "evol_instruct"

    def __post_init__(self) -> None:
        if (
            self.rounds < 1
            or (self.num_seeds is not None and self.num_seeds < 1)
            or self.retries < 0
        ):
            raise ValueError("rounds and num_seeds must be at least 1, retries at least 0")
        if not self.ops or len(set(self.ops)) < len(self.ops):
            raise ValueError("ops must name at least one operation, each once")
        if self.equality != "information" and self.min_nats != MIN_NATS:
            raise ValueError("min_nats has an effect with equality: information alone; remove it")

    def generate(self, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """Rows of user and answer; `meta` has the seed's id, round, ops, and what the seed was
        about.

        Dropped: each eliminated evolution, with the rule as its reason: "copied words", "equal",
        "equality unparsed", "sorry", "stop words", or "failed", "empty", "cut" where there was
        nothing to check.
        """
        wording = read_wording(
            self.ops,
            {
                "depth": self.depth,
                "breadth": self.breadth,
                "methods": self.methods,
                "worked": self.worked,
            },
        )
        comparer, system = self._comparer(), read_prompt(self.system) if self.system else ""
        lines = [_line(row) for row in self._sample(as_chats(seeds), seed)]
        rows: list[Chat] = []
        dropped: list[Dropped] = []
        for number in range(1, self.rounds + 1):
            evolved = self._evolve(
                [self._step(line, number, seed) for line in lines], wording, ask, seed=seed
            )
            differing = _compare(lines, evolved.rows, comparer, ask)
            drafts = [_draft(line) for line in differing.rows]
            answered = answer(
                drafts, ask, self.answers, seed=seed, retries=self.retries, system=system
            )
            survived = by_answer(answered.rows)
            dropped += [*evolved.dropped, *differing.dropped, *answered.dropped, *survived.dropped]
            rows += survived.rows
            alive = {row.id for row in survived.rows}
            after = {line.seed: line for line in differing.rows if line.id in alive}
            lines = [after.get(line.seed, line) for line in lines]
        if self.keep == "last":
            rows = list({row.meta["seed"]: row for row in rows}.values())
        return Filtered(rows, dropped)

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Rows that it will give, and calls: evolutions, comparisons, answers. Half of the
        evolutions are taken to survive."""
        seeds = rows[self.seeds]
        most = self.num_seeds if self.num_seeds is not None else seeds.high
        taken = Estimate(min(seeds.low, most), min(seeds.expected, most), min(seeds.high, most))
        num = taken * self.rounds
        judged = Estimate(num.low * 0.5, num.expected, num.high)
        given = Estimate(0, num.expected / 2, num.high) * (
            1 if self.keep == "all" else 1 / self.rounds
        )
        evolving = RequestEstimate(
            num,
            exactly(300),
            Estimate(20, self.evolutions.max_tokens / 4, self.evolutions.max_tokens),
        )
        comparing = RequestEstimate(
            judged, exactly(250), exactly(8 if self.equality == "text" else 0)
        )
        answers = quote_answers(judged, 100, self.answers, self.retries)
        return Quote(given, [(self.teacher, calls) for calls in (evolving, comparing, answers)])

    def _sample(self, seeds: list[Chat], seed: int) -> list[Chat]:
        usable = [row for row in seeds if _instruction(row)]
        if self.num_seeds is None or self.num_seeds >= len(usable):
            return usable
        chosen = rng_for(seed, "seeds").sample(range(len(usable)), self.num_seeds)
        return [usable[i] for i in sorted(chosen)]

    def _comparer(self) -> Comparer:
        if self.equality == "information":
            return Comparer(self.equality, read_prompt(self.repeat, "first"), self.min_nats)
        return Comparer(self.equality, read_prompt(self.equal, "first", "second"), self.min_nats)

    def _step(self, line: Line, number: int, seed: int) -> Line:
        """The line with the operation of a round, its text not yet changed."""
        op = rng_for(seed, "op", line.seed, number).choice(self.ops)
        return replace(line, steps=(*line.steps, (number, op)))

    def _evolve(
        self, lines: Sequence[Line], wording: Wording, ask: Ask, *, seed: int
    ) -> Filtered[Line]:
        """The lines with their evolved texts, less those that rule 4 or a bad reply eliminates."""
        requests = [self._request(line, wording, seed) for line in lines]
        rows: list[Line] = []
        dropped: list[Dropped] = []
        for line, request, reply in zip(
            lines, requests, ask(requests) if requests else [], strict=True
        ):
            text = evolved_text(line, request.prefill, reply.text)
            reason = (
                fault(reply)
                or ("" if text else "empty")
                or ("copied words" if copies_prompt(reply.text) else "")
            )
            if reason:
                dropped.append(Dropped(line.id, reason, reply.error or reply.text[:400]))
            else:
                rows.append(replace(line, text=text))
        return Filtered(rows, dropped)

    def _request(self, line: Line, wording: Wording, seed: int) -> Request:
        prefill = wording.opening(line) if self.begin else ""
        request = Request.sampled(
            wording.messages(line, seed),
            self.evolutions,
            seed_for(seed, "evolve", line.id),
            prefill=prefill,
        )
        return replace(request, stop=("\n",)) if self.begin else request


def _compare(
    before: Sequence[Line], after: Sequence[Line], comparer: Comparer, ask: Ask
) -> Filtered[Line]:
    """Rule 1: the evolutions that differ from what they came from."""
    old = {line.seed: line.text for line in before}
    verdicts = comparer.judge([(old[line.seed], line.text) for line in after], ask)
    reasons = {"equal": "equal", "unparsed": "equality unparsed"}
    dropped = [
        Dropped(line.id, reasons[verdict], f"{line.text[:300]} ({why})")
        for line, (verdict, why) in zip(after, verdicts, strict=True)
        if verdict in reasons
    ]
    return Filtered(
        [
            line
            for line, (verdict, _) in zip(after, verdicts, strict=True)
            if verdict == "not equal"
        ],
        dropped,
    )


def _line(row: Chat) -> Line:
    return Line(
        row.id,
        _instruction(row),
        {k: v for k, v in row.meta.items() if k in ("category", "licence", "source")},
    )


def _draft(line: Line) -> Draft:
    meta = {
        "scheme": "evol_instruct",
        "seed": line.seed,
        "round": line.steps[-1][0],
        "op": line.op,
        "ops": [op for _, op in line.steps],
        "rounds": [number for number, _ in line.steps],
        **{f"seed_{name}": value for name, value in line.facts.items()},
    }
    return Draft(line.id, (Message("user", line.text),), meta)


def _instruction(row: Chat) -> str:
    return next((m.content for m in row.prompt if m.role == "user"), "")
