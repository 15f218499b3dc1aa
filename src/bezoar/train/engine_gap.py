"""How far an engine that draws answers is from the policy that learns from them.

N answers, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bezoar.llm.engine import apart
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

    `engine_kl`, `engine_kl_max` and `engine_ratio_outside` are `apart` of the drawn tokens.
    """
    if settings.rollouts == "here":
        return {}, targets
    # 0 on what was given, and behind an answer
    gaps = torch.zeros_like(old.logprobs)  # [N, T]
    for row, rollout in enumerate(rollouts):
        drawn = slice(rollout.forced, len(rollout.tokens))
        gaps[row, drawn] = old.logprobs[row, drawn] - gaps.new_tensor(rollout.engine_logprobs)
    found = apart(gaps[old.free > 0].tolist())
    numbers = {f"engine_{name.removesuffix('_mean')}": value for name, value in found.items()}
    if settings.ratio_cap is None:
        return numbers, targets
    # a loss that is clipped is as many times larger as its advantage, on either side of the bounds
    capped = gaps.exp().clamp(max=settings.ratio_cap)
    return numbers, [targets[0] * torch.where(old.free > 0, capped, 1.0), *targets[1:]]
