"""Answers in a file, criticised and revised by a model (CnR): any model, anyone's answers."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from bezoar.chat.types import Chat, Message, as_chats
from bezoar.data.columns import Columns
from bezoar.data.unused_columns import ALL_COLUMNS
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
    """Revise the answers of a file with a model into `out`; replies are journalled beside it."""
    # 1) all that can be refused, before a model is opened
    check_file(out, [answers, Path(model), *([Path(questions)] if questions else [])])
    rows, subject = read_answers(answers, questions, turn), find_model(model)
    if subject.answers:
        advice = "name the model that revises first, then the file"
        raise RecipeError(f"{model}: this is a file of answers; {advice}.")
    if out.exists() and not is_revision(out, rows):
        what = "the file is there already and holds no revisions of these answers"
        raise RecipeError(f"{out}: {what}; name another with --out.")
    # the journal lies beside the file, so that a moved result can still go on
    progress = Progress("revise", None, console)
    with Journal(Path(f"{out}.journal.sqlite")) as journal:
        ask = ModelCache(lambda backend: Pool(backend, journal, Budget(), progress)).ask(subject)
        revise_chats(rows, ask, out, times=times, max_tokens=max_tokens, console=console)


def read_answers(path: Path, questions: str, turn: int) -> list[Chat]:
    """The chats of a JSON Lines or Parquet file (of pairs the chosen answers) or, with `questions`,
    of a FastChat answer file."""
    if questions:
        return answered_chats(asked_questions(questions, turn, None), path)
    is_jsonl = path.suffix == ".jsonl" and path.is_file()
    if is_jsonl and "choices" in next(read_jsonl(path), (0, {}))[1]:
        what = "these are FastChat's answers, which hold no questions"
        raise DataError(f"{path}: {what}; name their file with --questions.")
    kind: Literal["parquet", "jsonl"] = "parquet" if path.suffix == ".parquet" else "jsonl"
    return as_chats(Columns(str(path.resolve()), kind=kind, ignore=(ALL_COLUMNS,)).load().rows)


def revise_chats(
    rows: list[Chat], ask: Ask, out: Path, *, times: int, max_tokens: int, console: Any
) -> None:
    """Write to `out` a row for each chat, which `kind: jsonl` reads: its `messages` with the last
    answer, the `first` one, and every iteration with its critique.

    An iteration that changed no answer is the last.
    """
    iterations: list[list[Round]] = []
    prompts, answers = [row.prompt for row in rows], [row.answer for row in rows]
    for rounds in revisions(prompts, answers, ask, times=times, max_tokens=max_tokens):
        iterations.append(rounds)
        changed = sum(new.answer != old for new, old in zip(rounds, answers, strict=True))
        reasons = Counter(new.failure for new in rounds if new.failure)
        failures = [f"{num} not revised: {reason}" for reason, num in reasons.most_common()]
        summary = f"iteration {len(iterations)}: {changed} of {len(rows)} answers changed"
        console.print(plain(f"{summary}; {', '.join(failures)}" if failures else summary))
        answers = [new.answer for new in rounds]
    steps = zip(rows, *iterations, strict=True)
    write_jsonl(out, [_row(row, list(own_steps)) for row, *own_steps in steps])


def _row(row: Chat, steps: list[Round]) -> dict[str, Any]:
    last = replace(row, messages=(*row.prompt, Message("assistant", steps[-1].answer)))
    return {**last.to_row(), "first": row.answer, "iterations": [vars(step) for step in steps]}
