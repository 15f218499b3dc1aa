"""Files of answers, which stand in for a model, and of judgements, which are scored again.

FastChat's judgement of one answer is {question_id, model, turn, judgment, score}, of a pair
{question_id, model_1, model_2, turn, g1_winner, g2_winner}, with g1 in the order given and g2
swapped. Duplicates are refused by line: FastChat's own tables count them twice. AlpacaEval's
annotation is {instruction, output_1, output_2, preference}.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bezoar.chat.types import Comparison
from bezoar.data.questions import Question, read_answers
from bezoar.data.rows import RowOrigin, column, number, read_file, text
from bezoar.errors import DataError
from bezoar.evals.agreement import bradley_terry
from bezoar.evals.length_control import Annotation, length_controlled_win_rate, read_regularisation
from bezoar.evals.mt_bench import Turn, category_scores
from bezoar.evals.outcome import Outcome
from bezoar.evals.section import item_rows
from bezoar.evals.stats import Score, clustered_score, score
from bezoar.evals.win_rate import length_controlled
from bezoar.io import Row
from bezoar.llm.types import Ask, Reply, Request
from bezoar.verdicts.rating import HIGHEST, LOWEST, Rating, fastchat_rating, parse_rating

FAILED_SCORE = -1  # what FastChat writes for a judgement that it could not read
TURNS = (1, 2)  # MT-Bench has no more


def columns(path: Path) -> Row:
    """The first row of a file."""
    return next(read_file(path, ""))[1]


def answer_file(path: Path, questions: Sequence[Question]) -> Ask:
    """A stand-in for a model: FastChat's answers by question_id, AlpacaEval's by instruction.

    What the file does not answer is a failed reply. DataError for a file of neither kind.
    """
    replies: dict[tuple[str, ...], Reply] = {}  # by the turns up to the one that is asked
    if "instruction" in columns(path):
        for at, row in read_file(path, path.stem):
            replies[text(row, "instruction", at),] = Reply(text(row, "output", at))
    else:
        answers = answered(path)
        for question in questions:
            for num, turn in enumerate(answers.get(question.id, ()), 1):
                reply = Reply(turn.text, "error" if turn.error else "stop", error=turn.error)
                replies[question.turns[:num]] = reply
    if not replies:
        raise DataError(f"{path} answers none of the questions; name theirs with --questions.")
    # what the file lacks is a failure of the section, not an error
    absent = Reply(finish="error", error=f"no answer in {path.name}")

    def ask(requests: Sequence[Request]) -> list[Reply]:
        asked = [tuple(m.content for m in r.messages if m.role == "user") for r in requests]
        return [replies.get(turns, absent) for turns in asked]

    return ask


def answered(path: str | Path) -> dict[int, list[Turn]]:
    """Question id -> the turns of a FastChat answer file; `$ERROR$` in it is a failed answer."""
    failed = Turn("", "error", "no answer in the file")
    return {
        question: [failed if text == "$ERROR$" else Turn(text) for text in texts]
        for question, texts in read_answers(path).items()
    }


def rescored(path: Path, regularisation: Path | None = None) -> Outcome | None:
    """The scores of AlpacaEval's annotations or of FastChat's judgements; None for other files.

    `regularisation` is AlpacaEval's df_gamed.csv. DataError where it has no effect.
    """
    row = columns(path)
    if "preference" in row:
        return _annotations(path, regularisation)
    if regularisation:
        raise DataError(
            f"{path}: these are no annotations of AlpacaEval, so --regularisation has no effect;"
            " leave it out."
        )
    if "g1_winner" in row:
        return _strengths(path)
    return _grades(path) if "score" in row and "turn" in row else None


def _annotations(path: Path, regularisation: Path | None) -> Outcome:
    pairs, shares = read_alpaca_eval(path)
    length_gaps = [len(pair.chosen) - len(pair.rejected) for pair in pairs]
    scores = [score("win rate", shares), length_controlled(shares, length_gaps)]
    models = {pair.meta["models"] for pair in pairs}
    if len(models) == 1:
        [(baseline, model)] = models
        rows = [
            Annotation(pair.id, pair.meta["index"], -float(gap), share)
            for pair, gap, share in zip(pairs, length_gaps, shares, strict=True)
        ]
        gamed = read_regularisation(regularisation) if regularisation else None
        is_baseline = bool(model) and model == baseline
        scores.append(length_controlled_win_rate(rows, gamed, is_baseline=is_baseline))
    elif regularisation:
        raise DataError(
            f"{path}: the annotations are of {len(models)} pairs of models, and the"
            " length-controlled win rate is of one; split the file."
        )
    return Outcome(
        scores,
        item_rows("win rate", [pair.id for pair in pairs], shares),
        {"win_rate": {"standard_error": standard_error(shares)}},
    )


def read_alpaca_eval(path: Path) -> tuple[list[Comparison], list[float | None]]:
    """AlpacaEval's pairs, the model's answer as `chosen`, and its share of each win.

    `preference` runs from 1 (output_1, the baseline) to 2 (output_2, the model); 0 is a draw, null
    a failure. DataError for an instruction that stands twice for one model.
    """
    pairs: list[Comparison] = []
    shares: list[float | None] = []
    seen: set[tuple[str, str]] = set()
    for at, row in read_file(path, path.stem):
        instruction, model = text(row, "instruction", at), str(row.get("generator_2", ""))
        if (instruction, model) in seen:
            fault = f"the instruction {instruction[:60]!r} stands twice for the model {model!r}"
            raise at.wrong(f"{fault}; remove one.")
        seen.add((instruction, model))
        answers = text(row, "output_2", at), text(row, "output_1", at)
        models = tuple(str(row.get(f"generator_{number}") or "") for number in (1, 2))
        # the instruction's number is the row's own, else its place in the file
        index = len(pairs) if row.get("index") is None else int(number(row, "index", at))
        meta = {"instruction": instruction, "models": models, "index": index}
        pairs.append(Comparison(at.id, (), *answers, meta))
        shares.append(_share(row, at))
    return pairs, shares


def _share(row: Row, at: RowOrigin) -> float | None:
    if column(row, "preference", at) is None:
        return None
    preference = number(row, "preference", at)
    if preference == 0:
        return 0.5
    if not 1 <= preference <= 2:
        raise at.wrong(f"preference is {preference:g}, not between 1 and 2; mend the row.")
    return preference - 1


def standard_error(values: Sequence[float | None]) -> float | None:
    """Of the mean, with n - 1, as AlpacaEval prints it; None for fewer than two values."""
    kept = [value for value in values if value is not None]
    return float(np.std(kept, ddof=1) / math.sqrt(len(kept))) if len(kept) > 1 else None


@dataclass(frozen=True)
class Judgements:
    """The `ratings[question][turn]` of one model; `num_changed` differ from the file's score."""

    model: str
    ratings: dict[str, dict[int, Rating]]
    num_changed: int = 0

    def scores(self, categories: dict[str, str] | None = None) -> list[Score]:
        """Overall, per turn and, if `categories` maps the question ids to them, per category."""
        values = [[turns[turn].value for turn in sorted(turns)] for turns in self.ratings.values()]
        scores = [clustered_score("mt_bench", values)]
        for turn in TURNS:
            of_turn = [turns[turn].value for turns in self.ratings.values() if turn in turns]
            scores += [score(f"mt_bench/turn {turn}", of_turn)] if of_turn else []
        if categories:
            scores += category_scores([categories[question] for question in self.ratings], values)
        return scores


def _grades(path: Path) -> Outcome:
    """Every grade read again: by our rule and, for its mean only, by FastChat's."""
    models = read_single(path)
    scores = [
        replace(s, name=f"{s.name} {model.model}") for model in models for s in model.scores()
    ]
    # FastChat's reading makes the mean comparable with published ones
    for model in read_single(path, fastchat_rating):
        name = f"mt_bench, FastChat's reading {model.model}"
        scores.append(replace(model.scores()[0], name=name))
    ratings = [r for model in models for turns in model.ratings.values() for r in turns.values()]
    facts = {
        "changed_ratings": {model.model: model.num_changed for model in models},
        "num_ratings": {model.model: sum(map(len, model.ratings.values())) for model in models},
        "failures": dict(Counter(rating.reason for rating in ratings if rating.value is None)),
    }
    return Outcome(scores, info={"mt_bench": facts})


def read_single(path: Path, read: Callable[[str], Rating] = parse_rating) -> list[Judgements]:
    """The models of a file of judgements of one answer, each rating read again from its words.

    A line without words keeps its score; -1 or null is a failure.
    """
    models: dict[str, dict[str, dict[int, Rating]]] = {}
    num_changed: Counter[str] = Counter()
    for at, row in read_file(path, path.stem):
        model, question = _name(row, "model", at), _name(row, "question_id", at)
        turn, turns = _turn(row, at), models.setdefault(model, {}).setdefault(question, {})
        if turn in turns:
            which = f"model {model}, question {question}, turn {turn}"
            raise at.wrong(f"{which} is judged twice; keep one line.")
        stored = None if row.get("score") in (None, FAILED_SCORE) else number(row, "score", at)
        # the words count: the score may have been read by another rule
        words = text(row, "judgment", at, needed=False)
        turns[turn] = read(words) if words else _stored(stored)
        num_changed[model] += bool(words) and turns[turn].value != stored
    return [Judgements(model, ratings, num_changed[model]) for model, ratings in models.items()]


def _stored(score: float | None) -> Rating:
    if score is None:
        return Rating(None, "no score")
    return Rating(score) if LOWEST <= score <= HIGHEST else Rating(None, "out of range")


def _strengths(path: Path) -> Outcome:
    """Strengths of the models; `n` and `num_failed` are games with and without a verdict."""
    games = read_games(path)
    decided = [(turn, a, b, share) for turn, a, b, share in games if share is not None]
    if not decided:
        raise DataError(f"{path}: all {len(games)} games have an error; have them judged again.")
    num_decided: Counter[str] = Counter()
    num_failed: Counter[str] = Counter()
    for _, *models, share in games:
        (num_failed if share is None else num_decided).update(models)
    try:
        strengths = bradley_terry(decided)
    except ValueError as error:
        raise DataError(f"{path}: {error}; add games between them or split the file.") from None
    scores = [replace(s, n=num_decided[s.name], num_failed=num_failed[s.name]) for s in strengths]
    # a model whose games all failed is listed, without a value
    for model in sorted(num_failed.keys() - num_decided.keys()):
        scores.append(Score(model, None, None, None, 0, num_failed[model]))
    num_errors = len(games) - len(decided)
    facts = {"scale": "log strength, mean 0", "num_games": len(games), "num_errors": num_errors}
    return Outcome(scores, info={"pairwise": facts})


def read_games(path: Path) -> list[tuple[str, str, str, float | None]]:
    """(question and turn, model 1, model 2, model 1's share of the win), from judgements of pairs.

    None for a share with an error in either order. FastChat's rule: a win counts when both orders
    name the same model, else it is a tie.
    """
    games: list[tuple[str, str, str, float | None]] = []
    seen: set[tuple[str, ...]] = set()
    for at, row in read_file(path, path.stem):
        names = [_name(row, key, at) for key in ("question_id", "model_1", "model_2")]
        question, first, second = names
        if first == second:
            raise at.wrong(f"model_1 and model_2 are both {first}; mend the line.")
        turn = f"{question}/{_turn(row, at)}"
        pair = (turn, *sorted((first, second)))
        if pair in seen:
            which = f"question {question}, turn {row['turn']}, {first} and {second}"
            raise at.wrong(f"{which} are judged twice; keep one line.")
        seen.add(pair)
        wins = {"model_1": 1.0, first: 1.0, "model_2": 0.0, second: 0.0, "tie": 0.5, "error": None}
        given, swapped = (wins[_winner(row, key, at, wins)] for key in ("g1_winner", "g2_winner"))
        # g2 names the model, not the position, so the same name means the same winner
        share = given if given == swapped else 0.5
        failed = given is None or swapped is None
        games.append((turn, first, second, None if failed else share))
    return games


def _winner(row: Row, name: str, at: RowOrigin, known: dict[str, float | None]) -> str:
    value = column(row, name, at)
    if not isinstance(value, str) or value not in known:
        raise at.wrong(f"{name} is {value!r}, none of {', '.join(known)}; mend the line.")
    return value


def _turn(row: Row, at: RowOrigin) -> int:
    value = column(row, "turn", at)
    # JSON's true equals 1 in Python
    if isinstance(value, bool) or value not in TURNS:
        raise at.wrong(f"turn is {str(value)[:40]}; the turns of MT-Bench are 1 and 2; mend it.")
    return int(value)


def _name(row: Row, name: str, at: RowOrigin) -> str:
    value = column(row, name, at)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        fault = f"the column {name!r} is {str(value)[:40]!r}, not a name"
        raise at.wrong(f"{fault}; this is not a FastChat judgement file of this mode.")
    return str(value)
