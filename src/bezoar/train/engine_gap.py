"""How far an engine that draws answers is from the policy that learns from them.

N answers, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bezoar.train.policy_settings import PolicySettings
from bezoar.train.rollout import Rollout, RolloutScores


def beside_engine(
    settings: PolicySettings,
    rollouts: Sequence[Rollout],
    old: RolloutScores,
    targets: Sequence[Tensor],
) -> tuple[dict[str, float], Sequence[Tensor]]:
    """What is logged of the engine's log-probabilities beside those `old` ones, and the targets,
    the first of which, the advantages, `ratio_cap` weighs; nothing if no engine drew.

    `engine_kl` and `engine_kl_max` are nats a drawn token of the estimate r - 1 - log r, r = P_here
    / P_engine (Schulman 2020, "Approximating KL Divergence"), `engine_ratio_outside` the share of
    tokens with r outside of [0.9, 1.1].
    """
    if settings.rollouts == "here":
        return {}, targets
    # 0 on what was given, and behind an answer
    gaps = torch.zeros_like(old.logprobs)  # [N, T]
    for row, rollout in enumerate(rollouts):
        drawn = slice(rollout.forced, len(rollout.tokens))
        gaps[row, drawn] = old.logprobs[row, drawn] - gaps.new_tensor(rollout.engine_logprobs)
    ratios, num = gaps.exp(), float(old.free.sum())
    kls, outside = (ratios - 1 - gaps) * old.free, (ratios < 0.9) | (ratios > 1.1)
    numbers = {
        "engine_kl": float(kls.sum()) / num,
        "engine_kl_max": float(kls.max()),
        "engine_ratio_outside": float((outside * old.free).sum()) / num,
    }
    if settings.ratio_cap is None:
        return numbers, targets
    # a loss that is clipped is as many times larger as its advantage, on either side of the bounds
    capped = ratios.clamp(max=settings.ratio_cap)
    return numbers, [targets[0] * torch.where(old.free > 0, capped, 1.0), *targets[1:]]
