"""Advantages and losses of drawn answers, of different lengths in rows of [N, T] with a mask.

N answers, T tokens of the longest.
"""

import torch
from torch import Tensor


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """(values - mean) / sqrt(variance + 1e-8) over the masked entries, 0 elsewhere.

    Without `shift_mean` the mean stays. The variance is a mean of squares (n, not n - 1).
    """
    # sums over the whole table, because a mean of row means would weigh short answers more
    count = mask.sum()
    mean = (values * mask).sum() / count
    variance = ((values - mean) ** 2 * mask).sum() / count
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimates, [N, T] -> [N, T] (arXiv 1506.02438, equation 16).

    A_t = sum_k (gamma lam)^k d_{t+k}, d_t = r_t + gamma V_{t+1} - V_t, V = 0 behind an answer.
    """
    estimates = torch.zeros_like(rewards)
    advantage = next_value = torch.zeros_like(rewards[:, 0])  # [N]
    # backwards, so that A_t = d_t + gamma lam A_{t+1}
    for t in reversed(range(rewards.shape[1])):
        reward, value, inside = rewards[:, t], values[:, t], mask[:, t]
        advantage = (reward + gamma * next_value - value + gamma * lam * advantage) * inside
        next_value = value * inside
        estimates[:, t] = advantage
    return estimates


def leave_one_out(returns: Tensor, samples: int) -> Tensor:
    """Returns [N] less the mean of the other answers to the same prompt, [N] (arXiv 2402.14740).

    The `samples` answers to a prompt stand side by side.
    """
    groups = returns.view(-1, samples)
    others = (groups.sum(1, keepdim=True) - groups) / (samples - 1)
    return (groups - others).flatten()


def token_rewards(
    logprobs: Tensor, reference: Tensor, scores: Tensor, lengths: Tensor, *, kl: float
) -> Tensor:
    """-kl (log pi - log ref) of each token [N, T], plus the score [N] at an answer's last one."""
    rewards = -kl * (logprobs - reference)
    # the score is of the whole answer, so its last token is where it is known
    rewards[torch.arange(len(scores), device=scores.device), lengths - 1] += scores
    return rewards


def policy_losses(
    logprobs: Tensor, old: Tensor, advantage: Tensor, *, clip: float, clip_high: float | None = None
) -> tuple[Tensor, Tensor]:
    """The clipped loss of each token and whether it was clipped, in the shape of the inputs.

    The ratio counts from 1 - clip to 1 + clip_high, which is clip by default.
    """
    # the larger loss: clipping takes away the gain of moving further, never the cost
    ratio, high = (logprobs - old).exp(), clip if clip_high is None else clip_high
    plain, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + high)
    return torch.max(plain, clipped), (clipped > plain).detach()


def value_losses(values: Tensor, old: Tensor, returns: Tensor, *, clip: float) -> Tensor:
    """Half the larger squared error: of the value, or of the value clipped to near its old one."""
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.max((values - returns) ** 2, (clipped - returns) ** 2)
