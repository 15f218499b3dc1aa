"""Two pairs of short answers, on which losses are worked by hand."""

from typing import Any

import torch

from bezoar.train.objective import LossInputs, LossOutput

# chosen of tokens (0, 1), rejected of token 2; chosen of token 3, rejected of tokens (4, 5)
OWNER = torch.tensor([0, 0, 1, 2, 3, 3])
POLICY = torch.tensor([-1.0, -2.0, -1.5, -0.5, -2.0, -2.0])
REFERENCE = torch.tensor([-2.0, -2.5, -1.0, -1.5, -2.0, -1.0])
# sums of the policy by answer: -3, -1.5, -0.5, -4; means: -1.5, -1.5, -0.5, -2
# policy minus reference, sums: 1.5, -0.5, 1, -1; means: 0.75, -0.5, 1, -0.5


def terms(objective: Any, policy: torch.Tensor = POLICY, baseline: float = 0.0) -> LossOutput:
    """What an objective makes of the pairs; with no reference and no facts unless it asks for
    them."""
    asked = objective.needs
    batch = LossInputs(OWNER, 4, REFERENCE.to(policy.dtype) if "reference" in asked else None)
    if "baseline" in asked:
        batch.labels, batch.baseline = (
            torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
            torch.tensor(baseline),
        )
    found: LossOutput = objective.loss(batch, policy)
    return found


def loss(objective: Any, policy: torch.Tensor = POLICY, baseline: float = 0.0) -> list[float]:
    """The losses alone."""
    found: list[float] = terms(objective, policy, baseline).loss.tolist()
    return found
