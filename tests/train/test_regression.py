"""Regression reward models: the masked mean squared error by hand, labels from rows."""

import math
from typing import Any

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import Chat, Comparison, Message
from bezoar.errors import DataError
from bezoar.train.objective import LossInputs
from bezoar.train.objectives.regression import Regression
from bezoar.train.step import count_units

NAN = math.nan
TWO = Regression(("helpfulness", "verbosity"))


def test_the_masked_error_by_hand() -> None:
    scores = torch.tensor([[3.0, 1.0], [2.0, 5.0], [0.0, 0.5]])
    labels = torch.tensor([[4.0, 1.0], [NAN, 2.0], [0.5, NAN]])
    terms = TWO.loss(LossInputs(torch.arange(3), 3, labels=labels), scores)
    # (3-4)^2, (1-1)^2, (5-2)^2, (0-0.5)^2: L = (1 + 0 + 9 + 0.25) / 4 labels
    assert terms.loss.tolist() == [1.0, 0.0, 9.0, 0.25]
    assert terms.metrics["absolute_error"].tolist() == [1.0, 0.0, 3.0, 0.5]


def test_an_unknown_label_has_no_gradient() -> None:
    scores = torch.tensor([[3.0, 1.0]], requires_grad=True)
    TWO.loss(
        LossInputs(torch.arange(1), 1, labels=torch.tensor([[4.0, NAN]])), scores
    ).loss.sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[-2.0, 0.0]]


def chat(attributes: Any) -> Chat:
    return Chat(
        "c", (Message("user", "hi"), Message("assistant", "yes")), {"attributes": attributes}
    )


def test_labels_by_name_and_units() -> None:
    group = TWO.group(
        chat({"verbosity": 1, "helpfulness": 3, "humour": 4}), ChatML(), ByteTokenizer()
    )
    assert group.labels == (3.0, 1.0)
    assert count_units(group, "label") == 2
    part = TWO.group(chat({"verbosity": 2}), ChatML(), ByteTokenizer())
    assert math.isnan(part.labels[0])
    assert part.labels[1] == 2.0
    assert count_units(part, "label") == 1
    assert part.completions[0].trained == [False] * 4 + [True]


def test_a_pair_with_scores_shares_its_prompt() -> None:
    pair = Comparison(
        "p", (Message("user", "hi"),), "yes", "no", {"score_chosen": 8.5, "score_rejected": 3}
    )
    group = Regression(("score",)).group(pair, ChatML(), ByteTokenizer())
    assert group.labels == (8.5, 3.0)
    assert len(group.completions) == 2
    scores = torch.tensor([[8.0], [5.0]])
    assert Regression(("score",)).loss(
        LossInputs(torch.arange(2), 2, labels=torch.tensor([group.labels])), scores
    ).loss.tolist() == [0.25, 4.0]


@pytest.mark.parametrize("attributes", [None, {}, {"humour": 3}])
def test_a_row_without_labels_is_refused(attributes: Any) -> None:
    with pytest.raises(
        DataError,
        match=r"row c: it has no label of helpfulness, verbosity in meta\.attributes; use",
    ):
        TWO.group(chat(attributes), ChatML(), ByteTokenizer())


def test_a_pair_without_labels_is_refused() -> None:
    pair = Comparison("p", (Message("user", "hi"),), "yes", "no", {"score": 3.0})
    with pytest.raises(
        DataError, match=r"row p: it has no label of score in meta\.score_chosen; use"
    ):
        Regression(("score",)).group(pair, ChatML(), ByteTokenizer())


@pytest.mark.parametrize("value", ["3", True, math.inf])
def test_a_label_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="row c: an attribute is"):
        TWO.group(chat({"helpfulness": value}), ChatML(), ByteTokenizer())


def test_attributes_are_named_once() -> None:
    assert Regression().outputs == (
        "helpfulness",
        "correctness",
        "coherence",
        "complexity",
        "verbosity",
    )
    for wrong in [(), ("a", "a")]:
        with pytest.raises(
            ValueError,
            match=r"^attributes must name at least one attribute, each once; change the list$",
        ):
            Regression(wrong)
