"""Completions of chats under a stack: drawn, scored by a reward model, and their likelihood."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bezoar.chat.pieces import cut_at_stop
from bezoar.chat.templates import RenderedCompletions, Template, render_completions
from bezoar.chat.types import Messages
from bezoar.errors import DataError, RecipeError
from bezoar.model.prompt_group import Completion, PromptGroup
from bezoar.model.spec import Sampling
from bezoar.rng import seed_for

if TYPE_CHECKING:
    from bezoar.model.stack import Stack


def draw_completions(
    stack: "Stack",
    template: Template,
    prompts: Sequence[Messages],
    sampling: Sampling,
    *,
    num: int,
    seed: int,
) -> list[list[tuple[str, bool]] | None]:
    """`num` answers to each prompt and whether they ended; None for a prompt without room.

    A draw depends on (seed, prompt, its number) only.
    """
    from bezoar.model.generation import generate
    from bezoar.model.sampling import SamplingParams

    tokenizer, stops = stack.tokenizer, template.stops()
    template.check(tokenizer)
    ends = (template.end(tokenizer), tokenizer.eos_id)
    tokens = [template.prompt(prompt, tokenizer) for prompt in prompts]
    params = [
        SamplingParams(
            sampling.max_tokens,
            sampling.temperature,
            sampling.top_p,
            ends,
            stops,
            seed_for(seed, *prompt, number),
        )
        for prompt in tokens
        for number in range(num)
    ]
    answers = iter(generate(stack, [prompt for prompt in tokens for _ in range(num)], params))
    completions: list[list[tuple[str, bool]] | None] = []
    for _ in tokens:
        drawn = [next(answers) for _ in range(num)]
        texts = [
            (cut_at_stop(tokenizer.decode(a.tokens), stops), a.finish == "stop") for a in drawn
        ]
        completions.append(None if any(a.finish == "error" for a in drawn) else texts)
    return completions


def reward_outputs(stack: "Stack", name: str) -> tuple[str, ...]:
    """The names of a reward model's outputs; RecipeError if the model has no head."""
    if stack.score_head is None:
        raise RecipeError(
            f"reward: the model {name} has no score head; name a stage that trains bradley_terry or"
            " regression."
        )
    return tuple(stack.score_head.outputs)


def reward_completions(
    stack: "Stack",
    template: Template,
    prompts: Sequence[Messages],
    answers: Sequence[Sequence[str]],
) -> list[list[list[float]]]:
    """The outputs of a reward model for every answer; all nan where a text is too long for it."""
    from bezoar.model.score import rewards, score_group

    num_outputs = len(reward_outputs(stack, stack.spec.path))
    groups = [
        score_group(*render_completions(prompt, texts, template, stack.tokenizer))
        for prompt, texts in zip(prompts, answers, strict=True)
    ]
    fitting = [group for group in groups if group.longest <= stack.context_length]
    outputs = iter(rewards(stack, fitting))
    return [
        next(outputs)
        if group.longest <= stack.context_length
        else [[math.nan] * num_outputs] * len(group.completions)
        for group in groups
    ]


def completion_logprobs(
    stack: "Stack",
    template: Template,
    prompts: Sequence[Messages],
    answers: Sequence[Sequence[str]],
    *,
    ended: Sequence[bool] = (),
) -> list[list[float]]:
    """log P(y|x) of every answer: the sum over its tokens and its end token.

    The end token does not count for the answers of prompts that `ended` calls cut off. DataError
    for a text that is too long for the model.
    """
    rendered = [
        render_completions(prompt, texts, template, stack.tokenizer)
        for prompt, texts in zip(prompts, answers, strict=True)
    ]
    return rendered_logprobs(stack, rendered, ended=ended)


def rendered_logprobs(
    stack: "Stack", rendered: Sequence[RenderedCompletions], *, ended: Sequence[bool] = ()
) -> list[list[float]]:
    """`completion_logprobs` of answers that are tokens already."""
    from bezoar.model.score import score

    groups = []
    for (prompt, answers), end in zip(rendered, ended or [True] * len(rendered), strict=True):
        completions = [
            Completion(answer, [True] * (len(answer) - 1) + [end or len(answer) == 1])
            for answer in answers
        ]
        group = PromptGroup(prompt, completions)
        if group.longest > stack.context_length:
            raise DataError(
                f"a text of {group.longest} tokens does not fit the context of {stack.spec.path};"
                " lower answers.max_tokens."
            )
        groups.append(group)
    return [[scored.total for scored in group] for group in score(stack, groups)]
