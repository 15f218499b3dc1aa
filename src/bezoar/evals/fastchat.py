"""FastChat's answer and judgement files: read, checked, and scored again.

A single-answer judgement is {question_id, model, turn, judgment, score}; a pairwise one
{question_id, model_1, model_2, turn, g1_winner, g2_winner}, with g1 in the order given and g2
swapped. Duplicates are refused by line: FastChat's own tables count them twice. So is a turn other
than 1 and 2: MT-Bench has no more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bezoar.data.questions import read_answers
from bezoar.data.rows import RowOrigin, column, number, read_file, text
from bezoar.evals.conversation import Turn
from bezoar.evals.mt_bench import category_scores
from bezoar.evals.stats import Score, clustered_score, score
from bezoar.io import Row
from bezoar.verdicts.rating import HIGHEST, LOWEST, Rating, parse_rating

FAILED_SCORE = -1  # what FastChat writes for a judgement that it could not read
TURNS = (1, 2)
Game = tuple[str, str, str, float]


@dataclass(frozen=True)
class Judgements:
    """The ratings of one model: `ratings[question][turn]`; `num_changed` differ from the score that
    stands in the file."""

    model: str
    ratings: dict[str, dict[int, Rating]]
    num_changed: int = 0

    @property
    def num_ratings(self) -> int:
        """All, failed ones among them."""
        return sum(map(len, self.ratings.values()))

    def scores(self, categories: dict[str, str] | None = None) -> list[Score]:
        """Overall, per turn and, where question ids are mapped to categories, per category."""
        values = [
            [rating.value for _, rating in sorted(turns.items())] for turns in self.ratings.values()
        ]
        found = [clustered_score("mt_bench", values)]
        for turn in TURNS:
            of_turn = [turns[turn].value for turns in self.ratings.values() if turn in turns]
            found += [score(f"mt_bench/turn {turn}", of_turn)] if of_turn else []
        return found + (
            category_scores([categories[q] for q in self.ratings], values) if categories else []
        )


def answered(path: str | Path) -> dict[int, list[Turn]]:
    """Question id -> the turns of a model's answer file; `$ERROR$`, as FastChat writes it, is a
    failed answer."""
    return {
        number: [
            Turn("", "error", "no answer in the file") if text == "$ERROR$" else Turn(text)
            for text in texts
        ]
        for number, texts in read_answers(path).items()
    }


def read_single(path: Path, read: Callable[[str], Rating] = parse_rating) -> list[Judgements]:
    """The models of a file of single-answer judgements, every rating read again from the judge's
    words (by FastChat's rule with `grading.fastchat_rating`).

    A line without words keeps its score; -1 or null is a failure.
    """
    found: dict[str, dict[str, dict[int, Rating]]] = {}
    changed: dict[str, int] = {}
    for at, row in read_file(path, path.stem):
        model, question, turn = (
            _name(row, "model", at),
            _name(row, "question_id", at),
            _turn(row, at),
        )
        turns = found.setdefault(model, {}).setdefault(question, {})
        if turn in turns:
            raise at.wrong(
                f"model {model}, question {question}, turn {turn} is judged twice; keep one line."
            )
        stored = None if row.get("score") in (None, FAILED_SCORE) else number(row, "score", at)
        words = text(row, "judgment", at, needed=False)
        turns[turn] = read(words) if words else _stored(stored)
        changed[model] = changed.get(model, 0) + (bool(words) and turns[turn].value != stored)
    return [Judgements(model, ratings, changed[model]) for model, ratings in found.items()]


def _stored(score: float | None) -> Rating:
    if score is None:
        return Rating(None, "no score")
    return Rating(score) if LOWEST <= score <= HIGHEST else Rating(None, "out of range")


def read_games(path: Path) -> list[tuple[str, str, str, float | None]]:
    """(question and turn, model 1, model 2, share of the win of model 1) of a file of pairwise
    judgements; None where either game has an error.

    FastChat's rule: a win counts when both orders name the same model, else it is a tie.
    """
    games: list[tuple[str, str, str, float | None]] = []
    seen: set[tuple[str, ...]] = set()
    for at, row in read_file(path, path.stem):
        question, first, second = (
            _name(row, name, at) for name in ("question_id", "model_1", "model_2")
        )
        if first == second:
            raise at.wrong(f"model_1 and model_2 are both {first}; mend the line.")
        place = f"{question}/{_turn(row, at)}"
        pair = (place, *sorted((first, second)))
        if pair in seen:
            raise at.wrong(
                f"question {question}, turn {row['turn']}, {first} and {second} are judged twice;"
                " keep one line."
            )
        seen.add(pair)
        shares = {
            "model_1": 1.0,
            first: 1.0,
            "model_2": 0.0,
            second: 0.0,
            "tie": 0.5,
            "error": None,
        }
        given, swapped = (
            shares[_winner(row, name, at, shares)] for name in ("g1_winner", "g2_winner")
        )
        lost = given is None or swapped is None
        games.append((place, first, second, None if lost else given if given == swapped else 0.5))
    return games


def read_pairwise(path: Path) -> list[Game]:
    """The games of `read_games` that have no error."""
    return [(*names, share) for *names, share in read_games(path) if share is not None]  # type: ignore[misc]


def _winner(row: Row, name: str, at: RowOrigin, known: dict[str, float | None]) -> str:
    value = column(row, name, at)
    if not isinstance(value, str) or value not in known:
        raise at.wrong(f"{name} is {value!r}, none of {', '.join(known)}; mend the line.")
    return value


def _turn(row: Row, at: RowOrigin) -> int:
    value = column(row, "turn", at)
    if isinstance(value, bool) or value not in TURNS:
        raise at.wrong(
            f"turn is {str(value)[:40]}; the turns of MT-Bench are 1 and 2; mend the line."
        )
    return int(value)


def _name(row: Row, name: str, at: RowOrigin) -> str:
    value = column(row, name, at)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise at.wrong(
            f"the column {name!r} is {str(value)[:40]!r}, not a name; this is not a FastChat"
            " judgement file of this mode."
        )
    return str(value)
