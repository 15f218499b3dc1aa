"""PPO with a critic that begins as the reward model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Message
from bezoar.errors import RecipeError
from bezoar.model import layer
from bezoar.model.packed import pack
from bezoar.model.prompt_group import answer
from bezoar.model.spec import LoRA, ModelSpec, RewardWeights
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.train.critic import add_critic, value_head
from bezoar.train.rollout import Policy
from bezoar.train.settings import StageInputs
from bezoar.train.stages import PPO
from tests.helpers.stopping import StopError, Stopping

ROWS = [Chat(f"c{i}", (Message("user", "say " + "ab" * (i + 1)),)) for i in range(4)]
GOODNESS = RewardWeights({"first": 0.5, "second": -2.0}, mean=0.3, std=1.5)
SMALL = PPO(
    "m",
    "r",
    "rows",
    goodness=GOODNESS,
    critic="reward",
    adapter=LoRA(r=4, alpha=8, dropout=0.0),
    updates=2,
    batch_size=4,
    epochs=1,
    max_tokens=6,
    lr=1e-2,
    temperature=1.0,
)


@pytest.fixture(scope="module")
def reward_model(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelSpec, list[Path]]:
    """Two outputs with biases, on an adapter of its own."""
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    for parameter in stack.add_adapter(LoRA(r=2), seed=5, outputs=("first", "second")).values():
        parameter.data.normal_(0, 0.1)
    out = tmp_path_factory.mktemp("reward")
    stack.save_trained(out)
    return stack.spec, [out / "adapter"]


def run(settings: PPO, model: Path, out: Path, reward: Any, progress: Any = None) -> Any:
    spec = ModelSpec(str(model), dtype="float32")
    inputs = StageInputs(spec, [], ChatML(), out / "work", out / "out", reward)
    settings.fit(ROWS, inputs, progress=progress or Progress("ppo"), seed=7)
    return load_file(out / "out" / "adapter" / "adapter_model.safetensors")


def same(one: Any, two: Any) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_a_value_is_the_score_of_the_answer_so_far(tiny_model: Path, reward_model: Any) -> None:
    policy = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    policy.add_adapter(LoRA(r=4, dropout=0.0), seed=0)
    plain, critic = Stack(*reward_model), Stack(*reward_model)
    assert plain.score_head is not None
    before = {name: weight.clone() for name, weight in plain.net.state_dict().items()}
    lora = LoRA(r=4, dropout=0.0)
    parameters = add_critic(critic, policy, lora, seed=1, longest=20, stage="ppo")
    assert all(name.startswith("critic.") for name in parameters)
    head = value_head(plain.score_head, GOODNESS)
    group = answer([1, 2, 3], [4, 5, 6, 7])
    _, values, _ = Policy(policy, head, 1.0, critic).read([group])
    # the reward model by itself, on the prompt and the first t tokens of the answer
    row = torch.tensor([[1, 2, 3, 4, 5, 6]])
    with torch.no_grad():
        states = plain.backbone(row, torch.arange(6)[None], pack([group]).layout)[0, 2:]
        outputs = plain.score_head(states).tolist()
    expected = [GOODNESS.score(("first", "second"), one) for one in outputs]
    assert values.tolist() == pytest.approx(expected, abs=1e-4)
    # the adapter trains, the head and the reward model do not
    values.sum().backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in parameters.values())
    assert head.weight.grad is None
    assert all(torch.equal(plain.net.state_dict()[name], w) for name, w in before.items())


def test_its_activations_are_recomputed_too(
    tiny_model: Path, tmp_path: Path, reward_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = set[int]()

    def noted(forward: Any, *args: Any, **options: Any) -> Any:
        blocks.add(id(forward.__self__))
        return checkpoint(forward, *args, **options)

    monkeypatch.setattr(layer, "checkpoint", noted)
    never = run(replace(SMALL, recompute="never"), tiny_model, tmp_path / "a", reward_model)
    assert not blocks
    always = run(replace(SMALL, recompute="always"), tiny_model, tmp_path / "b", reward_model)
    num_layers = json.loads((tiny_model / "config.json").read_text())["num_hidden_layers"]
    assert len(blocks) == 2 * num_layers
    assert same(always, never)


def test_it_trains_and_goes_on_to_the_same_bytes(
    tiny_model: Path, tmp_path: Path, reward_model: Any
) -> None:
    settings = replace(SMALL, checkpoint_every=1)
    metrics = tmp_path / "metrics.jsonl"
    whole = run(settings, tiny_model, tmp_path / "a", reward_model, Progress("ppo", metrics))
    losses = [json.loads(line)["value_loss"] for line in metrics.read_text().splitlines()]
    assert len(losses) == 2
    with pytest.raises(StopError):
        run(settings, tiny_model, tmp_path / "b", reward_model, Stopping("ppo"))
    assert same(whole, run(settings, tiny_model, tmp_path / "b", reward_model))
    # without a value loss the critic stays as it was, and the second update has other advantages
    still = replace(settings, value_weight=1e-12)
    assert not same(whole, run(still, tiny_model, tmp_path / "c", reward_model))


def test_a_critic_that_cannot_read_the_policy_is_refused(
    tiny_model: Path, tmp_path: Path, reward_model: Any
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RecipeError, match="stage ppo: critic: reward: its tokenizer is not that"):
        run(SMALL, other, tmp_path / "a", reward_model)
    spec, adapters = reward_model
    short = tmp_path / "short"
    shutil.copytree(spec.path, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 20}))
    with pytest.raises(RecipeError, match="it sees 20 tokens, and answers end at"):
        run(SMALL, tiny_model, tmp_path / "b", (replace(spec, path=str(short)), adapters))
    with pytest.raises(ValueError, match="head_lr has no effect with critic: reward"):
        replace(SMALL, head_lr=1e-3)
