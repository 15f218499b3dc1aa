"""SFT: numbers by hand, and what is trained."""

import torch

from bezoar.chat.templates import ChatML, OpenBezoarTemplate
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import Chat, Message
from bezoar.train.label_check import spans
from bezoar.train.objective import LossInputs
from bezoar.train.objectives import SFT
from tests.helpers.rows import pairs

CHAT = Chat(
    "c",
    (
        Message("user", "a"),
        Message("assistant", "bc"),
        Message("user", "d"),
        Message("assistant", "e"),
    ),
)


def test_loss_by_hand() -> None:
    logprobs = torch.tensor([0.5, 0.25]).log()
    terms = SFT().loss(LossInputs(torch.tensor([0, 0]), 1), logprobs)
    assert torch.allclose(terms.loss, torch.tensor([0.6931, 1.3863]), atol=1e-4)  # ln 2, ln 4


def trained_text(objective: SFT, row: object, template: object) -> list[str]:
    group = objective.group(row, template, ByteTokenizer())  # type: ignore[arg-type]
    return [
        text
        for text, trained in spans(group.prompt, group.completions[0], ByteTokenizer())
        if trained
    ]


def test_every_assistant_turn_trains_with_its_end_token() -> None:
    assert trained_text(SFT(), CHAT, ChatML()) == ["bc<|im_end|>", "e<|im_end|>"]
    assert trained_text(SFT(), CHAT, OpenBezoarTemplate()) == ["bc</s>", "e</s>"]


def test_all_trains_everything_behind_the_first_token() -> None:
    text = "".join(trained_text(SFT(loss_on="all"), CHAT, ChatML()))
    assert text.startswith("user\na<|im_end|>")
    assert text.endswith("e<|im_end|>\n")


def test_a_comparison_trains_the_chosen_answer_alone() -> None:
    row = pairs(3)[2]  # its prompt has assistant turns
    assert trained_text(SFT(), row, ChatML()) == [f"{row.chosen}<|im_end|>"]
