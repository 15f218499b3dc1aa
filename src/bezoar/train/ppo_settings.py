"""The recipe keys of PPO, and of DR-PO, whose answers restart from references. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bezoar.model.spec import LoRA, RewardWeights
from bezoar.references import ModelRef, RewardRef, RowsRef
from bezoar.train.settings import Optimizer


@dataclass(frozen=True)
class PPOSettings:
    """Recipe keys. Proximal policy optimisation (arXiv 1707.06347) of a new adapter on the stack of
    `model`, against the score that the model `reward` gives, less `kl` times the log-ratio to the
    stack below.

    An update: one answer of at most `max_tokens` tokens is drawn at `temperature` for each of
    `batch_size` prompts of `rows`; `epochs` times over, the answers are dealt into `minibatches`,
    each an optimiser step:

        policy loss = sum_t m_t max(-A_t q_t, -A_t clip(q_t, 1 - clip, 1 + clip)) / sum_t m_t,   q =
    exp(log pi - log pi_old),
        value loss  = mean_t max((V - R)^2, (V_old + clamp(V - V_old, -value_clip, value_clip) -
    R)^2) / 2,
        loss        = policy loss + value_weight * value loss.

    The reward of a token is -kl (log pi_old - log ref), plus the score at the last one: `goodness`
    of the reward model's outputs, or `missing_end` for an answer that was cut off. `normalise`
    moves the mean score of the rows' own answers to 0 (DR-PO) or also divides by their standard
    deviation (HelpSteer2). Rewards are divided by their standard deviation over the update (their
    mean stays), A is the generalised advantage estimate (gamma, lam), R = A + V_old, and A is then
    whitened.

    With `reset` b (DR-PO, arXiv 2404.08495, algorithm 1 and appendix D.2) an answer begins, with
    probability b, with a prefix of the row's own answer, of k tokens, k uniform in 1..L-1, L its
    length with the end token, at most `max_tokens`. The prefix is part of the answer for the score,
    the KL, the advantages and the value loss; m_t is 0 on it and 1 elsewhere. b = 0 is PPO.

    Defaults are the DR-PO code's for TL;DR. Ours: padding takes part in nothing; log-probabilities
    are those at `temperature`; the value is a linear head on the policy's own states, from 0, where
    the paper has a critic made from the reward model; a fixed coefficient of the KL; an answer ends
    at the template's end token alone; training is without dropout; answers are drawn with the
    adapters merged into the weights and rounded to their precision, and log-probabilities are read
    without.
    """

    model: ModelRef
    reward: RewardRef
    rows: RowsRef
    reset: float = 0.0
    goodness: RewardWeights = field(default_factory=RewardWeights)
    normalise: Literal["none", "mean", "std"] = "none"
    adapter: LoRA = field(default_factory=lambda: LoRA(dropout=0.0))
    updates: int = 100
    batch_size: int = 64
    epochs: int = 4
    minibatches: int = 1
    max_tokens: int = 53
    max_length: int = 512
    temperature: float = 0.7
    missing_end: float = -1.0
    kl: float = 0.05
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    lr: float = 3e-6
    head_lr: float | None = None
    optimizer: Optimizer = "adamw"
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: float = 1.0
    tokens_per_batch: int = 2048
    checkpoint_every: int = 5
    kind: Literal["ppo"] = "ppo"

    def __post_init__(self) -> None:
        positive = (
            "updates",
            "batch_size",
            "epochs",
            "minibatches",
            "temperature",
            "lr",
            "clip",
            "value_clip",
            "max_grad_norm",
            "tokens_per_batch",
            "checkpoint_every",
            "max_length",
        )
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0; change the value")
        if self.max_tokens < 2:
            raise ValueError("max_tokens must be at least 2; change the value")
        if not 0 <= self.reset <= 1 or not 0 <= self.gamma <= 1 or not 0 <= self.lam <= 1:
            raise ValueError("reset, gamma and lam are shares from 0 to 1; change the value")
        if self.minibatches > self.batch_size:
            raise ValueError("minibatches must be at most batch_size; change the value")
        if self.normalise != "none" and (self.goodness.mean, self.goodness.std) != (0.0, 1.0):
            raise ValueError(
                "goodness.mean and goodness.std have no effect where normalise finds them; remove"
                " them or set it to none"
            )
        if self.adapter.dropout:
            raise ValueError(
                "adapter.dropout has no effect, since PPO trains without dropout; set it to 0"
            )
