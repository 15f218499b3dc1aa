"""DPO: numbers by hand, and the tree of a pair."""

import math

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import Comparison, Message
from bezoar.errors import DataError
from bezoar.train.objective import LossInputs
from bezoar.train.objectives import DPO
from tests.helpers.rows import chats
from tests.helpers.two_pairs import OWNER, POLICY, loss, terms

# both pairs have d = 2: with beta 0.5, l(d) = ln(1 + 1/e) and l(-d) = ln(1 + e)
RIGHT, WRONG = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))


def test_loss_and_metrics_by_hand() -> None:
    found = terms(DPO(beta=0.5))
    assert found.loss.tolist() == pytest.approx([RIGHT, RIGHT])
    assert found.metrics["margin"].tolist() == pytest.approx([1.0, 1.0])
    assert found.metrics["accuracy"].tolist() == [1.0, 1.0]
    assert found.metrics["reward_chosen"].tolist() == pytest.approx([0.75, 0.5])
    assert found.metrics["reward_rejected"].tolist() == pytest.approx([-0.25, -0.5])


def test_smoothing_by_hand() -> None:
    assert loss(DPO(beta=0.5, label_smoothing=0.2)) == pytest.approx(
        [0.8 * RIGHT + 0.2 * WRONG] * 2
    )
    robust = loss(DPO(beta=0.5, label_smoothing=0.2, smoothing="robust"))
    assert robust == pytest.approx([(0.8 * RIGHT - 0.2 * WRONG) / 0.6] * 2)


def test_robust_smoothing_is_unbiased() -> None:
    """Over labels of which a share e is flipped, the mean of the robust loss is the loss under the
    true labels."""
    objective = DPO(beta=0.5, label_smoothing=0.2, smoothing="robust")
    flipped = objective.loss(
        LossInputs(torch.tensor([1, 1, 0, 3, 2, 2]), 4, torch.zeros(6)), POLICY
    )
    straight = objective.loss(LossInputs(OWNER, 4, torch.zeros(6)), POLICY)
    clean = DPO(beta=0.5).loss(LossInputs(OWNER, 4, torch.zeros(6)), POLICY)
    assert torch.allclose(0.8 * straight.loss + 0.2 * flipped.loss, clean.loss, atol=1e-6)


def test_the_likelihood_term_is_the_mean_over_the_chosen_answer() -> None:
    # means of the chosen answers: -1.5 and -0.5
    assert loss(DPO(beta=0.5, sft_weight=0.2)) == pytest.approx([RIGHT + 0.3, RIGHT + 0.1])


def test_a_policy_equal_to_its_reference_has_loss_ln_2() -> None:
    found = DPO().loss(LossInputs(OWNER, 4, POLICY), POLICY)
    assert found.loss.tolist() == [pytest.approx(math.log(2), abs=1e-7)] * 2
    # a tie is neither right nor wrong
    assert found.metrics["accuracy"].tolist() == [0.5, 0.5]


def test_a_pair_shares_its_prompt() -> None:
    row = Comparison("p", (Message("user", "hi"),), "yes", "no")
    tokenizer = ByteTokenizer()
    group = DPO().group(row, ChatML(), tokenizer)
    assert (
        tokenizer.decode(group.prompt, markers=True)
        == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [tokenizer.decode(b.tokens, markers=True) for b in group.completions] == [
        "yes<|im_end|>",
        "no<|im_end|>",
    ]
    assert all(all(b.trained) for b in group.completions)


def test_a_chat_is_refused() -> None:
    with pytest.raises(DataError, match="chat-0: the objective needs comparisons"):
        DPO().group(chats(1)[0], ChatML(), ByteTokenizer())


def test_robust_smoothing_of_nothing_is_an_error() -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"^smoothing: robust has no effect with label_smoothing 0; set the share of wrong"
            r" labels$"
        ),
    ):
        DPO(smoothing="robust")
