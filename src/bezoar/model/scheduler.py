"""Continuous batching: which prompts are read and which answers get a token, pass after pass."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from bezoar.model.kv_cache import DecodeLayout, KVCache, Prefill, PrefillLayout
from bezoar.model.merge import Multiply
from bezoar.model.prompt_group import common_prefix
from bezoar.model.sampling import Sampler, SamplingParams, sample_tokens
from bezoar.model.stack import Stack

if TYPE_CHECKING:
    from bezoar.model.token_masks import FormMatcher

# prompt tokens that are read in one pass
_MOST_PREFILL = 4096
# shorter common prefixes are read again for each prompt
_SHORTEST_PREFIX = 16


@dataclass
class Answer:
    """An answer under way: `finish` is empty until it ends, `room` the most tokens it may have."""

    index: int
    prompt: list[int]
    params: SamplingParams
    room: int
    prefix: int = -1
    prefix_length: int = 0
    tokens: list[int] = field(default_factory=list)
    finish: Literal["", "stop", "length", "error"] = ""
    matcher: "FormMatcher | None" = None

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.params)

    @property
    def num_cached(self) -> int:
        """Tokens whose keys are stored: all but the last new one."""
        return len(self.prompt) + len(self.tokens) - 1

    def append(self, token: int, decode: Callable[[list[int]], str]) -> None:
        """Add a token and set `finish` if the answer ends with it."""
        params = self.params
        if self.matcher and self.matcher.error:
            self.finish = "error"
            return
        if token in params.stop_tokens:
            self.finish = "stop"
            return
        self.tokens.append(token)
        if self.matcher:
            self.matcher.append(token)
            if self.matcher.closed:
                self.finish = "stop"
                return
        if params.stop:
            # a token has at least one byte, so a stop string spans no more tokens than bytes
            tail = decode(self.tokens[-1 - max(len(stop.encode()) for stop in params.stop) :])
            if any(stop in tail for stop in params.stop):
                self.finish = "stop"
                return
        if len(self.tokens) >= self.room:
            self.finish = "length"


class Scheduler:
    """Decides what each pass computes: prompts into free slots, or a token for each live answer."""

    # Slot i of the cache belongs to live[i]: the live answers always fill the first slots.

    def __init__(
        self, stack: Stack, lm_head: Multiply, answers: list[Answer], num_slots: int
    ) -> None:
        self.stack, self.lm_head = stack, lm_head
        # longest first: long prompts decide how much room the cache needs, and a long answer that
        # started last would leave the other slots empty
        self.waiting = sorted(answers, key=lambda answer: (-len(answer.prompt), answer.index))
        self.live: list[Answer] = []
        self.cache = KVCache(min(num_slots, len(answers)), stack.device)
        self.shared_prefixes = KVCache(0, stack.device)

    @torch.inference_mode()
    def steps(self) -> Iterator[None]:
        """Run until all answers are finished; yields after every step."""
        # 1) read shared prefixes, before any prompt that begins with one
        self._read_prefixes()
        while self.waiting or self.live:
            free = self.cache.num - len(self.live)
            # 2) admit prompts only when several slots are free (or nothing else is left to do): a
            #    pass for one prompt costs nearly as much as a pass for four
            if self.waiting and (free >= max(1, self.cache.num // 8) or not self.live):
                self._admit(free)
            # 3) otherwise one more token for every live answer
            else:
                self._decode()
            # 4) free the slots of finished answers, so that no later pass computes for them
            self._drop_finished()
            yield

    def _read_prefixes(self) -> None:
        """Read each prefix that several prompts share, once, into a cache of its own."""
        # 1) prompts that begin alike share the longest prefix common to all of them
        families: defaultdict[tuple[int, ...], list[Answer]] = defaultdict(list)
        for answer in self.waiting:
            families[tuple(answer.prompt[:_SHORTEST_PREFIX])].append(answer)
        prefixes: list[list[int]] = []
        for family in families.values():
            first = family[0].prompt
            # the last token of a prompt is read by each: its state predicts the first new one
            shortest = min(len(answer.prompt) for answer in family) - 1
            length = min(shortest, *(common_prefix(first, answer.prompt) for answer in family))
            if len(family) > 1 and length >= _SHORTEST_PREFIX:
                for answer in family:
                    answer.prefix, answer.prefix_length = len(prefixes), length
                prefixes.append(first[:length])
        # 2) read them together
        if prefixes:
            self.shared_prefixes = KVCache(len(prefixes), self.stack.device)
            parts = [Prefill(slot, prefix, 0) for slot, prefix in enumerate(prefixes)]
            self._prefill(self.shared_prefixes, parts)

    def _admit(self, free: int) -> None:
        """Read the next prompts and draw their first tokens."""
        new, self.waiting = self.waiting[:free], self.waiting[free:]
        # 1) one more position than the prompt, for the first new token
        self.cache.reserve(max(len(answer.prompt) for answer in new) + 1)
        # 2) copy the shared prefix, then read only what follows it
        parts = []
        for slot, answer in enumerate(new, len(self.live)):
            length = answer.prefix_length
            if length:
                self.cache.copy_from(self.shared_prefixes, answer.prefix, slot, length)
            parts.append(Prefill(slot, answer.prompt[length:], length))
        hidden = self._prefill(self.cache, parts)
        # 3) the state of the last prompt token predicts the first token of the answer
        self.live += new
        self._append(new, hidden)

    def _prefill(self, cache: KVCache, parts: list[Prefill]) -> Tensor:
        """Read `parts` in passes of limited size; the states [n, E] of their last tokens."""
        cache.reserve(max(len(part.tokens) + part.past for part in parts))
        hidden: list[Tensor] = []
        batch: list[Prefill] = []
        size = 0
        for part in parts:
            if batch and size + len(part.tokens) > _MOST_PREFILL:
                hidden.append(self._pass(cache, batch))
                batch, size = [], 0
            batch.append(part)
            size += len(part.tokens)
        return torch.cat([*hidden, self._pass(cache, batch)])

    def _pass(self, cache: KVCache, batch: list[Prefill]) -> Tensor:
        row = self._tensor([token for part in batch for token in part.tokens])
        places = self._tensor([part.past + i for part in batch for i in range(len(part.tokens))])
        read = self._tensor([end - 1 for end in accumulate(len(part.tokens) for part in batch)])
        return self.stack.backbone(row[None], places[None], PrefillLayout(cache, batch), read)[0]

    def _decode(self) -> None:
        """One more token for every live answer."""
        sizes = [answer.num_cached for answer in self.live]
        self.cache.reserve(max(sizes) + 1)
        layout = DecodeLayout(self.cache, sizes, self.stack.device)
        ids = self._tensor([answer.tokens[-1] for answer in self.live])  # [n]
        self._append(self.live, self.stack.backbone(ids[None], layout.positions[None], layout)[0])

    def _append(self, answers: list[Answer], hidden: Tensor) -> None:
        logits = self.lm_head(hidden)
        held = [(row, answer.matcher) for row, answer in enumerate(answers) if answer.matcher]
        if held:
            from bezoar.model.token_masks import mask_logits

            mask_logits(logits, held)
        tokens = sample_tokens(logits, [answer.sampler for answer in answers])
        for answer, token in zip(answers, tokens, strict=True):
            answer.append(token, self.stack.tokenizer.decode)

    def _drop_finished(self) -> None:
        """Move the last answers into the slots of finished ones, so that no gap is left."""
        for slot in reversed(range(len(self.live))):
            if self.live[slot].finish:
                last = self.live.pop()
                if slot < len(self.live):
                    self.cache.move(len(self.live), slot, last.num_cached)
                    self.live[slot] = last

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.stack.device)
