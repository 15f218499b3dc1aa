"""What objectives on pairs have in common. Imports no torch before it is used.

A trained tokens, N answers, P pairs; answers 2p and 2p + 1 are the chosen and the rejected one of
pair p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bezoar.chat.row_types import COMPARISONS, RowNeed
from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow, Comparison
from bezoar.errors import DataError
from bezoar.model.prompt_group import PromptGroup
from bezoar.train.objective import LossInputs, LossOutput, Unit, answers_group

if TYPE_CHECKING:
    from torch import Tensor

CERTAIN = -1e-7
"""The largest log p in log(1 - p), whose slope p / (1 - p) has no bound towards p = 1."""


class OnPairs:
    """Mixed into an objective whose unit is a pair."""

    unit: ClassVar[Unit] = "pair"
    takes: ClassVar[RowNeed] = (COMPARISONS,)

    def group(self, row: AnyRow, template: Template, tokenizer: Tokenizer) -> PromptGroup:
        """The prompt and its two answers: chosen, rejected."""
        return answers_group(require_pair(row), template, tokenizer)


def require_pair(row: AnyRow) -> Comparison:
    """The row, if it is a comparison; else DataError."""
    if not isinstance(row, Comparison):
        raise DataError(
            f"row {row.id}: the objective needs comparisons, but this is none; name a stage of"
            " pairs under `rows`."
        )
    return row


def pair_terms(loss: Tensor, rewards: Tensor, **more: Tensor) -> LossOutput:
    """A loss [P] with metrics of the objective's rewards [P, 2] and further values [P]."""
    chosen, rejected = rewards.detach().unbind(1)
    margin = chosen - rejected
    metrics = {
        "margin": margin,
        "accuracy": share_right(margin),
        "reward_chosen": chosen,
        "reward_rejected": rejected,
    }
    return LossOutput(loss, {**metrics, **{name: value.detach() for name, value in more.items()}})


def share_right(margin: Tensor) -> Tensor:
    """1 where a margin is above 0, 0 where it is below; a tie tells neither way and is one half."""
    return (margin.sign() + 1) / 2


def log_ratios(batch: LossInputs, logprobs: Tensor) -> Tensor:
    """log pi - log ref of the trained tokens [A]."""
    assert batch.reference is not None
    return logprobs - batch.reference


def add_sft(loss: Tensor, weight: float, batch: LossInputs, logprobs: Tensor) -> Tensor:
    """loss [P] + weight times the mean negative log-likelihood of the chosen answer's tokens.

    The mean over each answer's own tokens, with the end token, follows equation 1 of Iterative RPO
    (arXiv 2404.19733). TRL's "sft" is the mean over the tokens of all chosen answers of a
    micro-batch, which depends on how a step is cut.
    """
    return loss - weight * batch.means(logprobs).view(-1, 2)[:, 0] if weight else loss


def log_odds(logprobs: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p, any shape."""
    import torch

    # expm1 keeps 1 - p exact where p is near 1
    return logprobs - torch.log(-torch.expm1(logprobs.clamp(max=CERTAIN)))
