"""The fullest micro-batch of real rows."""

from dataclasses import replace

from bezoar.chat.templates import ChatML
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.train.fullest import largest_micro_batch
from bezoar.train.objectives import DPO
from bezoar.train.stages import Train
from tests.helpers.rows import pairs


def test_the_longest_rows_meet_in_one_step() -> None:
    rows = pairs(30)
    tokenizer, template = ByteTokenizer(), ChatML()
    sizes = sorted(DPO().group(row, template, tokenizer).num_input_tokens for row in rows)
    train = Train("m", "rows", DPO(), batch_size=3, tokens_per_batch=10_000, max_length=10_000)
    assert largest_micro_batch(rows, train, template, tokenizer) == sum(sizes[-3:])
    assert (
        largest_micro_batch(rows, replace(train, tokens_per_batch=sizes[-1]), template, tokenizer)
        == sizes[-1]
    )
    longest = sorted(DPO().group(row, template, tokenizer).longest for row in rows)[-1]
    dropped = replace(train, max_length=longest - 1, batch_size=1)
    assert largest_micro_batch(rows, dropped, template, tokenizer) < sizes[-1]
    assert largest_micro_batch([], train, template, tokenizer) == 0
