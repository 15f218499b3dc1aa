"""Weights of a reward model's outputs, searched on pairs."""

from pathlib import Path

import pytest

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Comparison, Message
from bezoar.errors import DataError, RecipeError
from bezoar.model.goodness import SearchedWeights, search_weights
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.progress import Progress


def test_the_weights_that_put_most_pairs_right_are_found() -> None:
    # helpfulness misleads by a little, verbosity by its sign; the default weights are all wrong
    pairs = [([1.0, 0.0], [1.2, 2.0]), ([0.5, 1.0], [0.9, 2.5]), ([2.0, 1.0], [2.1, 1.5])]
    weights, accuracy = search_weights(("helpfulness", "verbosity"), pairs)
    assert accuracy == 1.0
    assert weights["verbosity"] < 0
    for chosen, rejected in pairs:
        gap = sum(w * (c - r) for w, c, r in zip(weights.values(), chosen, rejected, strict=True))
        assert gap > 0
    assert all(abs(w) <= 1 and round(w / 0.05, 6).is_integer() for w in weights.values())


def test_of_equal_shares_the_surer_weights() -> None:
    # both outputs tell all pairs: the largest weights have the lowest log-loss
    weights, accuracy = search_weights(("a", "b"), [([1.0, 1.0], [0.0, 0.0])] * 3)
    assert (weights, accuracy) == ({"a": 1.0, "b": 1.0}, 1.0)


def test_a_reward_models_outputs_are_searched(tiny_model: Path) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    stack.add_adapter(LoRA(r=2), seed=5, outputs=("helpfulness", "verbosity"))
    prompt = (Message("user", "hi"),)
    pairs = [Comparison(str(i), prompt, "a" * (i + 1), "b" * (9 - i)) for i in range(6)]
    long = Comparison("long", prompt, "x" * 2000, "y")
    asked = SearchedWeights(rows="pairs", mean=0.5)
    found = asked.searched(stack, ChatML(), [*pairs, long], Progress("s"))
    assert found.weights.keys() == {"helpfulness", "verbosity"}
    assert (found.rows, found.mean) == (None, 0.5)
    with pytest.raises(DataError, match="pairs: no pair fits the reward model"):
        asked.searched(stack, ChatML(), [long], Progress("s"))
    stack.add_adapter(LoRA(r=2), seed=5, outputs=("reward",))
    with pytest.raises(RecipeError, match="the one output reward, so there is nothing to weigh"):
        asked.searched(stack, ChatML(), pairs, Progress("s"))
    with pytest.raises(ValueError, match="weights has no effect where rows says"):
        SearchedWeights({"a": 1.0}, rows="pairs")
