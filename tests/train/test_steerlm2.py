"""SteerLM 2.0: weights, distance and gradient by hand."""

import math

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import Message, SampledAnswers
from bezoar.errors import DataError
from bezoar.train.objective import LossInputs
from bezoar.train.objectives import SteerLM2
from bezoar.train.stages import Train

# two prompts of two answers; tokens of the answers: 2, 1, 1, 2
OWNER = torch.tensor([0, 0, 1, 2, 3, 3])
LOGPROBS = torch.tensor([-1.0, -0.5, -2.0, -0.7, -0.2, -0.4])
REFERENCE = torch.tensor([-1.2, -0.6, -1.5, -0.7, -0.5, -0.5])
FACTS = torch.tensor([[-2.0, -3.0], [-1.0, -1.0]])


def softmax(*logs: float) -> list[float]:
    total = sum(math.exp(x) for x in logs)
    return [math.exp(x) / total for x in logs]


def test_the_loss_is_the_divergence_of_the_weights() -> None:
    # sums: policy -1.5, -2.0 | -0.7, -0.6; reference -1.8, -1.5 | -0.7, -1.0
    losses = []
    for target, current in (
        (softmax(-2.0 + 1.8, -3.0 + 1.5), softmax(0.3, -0.5)),
        (softmax(-1.0 + 0.7, -1.0 + 1.0), softmax(0.0, 0.4)),
    ):
        losses.append(sum(w * math.log(w / b) for w, b in zip(target, current, strict=True)))
    batch = LossInputs(OWNER, 4, REFERENCE, FACTS)
    terms = SteerLM2(per_token=False).loss(batch, LOGPROBS)
    assert terms.loss.tolist() == pytest.approx(losses, abs=1e-6)
    assert terms.metrics["distance"].tolist() == pytest.approx(losses, abs=1e-6)
    assert terms.metrics["largest_target"].tolist() == pytest.approx(
        [max(softmax(-0.2, -1.5)), max(softmax(-0.3, 0.0))]
    )
    assert SteerLM2().loss(batch, LOGPROBS).loss.tolist() == pytest.approx(
        [losses[0] / 1.5, losses[1] / 1.5], abs=1e-6
    )


def test_the_distance_of_answers_that_are_all_but_impossible() -> None:
    """1e-8 is added to both weights: a weight of 0 makes it neither infinite nor negative."""
    zero = torch.zeros(6, dtype=torch.float64)
    labels = torch.tensor([[0.0, -1000.0], [0.0, 0.0]], dtype=torch.float64)
    policy = torch.tensor([0.0, 0.0, 0.0, 0.0, -500.0, -500.0], dtype=torch.float64)
    found = SteerLM2().loss(LossInputs(OWNER, 4, zero, labels), policy).metrics["distance"].tolist()
    tiny, half = 1e-8, 0.5 + 1e-8
    one = 1 + 1e-8
    assert found[0] == pytest.approx(
        one * math.log(one / half) + tiny * math.log(tiny / half), abs=1e-12
    )
    assert found[1] == pytest.approx(
        half * math.log(half / one) + half * math.log(half / tiny), abs=1e-9
    )


def test_the_gradient_by_the_log_probability_of_an_answer_sums_to_zero_over_a_prompt() -> None:
    values = LOGPROBS.clone().requires_grad_()
    SteerLM2(per_token=False).loss(
        LossInputs(OWNER, 4, REFERENCE, FACTS), values
    ).loss.sum().backward()
    assert values.grad is not None
    target, current = softmax(-0.2, -1.5), softmax(0.3, -0.5)
    # equation 11: -(w' - b') for every token of the answer
    assert values.grad[:3].tolist() == pytest.approx(
        [-(target[0] - current[0])] * 2 + [-(target[1] - current[1])], abs=1e-6
    )
    assert float(values.grad[0] + values.grad[2]) == pytest.approx(0, abs=1e-6)
    assert float(values.grad[3] + values.grad[4]) == pytest.approx(0, abs=1e-6)


def test_at_the_start_the_current_weights_are_equal() -> None:
    terms = SteerLM2(per_token=False).loss(LossInputs(OWNER, 4, REFERENCE, FACTS), REFERENCE)
    assert terms.loss[1].item() == pytest.approx(
        sum(w * math.log(2 * w) for w in softmax(-0.3, 0.0)), abs=1e-6
    )


def test_the_tree_holds_both_log_probabilities() -> None:
    prompt = (Message("system", "helpfulness:4"), Message("user", "hi"))
    numbers = {"attribute_logprob": (-1.0, -2.0), "prior_logprob": (-10.0, -20.0)}
    group = SteerLM2().group(
        SampledAnswers("a", prompt, ("one", "two"), numbers), ChatML(), ByteTokenizer()
    )
    assert group.labels == (-11.0, -22.0)
    assert [b.num_trained for b in group.completions] == [4, 4]


@pytest.mark.parametrize(
    "numbers", [{}, {"attribute_logprob": (math.nan, 0.0), "prior_logprob": (0.0, 0.0)}]
)
def test_rows_without_the_numbers_are_refused(numbers: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(DataError, match="row a: steerlm2 needs"):
        SteerLM2().group(
            SampledAnswers("a", (Message("user", "hi"),), ("one", "two"), numbers),
            ChatML(),
            ByteTokenizer(),
        )


def test_answers_are_not_cut() -> None:
    with pytest.raises(ValueError, match="too_long: cut cannot be used with steerlm2"):
        Train("base", "rows", SteerLM2(), too_long="cut")
