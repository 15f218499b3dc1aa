"""Completions of chats under a stack: drawn, scored by a reward model, and their likelihood."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bezoar.chat.pieces import cut_at_stop
from bezoar.chat.templates import RenderedCompletions, Template, render_completions
from bezoar.chat.types import Messages
from bezoar.errors import DataError, RecipeError
from bezoar.model.prompt_group import prompt_group, score_group
from bezoar.model.spec import Sampling
from bezoar.rng import seed_for

if TYPE_CHECKING:
    from bezoar.model.stack import Stack

Answers = Sequence[Sequence[str]]  # several to each prompt
# for each prompt whether its answers were written to their end, or that of each of them
Ended = Sequence[bool | Sequence[bool]]


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
    how = (sampling.max_tokens, sampling.temperature, sampling.top_p)
    params = SamplingParams(*how, ends, stops, top_k=sampling.top_k)
    # each draw has a seed of its own: it does not change when prompts are added or left out
    draws = [(prompt, number) for prompt in tokens for number in range(num)]
    seeded = [replace(params, seed=seed_for(seed, *prompt, number)) for prompt, number in draws]
    answers = iter(generate(stack, [prompt for prompt, _ in draws], seeded))
    completions: list[list[tuple[str, bool]] | None] = []
    for _ in tokens:
        # a prompt without room fails as a whole: fewer than `num` answers would bias what is chosen
        drawn = [next(answers) for _ in range(num)]
        texts = [cut_at_stop(tokenizer.decode(answer.tokens), stops) for answer in drawn]
        finishes = [answer.finish for answer in drawn]
        ended = [finish == "stop" for finish in finishes]
        completions.append(None if "error" in finishes else list(zip(texts, ended, strict=True)))
    return completions


def reward_outputs(stack: "Stack", name: str) -> tuple[str, ...]:
    """The names of a reward model's outputs; RecipeError if the model has no head."""
    if stack.score_head is None:
        fault = f"the model {name} has no score head"
        raise RecipeError(f"reward: {fault}; name a stage that trains bradley_terry or regression.")
    return tuple(stack.score_head.outputs)


def reward_completions(
    stack: "Stack",
    template: Template,
    prompts: Sequence[Messages],
    answers: Answers,
    *,
    max_tokens: int = 0,
) -> list[list[list[float]]]:
    """The outputs of a reward model for every answer; all nan where a text is too long for it.

    At most `max_tokens` tokens are read at once (0: as many as elsewhere).
    """
    from bezoar.model.score import MOST_SCORED, rewards

    unknown = [math.nan] * len(reward_outputs(stack, stack.spec.path))
    groups = [
        score_group(*render_completions(prompt, texts, template, stack.tokenizer))
        for prompt, texts in zip(prompts, answers, strict=True)
    ]
    fits = [group.longest <= stack.context_length for group in groups]
    fitting = [group for group, fit in zip(groups, fits, strict=True) if fit]
    outputs = iter(rewards(stack, fitting, max_tokens=max_tokens or MOST_SCORED))
    return [
        next(outputs) if fit else [unknown] * len(group.completions)
        for group, fit in zip(groups, fits, strict=True)
    ]


def completion_logprobs(
    stack: "Stack",
    template: Template,
    prompts: Sequence[Messages],
    answers: Answers,
    *,
    ended: Ended = (),
) -> list[list[float]]:
    """log P(y|x) of every answer: the sum over its tokens and its end token.

    The end token does not count for answers that `ended` calls cut off. DataError for a text that
    is too long for the model.
    """
    rendered = []
    for prompt, texts, end in zip(prompts, answers, ended or [True] * len(prompts), strict=True):
        ends = [end] * len(texts) if isinstance(end, bool) else end
        rendered.append(render_completions(prompt, texts, template, stack.tokenizer, ended=ends))
    return rendered_logprobs(stack, rendered)


def rendered_logprobs(stack: "Stack", rendered: Sequence[RenderedCompletions]) -> list[list[float]]:
    """`completion_logprobs` of answers that are tokens already, which all count."""
    from bezoar.model.score import score

    groups = []
    for prompt, answers in rendered:
        group = prompt_group(prompt, answers)
        if group.longest > stack.context_length:
            fault = f"a text of {group.longest} tokens does not fit the context"
            raise DataError(f"{fault} of {stack.spec.path}; lower answers.max_tokens.")
        groups.append(group)
    return [[scored.total for scored in group] for group in score(stack, groups)]
