"""The rows of a training stage as tokens, checked, and those that are left out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bezoar.chat.types import AnyRow, Dropped
from bezoar.errors import DataError
from bezoar.io import content_hash
from bezoar.model.resolve import tokenizer_identity
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.stage import Rows
from bezoar.train.label_check import Example, check_labels
from bezoar.train.objective import chooses_tool, conversations
from bezoar.train.ranks import Ranks
from bezoar.train.settings import StageInputs, TrainSettings
from bezoar.train.tokenized_cache import prepare


def checked_examples(
    settings: TrainSettings, rows: Rows, inputs: StageInputs, stack: Stack, progress: Progress
) -> tuple[Sequence[Example], list[Dropped]]:
    """The rows as tokens, checked; those that cannot be trained are dropped."""
    objective, max_length, too_long = settings.objective, settings.max_length, settings.too_long
    check = partial(
        check_labels,
        objective=objective,
        template=inputs.template,
        tokenizer=stack.tokenizer,
        max_length=max_length,
        too_long=too_long,
    )
    # the cache is shared by runs: its key names all that the tokens and marks depend on
    names = repr(objective), repr(inputs.template), tokenizer_identity(inputs.spec)
    key = content_hash(*names, max_length, too_long)
    with Ranks.here().first_alone():
        examples, dropped = prepare(rows, check, key=key, progress=progress)
    if not examples:
        raise DataError(
            f"stage {progress.stage}: none of its {len(rows)} rows can be trained; look at"
            " failures.jsonl or raise max_length."
        )
    learns_choice = getattr(objective, "learn_tool_choice", True)
    loss_on = getattr(objective, "loss_on", "")
    if not learns_choice and not any(_chooses(row, loss_on) for row in rows):
        what = "learn_tool_choice: false, and no answer in the rows is to a user who offers tools"
        raise DataError(f"stage {progress.stage}: {what}; remove the key.")
    # KTO's baseline is the mean over answers that do not belong to their prompts
    first_prompt = examples[0].group.prompt
    if "baseline" in objective.needs and all(e.group.prompt == first_prompt for e in examples):
        raise DataError(
            f"stage {progress.stage}: {objective.kind} reads each prompt with answers to another,"
            " and there is one prompt; add rows."
        )
    return examples, dropped


def _chooses(row: AnyRow, loss_on: str) -> bool:
    chat = conversations(row)[0]
    turns = [i for i, message in enumerate(chat) if message.role == "assistant"]
    return any(chooses_tool(chat[:i]) for i in (turns[-1:] if loss_on == "last" else turns))
