"""Two models' answers to the same questions, judged pairwise in both orders (MT-Bench's pairwise
mode)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bezoar.chat.types import Comparison, Message, Messages
from bezoar.data.files import locate_file
from bezoar.data.questions import REFERENCE_CATEGORIES, Question, read_questions
from bezoar.evals.conversation import Turn, converse, spread
from bezoar.evals.judges import JudgeConfig, PairJudge, pair_judge
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.stats import detectable
from bezoar.evals.win_rate import outcome
from bezoar.io import content_hash
from bezoar.llm.cost import Estimate, RequestEstimate, exactly, text_tokens
from bezoar.llm.types import Ask
from bezoar.references import FileRef, ModelRef
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.pairwise import Preference


@dataclass(frozen=True)
class WinRate(JudgeConfig):
    """Recipe keys: the model that is played `against`, the judge, and which `turn` of the questions
    is judged (the second is shown with the first). `max_tokens` is for an answer; `limit` takes the
    categories in turn."""

    against: ModelRef = field(kw_only=True)
    questions: FileRef = "bezoar:questions.jsonl"
    turn: Literal[1, 2] = 1
    max_tokens: int = 512
    limit: int | None = None

    def __post_init__(self) -> None:
        if bool(self.judge) == bool(self.reward_model):
            raise ValueError("win_rate needs a judge or a reward_model; give one of the two")

    def check(self, model: str) -> None:
        """Nobody plays against himself."""
        if self.against == model:
            raise ValueError("win_rate.against is the evaluated model itself; name another")

    def load(self) -> list[Question]:
        """The questions that are asked, cut after the judged turn; those without it are left
        out."""
        return asked_questions(self.questions, self.turn, self.limit)

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """`measure` of the named models; answers and verdicts are kept by the journal."""
        return self.measure(
            given.ask_model(model),
            given.ask_model(self.against),
            pair_judge(self, given, model),
            seed=given.seed,
        )

    def detectable(self, rows: dict[str, Estimate]) -> dict[str, float]:
        """The distance from one half, with 0.5 as the spread of a prompt (our assumption)."""
        return {"win rate": detectable(len(self.load()), 0.5)}

    def measure(self, model: Ask, other: Ask, judge: PairJudge, *, seed: int = 0) -> Outcome:
        """The share of wins of `model` over `other`. A question that either did not answer is a
        failure."""
        asked = self.load()
        sides = [
            converse(asked, ask, max_tokens=self.max_tokens, seed=seed) for ask in (model, other)
        ]
        pairs = [_pair(q, one, two) for q, one, two in zip(asked, *sides, strict=True)]
        whole = [
            all(t.finish != "error" for t in (*one, *two)) for one, two in zip(*sides, strict=True)
        ]
        judged = iter(
            zip(
                *judge.compare([p for p, ok in zip(pairs, whole, strict=True) if ok], 0),
                strict=True,
            )
        )
        failed = Unparsed("", "no answer")
        games = [
            next(judged) if ok else (Preference(p.id, failed, failed), None)
            for p, ok in zip(pairs, whole, strict=True)
        ]
        found = outcome(pairs, [verdict for verdict, _ in games], [margin for _, margin in games])
        same = {
            "judge": judge.hash,
            "answers of the other": content_hash([[t.text for t in turns] for turns in sides[1]]),
            "turn": self.turn,
            "answer tokens": self.max_tokens,
            "questions": content_hash([[q.id, q.turns] for q in asked]),
        }
        left_out = num_left_out(self.questions, self.turn, self.limit)
        facts = {
            "num_left_out": left_out,
            "turn": self.turn,
            "against": self.against,
            "judge": judge.name,
            "judge_hash": judge.hash,
            "conditions": {"win rate": same},
        }
        texts = {"win rate": [(str(q.id), "\n".join(q.turns)) for q in asked]}
        return Outcome(
            found.scores, found.items, {"win_rate": {**found.info["win_rate"], **facts}}, texts
        )

    def quote(self) -> list[tuple[str, RequestEstimate]]:
        """Answers of both models (named "") and the judge's comparisons."""
        asked = self.load()
        num = exactly(len(asked))
        question = exactly(sum(text_tokens(" ".join(q.turns)) for q in asked) / max(1, len(asked)))
        written = Estimate(0.1, 0.5, 1) * self.max_tokens
        return [
            ("", RequestEstimate(num * (2 * self.turn), question, written)),
            *((self.judge, calls) for calls in self.pairwise.quote(num) if self.judge),
        ]


def num_left_out(ref: str, turn: int, limit: int | None) -> int:
    """How many questions of a file are not asked since they have no such turn."""
    questions = read_questions(locate_file(ref, Path(), "questions"))
    return len(spread(questions, limit)) - len(asked_questions(ref, turn, limit))


def asked_questions(ref: str, turn: int, limit: int | None) -> list[Question]:
    """The questions of a file, cut after `turn`; those without it are left out, and `limit` takes
    the categories in turn."""
    questions = read_questions(locate_file(ref, Path(), "questions"))
    kept = [questions[i] for i in spread(questions, limit) if len(questions[i].turns) >= turn]
    return [replace(q, turns=q.turns[:turn]) for q in kept]


def solution(question: Question) -> Messages:
    """A correct solution, as the judge sees it before the questions, where the category has one."""
    turns = len(question.turns)
    if question.category not in REFERENCE_CATEGORIES or len(question.references) < turns:
        return ()
    return (
        Message(
            "system",
            "A correct solution, for comparison:\n" + "\n\n".join(question.references[:turns]),
        ),
    )


def _pair(question: Question, one: Sequence[Turn], two: Sequence[Turn]) -> Comparison:
    """What the judge compares."""
    asked = (Message("user", text) for text in question.turns)
    return Comparison(str(question.id), (*solution(question), *asked), _told(one), _told(two))


def _told(turns: Sequence[Turn]) -> str:
    if len(turns) == 1:
        return turns[0].text
    return (
        f"(first question)\n{turns[0].text}\n\n(second question, the one to be"
        f" judged)\n{turns[1].text}"
    )
