"""Bradley-Terry reward models: numbers by hand, strengths, the tree of a pair."""

import math

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import Comparison, Message
from bezoar.errors import DataError
from bezoar.train.objective import LossInputs
from bezoar.train.objectives.bradley_terry import BradleyTerry
from tests.helpers.rows import chats

SCORES = torch.tensor([[2.0], [0.5], [-1.0], [1.0]])  # two pairs: margins 1.5 and -2
FACTS = torch.tensor([[1.0], [3.0]])
OWNER = torch.arange(4)


def minus_log_sigmoid(x: float) -> float:
    return math.log(1 + math.exp(-x))


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("plain", [minus_log_sigmoid(1.5), minus_log_sigmoid(-2)]),
        ("margin", [minus_log_sigmoid(0.5), minus_log_sigmoid(-5)]),
        ("scaled", [minus_log_sigmoid(1.5), 3 * minus_log_sigmoid(-2)]),
    ],
)
def test_losses_by_hand(loss_type: str, expected: list[float]) -> None:
    objective = BradleyTerry(loss_type)  # type: ignore[arg-type]
    terms = objective.loss(
        LossInputs(OWNER, 4, labels=None if loss_type == "plain" else FACTS), SCORES
    )
    assert terms.loss.tolist() == pytest.approx(expected)
    assert terms.metrics["margin"].tolist() == [1.5, -2.0]
    assert terms.metrics["accuracy"].tolist() == [1.0, 0.0]
    assert terms.metrics["reward_chosen"].tolist() == [2.0, -1.0]


def test_only_differences_count() -> None:
    objective = BradleyTerry()
    moved = objective.loss(LossInputs(OWNER, 4), SCORES + 7).loss
    assert moved.tolist() == pytest.approx(
        objective.loss(LossInputs(OWNER, 4), SCORES).loss.tolist(), rel=1e-5
    )


def pair(**meta: object) -> Comparison:
    return Comparison("p", (Message("user", "hi"),), "yes", "no", meta)


def test_answers_are_read_at_their_end_token() -> None:
    tokenizer = ByteTokenizer()
    group = BradleyTerry().group(pair(), ChatML(), tokenizer)
    assert (
        tokenizer.decode(group.prompt, markers=True)
        == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [tokenizer.decode(b.tokens[:-1], markers=True) for b in group.completions] == [
        "yes<|im_end|>",
        "no<|im_end|>",
    ]
    assert [b.trained for b in group.completions] == [[False] * 4 + [True], [False] * 3 + [True]]
    assert group.labels == ()


@pytest.mark.parametrize("strength", [2, -2])
def test_the_strength_is_a_fact_of_the_row(strength: int) -> None:
    assert BradleyTerry("scaled").group(
        pair(strength=strength), ChatML(), ByteTokenizer()
    ).labels == (2.0,)


@pytest.mark.parametrize(
    "meta", [{}, {"strength": 0}, {"strength": "much"}, {"strength": math.nan}]
)
def test_a_pair_without_strength_is_refused_where_it_is_needed(meta: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"row p: meta.strength is .* plain"):
        BradleyTerry("margin").group(pair(**meta), ChatML(), ByteTokenizer())
    assert BradleyTerry().group(pair(**meta), ChatML(), ByteTokenizer()).labels == ()


def test_a_chat_is_refused() -> None:
    with pytest.raises(DataError, match="chat-0: the objective needs comparisons"):
        BradleyTerry().group(chats(1)[0], ChatML(), ByteTokenizer())  # type: ignore[arg-type]
