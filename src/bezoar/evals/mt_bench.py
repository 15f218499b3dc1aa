"""MT-Bench (arXiv 2306.05685): questions of two turns in eight categories, answers graded 1 to 10.

The aggregation is FastChat's: the mean over all ratings of both turns; a rating that failed is
counted and is in no mean. Intervals resample questions.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bezoar.bounds import Count, Share
from bezoar.chat.types import Message
from bezoar.cost import Estimate, RequestEstimate, exactly, text_tokens
from bezoar.data.files import locate_file
from bezoar.data.questions import Question, read_questions
from bezoar.errors import DataError
from bezoar.evals.mt_bench_prompts import (
    FastChatPrompt,
    Prompts,
    fastchat_prompts,
    judge_messages,
    prompt_files,
    prompts_hash,
    without_reference,
)
from bezoar.evals.outcome import CachePart, EvalContext, ItemText, Outcome
from bezoar.evals.position import grades_alike
from bezoar.evals.power import detectable
from bezoar.evals.section import Section, item_rows
from bezoar.evals.stats import Score, clustered_score, score
from bezoar.io import Row, content_hash
from bezoar.llm.types import Ask, Request
from bezoar.references import BackendRef, FileRef
from bezoar.verdicts.forms import said_of
from bezoar.verdicts.rating import Rating, Verdict, grade_request, read_grade

# FastChat's: what has one right answer is not drawn; writing and roleplay have the other one
TEMPERATURES = {
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
    **dict.fromkeys(("stem", "humanities"), 0.1),
}
OTHER_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Turn:
    """One answer; `finish` is "length" for a cut one, "error" for a failed request."""

    text: str
    finish: str = "stop"
    error: str = ""


Answers = Sequence[Sequence[Turn]]
"""The turns of each question."""
Ratings = Sequence[Sequence[Rating]]


@dataclass(frozen=True)
class MTBench(Section):
    """MT-Bench: answers to questions of two turns, each graded 1 to 10 by a judge.

    Source: arXiv 2306.05685, section 3.2
    Example: {judge: teacher, limit: 16}
    """

    judge: BackendRef
    """Language model that grades the answers."""
    questions: FileRef = "bezoar:questions.jsonl"
    """Questions in FastChat's format, each of one or two turns."""
    references: Literal["own", "none"] | FileRef = "own"
    """For math, reasoning and coding: own, the questions' column `reference`; none; or a file of
    answers, such as FastChat's reference_answer/gpt-4.jsonl. A turn without one is judged without.
    """
    prompts: Prompts = "own"
    """The judge's prompts: own, or FastChat's judge_prompts.jsonl, with which it is MT-Bench."""
    verdict: Verdict = "text"
    """text: a written rating; structured: held to its form; logprob: the expected one, for weak
    judges; fastchat: read by its rule."""
    max_tokens: Count = 1024
    """Most tokens of an answer."""
    judge_tokens: Count = 1024
    """Most tokens of an assessment."""
    limit: Count | None = None
    """Number of questions, taken from the categories in turn; null for all."""
    min_accuracy: Share | None = None
    """Accuracy of judge_card, on pairs, from which on the grades count; below it no number."""

    def load(self) -> list[Question]:
        """The questions that are asked, with the references that the recipe names."""
        path = locate_file(self.questions, Path(), "mt_bench.questions")
        questions = read_questions(path, references=self.references)
        chosen = [questions[i] for i in spread(questions, self.limit)]
        for question in chosen:
            if not 1 <= len(question.turns) <= 2:
                what = f"has {len(question.turns)} turns; MT-Bench has one or two"
                raise DataError(f"{self.questions}: question {question.id} {what}.")
        return chosen

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """`measure` of the named model; the journal keeps answers and grades."""
        judge, identity = context.ask(self.judge), context.identity(self.judge)
        ask = context.ask_model(model)
        return self.measure(ask, judge, seed=context.seed, judge_identity=identity)

    def measure(
        self, model: Ask, judge: Ask, *, seed: int = 0, judge_identity: str = ""
    ) -> Outcome:
        """Answer, grade, sum up; `judge_identity` names the judge's weights in the conditions."""
        questions = self.load()
        answers = converse(questions, model, max_tokens=self.max_tokens, seed=seed)
        outcome = self.outcome(questions, answers, self.grade(questions, answers, judge))
        # ratings under another wording, judge or set of questions are not comparable
        grading = (prompts_hash(self.prompts), self.verdict, self.judge_tokens)
        judge_hash = content_hash(judge_identity or self.judge, *grading)
        asked = content_hash([[q.id, q.category, q.turns, q.references] for q in questions])
        held = said_of(self.verdict)
        same = {"judge": judge_hash, **held, "answer tokens": self.max_tokens, "questions": asked}
        facts = {
            "judge": self.judge,
            "judge_hash": judge_hash,
            **held,
            "conditions": {"mt_bench": same},
            "references": Path(self.references or "own").name,
            "without_reference": without_reference(questions),
        }
        outcome.info["mt_bench"].update(facts)
        outcome.texts["mt_bench"] = question_texts(questions)
        return outcome

    def grade(self, questions: Sequence[Question], answers: Answers, judge: Ask) -> Ratings:
        """A rating for each turn of each question; the judge does not see a failed answer."""
        ratings = [[Rating(None, "no answer", t.error) for t in turns] for turns in answers]
        graded, requests = [], []
        fastchat = self._fastchat()
        for i, turns in enumerate(answers):
            texts = [answer.text for answer in turns]
            for turn, answer in enumerate(turns):
                if answer.finish != "error":
                    asked = judge_messages(questions[i], texts, turn, fastchat)
                    requests.append(grade_request(asked, self.verdict, self.judge_tokens))
                    graded.append((i, turn))
        # all requests at once, so that the judge answers in large batches
        for (i, turn), reply in zip(graded, judge(requests) if requests else [], strict=True):
            ratings[i][turn] = read_grade(reply, self.verdict)
        return ratings

    def outcome(self, questions: Sequence[Question], answers: Answers, ratings: Ratings) -> Outcome:
        """Scores overall, per turn and per category, a record a question, and what failed."""
        values = [[rating.value for rating in turns] for turns in ratings]
        categories = [question.category for question in questions]
        items = [_item(*three) for three in zip(questions, answers, ratings, strict=True)]
        scores = [clustered_score("mt_bench", values)]
        for turn in range(max(map(len, values), default=0)):
            name = f"mt_bench/turn {turn + 1}"
            # a question of one turn is in no mean of the second turn
            rated = [i for i, turns in enumerate(values) if turn < len(turns)]
            of_turn = [values[i][turn] for i in rated]
            scores.append(score(name, of_turn))
            items += item_rows(name, [questions[i].id for i in rated], of_turn)
        failed = [rating for turns in ratings for rating in turns if rating.value is None]
        facts = {
            "verdict": self.verdict,
            "prompts": prompts_hash(self.prompts),
            "num_cut_answers": sum(t.finish == "length" for turns in answers for t in turns),
            "failures": dict(Counter(rating.reason for rating in failed)),
            "temperatures": {c: TEMPERATURES.get(c, OTHER_TEMPERATURE) for c in categories},
        }
        scores += category_scores(categories, values)
        grades = [rating.value for turns in ratings for rating in turns if rating.value is not None]
        texts = [answer.text for turns in answers for answer in turns]
        if reason := grades_alike(grades, texts):
            facts["cannot_judge"] = reason
            # resampling equal grades says nothing of how they would differ
            scores = [replace(figure, low=None, high=None, reason=reason) for figure in scores]
        return Outcome(scores, items, {"mt_bench": facts})

    def quote(self, rows: Mapping[str, Estimate]) -> list[tuple[str, RequestEstimate]]:
        """Answers of the model itself (named "") and grades of the judge."""
        questions = self.load()
        num = exactly(sum(len(q.turns) for q in questions))
        total = sum(text_tokens(" ".join(q.turns)) for q in questions)
        question = total / max(1, len(questions))
        answer = Estimate(self.max_tokens * 0.1, self.max_tokens * 0.5, self.max_tokens)
        # log-probabilities of the ratings cost one token, a written rating its reasons too
        written = Estimate(0.1, 0.3, 1) * self.judge_tokens
        grade = exactly(1) if self.verdict == "logprob" else written
        # a second turn shows both answers: one and a half on average
        asked = judge_messages(questions[0], ("", ""), 0, self._fastchat())
        prompt = exactly(text_tokens("".join(m.content for m in asked))) + answer * 1.5
        return [
            ("", RequestEstimate(num, exactly(question) + answer * 0.5, answer)),
            (self.judge, RequestEstimate(num, prompt, grade)),
        ]

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """In points, with 2.5 points as the spread of a question's difference (our assumption)."""
        return {"mt_bench": detectable(len(self.load()), 2.5)}

    def _fastchat(self) -> dict[str, FastChatPrompt]:
        return {} if self.prompts == "own" else fastchat_prompts(self.prompts)

    def files(self) -> list[Path]:
        """The judge's prompts."""
        return prompt_files(self.prompts)


def question_texts(questions: Sequence[Question]) -> list[ItemText]:
    """The first turn, which can be known without a second, and all of them."""
    first = [(str(question.id), question.turns[0], "") for question in questions]
    return first + [(str(q.id), "\n".join(q.turns), "") for q in questions if len(q.turns) > 1]


def spread(questions: Sequence[Question], limit: int | None) -> list[int]:
    """Indices of the first `limit` questions when the categories take turns, in file order."""
    if limit is None or limit >= len(questions):
        return list(range(len(questions)))
    # sorted by the rank within their category, the first ones of all categories come first
    num_of_category: Counter[str] = Counter()
    ranked = []
    for i, question in enumerate(questions):
        ranked.append((num_of_category[question.category], i))
        num_of_category[question.category] += 1
    return sorted(i for _, i in sorted(ranked)[:limit])


def converse(
    questions: Sequence[Question], ask: Ask, *, max_tokens: int, seed: int
) -> list[list[Turn]]:
    """The answers to every turn; after a failed one the rest of its conversation fails too."""
    answers: list[list[Turn]] = [[] for _ in questions]
    # turn by turn over all questions, so that every batch is as large as can be
    for turn in range(max((len(q.turns) for q in questions), default=0)):
        going_on = [i for i, turns in enumerate(answers) if all(t.finish != "error" for t in turns)]
        live = [i for i in going_on if turn < len(questions[i].turns)]
        requests = [_request(questions[i], answers[i], max_tokens, seed) for i in live]
        for i, reply in zip(live, ask(requests) if requests else [], strict=True):
            answers[i].append(Turn(reply.text, reply.finish, reply.error))
    for question, turns in zip(questions, answers, strict=True):
        turns += [Turn("", "error", "an earlier turn failed")] * (len(question.turns) - len(turns))
    return answers


def _request(question: Question, answers: Sequence[Turn], max_tokens: int, seed: int) -> Request:
    messages = [Message("user", question.turns[0])]
    for answer, text in zip(answers, question.turns[1:], strict=False):
        messages += [Message("assistant", answer.text), Message("user", text)]
    heat = TEMPERATURES.get(question.category, OTHER_TEMPERATURE)
    # without a draw there is no seed, so that runs under other seeds find the reply in the journal
    seed = seed if heat else 0
    return Request(tuple(messages), temperature=heat, max_tokens=max_tokens, seed=seed)


def category_scores(
    categories: Sequence[str], values: Sequence[Sequence[float | None]]
) -> list[Score]:
    """A score a category, its name in `group`."""
    # in the order of first sight, as the questions stand in the file
    by_category: dict[str, list[Sequence[float | None]]] = {}
    for category, turns in zip(categories, values, strict=True):
        by_category.setdefault(category, []).append(turns)
    return [clustered_score("mt_bench", turns, name) for name, turns in by_category.items()]


def _item(question: Question, turns: Sequence[Turn], ratings: Sequence[Rating]) -> Row:
    # a failed turn is in no mean, so that the other turn still counts
    values = [rating.value for rating in ratings if rating.value is not None]
    return {
        "benchmark": "mt_bench",
        "id": question.id,
        "group": question.category,
        "value": sum(values) / len(values) if values else None,
        "question": list(question.turns),
        "answers": [turn.text for turn in turns],
        "finishes": [turn.finish for turn in turns],
        "judgements": [
            {"turn": number, "rating": r.value, "reason": r.reason, "text": r.text}
            for number, r in enumerate(ratings, 1)
        ],
    }
