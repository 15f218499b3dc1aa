"""Win rates: answers judged against others in both orders, with the effect of order and length.

A prompt's value is the mean of its two games (win 1, tie 1/2, loss 0), so a judge that likes the
first position moves nothing; of one that names hardly anything but a position there is no win rate.
A prompt with an unread verdict is a failure. Intervals resample prompts, not games.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from bezoar.bounds import Count
from bezoar.chat.types import Comparison, Message, Messages
from bezoar.cost import Estimate, RequestEstimate, exactly, text_tokens
from bezoar.data.files import locate_file
from bezoar.data.questions import REFERENCE_CATEGORIES, Question, read_questions
from bezoar.evals.judges import JudgeConfig, PairJudge, pair_judge
from bezoar.evals.mt_bench import Turn, converse, question_texts, spread
from bezoar.evals.mt_bench_prompts import lacks_reference, without_reference
from bezoar.evals.outcome import CachePart, EvalContext, Outcome
from bezoar.evals.position import cannot_judge
from bezoar.evals.power import detectable
from bezoar.evals.section import item_rows
from bezoar.evals.stats import NONE, Floats, Score, clustered_score, percentiles, resamples, score
from bezoar.io import content_hash
from bezoar.llm.types import Ask
from bezoar.references import FileRef, ModelRef
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.pairwise import Preference, Side

_GAIN: dict[Side, float] = {"A": 1.0, "tie": 0.5, "B": 0.0}
NO_ANSWER = Unparsed("", "no answer")


@dataclass(frozen=True)
class WinRate(JudgeConfig):
    """Answers of two models to the same questions, judged pairwise (MT-Bench's pairwise mode).

    Source: arXiv 2306.05685, section 3.1
    Example: {against: base, judge: teacher, limit: 40}
    """

    against: ModelRef = field(kw_only=True)
    """The model that the evaluated one plays against."""
    questions: FileRef = "bezoar:questions.jsonl"
    """Questions in FastChat's format; AlpacaEval's instructions are read too."""
    turn: Literal[1, 2] = 1
    """The judged turn; 2 is shown with turn 1, and leaves out questions of one turn."""
    max_tokens: Count = 512
    """Most tokens of an answer."""
    limit: Count | None = None
    """Number of questions, taken from the categories in turn; null for all."""

    def check(self, model: str) -> None:
        """Refuse to compare a model with itself."""
        if self.against == model:
            raise ValueError("win_rate.against is the evaluated model itself; name another")

    def load(self) -> list[Question]:
        """The questions, cut after the judged turn."""
        return asked_questions(self.questions, self.turn, self.limit)

    def run(self, model: str, context: EvalContext, cache_part: CachePart) -> Outcome:
        """`measure` of the named models; the journal keeps answers and verdicts."""
        judge = pair_judge(self, context, model)
        asks = (context.ask_model(model), context.ask_model(self.against))
        return self.measure(*asks, judge, seed=context.seed)

    def measure(self, model: Ask, other: Ask, judge: PairJudge, *, seed: int = 0) -> Outcome:
        """`model` against `other`. A question that either did not answer is a failure."""
        # 1) both models answer everything
        questions = self.load()
        settings = {"max_tokens": self.max_tokens, "seed": seed}
        ours, theirs = (converse(questions, ask, **settings) for ask in (model, other))
        pairs = [_pair(*three) for three in zip(questions, ours, theirs, strict=True)]
        # 2) the judge sees only pairs of two answers; the others keep a failed verdict
        both = [[*own, *other_turns] for own, other_turns in zip(ours, theirs, strict=True)]
        failed = [i for i, turns in enumerate(both) if any(t.finish == "error" for t in turns)]
        known = {i: (Preference(pairs[i].id, NO_ANSWER, NO_ANSWER), None) for i in failed}
        verdicts, margins = judge.judge(pairs, known)
        # 3) the other model's answers are in the conditions: without them two win rates differ
        figures = outcome(pairs, verdicts, margins)
        conditions = {
            "judge": judge.hash,
            **judge.form,
            "answers of the other": content_hash([[t.text for t in turns] for turns in theirs]),
            "turn": self.turn,
            "answer tokens": self.max_tokens,
            "questions": content_hash([[q.id, q.turns] for q in questions]),
        }
        all_questions = read_questions(locate_file(self.questions, Path(), "questions"))
        facts = {
            "num_left_out": len(spread(all_questions, self.limit)) - len(questions),
            "turn": self.turn,
            "without_reference": without_reference(questions),
            "against": self.against,
            **judge.facts,
            "conditions": {"win rate": conditions},
        }
        info = {"win_rate": {**figures.info["win_rate"], **facts}}
        texts = {"win rate": question_texts(questions)}
        return Outcome(figures.scores, figures.items, info, texts)

    def quote(self, rows: Mapping[str, Estimate]) -> list[tuple[str, RequestEstimate]]:
        """Answers of both models (named "") and the judge's comparisons."""
        questions = self.load()
        num = exactly(len(questions))
        total = sum(text_tokens(" ".join(q.turns)) for q in questions)
        prompt = exactly(total / max(1, len(questions)))
        # two models, each asked once a turn
        written = Estimate(0.1, 0.5, 1) * self.max_tokens
        answers = RequestEstimate(num * (2 * self.turn), prompt, written)
        return [("", answers), *self.quote_pairs(num)]

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """The distance from one half, with 0.5 as the spread of a prompt (our assumption)."""
        return {"win rate": detectable(len(self.load()), 0.5)}


def asked_questions(ref: str, turn: int, limit: int | None) -> list[Question]:
    """Up to `limit` questions of a file, cut after `turn`, without those that have no such turn."""
    questions = read_questions(locate_file(ref, Path(), "questions"))
    chosen = [questions[i] for i in spread(questions, limit)]
    return [replace(q, turns=q.turns[:turn]) for q in chosen if len(q.turns) >= turn]


def solution(question: Question) -> Messages:
    """A correct solution for the judge, to stand before the questions, if the category has one."""
    turns = len(question.turns)
    if question.category not in REFERENCE_CATEGORIES or lacks_reference(question, turns - 1):
        return ()
    text = "\n\n".join(question.references[:turns])
    return (Message("system", f"A correct solution, for comparison:\n{text}"),)


def _pair(question: Question, ours: Sequence[Turn], theirs: Sequence[Turn]) -> Comparison:
    turns = (Message("user", text) for text in question.turns)
    prompt = (*solution(question), *turns)
    return Comparison(str(question.id), prompt, _answer_text(ours), _answer_text(theirs))


def _answer_text(turns: Sequence[Turn]) -> str:
    if len(turns) == 1:
        return turns[0].text
    first, second = "(first question)", "(second question, the one to be judged)"
    return f"{first}\n{turns[0].text}\n\n{second}\n{turns[1].text}"


def outcome(
    pairs: Sequence[Comparison],
    verdicts: Sequence[Preference],
    margins: Sequence[float | None] = (),
) -> Outcome:
    """The figures of judged pairs; with `margins` also the win rate free of position."""
    reason = cannot_judge(pairs, verdicts)
    values = [prompt_value(verdict) for verdict in verdicts]
    length_gaps = [len(pair.chosen) - len(pair.rejected) for pair in pairs]
    valued = zip(values, verdicts, strict=True)
    disagree = [None if value is None else float(not v.consistent) for value, v in valued]
    scores = [
        unless(reason, score("win rate", values)),
        unless(reason, length_controlled(values, length_gaps)),
        first_position(verdicts),
        score("win rate/orders disagree", disagree),
    ]
    ids = [pair.id for pair in pairs]
    # items without a value, so that no test of two models reads them
    items = item_rows("win rate", ids, [None] * len(ids) if reason else values)
    for item, verdict, gap in zip(items, verdicts, length_gaps, strict=True):
        item.update(first=word(verdict.first), second=word(verdict.second), length_gap=gap)
    # the pull of the position may be all that moves a weak judge's verdicts; margins are free of it
    if any(margins):
        wins = [None if m is None else float(m > 0) + 0.5 * (m == 0) for m in margins]
        scores.append(score("win rate/free of position", wins))
        items += item_rows("win rate/free of position", ids, wins)
    sides = [side for verdict in verdicts for side in (verdict.first, verdict.second)]
    # what follows the colon is of one reply
    failures = Counter(side.why.split(":")[0] for side in sides if isinstance(side, Unparsed))
    facts = {"failures": dict(failures), **({"cannot_judge": reason} if reason else {})}
    return Outcome(scores, items, {"win_rate": facts})


def unless(reason: str, figure: Score) -> Score:
    """The figure, without number and interval where there is a reason against them."""
    if not reason or figure.value is None:
        return figure
    return replace(figure, value=None, low=None, high=None, reason=reason)


def word(side: Side | Unparsed) -> str:
    """A verdict as items name it."""
    return f"unparsed: {side.why}" if isinstance(side, Unparsed) else side


def prompt_value(verdict: Preference) -> float | None:
    """Mean gain of A over both orders; None when a verdict was not read."""
    if isinstance(verdict.first, Unparsed) or isinstance(verdict.second, Unparsed):
        return None
    return (_GAIN[verdict.first] + _GAIN[verdict.second]) / 2


def first_position(verdicts: Sequence[Preference]) -> Score:
    """Share of decisive games that the answer shown first won: 0.5 without position bias."""
    groups: list[list[float | None]] = []
    for verdict in verdicts:
        won: list[float | None] = []
        # in the second game B was shown first
        for shown, side in (("A", verdict.first), ("B", verdict.second)):
            if side != "tie":
                won.append(None if isinstance(side, Unparsed) else float(side == shown))
        groups.append(won)
    return clustered_score("win rate/first position", groups, share=True)


def length_controlled(values: Sequence[float | None], length_gaps: Sequence[float]) -> Score:
    """Win rate without the pull of length: our own figure, after AlpacaEval's (arXiv 2404.04475).

    It lacks AlpacaEval's difficulty of prompts and judge-wide fit, so the two differ by points.
    P(A wins prompt x) = sigmoid(t + f * tanh(gap_x / s)), with gap the difference in characters and
    s its standard deviation. t and f maximise the log-likelihood of the prompts' values less 0.025
    f^2, with 0.05 of a tie added, so that both are finite; the score is sigmoid(t). The interval
    refits on resampled prompts.
    """
    # tanh bounds the pull, so that one very long answer does not decide the fit
    name = "win rate/length-adjusted (ours)"
    kept = [(v, gap) for v, gap in zip(values, length_gaps, strict=True) if v is not None]
    num_failed = len(values) - len(kept)
    if not kept:
        return Score(name, None, None, None, 0, num_failed)
    wins = np.array([value for value, _ in kept])
    lengths = np.array([float(gap) for _, gap in kept])
    spread_of_lengths = float(lengths.std())
    pull = np.tanh(lengths / spread_of_lengths) if spread_of_lengths else np.zeros(len(kept))
    value = float(_fit(wins[None], pull[None])[0])
    picks = resamples(len(kept), 1000)
    interval = percentiles(_fit(wins[picks], pull[picks])) if len(kept) > 1 else NONE
    return Score(name, value, *interval, len(kept), num_failed)


def _fit(wins: Floats, pull: Floats) -> Floats:
    """sigmoid(t) of every row of [fits, prompts], by Newton's method."""
    t, f = np.zeros(len(wins)), np.zeros(len(wins))
    for _ in range(50):
        # gradient of the penalised log-likelihood
        chance = 1 / (1 + np.exp(-(t[:, None] + f[:, None] * pull)))  # [fits, prompts]
        prior = 1 / (1 + np.exp(-t))
        slope_t = (wins - chance).sum(1) + 0.05 * (0.5 - prior)
        slope_f = ((wins - chance) * pull).sum(1) - 0.05 * f
        # its Hessian [[tt, tf], [tf, ff]], inverted by hand
        weight = chance * (1 - chance)
        tt, tf = weight.sum(1) + 0.05 * prior * (1 - prior) + 1e-9, (weight * pull).sum(1)
        ff = (weight * pull**2).sum(1) + 0.05
        size = tt * ff - tf**2
        step_t, step_f = (ff * slope_t - tf * slope_f) / size, (tt * slope_f - tf * slope_t) / size
        # a step of at most 2 keeps samples in which one side wins everything from overshooting
        t, f = t + np.clip(step_t, -2, 2), f + np.clip(step_f, -2, 2)
        if float(np.abs([step_t, step_f]).max()) < 1e-9:
            break
    return np.asarray(1 / (1 + np.exp(-t)), dtype=np.float64)
