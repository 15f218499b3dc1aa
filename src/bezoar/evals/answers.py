"""Files of finished work: a model's answers, which stand in for the model, and judgements, which
are scored again."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bezoar.data.questions import Question
from bezoar.data.rows import read_file, text
from bezoar.errors import DataError
from bezoar.evals.agreement import bradley_terry
from bezoar.evals.alpaca_eval import read_alpaca_eval, standard_error
from bezoar.evals.fastchat import answered, read_games, read_single
from bezoar.evals.outcome import Outcome
from bezoar.evals.stats import Score, score
from bezoar.evals.win_rate import length_controlled
from bezoar.io import Row
from bezoar.llm.types import Ask, Reply, Request
from bezoar.verdicts.rating import fastchat_rating


def columns(path: Path) -> Row:
    """The first row of a file."""
    return next(read_file(path, ""))[1]


def answer_file(path: Path, questions: Sequence[Question]) -> Ask:
    """Gives the answers of a file: FastChat's by question_id, AlpacaEval's (instruction, output) by
    the instruction.

    What is not answered there is a failed reply. DataError for a file of neither kind.
    """
    known: dict[tuple[str, ...], Reply] = {}
    if "instruction" in columns(path):
        for at, row in read_file(path, path.stem):
            known[text(row, "instruction", at),] = Reply(text(row, "output", at))
    else:
        turns = answered(path)
        for question in questions:
            for number, turn in enumerate(turns.get(question.id, ()), 1):
                known[question.turns[:number]] = Reply(
                    turn.text, "error" if turn.error else "stop", error=turn.error
                )
    if not known:
        raise DataError(
            f"{path}: it answers none of the questions that are asked; name their file with"
            " --questions."
        )

    def ask(requests: Sequence[Request]) -> list[Reply]:
        asked = [
            tuple(m.content for m in request.messages if m.role == "user") for request in requests
        ]
        return [
            known.get(turns, Reply(finish="error", error=f"no answer in {path.name}"))
            for turns in asked
        ]

    return ask


def rescored(path: Path) -> Outcome | None:
    """The scores of a file of judgements (AlpacaEval's annotations, FastChat's of one answer or of
    pairs); None for any other."""
    row = columns(path)
    if "preference" in row:
        return _annotations(path)
    if "g1_winner" in row:
        return _games(path)
    return _grades(path) if "score" in row and "turn" in row else None


def _annotations(path: Path) -> Outcome:
    pairs, values = read_alpaca_eval(path)
    scores = [
        score("win rate", values),
        length_controlled(values, [len(p.chosen) - len(p.rejected) for p in pairs]),
    ]
    items: list[Row] = [
        {"benchmark": "win rate", "id": p.id, "value": v}
        for p, v in zip(pairs, values, strict=True)
    ]
    return Outcome(scores, items, {"win_rate": {"standard_error": standard_error(values)}})


def _grades(path: Path) -> Outcome:
    """Every grade read again: by our rule and, its mean alone, by FastChat's. DataError for lines
    that are no judgements."""
    judged = read_single(path)
    named = [replace(s, name=f"{s.name} {one.model}") for one in judged for s in one.scores()]
    named += [
        replace(one.scores()[0], name=f"mt_bench, FastChat's reading {one.model}")
        for one in read_single(path, fastchat_rating)
    ]
    facts = {
        "changed_ratings": {one.model: one.num_changed for one in judged},
        "num_ratings": {one.model: one.num_ratings for one in judged},
    }
    reasons = Counter(
        rating.reason
        for one in judged
        for turns in one.ratings.values()
        for rating in turns.values()
        if rating.value is None
    )
    return Outcome(named, info={"mt_bench": {**facts, "failures": dict(reasons)}})


def _games(path: Path) -> Outcome:
    """Strengths; `n` and `num_failed` of a model are its games with and without a verdict.
    DataError where there is no common scale."""
    games = read_games(path)
    played = [(name, share is None) for _, *two, share in games for name in two]
    kept = [
        (place, first, second, share) for place, first, second, share in games if share is not None
    ]
    if not kept:
        raise DataError(f"{path}: all {len(games)} games have an error; have them judged again.")
    try:
        scores = bradley_terry(kept)
    except ValueError as error:
        raise DataError(f"{path}: {error}; add games between them or split the file.") from None
    counted = [
        replace(s, n=played.count((s.name, False)), num_failed=played.count((s.name, True)))
        for s in scores
    ]
    facts = {
        "scale": "log strength, mean 0",
        "num_games": len(games),
        "num_errors": len(games) - len(kept),
    }
    lost = {name for name, _ in played} - {s.name for s in scores}
    counted += [
        Score(name, None, None, None, 0, played.count((name, True))) for name in sorted(lost)
    ]
    return Outcome(counted, info={"pairwise": facts})
