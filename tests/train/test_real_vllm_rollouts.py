"""Answers in training by the real vLLM, where BEZOAR_VLLM names its command."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Message
from bezoar.llm.engine import Engine
from bezoar.llm.rollouts import EngineRollouts
from bezoar.llm.servers import Servers
from bezoar.model.generation import generate
from bezoar.model.sampling import SamplingParams
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack
from bezoar.train.grpo import GRPO
from bezoar.train.rewards import Number
from bezoar.train.rloo import RLOO
from bezoar.train.stages import PPO
from tests.helpers.rank_gradients import reward_model
from tests.train.test_engine_rollouts import FLAGS, fitted
from tests.train.test_grpo import ROWS, SMALL

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("BEZOAR_VLLM" not in os.environ, reason="BEZOAR_VLLM names no vLLM"),
]
MODEL = "smollm2-135m-instruct"
SHORT = [
    Chat(
        thing,
        (
            Message("user", f"Reply with one word. Is a {thing} big?"),
            Message("assistant", f"A {thing} may be big or small."),
        ),
        {"number": 1},
    )
    for thing in ("river", "clock", "bridge", "letter")
]


@dataclass(frozen=True)
class Letters(Number):
    """The share of an answer's characters that are e."""

    def score(self, row: Any, text: str) -> float:
        return text.count("e") / (len(text) or 1)


HOW: dict[str, Any] = {
    "adapter": SMALL.adapter,
    "updates": 3,
    "batch_size": 8,
    "epochs": 2,
    "rollouts": "engine",
    "max_tokens": 16,
    "ratio_cap": 2.0,
    # so large that an adapter which stayed behind would be far off
    "lr": 1e-2,
    # at 1 the log-probabilities before and behind the temperature would be equal
    "temperature": 0.7,
}
WAYS: dict[str, Any] = {
    "grpo": GRPO("m", "rows", (Letters(),), samples=4, **HOW),
    "rloo": RLOO("m", "rows", (Letters(),), samples=4, **HOW),
    "ppo": PPO("m", "r", "rows", **HOW),
    # half of the answers begin as the rows' own
    "drpo": PPO("m", "r", "rows", reset=0.5, **HOW),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_real_vllm_draws_with_the_adapter_of_the_update(
    tmp_path: Path, tiny_model: Path, way: str
) -> None:
    reward = reward_model(tiny_model, tmp_path / "r") if way in ("ppo", "drpo") else None
    spec = ModelSpec(MODEL, dtype="float32")
    lines = fitted(WAYS[way], spec, tmp_path / "run", SHORT, reward)
    print(way, lines)
    assert len(lines) == 3
    assert all(line["grad_norm"] > 0 for line in lines)
    assert lines[2]["kl"] > 0.05
    assert max(line["engine_kl_max"] for line in lines) < 1e-3


def test_the_real_vllm_writes_our_greedy_tokens_after_each_change(tmp_path: Path) -> None:
    stack = Stack(ModelSpec(MODEL, dtype="float32"))
    parameters = stack.add_adapter(SMALL.adapter, seed=1)
    prompts = [ChatML().prompt(row.prompt, stack.tokenizer) for row in ROWS]
    end = ChatML().end(stack.tokenizer)
    params = [SamplingParams(24, 0.0, stop_tokens=(end,), seed=0) for _ in prompts]
    written = []
    with Servers(tmp_path) as servers:
        engine = EngineRollouts(Engine(flags=FLAGS), servers, print)
        for version in range(2):
            torch.manual_seed(version)
            for name, parameter in parameters.items():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.02)
            engine.refresh(stack, tmp_path / "adapter", version)
            theirs = [found.tokens for found in engine.draw(prompts, params)]
            assert theirs == [found.tokens for found in generate(stack, prompts, params)]
            written.append(theirs)
    assert written[0] != written[1]
