"""Answers of a stack to many prompts at once: prompts packed without padding, steps for as many
answers as there are slots.

A finished answer's slot is filled with the next prompt. Beginnings that several prompts share are
read once. The same prompts, limits and slots give the same tokens; in float32 greedy answers are
those of transformers' `generate`.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from bezoar.chat.templates import cut_at_stop
from bezoar.chat.types import Messages
from bezoar.errors import DataError
from bezoar.model.kv_cache import DecodeLayout, KVCache, Part, PrefillLayout
from bezoar.model.merged_weights import Multiply, Network, merged_weights
from bezoar.model.sampling import Sampler, sample_tokens

_MOST_TOKENS = 4096
"""Prompt tokens that are read in one pass."""
_LEAST_SHARED = 16
"""Shared beginnings shorter than this are read again for each prompt."""
_Item = tuple[int, list[int], int]
"""A slot, the tokens that are read into it, and how many positions are there already."""


@dataclass(frozen=True)
class SamplingParams:
    """When an answer ends and how its tokens are chosen. A stop token is not part of the answer, a
    stop string's tokens are."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop_tokens: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Generated:
    """The new tokens. `finish` is "stop", "length" (max_tokens or the context), or "error" for a
    prompt without room to answer."""

    tokens: list[int]
    finish: Literal["stop", "length", "error"]


@dataclass
class _Answer:
    index: int
    prompt: list[int]
    limits: SamplingParams
    room: int
    stem: int = -1
    shared: int = 0
    tokens: list[int] = field(default_factory=list)
    finish: Literal["", "stop", "length", "error"] = ""

    def __post_init__(self) -> None:
        self.chooser = Sampler(self.limits)

    @property
    def size(self) -> int:
        """Tokens whose keys are stored: all but the last new one."""
        return len(self.prompt) + len(self.tokens) - 1

    def take(self, token: int, decode: Callable[[list[int]], str]) -> None:
        """Add a token and see whether the answer ends with it."""
        if token in self.limits.stop_tokens:
            self.finish = "stop"
            return
        self.tokens.append(token)
        if self.limits.stop:
            tail = decode(self.tokens[-1 - max(len(s.encode()) for s in self.limits.stop) :])
            if any(stop in tail for stop in self.limits.stop):
                self.finish = "stop"
                return
        if len(self.tokens) >= self.room:
            self.finish = "length"


def generate(
    stack: Network,
    prompts: Sequence[Sequence[int]],
    limits: SamplingParams | Sequence[SamplingParams],
    *,
    slots: int = 32,
) -> list[Generated]:
    """The answers to `prompts` (token ids), in their order; `limits` for all or one for each."""
    each = [limits] * len(prompts) if isinstance(limits, SamplingParams) else list(limits)
    answers = [_answer(stack, i, list(p), each[i]) for i, p in enumerate(prompts)]
    with merged_weights(stack) as head:
        for _ in _Run(stack, head, [a for a in answers if not a.finish], slots).steps():
            pass
    return [Generated(a.tokens, a.finish or "error") for a in answers]


def stream(
    stack: Network,
    template: Any,
    messages: Messages,
    *,
    temperature: float = 0.7,
    top_p: float = 0.95,
    max_tokens: int = 512,
) -> Iterator[str]:
    """The answer to a chat in pieces of text, as they come. DataError when the chat leaves no room
    in the context."""
    tokenizer = stack.tokenizer
    stops: tuple[str, ...] = template.stops()
    ends = (template.end(tokenizer), tokenizer.eos_id)
    limits = SamplingParams(
        max_tokens, temperature, top_p, stop_tokens=ends, stop=stops, seed=random.getrandbits(63)
    )
    answer = _answer(stack, 0, template.prompt(messages, tokenizer), limits)
    if answer.finish:
        raise DataError(
            f"the chat has {len(answer.prompt)} tokens and leaves no room in the model's context;"
            " start a new one."
        )
    said = ""
    with merged_weights(stack) as head:
        for _ in _Run(stack, head, [answer], 1).steps():
            text = _settled(tokenizer.decode(answer.tokens), stops, done=bool(answer.finish))
            if len(text) > len(said):
                yield text[len(said) :]
                said = text


def _settled(text: str, stops: Sequence[str], *, done: bool) -> str:
    """`text` up to a stop string, without an end that may yet become another character or a stop
    string."""
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


def _answer(stack: Network, index: int, prompt: list[int], limits: SamplingParams) -> _Answer:
    room = min(limits.max_tokens, int(stack.net.config.max_position_embeddings) - len(prompt))
    return _Answer(index, prompt, limits, room, finish="" if prompt and room > 0 else "error")


class _Run:
    """The answers that wait, longest prompt first, and those that grow: live[i] is in slot i."""

    def __init__(
        self, stack: Network, head: Multiply, answers: list[_Answer], num_slots: int
    ) -> None:
        self.stack, self.head = stack, head
        self.waiting = sorted(answers, key=lambda a: (-len(a.prompt), a.index))
        self.live: list[_Answer] = []
        self.slots = KVCache(min(num_slots, len(answers)))
        self.shared_prefixes = KVCache(0)

    @torch.inference_mode()
    def steps(self) -> Iterator[None]:
        """Go on until all answers are finished; yields after every step."""
        self._read_stems()
        while self.waiting or self.live:
            free = self.slots.num - len(self.live)
            # prompts are read several at a time: a pass for one costs nearly as much as a pass for
            # four
            if self.waiting and (free >= max(1, self.slots.num // 8) or not self.live):
                self._admit(free)
            else:
                self._step()
            self._drop_finished()
            yield

    def _read_stems(self) -> None:
        """Read each beginning that several prompts share, once, into slots of its own."""
        families: defaultdict[tuple[int, ...], list[_Answer]] = defaultdict(list)
        for answer in self.waiting:
            families[tuple(answer.prompt[:_LEAST_SHARED])].append(answer)
        shared_prefixes: list[list[int]] = []
        for family in families.values():
            shared = min(_common(family[0].prompt, other.prompt) for other in family)
            if len(family) > 1 and shared >= _LEAST_SHARED:
                for answer in family:
                    answer.stem, answer.shared = len(shared_prefixes), shared
                shared_prefixes.append(family[0].prompt[:shared])
        if shared_prefixes:
            self.shared_prefixes = KVCache(len(shared_prefixes))
            self._read(
                self.shared_prefixes, [(i, stem, 0) for i, stem in enumerate(shared_prefixes)]
            )

    def _admit(self, free: int) -> None:
        """Read the next prompts, and choose their first tokens."""
        fresh, self.waiting = self.waiting[:free], self.waiting[free:]
        self.slots.reserve(max(len(a.prompt) for a in fresh) + 1)
        first = len(self.live)
        for slot, answer in enumerate(fresh, first):
            if answer.shared:
                self.slots.copy_from(self.shared_prefixes, answer.stem, slot, answer.shared)
        hidden = self._read(
            self.slots,
            [(slot, a.prompt[a.shared :], a.shared) for slot, a in enumerate(fresh, first)],
        )
        self.live += fresh
        self._take(fresh, hidden)

    def _read(self, slots: KVCache, items: list[_Item]) -> Tensor:
        """Read (slot, tokens, past) in passes of limited size; the hidden states [n, E] of their
        last tokens."""
        slots.reserve(max(len(tokens) + past for _, tokens, past in items))
        hidden: list[Tensor] = []
        batch: list[_Item] = []
        size = 0
        for item in items:
            if batch and size + len(item[1]) > _MOST_TOKENS:
                hidden.append(self._pass(slots, batch))
                batch, size = [], 0
            batch.append(item)
            size += len(item[1])
        return torch.cat([*hidden, self._pass(slots, batch)])

    def _pass(self, slots: KVCache, items: list[_Item]) -> Tensor:
        parts: list[Part] = []
        for slot, tokens, past in items:
            start = parts[-1].end if parts else 0
            parts.append(Part(slot, start, start + len(tokens), past))
        ids = self._tensor([token for _, tokens, _ in items for token in tokens])
        positions = self._tensor(
            [past + i for _, tokens, past in items for i in range(len(tokens))]
        )
        last = self._tensor([part.end - 1 for part in parts])
        return self.stack.backbone(ids[None], positions[None], PrefillLayout(slots, parts), last)[0]

    def _step(self) -> None:
        """One more token for every live answer."""
        sizes = [answer.size for answer in self.live]
        self.slots.reserve(max(sizes) + 1)
        positions = self._tensor(sizes)
        layout = DecodeLayout(self.slots, positions, self.stack.head_weight.dtype)
        ids = self._tensor([answer.tokens[-1] for answer in self.live])
        self._take(self.live, self.stack.backbone(ids[None], positions[None], layout)[0])

    def _take(self, answers: list[_Answer], hidden: Tensor) -> None:
        for answer, token in zip(
            answers, sample_tokens(self.head(hidden), [a.chooser for a in answers]), strict=True
        ):
            answer.take(token, self.stack.tokenizer.decode)

    def _drop_finished(self) -> None:
        """Move the last answers into the slots of finished ones, so that the live ones stand
        first."""
        for slot in reversed(range(len(self.live))):
            if self.live[slot].finish:
                last = self.live.pop()
                if slot < len(self.live):
                    self.slots.move(len(self.live), slot, last.size)
                    self.live[slot] = last

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.stack.device)


def _common(one: list[int], other: list[int]) -> int:
    """How many first tokens two prompts share, at least one of each left over."""
    most = min(len(one), len(other)) - 1
    return next((i for i in range(most) if one[i] != other[i]), most)
