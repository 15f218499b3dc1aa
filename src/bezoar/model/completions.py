"""Completions of chats under a stack: drawn, scored by a reward model, and their
log-probabilities."""

import math
from collections.abc import Sequence
from typing import Any

from bezoar.chat.templates import Template, cut_at_stop, render_completions
from bezoar.chat.types import Messages
from bezoar.errors import DataError, RecipeError
from bezoar.model.spec import Sampling
from bezoar.rng import seed_for


def draw_completions(
    stack: Any,
    template: Template,
    prompts: Sequence[Messages],
    how: Sampling,
    *,
    num: int,
    seed: int,
) -> list[list[tuple[str, bool]] | None]:
    """`num` answers to each prompt with whether they ended; None for a prompt without room. A draw
    depends on (seed, prompt, its number)."""
    from bezoar.model.generation import SamplingParams, generate

    tokenizer = stack.tokenizer
    template.check(tokenizer)
    ends = (template.end(tokenizer), tokenizer.eos_id)
    tokens = [template.prompt(prompt, tokenizer) for prompt in prompts]
    limits = [
        SamplingParams(
            how.max_tokens,
            how.temperature,
            how.top_p,
            stop_tokens=ends,
            stop=template.stops(),
            seed=seed_for(seed, *map(int, prompt), k),
        )
        for prompt in tokens
        for k in range(num)
    ]
    made = iter(generate(stack, [prompt for prompt in tokens for _ in range(num)], limits))
    found = []
    for _ in tokens:
        each = [next(made) for _ in range(num)]
        texts = [
            (cut_at_stop(tokenizer.decode(one.tokens), template.stops()), one.finish == "stop")
            for one in each
        ]
        found.append(None if any(one.finish == "error" for one in each) else texts)
    return found


def reward_outputs(stack: Any, name: str) -> tuple[str, ...]:
    """The names of a reward model's outputs; RecipeError when the model has no head."""
    if stack.score_head is None:
        raise RecipeError(
            f"reward: the model {name} has no score head; name a stage that trains bradley_terry or"
            " regression."
        )
    return tuple(stack.score_head.outputs)


def reward_completions(
    stack: Any, template: Template, prompts: Sequence[Messages], answers: Sequence[Sequence[str]]
) -> list[list[list[float]]]:
    """The outputs of a reward model, which has a tokenizer of its own, for every answer; all nan
    where a text is too long for it."""
    from bezoar.model.reward import rewards, score_group

    groups = [
        score_group(*render_completions(p, texts, template, stack.tokenizer))
        for p, texts in zip(prompts, answers, strict=True)
    ]
    fits = [group.longest <= stack.net.config.max_position_embeddings for group in groups]
    found = iter(rewards(stack, [group for group, fit in zip(groups, fits, strict=True) if fit]))
    unknown = [math.nan] * len(stack.score_head.outputs)
    return [
        next(found) if fit else [unknown] * len(texts)
        for fit, texts in zip(fits, answers, strict=True)
    ]


def completion_logprobs(
    stack: Any,
    template: Template,
    prompts: Sequence[Messages],
    answers: Sequence[Sequence[str]],
    *,
    ended: Sequence[bool] = (),
) -> list[list[float]]:
    """log P(y|x) of every answer, the sum over its tokens with its end token, but for a prompt's
    answers that `ended` calls cut off. DataError for a text that is too long for the model."""
    from bezoar.model.prompt_group import Completion, PromptGroup
    from bezoar.model.score import score

    groups = []
    for prompt, texts, end in zip(prompts, answers, ended or [True] * len(prompts), strict=True):
        tokens, written = render_completions(prompt, texts, template, stack.tokenizer)
        groups.append(
            PromptGroup(
                tokens,
                [
                    Completion(ids, [True] * (len(ids) - 1) + [end or len(ids) == 1])
                    for ids in written
                ],
            )
        )
        if groups[-1].longest > stack.net.config.max_position_embeddings:
            raise DataError(
                f"a text of {groups[-1].longest} tokens does not fit the context of"
                f" {stack.spec.path}; lower answers.max_tokens."
            )
    return [[one.total for one in scored] for scored in score(stack, groups)]
