"""How many tokens the fullest micro-batch of real rows has, for the memory that a plan predicts.
Imports no torch."""

from collections.abc import Sequence
from heapq import nlargest

from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow
from bezoar.model.prompt_group import best_fit
from bezoar.train.rows import conversations
from bezoar.train.settings import TrainSettings

_SPARE = 4
"""So many times a batch of rows is tokenised: the rows with the most characters hold those with the
most tokens."""


def fullest(
    rows: Sequence[AnyRow], settings: TrainSettings, template: Template, tokenizer: Tokenizer
) -> int:
    """Tokens of the fullest micro-batch when the longest rows that are not dropped meet in one
    step."""
    likely = nlargest(_SPARE * settings.batch_size, rows, key=_characters)
    groups = [settings.objective.group(row, template, tokenizer) for row in likely]
    sizes = sorted(
        (
            group.num_input_tokens
            if group.longest <= settings.max_length
            else settings.max_length * (settings.too_long == "cut")
        )
        for group in groups
    )
    sizes = sizes[-settings.batch_size :]
    return max(
        (
            sum(sizes[i] for i in micro_batch)
            for micro_batch in best_fit(sizes, settings.tokens_per_batch)
        ),
        default=0,
    )


def _characters(row: AnyRow) -> int:
    return sum(len(message.content) for messages in conversations(row) for message in messages)
