"""REINFORCE with a leave-one-out baseline, as an advantage of PPO."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Message
from bezoar.model.score_head import ScoreHead
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.train.advantage import leave_one_out
from bezoar.train.rollout import Policy, Prompt, RolloutScores, gains, roll_out
from bezoar.train.settings import StageInputs
from bezoar.train.stages import PPO

ROWS = [Chat(f"c{i}", (Message("user", "say " + "ab" * (i + 1)),)) for i in range(3)]
SMALL = PPO(
    "m",
    "r",
    "rows",
    advantage="leave_one_out",
    samples=4,
    batch_size=8,
    adapter=LoRA(r=4, alpha=8, dropout=0.0),
    updates=2,
    epochs=1,
    max_tokens=6,
    lr=1e-2,
    temperature=1.0,
)


def test_the_baseline_is_the_mean_of_the_others() -> None:
    returns = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])
    # 1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2; the second prompt's answers are alike
    assert leave_one_out(returns, 3).tolist() == [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]


def test_every_token_of_an_answer_has_its_answers_gain() -> None:
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    logprobs, reference = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]]), torch.zeros(2, 2)
    sizes = torch.tensor([2, 1])
    old = RolloutScores(logprobs, reference, torch.zeros(2, 2), mask, mask, sizes, 0.0)
    settings = replace(SMALL, samples=2, kl=0.5)
    advantage, returns = gains(settings, old, torch.tensor([1.0, 4.0]))
    # returns 1 + 0.5 * 3 and 4 + 0.5 * 3, each less the other
    assert advantage.tolist() == [[-3.0, -3.0], [3.0, 0.0]]
    assert not returns.any()


def test_it_draws_different_answers_to_a_prompt_and_trains_no_values(
    tiny_model: Path, tmp_path: Path
) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    stack.add_adapter(LoRA(r=2), seed=5, outputs=("reward",))
    stack.save_trained(tmp_path)
    reward = (stack.spec, [tmp_path / "adapter"])
    seen: list[Any] = []

    class Watched(Progress):
        def log(self, **values: Any) -> None:
            super().log(**values)
            seen.append(values)

    spec = ModelSpec(str(tiny_model), dtype="float32")
    inputs = StageInputs(spec, [], ChatML(), tmp_path / "work", tmp_path / "out", reward)
    stats = SMALL.fit(ROWS, inputs, progress=Watched("ppo"), seed=7)
    assert stats["steps"] == 2
    assert [values["value_loss"] for values in seen] == [0.0, 0.0]
    trained = json.loads((tmp_path / "out" / "stats.json").read_text())["parameters_trained"]
    _, headed = stack, replace(SMALL, advantage="gae", samples=1)
    with_head = headed.fit(
        ROWS, replace(inputs, out_dir=tmp_path / "two"), progress=Progress("ppo"), seed=7
    )
    assert with_head["parameters_trained"] == trained + 65  # 64 weights and a bias


def test_answers_to_a_prompt_are_draws_of_their_own(tiny_model: Path) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    policy = Policy(stack, ScoreHead(("value",), 64), 1.0)
    prompts = [Prompt("a", (), [5, 6, 7], []), Prompt("b", (), [8, 9], [])]
    end = ChatML().end(stack.tokenizer)

    def draw(*numbers: int) -> list[list[int]]:
        chosen = [prompts[number] for number in numbers]
        rolled = roll_out(policy, chosen, [[] for _ in chosen], end, max_tokens=8, seed=1)
        return [one.tokens for one in rolled]

    first, second, third, other = draw(0, 0, 0, 1)
    assert first != second != third != first
    # the first draw of a prompt is that of PPO, and none depends on other prompts
    assert draw(0) == [first]
    assert draw(1, 0, 0) == [other, first, second]


def test_settings_without_effect_are_refused() -> None:
    for name, value in (("critic", "reward"), ("lam", 0.9), ("value_weight", 0.5)):
        with pytest.raises(ValueError, match=f"{name} has no effect with advantage"):
            replace(SMALL, **{name: value})
    with pytest.raises(ValueError, match="needs samples: 2 or more"):
        replace(SMALL, samples=1)
    with pytest.raises(ValueError, match="samples must divide batch_size"):
        replace(SMALL, samples=3)
