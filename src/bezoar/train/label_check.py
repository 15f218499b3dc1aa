"""The label proof: what each row trains is checked against the generation prompt before anything is
trained. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Messages
from bezoar.errors import DataError
from bezoar.model.prompt_group import Completion, PromptGroup
from bezoar.train.objective import Objective
from bezoar.train.rows import conversations

TooLong = Literal["drop", "cut"]


@dataclass(frozen=True)
class Example:
    """A row that passed: its id, its tokens, and whether its end was cut off."""

    id: str
    group: PromptGroup
    cut: bool = False


def check_labels(
    rows: Sequence[AnyRow],
    objective: Objective,
    template: Template,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    too_long: TooLong,
) -> Filtered[Example]:
    """Render and check every row. DataError shows the first row whose trained tokens are not what
    the model would write.

    Left out and counted: rows with an empty answer, and rows longer than `max_length` where
    `too_long` is "drop". With "cut" the first `max_length` tokens are kept, and the row is left out
    if none of them is trained.
    """
    template.check(tokenizer)
    kept: list[Example] = []
    dropped: list[Dropped] = []
    every_turn = objective.unit == "token" and getattr(objective, "loss_on", "") != "last"
    for row in rows:
        if any(not m.content.strip() and not m.tool_calls for m in _written(row)):
            dropped.append(Dropped(row.id, "empty answer"))
            continue
        group = objective.group(row, template, tokenizer)
        check_row(
            row,
            group,
            template,
            tokenizer,
            every_turn=every_turn,
            scored="scores" in objective.needs,
        )
        if group.longest <= max_length:
            kept.append(Example(row.id, group))
        elif too_long == "drop":
            dropped.append(
                Dropped(row.id, "too long", f"{group.longest} tokens, max_length is {max_length}")
            )
        else:
            short = cut(group, max_length)
            if short is None:
                dropped.append(
                    Dropped(
                        row.id,
                        "nothing trained after the cut",
                        f"{group.longest} tokens, max_length is {max_length}",
                    )
                )
            else:
                kept.append(Example(row.id, short, cut=True))
    return Filtered(kept, dropped)


def _written(row: AnyRow) -> Messages:
    return tuple(
        messages[-1]
        for messages in conversations(row)
        if messages and messages[-1].role == "assistant"
    )


def cut(group: PromptGroup, max_length: int) -> PromptGroup | None:
    """The first `max_length` tokens of the trunk with each branch; None when a branch would train
    nothing."""
    room = max_length - len(group.prompt)
    if room < 1:
        return None
    completions = [Completion(b.tokens[:room], b.trained[:room]) for b in group.completions]
    return (
        PromptGroup(group.prompt, completions, group.labels)
        if all(b.num_trained for b in completions)
        else None
    )


def check_row(
    row: AnyRow,
    group: PromptGroup,
    template: Template,
    tokenizer: Tokenizer,
    *,
    every_turn: bool = True,
    scored: bool = False,
) -> None:
    """DataError with the row's text, trained part in ⟦ ⟧, unless each branch trains just what the
    model would write.

    Of a chat `every_turn` is checked, or the last one. A `scored` branch is read once, behind the
    token that ends its answer.
    """
    for completion, messages in zip(group.completions, conversations(row), strict=False):
        turns = [i for i, m in enumerate(messages) if m.role == "assistant"]
        if scored:
            if completion.trained != [False] * (len(completion.tokens) - 1) + [True]:
                raise DataError(
                    f"row {row.id}: its score is not read behind the end of the answer; build its"
                    " tree with score_tree."
                )
            completion = Completion(completion.tokens[:-1], [True] * (len(completion.tokens) - 1))
        checked = turns if isinstance(row, Chat) and every_turn else turns[-1:]
        problem = _problem(checked, group.prompt, completion, messages, template, tokenizer)
        if problem:
            raise DataError(
                f"row {row.id}: {problem}: {marked(group.prompt, completion, tokenizer)!r}; mend"
                " the row or use another template."
            )


def _problem(
    turns: list[int],
    prompt: list[int],
    completion: Completion,
    messages: Messages,
    template: Template,
    tokenizer: Tokenizer,
) -> str:
    """What is wrong with the answers `turns` of one branch, or the empty string."""
    tokens, trained = [*prompt, *completion.tokens], [False] * len(prompt) + completion.trained
    if not any(trained):
        return "no token is trained"
    if _doubled_bos(tokens, messages, template, tokenizer):
        return "the beginning-of-sequence token stands in it twice"
    for number, i in enumerate(turns, 1):
        opening = template.prompt(messages[:i], tokenizer)
        start = len(opening)
        written = [*tokenizer.encode(messages[i].content), template.end(tokenizer)]
        stop = start + len(written)
        if tokens[:start] != opening:
            return f"the tokens before answer {number} are not those of the generation prompt"
        if tokens[start : stop - 1] != written[:-1] or not all(trained[start : stop - 1]):
            return (
                f"not every token of answer {number} is trained, from the end of the generation"
                " prompt on"
            )
        if tokens[stop - 1 : stop] != written[-1:] or not trained[stop - 1]:
            return f"the token that ends answer {number} is not trained"
    return ""


def _doubled_bos(
    tokens: list[int], messages: Messages, template: Template, tokenizer: Tokenizer
) -> bool:
    """Whether there are two BOS at the start, or, where the template does not use BOS to open each
    turn, anywhere."""
    bos = tokenizer.bos_id
    if bos is None or tokens.count(bos) < 2:
        return False
    opens_turns = bos in template.prompt(messages[:1], tokenizer)[1:]
    return tokens[:2] == [bos, bos] or not opens_turns


def marked(prompt: list[int], completion: Completion, tokenizer: Tokenizer) -> str:
    """The text of a trunk and a branch, with ⟦ ⟧ around what is trained."""
    return "".join(
        f"⟦{text}⟧" if trained else text for text, trained in spans(prompt, completion, tokenizer)
    )


def spans(
    prompt: list[int], completion: Completion, tokenizer: Tokenizer
) -> list[tuple[str, bool]]:
    """Stretches of text, special tokens written out, with whether they are trained."""
    runs: list[tuple[list[int], bool]] = [(list(prompt), False)]
    for token, trained in zip(completion.tokens, completion.trained, strict=True):
        if runs[-1][1] != trained:
            runs.append(([], trained))
        runs[-1][0].append(token)
    return [(tokenizer.decode(tokens, markers=True), trained) for tokens, trained in runs if tokens]
