"""Rows over the limit, cut as the code of OpenBezoar's authors cuts them: the first tokens of the
whole text, all of them trained, with the end token only where nothing was cut."""

from pathlib import Path

import pytest

from bezoar.chat.templates import DEFAULT_SYSTEM, OpenBezoarTemplate
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.chat.types import Chat, Message
from bezoar.model.load import load_tokenizer
from bezoar.train.label_check import check_labels
from bezoar.train.objectives.sft import SFT

ROW = Chat("r", (Message("user", "Name a sea."), Message("assistant", "The North Sea, say.")))
TEXT = f"### System:\n{DEFAULT_SYSTEM}\n\n### Instruction:\nName a sea.\n\n### Response:"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> HubTokenizer:
    return load_tokenizer(str(tiny_model))


@pytest.mark.parametrize("missing", [0, 1, 7, 25, 60, 200])
def test_the_first_tokens_of_the_whole_text_are_trained(
    tokenizer: HubTokenizer, missing: int
) -> None:
    whole = tokenizer.encode("<s>" + TEXT + "The North Sea, say.", markers=True)
    whole.append(tokenizer.eos_id)
    found = check_labels(
        [ROW],
        SFT(loss_on="all"),
        OpenBezoarTemplate(),
        tokenizer,
        max_length=len(whole) - missing,
        too_long="cut",
    )
    assert not found.dropped
    [example] = found.rows
    [completion] = example.group.completions
    tokens = [*example.group.prompt, *completion.tokens]
    assert tokens == whole[: len(whole) - missing]
    # one token begins the text and is predicted by nothing
    assert len(example.group.prompt) <= 1
    assert all(completion.trained)
    assert (tokens[-1] == tokenizer.eos_id) == (missing == 0)
    assert example.cut == (missing > 0)
