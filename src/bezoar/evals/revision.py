"""Whether revisions are better than the answers they revise, iteration by iteration (CnR, arXiv
2311.14543).

The model criticises and revises given answers `times` times, each round the answers of the one
before. Every iteration is compared with the original answers, both orders, ties half; a revision
that equals its original is a tie without a judge.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bezoar.chat.types import Chat, Comparison, Message
from bezoar.cost import Estimate, RequestEstimate, exactly
from bezoar.data.questions import Question
from bezoar.errors import DataError
from bezoar.evals.answer_files import answered
from bezoar.evals.judges import JudgeConfig, Judgement, PairJudge, pair_judge
from bezoar.evals.mt_bench import Turn, converse
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.stats import detectable, score
from bezoar.evals.win_rate import asked_questions, outcome, prompt_value, solution
from bezoar.io import content_hash
from bezoar.llm.revise import Round, revisions
from bezoar.llm.types import Ask
from bezoar.references import FileRef, ModelRef, RowsRef
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.pairwise import Preference, conversation


@dataclass(frozen=True)
class Revision(JudgeConfig):
    """Recipe keys, with those of the judge. The first answers are those of a FastChat file
    `answers` to the `questions` (their `turn`), the answers of `rows` (`limit` must be given), or
    what the model `by`, by default the evaluated one, says to the questions.

    It stops early when an iteration changed no answer or, with `stop: no_gain` (ours), when its win
    rate over the iteration before is not above one half; what then is not made is named.
    `max_tokens` is for a critique with its revision and `first_tokens` for a first answer, which
    should be shorter.
    """

    times: int = 5
    answers: FileRef = ""
    rows: RowsRef | None = None
    by: ModelRef | None = None
    stop: Literal["unchanged", "no_gain"] = "unchanged"
    questions: FileRef = "bezoar:questions.jsonl"
    turn: Literal[1, 2] = 1
    max_tokens: int = 2048
    first_tokens: int = 1024
    limit: int | None = None

    def __post_init__(self) -> None:
        if (
            min(
                self.times,
                self.max_tokens,
                self.first_tokens,
                1 if self.limit is None else self.limit,
            )
            < 1
        ):
            raise ValueError("times, max_tokens, first_tokens and limit must be at least 1")
        if bool(self.judge) == bool(self.reward_model):
            raise ValueError("revision needs judge or reward_model, one of the two; add it")
        if sum(map(bool, (self.answers, self.rows, self.by))) > 1:
            raise ValueError(
                "revision takes its first answers from one of answers, rows and by; remove the"
                " others"
            )
        if self.rows and self.limit is None:
            raise ValueError(
                "revision.limit is needed with rows: every row is judged twice an iteration; add it"
            )

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """`measure` of the named model; all replies are kept by the journal. Says what failed and
        what was not made."""
        first = self.first(given, self.by or model)
        made = self.measure(first, given.ask_model(model), pair_judge(self, given, model))
        facts = made.info["revision"]
        for number, counts in enumerate(facts["iterations"], 1):
            if counts["failures"]:
                given.progress.say(
                    f"revision {number}: {counts['failures']} of {len(first)} answers were not"
                    " revised."
                )
        if facts["not_made"]:
            given.progress.say(
                f"revision: {facts['stopped']}; iterations {facts['not_made'][0]} to {self.times}"
                " were not made."
            )
        return made

    def first(self, given: EvalContext, by: str) -> list[Chat]:
        """The conversations to the answers that are revised; one that failed has no answer at its
        end."""
        if self.rows:
            rows = [
                row.as_chat() if isinstance(row, Comparison) else row
                for row in given.rows(self.rows)[: self.limit]
            ]
            if not all(isinstance(row, Chat) for row in rows):
                raise DataError(
                    f"revision: the rows of {self.rows} are sampled answers; choose among them"
                    " first (kind: best_of_n)."
                )
            return [Chat(row.id, row.messages) for row in rows]
        asked = asked_questions(self.questions, self.turn, self.limit)
        if self.answers:
            return answered_chats(asked, self.answers)
        told = converse(asked, given.ask_model(by), max_tokens=self.first_tokens, seed=given.seed)
        return [_chat(question, turns) for question, turns in zip(asked, told, strict=True)]

    def measure(self, first: Sequence[Chat], ask: Ask, judge: PairJudge) -> Outcome:
        """Every iteration against the answers of `first`."""
        original = now = [chat.answer for chat in first]
        found, facts = Outcome(), dict[str, Any](iterations=[], stopped="")
        rounds_of = revisions(
            [chat.prompt for chat in first],
            original,
            ask,
            times=self.times,
            max_tokens=self.max_tokens,
        )
        for number, rounds in enumerate(rounds_of, 1):
            before, now = now, [one.answer for one in rounds]
            pairs = _pairs(first, now, original)
            verdicts, margins = _games(pairs, judge)
            found += _named(number, outcome(pairs, verdicts, margins), rounds)
            facts["iterations"].append(_counts(rounds, before, original))
            if now == before:
                facts["stopped"] = f"iteration {number} changed no answer"
            elif self.stop == "no_gain":
                again = verdicts if number == 1 else _games(_pairs(first, now, before), judge)[0]
                gain = score(
                    f"revision {number}/win rate over the one before",
                    [prompt_value(v) for v in again],
                )
                found.scores.append(gain)
                if (gain.value or 0.0) <= 0.5:
                    facts["stopped"] = f"iteration {number} is not better than the one before"
                    break
        facts["not_made"] = list(range(len(facts["iterations"]) + 1, self.times + 1))
        originals = content_hash([[c.id, conversation(c.messages)] for c in first])
        same = {"judge": judge.hash, "first answers": originals, "max_tokens": self.max_tokens}
        facts.update(judge=judge.name, judge_hash=judge.hash, conditions={"revision": same})
        texts = {"revision": [(chat.id, chat.prompt[-1].content) for chat in first]}
        return Outcome(found.scores, found.items, {"revision": facts}, texts)

    def quote(self) -> list[tuple[str, RequestEstimate]]:
        """First answers where a model writes them, the rounds, and the judge's comparisons; fewer
        when it stops early."""
        num, answer, said = (
            self._num(),
            Estimate(0.1, 0.5, 1) * self.first_tokens,
            Estimate(0.1, 0.5, 1) * self.max_tokens,
        )
        rounds = Estimate(1, self.times, self.times) * num
        lines = (
            []
            if self.answers or self.rows
            else [("", RequestEstimate(exactly(num * self.turn), exactly(100), answer))]
        )
        games = rounds * (2 if self.stop == "no_gain" and self.times > 1 else 1)
        judged = [(self.judge, calls) for calls in self.pairwise.quote(games)] if self.judge else []
        return [*lines, ("", RequestEstimate(rounds, answer + exactly(200), said)), *judged]

    def detectable(self, rows: dict[str, Estimate]) -> dict[str, float]:
        """The distance from one half, with 0.5 as the spread of a prompt (our assumption)."""
        return {"revision": detectable(self._num(), 0.5)}

    def _num(self) -> int:
        return (
            self.limit or 0
            if self.rows
            else len(asked_questions(self.questions, self.turn, self.limit))
        )


def answered_chats(questions: Sequence[Question], path: str | Path) -> list[Chat]:
    """The conversations of a FastChat answer file, to the last turn that each question has.
    DataError for an unanswered question."""
    known = answered(path)
    missing = [q.id for q in questions if len(known.get(q.id, [])) < len(q.turns)]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(questions)} questions have no answer ({missing[0]},"
            " ...); complete it."
        )
    return [_chat(q, known[q.id][: len(q.turns)]) for q in questions]


def _chat(question: Question, turns: Sequence[Turn]) -> Chat:
    """The questions and answers in turn, without the last answer where it failed; `meta` has the
    correct solution if there is one."""
    messages: list[Message] = []
    for asked, turn in zip(question.turns, turns, strict=True):
        messages += [Message("user", asked), Message("assistant", turn.text)]
    whole = messages[:-1] if any(turn.finish == "error" for turn in turns) else messages
    return Chat(
        str(question.id), tuple(whole), {"solution": [said.content for said in solution(question)]}
    )


def _pairs(first: Sequence[Chat], new: Sequence[str], old: Sequence[str]) -> list[Comparison]:
    """What the judge compares; a correct solution stands before the conversation."""
    prompts = [
        (*(Message("system", text) for text in c.meta.get("solution", ())), *c.prompt)
        for c in first
    ]
    return [
        Comparison(c.id, prompt, a, b)
        for c, prompt, a, b in zip(first, prompts, new, old, strict=True)
    ]


def _games(pairs: Sequence[Comparison], judge: PairJudge) -> Judgement:
    """Verdicts and margins; equal answers are a tie that nobody is asked about, and a missing
    answer is a failure."""
    asked = iter(zip(*judge.compare([p for p in pairs if p.chosen != p.rejected], 0), strict=True))
    tie, failed = (
        (Preference("", "tie", "tie"), 0.0),
        (Preference("", Unparsed("", "no answer"), Unparsed("", "no answer")), None),
    )
    found = [next(asked) if p.chosen != p.rejected else tie if p.chosen else failed for p in pairs]
    return [replace(verdict, id=p.id) for p, (verdict, _) in zip(pairs, found, strict=True)], [
        margin for _, margin in found
    ]


def _named(number: int, found: Outcome, rounds: Sequence[Round]) -> Outcome:
    """The figures of one iteration under its names, its items with what was written."""
    items = [
        {
            **item,
            "benchmark": f"revision {number}/win rate",
            "critique": one.critique,
            "revision": one.answer,
            "failure": one.failure,
        }
        # first those of the win rate itself
        for item, one in zip(found.items, rounds, strict=False)
    ]
    return Outcome([replace(s, name=f"revision {number}/{s.name}") for s in found.scores], items)


def _counts(
    rounds: Sequence[Round], before: Sequence[str], original: Sequence[str]
) -> dict[str, Any]:
    """How many answers equal those of the round before and the originals, and why some were not
    revised."""
    reasons = Counter(one.failure for one in rounds if one.failure)
    unchanged, identical = (
        sum(one.answer == old for one, old in zip(rounds, olds, strict=True))
        for olds in (before, original)
    )
    return {
        "unchanged": unchanged,
        "identical": identical,
        "failures": reasons.total(),
        "reasons": dict(reasons),
    }
