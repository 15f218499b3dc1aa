"""KTO: numbers by hand, and the rows that it takes."""

import math
from pathlib import Path

import pytest

from bezoar.chat.templates import ChatML
from bezoar.chat.tokenizer import ByteTokenizer
from bezoar.chat.types import Chat, Message, SampledAnswers
from bezoar.errors import DataError
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.train.label_check import check_labels
from bezoar.train.objectives import KTO
from bezoar.train.stages import Train
from bezoar.train.step import TrainState, baseline
from tests.helpers.rows import pairs
from tests.helpers.two_pairs import loss, terms


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_by_hand() -> None:
    # log-ratios 1.5 (good), -0.5 (bad), 1 (good), -1 (bad); z = 0.4
    found = loss(KTO(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0), baseline=0.4)
    margins = [0.5 * (1.5 - 0.4), 0.5 * (0.4 + 0.5), 0.5 * (1 - 0.4), 0.5 * (0.4 + 1)]
    assert found == pytest.approx(
        [w * (1 - sigmoid(m)) for w, m in zip((2, 3, 2, 3), margins, strict=True)]
    )
    watched = terms(KTO(beta=0.5), baseline=0.4).metrics
    assert watched["margin"].tolist() == pytest.approx(margins)
    assert watched["reward"].tolist() == pytest.approx([0.75, -0.25, 0.5, -0.5])
    assert watched["accuracy"].tolist() == [1.0, 1.0, 1.0, 1.0]
    # a margin of 0 tells neither way: with z = 1 the third answer's ratio is that of the others
    assert terms(KTO(), baseline=1.0).metrics["accuracy"].tolist() == [1.0, 1.0, 0.5, 1.0]


def test_a_baseline_below_0_counts_as_0() -> None:
    assert loss(KTO(), baseline=-3.0) == loss(KTO(), baseline=0.0)
    assert terms(KTO(), baseline=-3.0).metrics["kl"].tolist() == [0.0] * 4


def test_a_pair_gives_a_good_and_a_bad_answer() -> None:
    group = KTO().group(pairs(1)[0], ChatML(), ByteTokenizer())
    assert len(group.completions) == 2
    assert group.labels == (1.0, 0.0)


@pytest.mark.parametrize("desirable", [True, False])
def test_a_chat_gives_its_last_answer(desirable: bool) -> None:
    turns = (
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c"),
        Message("assistant", "dd"),
    )
    tokenizer = ByteTokenizer()
    group = KTO().group(Chat("c", turns, {"desirable": desirable}), ChatML(), tokenizer)
    assert [tokenizer.decode(b.tokens, markers=True) for b in group.completions] == ["dd<|im_end|>"]
    assert group.labels == (float(desirable),)


def test_a_chat_without_a_label_is_refused() -> None:
    turns = (Message("user", "a"), Message("assistant", "b"))
    for row in (
        Chat("c", turns),
        Chat("c", turns, {"desirable": 1}),
        SampledAnswers("c", turns[:1], ("b",), {}, {"desirable": True}),
    ):
        with pytest.raises(
            DataError, match=r"row c: kto needs comparisons, or chats with meta\.desirable"
        ):
            KTO().group(row, ChatML(), ByteTokenizer())


def test_the_baseline_skips_answers_to_the_same_prompt(tiny_model: Path) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    for parameter in stack.add_adapter(LoRA(r=4, alpha=8, dropout=0.0), seed=1).values():
        parameter.data.normal_(0, 0.1)
    rows = [
        Chat(a, (Message("user", p), Message("assistant", a)), {"desirable": True})
        for p, a in (("x", "one"), ("x", "two"), ("y", "three"))
    ]
    items = check_labels(
        rows, KTO(), ChatML(), stack.tokenizer, max_length=100, too_long="drop"
    ).rows
    with_its_sister, alone = (
        baseline(TrainState(stack, KTO(), found), [0], 100)
        for found in (items, [items[0], items[2]])
    )
    assert with_its_sister is not None
    assert with_its_sister.item() == pytest.approx(alone.item(), rel=1e-5)  # type: ignore[union-attr]
    assert abs(with_its_sister.item()) > 0.1


def test_all_weights_leave_no_model_below() -> None:
    with pytest.raises(ValueError, match="kto reads the model below"):
        Train("base", "pairs", KTO(), adapter=None)
