"""Supervised fine-tuning: the likelihood of given answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bezoar.chat.row_types import TEXTS, RowNeed
from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow, Comparison, SampledAnswers, ended
from bezoar.errors import DataError
from bezoar.model.prompt_group import Completion, PromptGroup
from bezoar.train.objective import LossInputs, LossOutput, Need, Unit, chooses_tool, conversations

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning on chats, or on the chosen answers of pairs.

    Loss of a token y_t: -log pi(y_t | x, y_<t).

    Source: arXiv 2404.12195 (OpenBezoar) trains all tokens; SteerLM the last answer
    Example: {kind: sft, loss_on: answer}
    """

    loss_on: Literal["answer", "last", "all"] = "answer"
    """answer: every assistant turn with its end token; last: the last one; all: the prompt too."""
    learn_tool_choice: bool = True
    """Whether the first token of an answer to a user who offers tools trains: the choice between a
    call and a text. false (ours) teaches how to call, and leaves to the base when."""
    kind: Literal["sft"] = "sft"
    unit: ClassVar[Unit] = "token"
    needs: ClassVar[frozenset[Need]] = frozenset()
    takes: ClassVar[RowNeed] = TEXTS

    def group(self, row: AnyRow, template: Template, tokenizer: Tokenizer) -> PromptGroup:
        """One completion, from the first trained token to the last."""
        if isinstance(row, SampledAnswers):
            raise DataError(
                f"row {row.id}: the objective needs chats, but this row holds sampled answers;"
                " choose among them first (best_of_n)."
            )
        loss_on: Literal["all", "answer"] = "all" if self.loss_on == "all" else "answer"
        messages = conversations(row)[0]
        rendered = template.render(messages, tokenizer, loss_on=loss_on)
        if self.loss_on != "last" and not isinstance(row, Comparison):
            num = sum(message.role == "assistant" for message in messages)
            if len(rendered.answers) < num:
                raise DataError(
                    f"row {row.id}: the template writes earlier answers otherwise than the last"
                    " one, so only that can train; set loss_on: last, or use chatml."
                )
        tokens, trained = rendered.tokens, rendered.trained
        if not ended(row)[0] and messages[-1].role == "assistant":
            # the model did not write the end token of an answer that was cut off
            stop = rendered.answers[-1][1] - 1
            tokens, trained = tokens[:stop], trained[:stop]
        if self.loss_on == "last" or (isinstance(row, Comparison) and self.loss_on == "answer"):
            start, end = rendered.answers[-1]
            trained = [start <= i < end for i in range(len(tokens))]
        if not self.learn_tool_choice:
            turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
            for i, (start, end) in zip(reversed(turns), reversed(rendered.answers), strict=False):
                # an empty answer is its end token alone
                if end - start > 1 and chooses_tool(messages[:i]):
                    trained[start] = False
        if not any(trained):
            raise DataError(
                f"row {row.id}: no token of it would be trained, for it has no assistant turn;"
                " remove the row."
            )
        # what comes before the first trained token is only read, what follows the last not at all
        first, last = trained.index(True), len(trained) - trained[::-1].index(True)
        if first == 0:
            raise DataError(
                f"row {row.id}: its first token would be trained with nothing before it; use a"
                " template that opens a turn."
            )
        return PromptGroup(tokens[:first], [Completion(tokens[first:last], trained[first:last])])

    def loss(self, batch: LossInputs, logprobs: Tensor) -> LossOutput:
        """[A] -> one loss a token [A]."""
        return LossOutput(-logprobs)
