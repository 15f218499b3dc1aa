"""The label check: what each row trains must be what the model would write. Imports no torch.

Each row is rendered twice on purpose. The objective's rendering is what trains; the check builds the
expected tokens independently, the way generation meets them: the generation prompt, then the bare
answer and the end token. Reusing the first rendering would repeat its mistakes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Messages
from bezoar.errors import DataError
from bezoar.model.prompt_group import Completion, PromptGroup
from bezoar.train.objective import Objective, conversations

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
    """Render and check every row; DataError shows the first whose trained tokens are wrong.

    Dropped and counted: rows with an empty answer, and rows longer than `max_length` unless
    `too_long` is "cut", which keeps the first `max_length` tokens if any of them is trained.
    """
    template.check(tokenizer)
    kept: list[Example] = []
    dropped: list[Dropped] = []
    every_turn = objective.unit == "token" and getattr(objective, "loss_on", "") != "last"
    is_scored = "scores" in objective.needs
    for row in rows:
        chats = conversations(row)
        answers = [chat[-1] for chat in chats if chat and chat[-1].role == "assistant"]
        if any(not m.content.strip() and not m.tool_calls for m in answers):
            dropped.append(Dropped(row.id, "empty answer"))
            continue
        group = objective.group(row, template, tokenizer)
        # 1) check before the length: a cut row has lost the end token that the check looks for
        last_only = not (isinstance(row, Chat) and every_turn)
        for completion, chat in zip(group.completions, chats, strict=False):
            _check(row.id, group.prompt, completion, chat, template, tokenizer, last_only, is_scored)
        # 2) then drop or cut
        detail = f"{group.longest} tokens, max_length is {max_length}"
        if group.longest <= max_length:
            kept.append(Example(row.id, group))
        elif too_long == "drop":
            dropped.append(Dropped(row.id, "too long", detail))
        elif short := _cut(group, max_length):
            kept.append(Example(row.id, short, cut=True))
        else:
            dropped.append(Dropped(row.id, "nothing trained after the cut", detail))
    return Filtered(kept, dropped)


def _cut(group: PromptGroup, max_length: int) -> PromptGroup | None:
    """The first `max_length` tokens of each answer with the prompt; None if one trains nothing."""
    room = max(0, max_length - len(group.prompt))
    completions = [Completion(c.tokens[:room], c.trained[:room]) for c in group.completions]
    if not all(completion.num_trained for completion in completions):
        return None
    return PromptGroup(group.prompt, completions, group.labels)


def _check(
    row_id: str,
    prompt: list[int],
    completion: Completion,
    messages: Messages,
    template: Template,
    tokenizer: Tokenizer,
    last_only: bool,
    is_scored: bool,
) -> None:
    """DataError with the row's text, trained part in ⟦ ⟧, unless exactly the answers are trained.

    A scored answer is read once, at a token behind the one that ends it (`score_group`).
    """
    if is_scored:
        num_tokens = len(completion.tokens) - 1
        if completion.trained != [False] * num_tokens + [True]:
            raise DataError(
                f"row {row_id}: its score is not read behind the end of the answer; build its group"
                " with score_group."
            )
        completion = Completion(completion.tokens[:-1], [True] * num_tokens)
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    turns = turns[-1:] if last_only else turns
    if problem := _problem(turns, prompt, completion, messages, template, tokenizer):
        text = "".join(f"⟦{t}⟧" if on else t for t, on in spans(prompt, completion, tokenizer))
        raise DataError(f"row {row_id}: {problem}: {text!r}; mend the row or use another template.")


def _problem(
    turns: list[int],
    prompt: list[int],
    completion: Completion,
    messages: Messages,
    template: Template,
    tokenizer: Tokenizer,
) -> str:
    """What is wrong with the answers `turns` of one completion, or the empty string."""
    tokens, trained = [*prompt, *completion.tokens], [False] * len(prompt) + completion.trained
    if not any(trained):
        return "no token is trained"
    # a template that opens each turn with BOS may repeat it, but never twice at the start
    bos = tokenizer.bos_id
    if bos is not None and tokens.count(bos) > 1:
        opens_turns = bos in template.prompt(messages[:1], tokenizer)[1:]
        if tokens[:2] == [bos, bos] or not opens_turns:
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
