"""Answers in a file, criticised and revised by a model (CnR): any model, anyone's answers."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from bezoar.chat.types import Chat, Message, as_chats
from bezoar.data.columns import Columns
from bezoar.errors import DataError, RecipeError
from bezoar.evals.revision import answered_chats
from bezoar.evals.win_rate import asked_questions
from bezoar.flow.model_argument import find_model
from bezoar.flow.out import check_file, is_revision
from bezoar.flow.standalone_eval import ModelCache
from bezoar.io import read_jsonl, write_jsonl
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.revise import Round, revisions
from bezoar.llm.types import Ask
from bezoar.progress import Progress
from bezoar.terminal import plain


def revise_file(
    model: str,
    answers: Path,
    out: Path,
    *,
    questions: str,
    turn: int,
    times: int,
    max_tokens: int,
    console: Any,
) -> None:
    """Revise the answers of a file with the model `model` (see `find_model`) into `out`; replies
    are journalled beside it."""
    check_file(
        out, [answers, Path(questions), Path(model)] if questions else [answers, Path(model)]
    )
    rows, subject = read_answers(answers, questions, turn), find_model(model)
    if subject.answers:
        raise RecipeError(
            f"{model}: this is a file of answers; name the model that revises first, then the file."
        )
    if out.exists() and not is_revision(out, rows):
        raise RecipeError(
            f"{out}: the file is there already and holds no revisions of these answers; name"
            " another with --out."
        )
    with Journal(Path(f"{out}.journal.sqlite")) as journal:
        world = ModelCache(
            lambda backend: Pool(backend, journal, Budget(), Progress("revise", None, console))
        )
        revise_chats(
            rows, world.ask(subject), out, times=times, max_tokens=max_tokens, console=console
        )


def read_answers(path: Path, questions: str, turn: int) -> list[Chat]:
    """The chats of a JSON Lines or Parquet file (of pairs the chosen answers) or, with `questions`,
    of a FastChat answer file."""
    if questions:
        return answered_chats(asked_questions(questions, turn, None), path)
    if (
        path.suffix == ".jsonl"
        and path.is_file()
        and "choices" in next(read_jsonl(path), (0, {}))[1]
    ):
        raise DataError(
            f"{path}: these are FastChat's answers, which hold no questions; name their file with"
            " --questions."
        )
    return as_chats(
        Columns(str(path.resolve()), kind="parquet" if path.suffix == ".parquet" else "jsonl")
        .load()
        .rows
    )


def revise_chats(
    rows: list[Chat], ask: Ask, out: Path, *, times: int, max_tokens: int, console: Any
) -> None:
    """Write to `out` a row a chat: its `messages` with the last answer, the `first` one, and every
    iteration with its critique.

    After an iteration that changed no answer none follows. The rows can be read as chats (`kind:
    jsonl`).
    """
    made: list[list[Round]] = []
    now = [row.answer for row in rows]
    for rounds in revisions(
        [row.prompt for row in rows], now, ask, times=times, max_tokens=max_tokens
    ):
        changed = sum(one.answer != old for one, old in zip(rounds, now, strict=True))
        reasons = Counter(one.failure for one in rounds if one.failure)
        kept = ", ".join(f"{num} not revised: {reason}" for reason, num in reasons.most_common())
        console.print(
            plain(
                f"iteration {len(made) + 1}: {changed} of {len(rows)} answers changed"
                + (f"; {kept}" if kept else "")
            )
        )
        now = [one.answer for one in rounds]
        made.append(rounds)
    write_jsonl(out, [_row(row, list(steps)) for row, *steps in zip(rows, *made, strict=True)])


def _row(row: Chat, steps: list[Round]) -> dict[str, Any]:
    last = replace(row, messages=(*row.prompt, Message("assistant", steps[-1].answer)))
    return {**last.to_row(), "first": row.answer, "iterations": [vars(one) for one in steps]}
