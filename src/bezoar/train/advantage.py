"""Advantages and the losses of PPO, on answers of different lengths in rows of [N, T] with a mask.

N answers, T tokens of the longest.
"""

import torch
from torch import Tensor


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """(values - mean) / sqrt(variance + 1e-8) over the masked entries; without `shift_mean` the
    mean stays. 0 elsewhere.

    The variance is the mean of squares, not their sum over n - 1.
    """
    count = mask.sum()
    mean = (values * mask).sum() / count
    variance = ((values - mean) ** 2 * mask).sum() / count
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimates (arXiv 1506.02438, equation 16): A_t = sum_k (gamma lam)^k
    d_{t+k}, d_t = r_t + gamma V_{t+1} - V_t, with V = 0 behind the last token of an answer. [N, T]
    -> [N, T]."""
    found = torch.zeros_like(rewards)
    ahead = torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(ahead)
    for t in reversed(range(rewards.shape[1])):
        inside = mask[:, t]
        ahead = (rewards[:, t] + gamma * following - values[:, t] + gamma * lam * ahead) * inside
        following = values[:, t] * inside
        found[:, t] = ahead
    return found


def token_rewards(
    logprobs: Tensor, reference: Tensor, scores: Tensor, lengths: Tensor, *, kl: float
) -> Tensor:
    """-kl (log pi - log ref) for each token, plus the score [N] at the last token of each answer.
    [N, T] -> [N, T]."""
    rewards = -kl * (logprobs - reference)
    rewards[torch.arange(len(scores), device=scores.device), lengths - 1] += scores
    return rewards


def policy_losses(
    logprobs: Tensor, old: Tensor, advantage: Tensor, *, clip: float
) -> tuple[Tensor, Tensor]:
    """The clipped loss of each token, and whether it was clipped (both of the shape of the
    inputs)."""
    ratio = (logprobs - old).exp()
    plain, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)
    return torch.max(plain, clipped), (clipped > plain).detach()


def value_losses(values: Tensor, old: Tensor, returns: Tensor, *, clip: float) -> Tensor:
    """Half the larger of the squared errors of the value and of the value clipped to its old
    one."""
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.max((values - returns) ** 2, (clipped - returns) ** 2)
