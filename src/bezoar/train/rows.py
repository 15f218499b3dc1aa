"""From chats and comparisons to trees of tokens. Imports no torch."""

from typing import Literal

from bezoar.chat.templates import RenderedCompletions, Template, render_completions
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow, Chat, Comparison, Message, Messages, SampledAnswers
from bezoar.errors import DataError
from bezoar.model.prompt_group import Completion, PromptGroup, prompt_group


def chat_group(
    row: AnyRow,
    template: Template,
    tokenizer: Tokenizer,
    *,
    loss_on: Literal["answer", "last", "all"] = "answer",
) -> PromptGroup:
    """One branch that starts at the first trained token: every assistant turn of a chat or its
    last, or a comparison's chosen answer."""
    if isinstance(row, SampledAnswers):
        raise DataError(
            f"row {row.id}: the objective needs chats, but this row holds sampled answers; choose"
            " among them first (best_of_n)."
        )
    messages = conversations(row)[0]
    rendered = template.render(messages, tokenizer, loss_on="all" if loss_on == "all" else "answer")
    trained = rendered.trained
    if loss_on == "last" or (isinstance(row, Comparison) and loss_on == "answer"):
        start, end = rendered.answers[-1]
        trained = [start <= i < end for i in range(len(trained))]
    if not any(trained):
        raise DataError(
            f"row {row.id}: no token of it would be trained, for it has no assistant turn; remove"
            " the row."
        )
    first, last = trained.index(True), len(trained) - trained[::-1].index(True)
    if first == 0:
        raise DataError(
            f"row {row.id}: its first token would be trained with nothing before it; use a template"
            " that opens a turn."
        )
    return PromptGroup(
        rendered.tokens[:first], [Completion(rendered.tokens[first:last], trained[first:last])]
    )


def pair_group(row: AnyRow, template: Template, tokenizer: Tokenizer) -> PromptGroup:
    """The prompt once, and two branches: the chosen answer, then the rejected one."""
    if not isinstance(row, Comparison):
        raise DataError(
            f"row {row.id}: the objective needs comparisons, but this is none; name a stage of"
            " pairs under `rows`."
        )
    prompt, answers = prompt_and_answers(row, template, tokenizer)
    return prompt_group(prompt, answers)


def prompt_and_answers(
    row: AnyRow, template: Template, tokenizer: Tokenizer
) -> RenderedCompletions:
    """The prompt's tokens, and those of each last answer to it with its end token."""
    messages = conversations(row)
    if not all(one and one[-1].role == "assistant" for one in messages):
        raise DataError(f"row {row.id}: it does not end with an answer; remove the row.")
    try:
        return render_completions(
            messages[0][:-1], [one[-1] for one in messages], template, tokenizer
        )
    except DataError as error:
        raise DataError(f"row {row.id}: {error}") from None


def conversations(row: AnyRow) -> list[Messages]:
    """The conversation of a chat; those with each answer of a comparison (chosen, rejected) or of
    sampled answers."""
    if isinstance(row, Chat):
        return [row.messages]
    texts = row.answers if isinstance(row, SampledAnswers) else (row.chosen, row.rejected)
    return [(*row.prompt, Message("assistant", text)) for text in texts]
