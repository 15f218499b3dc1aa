"""Whether revisions are better than the answers they revise, by iteration (CnR, arXiv 2311.14543).

Every iteration is compared with the original answers, both orders, ties half; a revision that
equals its original is a tie without a judge.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bezoar.bounds import Count
from bezoar.chat.row_types import TEXTS, RowNeed
from bezoar.chat.types import Chat, Comparison, Message, as_chats
from bezoar.cost import Estimate, RequestEstimate, exactly
from bezoar.data.questions import Question
from bezoar.errors import DataError
from bezoar.evals.answer_files import answered
from bezoar.evals.judges import JudgeConfig, Judgement, PairJudge, pair_judge
from bezoar.evals.mt_bench import Turn, converse
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.position import cannot_judge
from bezoar.evals.power import detectable
from bezoar.evals.stats import score
from bezoar.evals.win_rate import (
    NO_ANSWER,
    asked_questions,
    outcome,
    prompt_value,
    solution,
    unless,
)
from bezoar.io import Row, content_hash
from bezoar.llm.revise import Round, revisions
from bezoar.llm.types import Ask
from bezoar.references import FileRef, ModelRef, RowsRef
from bezoar.verdicts.pairwise import Preference, conversation


@dataclass(frozen=True)
class Revision(JudgeConfig):
    """The model criticises and revises answers; each iteration is judged against the originals.

    The first answers are those of `answers`, of `rows`, or what `by` says to the questions. An
    iteration that changed no answer is the last one.

    Source: arXiv 2311.14543
    Example: {judge: teacher, times: 3, limit: 40}
    """

    times: Count = 5
    """Number of iterations, each over the answers of the one before."""
    answers: FileRef = ""
    """FastChat answer file with the first answers to the questions."""
    rows: RowsRef | None = None
    """Stage whose answers are revised; needs `limit`."""
    by: ModelRef | None = None
    """Model that writes the first answers; null for the evaluated one."""
    stop: Literal["unchanged", "no_gain"] = "unchanged"
    """no_gain (ours) also stops if an iteration's win rate over the one before is at most 0.5."""
    questions: FileRef = "bezoar:questions.jsonl"
    """Questions in FastChat's format."""
    turn: Literal[1, 2] = 1
    """The turn whose answer is revised; questions without it are left out."""
    max_tokens: Count = 2048
    """Most tokens of a critique with its revision."""
    first_tokens: Count = 1024
    """Most tokens of a first answer, which should be shorter."""
    limit: Count | None = None
    """Number of questions, taken from the categories in turn, or of rows; null for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(map(bool, (self.answers, self.rows, self.by))) > 1:
            raise ValueError("revision takes only one of answers, rows and by; remove the others")
        if self.rows and self.limit is None:
            raise ValueError("limit is needed with rows, each judged twice an iteration; add it")

    def takes(self) -> Mapping[str, RowNeed]:
        """Rows with an answer that counts."""
        return {"rows": TEXTS}

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """`measure` of the named model; the journal keeps all replies."""
        first = self.first(context, self.by or model)
        judge = pair_judge(self, context, model)
        outcome = self.measure(first, context.ask_model(model), judge)
        facts, say = outcome.info["revision"], context.progress.say
        for number, counts in enumerate(facts["iterations"], 1):
            if num := counts["failures"]:
                say(f"revision {number}: {num} of {len(first)} answers were not revised.")
        if not_made := facts["not_made"]:
            numbers = f"{not_made[0]} to {self.times}"
            say(f"revision: {facts['stopped']}; iterations {numbers} were not made.")
        return outcome

    def first(self, context: EvalContext, by: str) -> list[Chat]:
        """The conversations to the answers that are revised; a failed answer is absent."""
        # of a row only the conversation: its meta is not for the judge
        if self.rows:
            chats = as_chats(context.rows(self.rows)[: self.limit])
            return [Chat(chat.id, chat.messages) for chat in chats]
        questions = asked_questions(self.questions, self.turn, self.limit)
        if self.answers:
            return answered_chats(questions, self.answers)
        ask, seed = context.ask_model(by), context.seed
        answers = converse(questions, ask, max_tokens=self.first_tokens, seed=seed)
        return [_chat(*both) for both in zip(questions, answers, strict=True)]

    def measure(self, first: Sequence[Chat], ask: Ask, judge: PairJudge) -> Outcome:
        """Every iteration against the answers of `first`."""
        original = answers = [chat.answer for chat in first]
        figures, counts, stopped, reason = Outcome(), list[Row](), "", ""
        prompts = [chat.prompt for chat in first]
        iterations = revisions(prompts, original, ask, times=self.times, max_tokens=self.max_tokens)
        for number, rounds in enumerate(iterations, 1):
            # 1) the new answers against the originals
            before, answers = answers, [revised.answer for revised in rounds]
            pairs = _pairs(first, answers, original)
            verdicts, margins = _judged(pairs, judge)
            judged = outcome(pairs, verdicts, margins)
            reason = reason or judged.info["win_rate"].get("cannot_judge", "")
            figures += _named(number, judged, rounds)
            counts.append(_counts(rounds, before, original))
            # 2) whether to go on; `revisions` itself ends when no answer changed
            if answers == before:
                stopped = f"iteration {number} changed no answer"
            elif self.stop == "no_gain":
                # the first iteration's answers before are the originals, which were just judged
                if number > 1:
                    pairs = _pairs(first, answers, before)
                    verdicts, _ = _judged(pairs, judge)
                values = [prompt_value(verdict) for verdict in verdicts]
                gain = score(f"revision {number}/win rate over the one before", values)
                gain = unless(cannot_judge(pairs, verdicts), gain)
                figures.scores.append(gain)
                if (gain.value or 0.0) <= 0.5:
                    not_better = f"iteration {number} is not better than the one before"
                    stopped = gain.reason or not_better
                    break
        originals = content_hash([[chat.id, conversation(chat.messages)] for chat in first])
        same = {"judge": judge.hash, "first answers": originals, "max_tokens": self.max_tokens}
        facts = {
            "iterations": counts,
            "stopped": stopped,
            "not_made": list(range(len(counts) + 1, self.times + 1)),
            **judge.facts,
            "conditions": {"revision": same},
            **({"cannot_judge": reason} if reason else {}),
        }
        texts = {"revision": [(chat.id, chat.prompt[-1].content, "") for chat in first]}
        return Outcome(figures.scores, figures.items, {"revision": facts}, texts)

    def quote(self, rows: Mapping[str, Estimate]) -> list[tuple[str, RequestEstimate]]:
        """First answers if a model writes them, the rounds, and the judge's comparisons."""
        num, share = self._num(), Estimate(0.1, 0.5, 1)
        answer, written = share * self.first_tokens, share * self.max_tokens
        # one round is enough to stop, but most models go on changing their answers
        rounds = Estimate(1, self.times, self.times) * num
        requests = []
        if not self.answers and not self.rows:
            requests.append(("", RequestEstimate(exactly(num * self.turn), exactly(100), answer)))
        requests.append(("", RequestEstimate(rounds, answer + exactly(200), written)))
        # no_gain compares with the round before as well
        with_gain = self.stop == "no_gain" and self.times > 1
        return [*requests, *self.quote_pairs(rounds * (2 if with_gain else 1))]

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """The distance from one half, with 0.5 as the spread of a prompt (our assumption)."""
        return {"revision": detectable(self._num(), 0.5)}

    def _num(self) -> int:
        if self.rows:
            return self.limit or 0
        return len(asked_questions(self.questions, self.turn, self.limit))


def answered_chats(questions: Sequence[Question], path: str | Path) -> list[Chat]:
    """The conversations of a FastChat answer file. DataError for an unanswered question."""
    answers = answered(path)
    missing = [q.id for q in questions if len(answers.get(q.id, [])) < len(q.turns)]
    if missing:
        num = f"{len(missing)} of {len(questions)}"
        raise DataError(f"{path}: {num} questions have no answer ({missing[0]}, ...); complete it.")
    return [_chat(q, answers[q.id][: len(q.turns)]) for q in questions]


def _chat(question: Question, turns: Sequence[Turn]) -> Chat:
    """Questions and answers in turn, a failed last answer left out; `meta` has the solution."""
    messages: list[Message] = []
    for text, turn in zip(question.turns, turns, strict=True):
        messages += [Message("user", text), Message("assistant", turn.text)]
    # without an answer of its own the chat cannot be revised and counts as failed
    if any(turn.finish == "error" for turn in turns):
        messages.pop()
    meta = {"solution": [message.content for message in solution(question)]}
    return Chat(str(question.id), tuple(messages), meta)


def _pairs(first: Sequence[Chat], new: Sequence[str], old: Sequence[str]) -> list[Comparison]:
    """What the judge compares; a correct solution stands before the conversation."""
    pairs = []
    for chat, chosen, rejected in zip(first, new, old, strict=True):
        solutions = (Message("system", text) for text in chat.meta.get("solution", ()))
        pairs.append(Comparison(chat.id, (*solutions, *chat.prompt), chosen, rejected))
    return pairs


def _judged(pairs: Sequence[Comparison], judge: PairJudge) -> Judgement:
    """Verdicts and margins; equal answers are a tie without a judge, missing ones a failure."""
    known: dict[int, tuple[Preference, float | None]] = {}
    for i, pair in enumerate(pairs):
        if pair.chosen == pair.rejected:
            tie = (Preference(pair.id, "tie", "tie"), 0.0)
            known[i] = tie if pair.chosen else (Preference(pair.id, NO_ANSWER, NO_ANSWER), None)
    return judge.judge(pairs, known)


def _named(number: int, figures: Outcome, rounds: Sequence[Round]) -> Outcome:
    """The figures of one iteration under its names, its items with what was written."""
    name = f"revision {number}"
    items = []
    # the first items are those of the win rate, one a row; those of other figures are not kept
    for item, new in zip(figures.items, rounds, strict=False):
        written = {"critique": new.critique, "revision": new.answer, "failure": new.failure}
        items.append({**item, "benchmark": f"{name}/win rate", **written})
    return Outcome([replace(s, name=f"{name}/{s.name}") for s in figures.scores], items)


def _counts(rounds: Sequence[Round], before: Sequence[str], original: Sequence[str]) -> Row:
    """How many answers equal those of the round before and the originals, and what failed."""
    answers = [revised.answer for revised in rounds]
    reasons = Counter(revised.failure for revised in rounds if revised.failure)
    return {
        "unchanged": sum(a == old for a, old in zip(answers, before, strict=True)),
        "identical": sum(a == old for a, old in zip(answers, original, strict=True)),
        "failures": reasons.total(),
        "reasons": dict(reasons),
    }
