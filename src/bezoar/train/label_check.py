"""The label check: what each row trains must be what the model would write. Imports no torch.

Each row is rendered twice on purpose. The objective's rendering is what trains; the check builds
the expected tokens independently, the way generation meets them: the generation prompt, then the
bare answer and, unless it was cut off, the end token. Reusing the first rendering would repeat its
mistakes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bezoar.chat.templates import Template
from bezoar.chat.tokenizer import Tokenizer
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Messages, ended
from bezoar.errors import DataError
from bezoar.model.prompt_group import Completion, PromptGroup
from bezoar.train.objective import Objective, chooses_tool, conversations

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
    loss_on = getattr(objective, "loss_on", "")
    every_turn = objective.unit == "token" and loss_on != "last"
    is_scored, all_of_it = "scores" in objective.needs, loss_on == "all"
    learns_choice = getattr(objective, "learn_tool_choice", True)
    check = _Check(template, tokenizer, every_turn, is_scored, all_of_it, learns_choice)
    kept: list[Example] = []
    dropped: list[Dropped] = []
    for row in rows:
        chats = conversations(row)
        answers = [chat[-1] for chat in chats if chat and chat[-1].role == "assistant"]
        if any(not m.content.strip() and not m.tool_calls for m in answers):
            dropped.append(Dropped(row.id, "empty answer"))
            continue
        # 1) check before the length: a cut row has lost the end token that the check looks for
        group = objective.group(row, template, tokenizer)
        for completion, chat, end in zip(group.completions, chats, ended(row), strict=False):
            check(row, group.prompt, completion, chat, end)
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
    # a prompt that fills the length leaves no room, and nothing would train
    room = max(0, max_length - len(group.prompt))
    completions = [Completion(c.tokens[:room], c.trained[:room]) for c in group.completions]
    if not all(completion.num_trained for completion in completions):
        return None
    return PromptGroup(group.prompt, completions, group.labels)


@dataclass(frozen=True)
class _Check:
    """Compares a completion with what the model would write."""

    template: Template
    tokenizer: Tokenizer
    every_turn: bool  # of a chat; else its last answer
    is_scored: bool  # a score is read once, at a token behind the end of the answer
    all_of_it: bool  # the prompt trains too
    learns_choice: bool  # else the first token of an answer that may be a call does not train

    def __call__(
        self, row: AnyRow, prompt: list[int], completion: Completion, chat: Messages, end: bool
    ) -> None:
        """DataError with the row's text, trained part in ⟦ ⟧, unless the answers are trained."""
        # 1) a score is read at one token; with that token checked, the rest is checked as an answer
        if self.is_scored:
            num_tokens = len(completion.tokens) - 1
            if completion.trained != [False] * num_tokens + [True]:
                raise DataError(
                    f"row {row.id}: its score is not read behind the end of the answer; build its"
                    " group with score_group."
                )
            completion = Completion(completion.tokens[:-1], [True] * num_tokens)
            end = True  # which a score is read behind, also where the answer was cut off
        # 2) the turns whose answers the objective trains, from the row and not from the marks
        turns = [i for i, message in enumerate(chat) if message.role == "assistant"]
        if not (self.every_turn and isinstance(row, Chat)):
            turns = turns[-1:]
        # 3) the message shows the marks: what is wrong with them is seen at a glance
        cut_off = -1 if end or chat[-1].role != "assistant" else turns[-1]
        if problem := self._problem(turns, prompt, completion, chat, cut_off):
            parts = spans(prompt, completion, self.tokenizer)
            text = "".join(f"⟦{part}⟧" if trained else part for part, trained in parts)
            raise DataError(
                f"row {row.id}: {problem}: {text!r}; mend the row or use another template."
            )

    def _problem(
        self, turns: list[int], prompt: list[int], completion: Completion, chat: Messages, cut: int
    ) -> str:
        """What is wrong with the answers `turns` of one completion, or the empty string."""
        tokens = [*prompt, *completion.tokens]
        trained = [False] * len(prompt) + completion.trained
        if not any(trained):
            return "no token is trained"
        template, tokenizer, bos = self.template, self.tokenizer, self.tokenizer.bos_id
        if bos is not None and tokens.count(bos) > 1:
            # a template may open every turn with BOS, but the first one only once
            opens_turns = bos in template.prompt(chat[:1], tokenizer)[1:]
            # and some models (Falcon, Pythia) end with the token that they begin with
            is_end = bos == template.end(tokenizer)
            if tokens[:2] == [bos, bos] or not (opens_turns or is_end):
                return "the beginning-of-sequence token stands in it twice"
        # each turn must continue just the tokens that generation would start from
        # and nothing else may train: not the result of a tool, nor the header of a turn
        others = list(trained)
        for number, i in enumerate(turns, 1):
            opening = template.prompt(chat[:i], tokenizer)
            words = template.answer(chat[:i], chat[i], tokenizer)
            answer = [*words, template.end(tokenizer)]
            start, end = len(opening), len(opening) + len(answer) - 1
            if tokens[:start] != opening:
                return f"the tokens before answer {number} are not those of the generation prompt"
            # where the choice is not learned, its token counts among the others
            left_out = not self.learns_choice and bool(words) and chooses_tool(chat[:i])
            first = start + left_out
            if tokens[start:end] != answer[:-1] or not all(trained[first:end]):
                return (
                    f"not every token of answer {number} is trained, from the end of the generation"
                    " prompt on"
                )
            if i == cut and len(tokens) > end:
                return f"something is trained behind answer {number}, which was cut off"
            if i != cut and (tokens[end : end + 1] != answer[-1:] or not trained[end]):
                return f"the token that ends answer {number} is not trained"
            others[first : end + 1] = [False] * len(others[first : end + 1])
        if any(others) and not self.all_of_it:
            text = tokenizer.decode([tokens[others.index(True)]], markers=True)
            return f"something is trained that is no answer, {text!r} first"
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
