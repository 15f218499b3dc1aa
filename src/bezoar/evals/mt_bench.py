"""MT-Bench (arXiv 2306.05685): two-turn questions over eight categories, each answer graded 1 to 10
by a judge.

The aggregation is FastChat's: the mean over all ratings of both turns; a rating that could not be
had or read is counted as failed and is in no mean. Intervals resample questions. The judge's
prompts are our own words.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bezoar.data.files import locate_file
from bezoar.data.questions import REFERENCE_CATEGORIES, Question, read_questions
from bezoar.errors import DataError
from bezoar.evals.conversation import Turn, converse, spread, temperature
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.stats import Score, clustered_score, detectable, score
from bezoar.io import Row, content_hash
from bezoar.llm.cost import Estimate, RequestEstimate, exactly, text_tokens
from bezoar.llm.types import Ask, Request
from bezoar.prompts import read_prompt, seal
from bezoar.references import BackendRef, FileRef
from bezoar.verdicts.rating import Rating, Verdict, grade_request, read_grade

PROMPTS = tuple(
    f"bezoar:mt_bench/{turn}{kind}.md"
    for turn in ("single", "second-turn")
    for kind in ("", "-reference")
)


@dataclass(frozen=True)
class MTBench:
    """Recipe keys. `verdict: logprob` takes the expected rating under the judge's probabilities,
    for judges too weak to write one. `references` names a FastChat answer file that stands in for
    the questions' own. `max_tokens` is for an answer, `judge_tokens` for an assessment; `limit`
    takes the categories in turn."""

    judge: BackendRef
    questions: FileRef = "bezoar:questions.jsonl"
    references: FileRef = ""
    verdict: Verdict = "text"
    max_tokens: int = 1024
    judge_tokens: int = 1024
    limit: int | None = None

    def load(self) -> list[Question]:
        """The questions that are asked. DataError for one that needs a reference and has none."""
        questions = read_questions(
            locate_file(self.questions, Path(), "mt_bench.questions"), references=self.references
        )
        kept = [questions[i] for i in spread(questions, self.limit)]
        for question in kept:
            if question.category in REFERENCE_CATEGORIES and len(question.references) < len(
                question.turns
            ):
                raise DataError(
                    f"{self.questions}: question {question.id} ({question.category}) needs a"
                    " reference a turn; add it."
                )
            if not 1 <= len(question.turns) <= 2:
                raise DataError(
                    f"{self.questions}: question {question.id} has {len(question.turns)} turns;"
                    " MT-Bench has one or two."
                )
        return kept

    def run(self, model: str, given: EvalContext, keep: CachePart) -> Outcome:
        """`measure` of the named model; answers and grades are kept by the journal."""
        return self.measure(
            given.ask_model(model),
            given.ask(self.judge),
            seed=given.seed,
            judge_identity=given.identity(self.judge),
        )

    def measure(
        self, model: Ask, judge: Ask, *, seed: int = 0, judge_identity: str = ""
    ) -> Outcome:
        """Answer, grade, sum up. `judge_identity` names the judge's model in the conditions of the
        scores."""
        asked = self.load()
        answers = converse(asked, model, max_tokens=self.max_tokens, seed=seed)
        outcome = self.outcome(asked, answers, self.grade(asked, answers, judge))
        judge_hash = content_hash(
            judge_identity or self.judge, prompts_hash(), self.verdict, self.judge_tokens
        )
        questions = content_hash([[q.id, q.category, q.turns, q.references] for q in asked])
        same = {"judge": judge_hash, "answer tokens": self.max_tokens, "questions": questions}
        outcome.info["mt_bench"].update(
            judge=self.judge, judge_hash=judge_hash, conditions={"mt_bench": same}
        )
        outcome.texts["mt_bench"] = [(str(q.id), "\n".join(q.turns)) for q in asked]
        return outcome

    def grade(
        self, questions: Sequence[Question], answers: Sequence[Sequence[Turn]], judge: Ask
    ) -> list[list[Rating]]:
        """A rating a turn a question. An answer that failed is not sent to the judge and is a
        failure."""
        ratings = [[Rating(None, "no answer", t.error) for t in turns] for turns in answers]
        places = [
            (i, t)
            for i, turns in enumerate(answers)
            for t, turn in enumerate(turns)
            if turn.finish != "error"
        ]
        requests = [self._request(questions[i], answers[i], t) for i, t in places]
        for (i, t), reply in zip(places, judge(requests) if requests else [], strict=True):
            ratings[i][t] = read_grade(reply, self.verdict)
        return ratings

    def _request(self, question: Question, turns: Sequence[Turn], turn: int) -> Request:
        return grade_request(
            judge_prompt(question, [t.text for t in turns], turn), self.verdict, self.judge_tokens
        )

    def outcome(
        self,
        questions: Sequence[Question],
        answers: Sequence[Sequence[Turn]],
        ratings: Sequence[Sequence[Rating]],
    ) -> Outcome:
        """Scores overall, per turn and per category, a record a question, and what failed."""
        values = [[r.value for r in turns] for turns in ratings]
        items = [_item(q, a, r) for q, a, r in zip(questions, answers, ratings, strict=True)]
        for turn in range(max((len(v) for v in values), default=0)):
            name = f"mt_bench/turn {turn + 1}"
            items += [
                {"benchmark": name, "id": q.id, "value": v[turn]}
                for q, v in zip(questions, values, strict=True)
                if turn < len(v)
            ]
        categories = [q.category for q in questions]
        facts = {
            "verdict": self.verdict,
            "prompts": prompts_hash(),
            "num_cut_answers": sum(t.finish == "length" for turns in answers for t in turns),
            "failures": dict(
                Counter(r.reason for turns in ratings for r in turns if r.value is None)
            ),
            "temperatures": {c: temperature(c) for c in dict.fromkeys(categories)},
        }
        return Outcome(mt_bench_scores(categories, values), items, {"mt_bench": facts})

    def quote(self) -> list[tuple[str, RequestEstimate]]:
        """Answers of the model itself (named "") and grades of the judge."""
        asked = self.load()
        num = exactly(sum(len(q.turns) for q in asked))
        question = sum(text_tokens(" ".join(q.turns)) for q in asked) / max(1, len(asked))
        words = Estimate(self.max_tokens * 0.1, self.max_tokens * 0.5, self.max_tokens)
        written = (
            exactly(1) if self.verdict == "logprob" else Estimate(0.1, 0.3, 1) * self.judge_tokens
        )
        prompt = exactly(text_tokens(read_prompt(PROMPTS[0])) + question) + words * 1.5
        return [
            ("", RequestEstimate(num, exactly(question) + words * 0.5, words)),
            (self.judge, RequestEstimate(num, prompt, written)),
        ]

    def detectable(self, rows: dict[str, Estimate]) -> dict[str, float]:
        """In points, with 2.5 points as the spread of one question's difference (our
        assumption)."""
        return {"mt_bench": detectable(len(self.load()), 2.5)}

    @staticmethod
    def files() -> list[Path]:
        """The prompt files, whose content changes the scores."""
        return [locate_file(name, Path(), "MT-Bench") for name in PROMPTS]


def judge_prompt(question: Question, answers: Sequence[str], turn: int) -> str:
    """The text that asks for a grade of one turn, with the references where the category needs
    them."""
    with_reference = question.category in REFERENCE_CATEGORIES
    stem = ("single", "second-turn")[turn] + ("-reference" if with_reference else "")
    name = f"bezoar:mt_bench/{stem}.md"
    values = {"question": question.turns[0], "answer": answers[0]}
    if turn:
        values = {
            "question_1": question.turns[0],
            "answer_1": answers[0],
            "question_2": question.turns[1],
            "answer_2": answers[1],
        }
    if with_reference:
        values |= {
            "reference": question.references[0],
            "reference_1": question.references[0],
            "reference_2": question.references[-1],
        }
    return seal(read_prompt(name, *list(values)[: 2 + 2 * turn]), **values)


def mt_bench_scores(
    categories: Sequence[str], values: Sequence[Sequence[float | None]]
) -> list[Score]:
    """Overall, per turn, per category: means over ratings, intervals over questions."""
    scores = [clustered_score("mt_bench", values)]
    for turn in range(max((len(v) for v in values), default=0)):
        scores.append(
            score(f"mt_bench/turn {turn + 1}", [v[turn] for v in values if turn < len(v)])
        )
    return scores + category_scores(categories, values)


def category_scores(
    categories: Sequence[str], values: Sequence[Sequence[float | None]]
) -> list[Score]:
    """A score a category, its name in `group`."""
    return [
        clustered_score(
            "mt_bench",
            [v for c, v in zip(categories, values, strict=True) if c == category],
            category,
        )
        for category in dict.fromkeys(categories)
    ]


def prompts_hash() -> str:
    """Names the wording of the judge's prompts."""
    return content_hash([read_prompt(name) for name in PROMPTS])


def _item(question: Question, turns: Sequence[Turn], ratings: Sequence[Rating]) -> Row:
    values = [r.value for r in ratings if r.value is not None]
    row: dict[str, Any] = {"benchmark": "mt_bench", "id": question.id, "group": question.category}
    row["value"] = sum(values) / len(values) if values else None
    row["question"] = list(question.turns)
    row["answers"] = [t.text for t in turns]
    row["finishes"] = [t.finish for t in turns]
    row["judgements"] = [
        {"turn": i, "rating": r.value, "reason": r.reason, "text": r.text}
        for i, r in enumerate(ratings, 1)
    ]
    return row
