"""Supervised fine-tuning: the likelihood of given answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow
from bezoar.model.prompt_group import PromptGroup
from bezoar.train.objective import LossInputs, LossOutput, Need, Unit
from bezoar.train.rows import chat_group

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SFT:
    """Loss of a token y_t: -log pi(y_t | x, y_<t).

    `loss_on: answer` trains every assistant turn with its end token (of a comparison: the chosen
    answer); `last` only the last turn, as SteerLM does where levels are known for that alone; `all`
    trains the prompt too, as the code of OpenBezoar (arXiv 2404.12195) does.
    """

    loss_on: Literal["answer", "last", "all"] = "answer"
    kind: Literal["sft"] = "sft"
    unit: ClassVar[Unit] = "token"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def group(self, row: AnyRow, template: Template, tokenizer: Tokenizer) -> PromptGroup:
        """One branch with all that is trained."""
        return chat_group(row, template, tokenizer, loss_on=self.loss_on)

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a token [A]."""
        return LossOutput(-logprobs)
