"""What an objective is given and what it returns. Imports no torch.

A trained tokens of a micro-batch, N answers, R rows, F labels of a row, K outputs of a score head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from bezoar.chat.messages import offered
from bezoar.chat.row_types import RowNeed
from bezoar.chat.templates import RenderedCompletions, Template, render_completions
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow, Chat, Message, Messages, SampledAnswers, ended
from bezoar.errors import DataError
from bezoar.model.prompt_group import PromptGroup, prompt_group

if TYPE_CHECKING:
    from torch import Tensor

Unit = Literal["token", "answer", "pair", "group", "label"]
"""What a loss has one value of: a group is a row with all its answers, a label a known one."""
Need = Literal["reference", "scores", "baseline"]
"""`reference`: log-probabilities by the stack below; `scores`: outputs of the score head in place
of log-probabilities; `baseline`: how far answers to other prompts have moved from the reference."""


@dataclass
class LossInputs:
    """One micro-batch. Answers are in the order of the rows and, within a row, of its answers."""

    answer_index: Tensor  # [A], the answer that a trained token belongs to
    num_answers: int
    reference: Tensor | None = None  # [A], log-probabilities by the stack below, without a gradient
    labels: Tensor | None = None  # [R, F]
    # [], mean of log pi - log ref over mismatched answers of the whole step, without a gradient
    baseline: Tensor | None = None

    def sums(self, values: Tensor) -> Tensor:
        """Sum values [A] of trained tokens by answer: [N]."""
        # tokens lie flat, in the order of the answers: no padding takes part in any sum
        return values.new_zeros(self.num_answers).index_add(0, self.answer_index, values)

    def lengths(self, like: Tensor) -> Tensor:
        """Trained tokens by answer, of the type and on the device of `like`: [N]."""
        return self.sums(like.new_ones(self.answer_index.shape[0]))

    def means(self, values: Tensor) -> Tensor:
        """Means of values [A] of trained tokens by answer: [N]."""
        return self.sums(values) / self.lengths(values)


@dataclass
class LossOutput:
    """The loss of each unit, never their mean, and further numbers a unit for people to watch."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A training objective: a frozen dataclass whose fields are its recipe keys.

    With the need `scores` it names the outputs of the head in a property `outputs`.
    """

    unit: ClassVar[Unit]

    @property
    def needs(self) -> frozenset[Need]:
        """What its loss reads beside log-probabilities."""

    @property
    def takes(self) -> RowNeed:
        """What its rows must be."""

    @property
    def kind(self) -> str:
        """Its name in recipes."""

    def group(self, row: Any, template: Template, tokenizer: Tokenizer) -> PromptGroup:
        """The prompt and the answers of a row. DataError when the row is of the wrong kind."""

    def loss(self, batch: LossInputs, values: Tensor, /) -> LossOutput:
        """From the log-probabilities [A] of the trained tokens, or the scores [N, K] of the
        answers, to one loss a unit."""


def conversations(row: AnyRow) -> list[Messages]:
    """A chat's conversation, or the prompt with each answer (of a pair: chosen, rejected)."""
    if isinstance(row, Chat):
        return [row.messages]
    texts = row.answers if isinstance(row, SampledAnswers) else (row.chosen, row.rejected)
    return [(*row.prompt, Message("assistant", text)) for text in texts]


def chooses_tool(messages: Messages) -> bool:
    """Whether what answers these messages chooses between a call and a text: it answers a user who
    offers tools."""
    return bool(offered(messages)) and messages[-1].role == "user"


def prompt_and_answers(
    row: AnyRow, template: Template, tokenizer: Tokenizer, *, ended: Sequence[bool] = ()
) -> RenderedCompletions:
    """The prompt's tokens, and those of each last answer to it with its end token, which answers
    that were not `ended` lack."""
    chats = conversations(row)
    if not all(chat and chat[-1].role == "assistant" for chat in chats):
        raise DataError(f"row {row.id}: it does not end with an answer; remove the row.")
    # all conversations share their prompt, so it is rendered (and later read) once
    prompt, answers = chats[0][:-1], [chat[-1] for chat in chats]
    try:
        return render_completions(prompt, answers, template, tokenizer, ended=ended)
    except DataError as error:
        raise DataError(f"row {row.id}: {error}") from None


def answers_group(
    row: AnyRow, template: Template, tokenizer: Tokenizer, labels: tuple[float, ...] = ()
) -> PromptGroup:
    """The prompt and the last answers to it, all of whose tokens train: the end token too, but for
    an answer that was cut off, which the model did not end."""
    both = prompt_and_answers(row, template, tokenizer, ended=ended(row))
    return prompt_group(*both, labels)
