"""What gives PPO its values: a head on the policy's states, or a critic that begins as the reward
model, with an adapter of its own.

E hidden size.
"""

from pathlib import Path

from torch import nn

from bezoar.errors import RecipeError
from bezoar.model.score_head import ScoreHead
from bezoar.model.spec import LoRA, ModelSpec, RewardWeights
from bezoar.model.stack import Stack
from bezoar.train.ppo_settings import PPOSettings
from bezoar.train.rollout import Policy


def open_policy(
    settings: PPOSettings,
    stack: Stack,
    reward: tuple[ModelSpec, list[Path]],
    reward_model: Stack,
    *,
    seed: int,
    longest: int,
    stage: str,
) -> tuple[Policy, dict[str, nn.Parameter]]:
    """The policy with what gives its values, and the parameters of that which train.

    `reward` is what `reward_model` was opened from, `longest` the most tokens of an answer with its
    prompt.
    """
    if settings.critic == "reward":
        assert reward_model.score_head is not None
        critic, lora = Stack(*reward), settings.adapter
        parameters = add_critic(critic, stack, lora, seed=seed, longest=longest, stage=stage)
        head = value_head(reward_model.score_head, settings.goodness)
        return Policy(stack, head, settings.temperature, critic), parameters
    head = ScoreHead(("value",), stack.net.config.hidden_size).to(stack.device)
    # from 0: the first advantages are those of the rewards, and no seed enters
    for parameter in head.parameters():
        parameter.data.zero_()
    trains = settings.advantage == "gae"  # REINFORCE has no values
    named = head.requires_grad_(trains).named_parameters()
    parameters = {f"value_head.{name}": parameter for name, parameter in named if trains}
    return Policy(stack, head, settings.temperature), parameters


def value_head(reward: ScoreHead, goodness: RewardWeights) -> ScoreHead:
    """The score that `goodness` makes of a reward head's outputs as a head with one output."""
    names, num = reward.outputs, len(reward.outputs)
    # the score is affine in the outputs: its slopes are differences from the score of zeros
    zero = goodness.score(names, [0.0] * num)
    slopes = [goodness.score(names, [float(k == i) for k in range(num)]) - zero for i in range(num)]
    head = ScoreHead(("value",), reward.weight.shape[1]).to(reward.weight.device)
    slope = reward.weight.new_tensor(slopes)
    head.weight.data = (slope @ reward.weight.detach())[None]  # [1, E]
    head.bias.data = (slope @ reward.bias.detach() + zero)[None]  # [1]
    return head.requires_grad_(False)


def add_critic(
    critic: Stack, policy: Stack, lora: LoRA, *, seed: int, longest: int, stage: str
) -> dict[str, nn.Parameter]:
    """Put an adapter on a copy of the reward model; returns its parameters, by `critic.` names.

    RecipeError if it does not read the policy's tokens, or not `longest` of them.
    """
    mine, theirs = (stack.tokenizer.inner.get_vocab() for stack in (critic, policy))
    fault = ""
    if mine != theirs:
        fault = "its tokenizer is not that of the policy, whose tokens the critic reads"
    elif critic.context_length < longest:
        fault = f"it sees {critic.context_length} tokens, and answers end at {longest}"
    if fault:
        raise RecipeError(
            f"stage {stage}: critic: reward: {fault}; train the reward model on the policy's base"
            " or set critic to head."
        )
    parameters = critic.add_adapter(lora, seed=seed)
    # without dropout, like the policy
    critic.net.eval()
    return {f"critic.{name}": parameter for name, parameter in parameters.items()}
