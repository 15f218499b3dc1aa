"""The Evol-Instruct scheme: instructions are made harder, or new ones rarer, round by round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bezoar.bounds import Count
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Message, as_chats
from bezoar.cost import Estimate, Quote, RequestEstimate, exactly
from bezoar.llm.types import Ask, Request, fault
from bezoar.model.spec import Sampling
from bezoar.prompts import read_prompt
from bezoar.references import FileRef
from bezoar.rng import rng_for, seed_for
from bezoar.stage import Rows
from bezoar.synth.accepted import Accepted
from bezoar.synth.evolution import (
    OPS,
    Comparer,
    Lineage,
    Op,
    Wording,
    check_answer,
    copies_prompt,
    evolved_text,
    read_wording,
)
from bezoar.synth.scheme import VARIED, Draft, Scheme, at_most, first_user_message

MIN_NATS = 30.0


@dataclass(frozen=True)
class EvolInstruct(Scheme):
    """A teacher rewrites seed instructions by random operations, round by round, and answers them.

    An evolution is eliminated if (1) the teacher calls it equal to what it came from, (2) its
    answer contains "sorry" in fewer than 80 words, (3) its answer holds only punctuation and stop
    words, or (4) it copies words of the prompt. For weak teachers rule 1 can be decided by their
    probabilities: `equality: logprob` compares those of Equal and Not Equal with their values for a
    text beside itself; `information` (local teachers only) asks how unlikely the new text is for
    a teacher that is to repeat the old one.

    Ours, as the paper is silent: after an elimination the next round starts from the text before
    it; rule 4 is checked first, as it costs nothing; a text without change counts as equal without
    a request; an equality that cannot be read eliminates; so does an instruction or answer that
    failed or was cut. The paper's teacher answers without a system message.

    Source: WizardLM, arXiv 2304.12244, section 3.2
    Example: {kind: evol_instruct, seeds: dolly, teacher: teacher, rounds: 4, num_seeds: 1000}
    """

    rounds: Count = 4
    """Evolutions of each seed, one after another."""
    num_seeds: Count | Accepted | None = None
    """Random seeds that are evolved; null for all. {accepted: N}: as many as the filters behind
    need to keep N rows."""
    ops: tuple[Op, ...] = OPS
    """Operations of which one is drawn uniformly for every seed in every round."""
    equality: Literal["text", "logprob", "information"] = "text"
    """How rule 1 is decided: by the teacher's words; for weak teachers by its probabilities."""
    min_nats: float = MIN_NATS
    """Information that an evolution adds to the text before it, for `equality: information`."""
    keep: Literal["all", "last"] = "all"
    """Rows: all surviving evolutions of a seed (the paper's choice) or only the last."""
    begin: bool = False
    """For weak teachers: begin the reply as `worked` does, or with the instruction; one line."""
    depth: FileRef = "bezoar:evol_depth.txt"
    """Prompt file of all operations except breadth, with {method} and {prompt}."""
    breadth: FileRef = "bezoar:evol_breadth.txt"
    """Prompt file of the operation breadth, with {prompt}."""
    methods: FileRef = "bezoar:evol_methods.jsonl"
    """JSON Lines of op and text, which fills {method}."""
    equal: FileRef = "bezoar:evol_equal.txt"
    """Prompt file that compares {first} and {second}, for `equality` text and logprob."""
    repeat: FileRef = "bezoar:evol_repeat.txt"
    """Prompt file that asks to repeat {first}, for `equality: information`."""
    worked: FileRef = ""
    """JSON Lines of op, before, after: rewritings, of which three are shown as earlier turns."""
    system: FileRef = ""
    """Prompt file: the teacher's system message for answers, which is not part of the rows."""
    evolutions: Sampling = VARIED
    """How evolutions are drawn."""
    kind: Literal["evol_instruct"] = "evol_instruct"
    carries = frozenset({"scheme"})
    counted = "num_seeds"

    def __post_init__(self) -> None:
        if not self.ops or len(set(self.ops)) < len(self.ops):
            raise ValueError("ops must name at least one operation, each once")
        if self.equality != "information" and self.min_nats != MIN_NATS:
            raise ValueError("min_nats has an effect only with equality: information; remove it")

    def generate(self, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """Rows of user and answer; `meta` has the seed, its category, licence, source, and the ops.

        Dropped: each eliminated evolution, because of "copied words", "equal", "equality unparsed",
        "sorry", "stop words", or because a reply was "refused", "empty" or "truncated".
        """
        files = {"depth": self.depth, "breadth": self.breadth}
        wording = read_wording(self.ops, methods=self.methods, worked=self.worked, **files)
        comparer, system = self._comparer(), read_prompt(self.system) if self.system else ""
        lineages = [_lineage(row) for row in self._sample(as_chats(seeds), seed)]
        rows: list[Chat] = []
        dropped: list[Dropped] = []
        for number in range(1, self.rounds + 1):
            # 1) Draw an operation for every seed and evolve. Rule 4 needs no request: check it now.
            steps = [self._step(lineage, number, seed) for lineage in lineages]
            evolved = self._evolve(steps, wording, ask, seed=seed)
            # 2) Compare with the text before (rule 1), so that no answer is paid for in vain.
            differing = _compare(lineages, evolved.rows, comparer, ask)
            # 3) Answer, and check the answers (rules 2 and 3).
            drafts = [_draft(lineage) for lineage in differing.rows]
            answered = self.answer(drafts, ask, seed=seed, system=system)
            survived = Filtered.split(map(check_answer, answered.rows))
            for part in (evolved, differing, answered, survived):
                dropped += part.dropped
            rows += survived.rows
            # 4) Only survivors move on: the others start the next round from their text before.
            alive = {row.id for row in survived.rows}
            moved = {lineage.seed: lineage for lineage in differing.rows if lineage.id in alive}
            lineages = [moved.get(lineage.seed, lineage) for lineage in lineages]
        # A later row of a seed replaces the earlier one, at the place of the first.
        if self.keep == "last":
            rows = list({row.meta["seed"]: row for row in rows}.values())
        return Filtered(rows, dropped)

    @property
    def most_each(self) -> int:
        """One a round."""
        return self.rounds if self.keep == "all" else 1

    def first(self, num: int, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """The rows of the first `num` seeds in a random order."""
        # those that `_sample` draws for one number are not among those for another
        usable = [row for row in as_chats(seeds) if first_user_message(row)]
        rng_for(seed, "seeds").shuffle(usable)
        return replace(self, num_seeds=None).generate(usable[:num], ask, seed=seed)

    def num_read(self, seeds: Rows) -> int:
        """Those that are drawn."""
        num = self.num_seeds
        return min(len(seeds), num) if isinstance(num, int) else len(seeds)

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Requests for evolutions, comparisons and answers; half of the evolutions survive."""
        seeds = rows[self.seeds]
        read = self.num_seeds if isinstance(self.num_seeds, int) else seeds.high
        num = at_most(seeds, read) * self.rounds
        most = self.evolutions.max_tokens
        evolving = RequestEstimate(num, exactly(300), Estimate(20, most / 4, most))
        num_compared = Estimate(num.low * 0.5, num.expected, num.high)
        written = exactly(8 if self.equality == "text" else 0)
        comparing = RequestEstimate(num_compared, exactly(250), written)
        num_answered = Estimate(num_compared.low * 0.5, num.expected, num.high)
        answers = self.quote_answers(num_answered, 100)
        share = 1 if self.keep == "all" else 1 / self.rounds
        given = Estimate(0, num.expected / 2, num.high) * share
        return Quote(given, [(self.teacher, part) for part in (evolving, comparing, answers)])

    def _sample(self, seeds: list[Chat], seed: int) -> list[Chat]:
        usable = [row for row in seeds if first_user_message(row)]
        if not isinstance(self.num_seeds, int) or self.num_seeds >= len(usable):
            return usable
        # In the order of the seeds, so that rows do not depend on the order of the draws.
        indices = rng_for(seed, "seeds").sample(range(len(usable)), self.num_seeds)
        return [usable[i] for i in sorted(indices)]

    def _comparer(self) -> Comparer:
        if self.equality == "information":
            return Comparer(self.equality, read_prompt(self.repeat, "first"), self.min_nats)
        return Comparer(self.equality, read_prompt(self.equal, "first", "second"), self.min_nats)

    def _step(self, lineage: Lineage, number: int, seed: int) -> Lineage:
        """The lineage with the operation of a round, its text not yet changed."""
        op = rng_for(seed, "op", lineage.seed, number).choice(self.ops)
        return replace(lineage, steps=(*lineage.steps, (number, op)))

    def _evolve(
        self, lineages: Sequence[Lineage], wording: Wording, ask: Ask, *, seed: int
    ) -> Filtered[Lineage]:
        """The lineages with evolved texts, less those that rule 4 or a bad reply eliminates."""
        requests = [self._request(lineage, wording, seed) for lineage in lineages]
        replies = ask(requests) if requests else []
        results: list[Lineage | Dropped] = []
        for lineage, request, reply in zip(lineages, requests, replies, strict=True):
            text = evolved_text(lineage, request.prefill, reply.text)
            reason = fault(reply) or ("" if text else "empty")
            reason = reason or ("copied words" if copies_prompt(reply.text) else "")
            if reason:
                results.append(Dropped(lineage.id, reason, reply.error or reply.text[:400]))
            else:
                results.append(replace(lineage, text=text))
        return Filtered.split(results)

    def _request(self, lineage: Lineage, wording: Wording, seed: int) -> Request:
        messages, draw = wording.messages(lineage, seed), seed_for(seed, "evolve", lineage.id)
        if not self.begin:
            return Request.sampled(messages, self.evolutions, draw)
        # A reply with a prefill is a single line, or a weak model goes on to answer it.
        prefill = wording.opening(lineage)
        request = Request.sampled(messages, self.evolutions, draw, prefill=prefill)
        return replace(request, stop=("\n",))


def _compare(
    before: Sequence[Lineage], after: Sequence[Lineage], comparer: Comparer, ask: Ask
) -> Filtered[Lineage]:
    """Rule 1: the evolutions that differ from what they came from."""
    old_texts = {lineage.seed: lineage.text for lineage in before}
    pairs = [(old_texts[lineage.seed], lineage.text) for lineage in after]
    results: list[Lineage | Dropped] = []
    for lineage, (verdict, ground) in zip(after, comparer.judge(pairs, ask), strict=True):
        if verdict == "not equal":
            results.append(lineage)
        else:
            reason = "equal" if verdict == "equal" else "equality unparsed"
            results.append(Dropped(lineage.id, reason, f"{lineage.text[:300]} ({ground})"))
    return Filtered.split(results)


def _lineage(row: Chat) -> Lineage:
    kept = ("category", "licence", "source")
    seed_meta = {name: value for name, value in row.meta.items() if name in kept}
    return Lineage(row.id, first_user_message(row), seed_meta)


def _draft(lineage: Lineage) -> Draft:
    meta = {
        "scheme": "evol_instruct",
        "seed": lineage.seed,
        "round": lineage.steps[-1][0],
        "op": lineage.op,
        "ops": [op for _, op in lineage.steps],
        "rounds": [number for number, _ in lineage.steps],
        **{f"seed_{name}": value for name, value in lineage.seed_meta.items()},
    }
    return Draft(lineage.id, (Message("user", lineage.text),), meta)
