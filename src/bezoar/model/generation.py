"""Answers of a stack to many prompts at once, by continuous batching.

Prompts are packed without padding, prefixes that several prompts share are read once, and the slot
of a finished answer goes to the next prompt. On a CPU of several cores each draws a part. The same
prompts, parameters, slots and threads give the same tokens; in float32 greedy answers are those of
transformers' `generate`.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from bezoar.chat.pieces import cut_at_stop
from bezoar.chat.templates import Template
from bezoar.chat.types import Messages
from bezoar.errors import DataError
from bezoar.model.kv_cache import KVCache
from bezoar.model.merge import merged_weights
from bezoar.model.sampling import SamplingParams
from bezoar.model.scheduler import Answer, Scheduler
from bezoar.model.side_by_side import side_by_side
from bezoar.model.stack import Stack
from bezoar.model.structured_output import StructuredOutput

# fewer answers at once would read all weights for too little
_LEAST_SLOTS = 16


@dataclass(frozen=True)
class Generated:
    """The new tokens, and why they end: "error" without `error` means that the prompt left no room
    to answer. "length" is an answer that was cut off, also one whose form is not complete."""

    tokens: list[int]
    finish: Literal["stop", "length", "error"]
    error: str = ""
    """Why the answer could not be held to its form."""


def generate(
    stack: Stack,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams | Sequence[SamplingParams],
    *,
    slots: int | None = None,
) -> list[Generated]:
    """The answers to `prompts` (token ids), in order; `params` for all prompts or one for each.
    `slots` are drawn side by side, by default what `KVCache` finds affordable."""
    each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
    answers = [_answer(stack, i, list(prompt), each[i]) for i, prompt in enumerate(prompts)]
    longest = max((len(answer.prompt) + answer.room for answer in answers), default=0)
    slots = slots or KVCache.affordable(stack.net.config, longest, stack.head_weight.itemsize)
    with merged_weights(stack) as lm_head:
        parts = _parts(stack, [answer for answer in answers if not answer.finish], slots)
        room = max(1, slots // max(1, len(parts)))
        side_by_side([Scheduler(stack, lm_head, part, room).steps() for part in parts])
    return [
        Generated(a.tokens, a.finish or "error", a.matcher.error if a.matcher else "")
        for a in answers
    ]


def _parts(stack: Stack, answers: list[Answer], slots: int) -> list[list[Answer]]:
    """Answers that are drawn on a core of their own: a token takes many small products, which more
    threads hardly speed up. Those to one prompt stay together."""
    threads = torch.get_num_threads() if stack.device.type == "cpu" else 1
    num = max(1, min(threads, slots // _LEAST_SLOTS, len(answers) // _LEAST_SLOTS))
    places: dict[tuple[int, ...], int] = {}
    parts: list[list[Answer]] = [[] for _ in range(num)]
    for answer in answers:
        parts[places.setdefault(tuple(answer.prompt), len(places)) % num].append(answer)
    return [part for part in parts if part]


def stream(
    stack: Stack,
    template: Template,
    messages: Messages,
    *,
    temperature: float = 0.7,
    top_p: float = 0.95,
    max_tokens: int = 512,
    form: StructuredOutput | None = None,
) -> Iterator[str]:
    """The answer to a chat in pieces of text. DataError if the chat leaves no room for one, or it
    cannot be held to `form`."""
    tokenizer, stops = stack.tokenizer, () if form else template.stops()
    ends, seed = (template.end(tokenizer), tokenizer.eos_id), random.getrandbits(63)
    params = SamplingParams(max_tokens, temperature, top_p, ends, stops, seed, form=form)
    answer = _answer(stack, 0, template.prompt(messages, tokenizer), params)
    if answer.matcher and answer.matcher.error:
        raise DataError(f"the form cannot be held to ({answer.matcher.error}); change it.")
    if answer.finish:
        size = f"the chat has {len(answer.prompt)} tokens"
        raise DataError(f"{size} and leaves no room in the model's context; start a new one.")
    shown = ""
    with merged_weights(stack) as lm_head:
        for _ in Scheduler(stack, lm_head, [answer], 1).steps():
            # decoded from the start each time: a character can be spread over several tokens
            text = _settled(tokenizer.decode(answer.tokens), stops, done=bool(answer.finish))
            if len(text) > len(shown):
                yield text[len(shown) :]
                shown = text


def _settled(text: str, stops: Sequence[str], *, done: bool) -> str:
    """`text` up to a stop string, less an end that the next token may still change."""
    text = cut_at_stop(text, stops)
    if done:
        return text
    text = text.rstrip("�")
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:size]):
                text = text[:-size]
                break
    return text


def _answer(stack: Stack, index: int, prompt: list[int], params: SamplingParams) -> Answer:
    room = min(params.max_tokens, stack.context_length - len(prompt))
    answer = Answer(index, prompt, params, room, finish="" if prompt and room > 0 else "error")
    if params.form:
        # imported here: a library that nothing but a form needs
        from bezoar.model.token_masks import FormMatcher

        tokenizer, (size, _) = stack.tokenizer, stack.head_weight.shape
        ends = params.stop_tokens or (tokenizer.eos_id,)
        answer.matcher = FormMatcher(params.form, tokenizer.inner, ends, size)
        answer.finish = "error" if answer.matcher.error else answer.finish
    return answer
