"""The fullest micro-batch that real rows can make."""

from collections.abc import Sequence
from heapq import nlargest

from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.tool_calls import whole_text
from bezoar.chat.types import AnyRow
from bezoar.model.prompt_group import best_fit
from bezoar.train.objective import conversations
from bezoar.train.settings import TrainSettings

_SPARE = 4
"""So many batches of long rows are tokenised: characters only estimate tokens."""


def largest_micro_batch(
    rows: Sequence[AnyRow], settings: TrainSettings, template: Template, tokenizer: Tokenizer
) -> int:
    """Tokens of the largest micro-batch if the longest rows that are kept meet in one step."""
    # rows with the most characters hold those with the most tokens: only they are tokenised
    size, max_length = settings.batch_size, settings.max_length
    longest = nlargest(_SPARE * size, rows, key=_num_characters)
    groups = [settings.objective.group(row, template, tokenizer) for row in longest]
    # a row that is too long is cut, or dropped and counts nothing
    too_long = max_length if settings.too_long == "cut" else 0
    tokens = sorted(g.num_input_tokens if g.longest <= max_length else too_long for g in groups)
    step = tokens[-size:]
    batches = best_fit(step, settings.tokens_per_batch)
    return max((sum(step[i] for i in batch) for batch in batches), default=0)


def _num_characters(row: AnyRow) -> int:
    return sum(len(whole_text(message)) for messages in conversations(row) for message in messages)
