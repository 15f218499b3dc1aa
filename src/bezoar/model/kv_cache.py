"""The keys and values of growing answers, one slot each, and attention during prefill and decoding.

n slots in use, H query heads, G key/value heads, R = H / G, N blocks of B positions, S = N B, T
tokens of a packed row, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bezoar.model.limited_attention import PLAIN, Rule, attend_blocks, attend_limited, capped

# positions of a block: no slot is read beyond the block that it ends in
_BLOCK = {"cpu": 128, "cuda": 256}
# bytes of keys and values up to which more slots are the default
_AFFORDABLE = 2**32


class KVCache:
    """Keys and values [N, num, G, B, D] of each layer, in the model's precision; N grows on demand.

    A block's keys of the first slots lie together, so that products read them as they are.
    """

    def __init__(self, num: int, device: torch.device) -> None:
        self.num, self.block = num, _BLOCK.get(device.type, 256)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._blocks = 0

    @staticmethod
    def affordable(config: Any, positions: int, width: int) -> int:
        """64 slots of so many positions, of numbers of `width` bytes; 32 where they would take more
        than 4 GiB: every step reads all weights, and few answers do not pay for that."""
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        position = 2 * config.num_hidden_layers * groups * size * width
        return 64 if 64 * positions * position <= _AFFORDABLE else 32

    def blocks(self, size: int) -> int:
        """The blocks that hold `size` positions."""
        return -(-size // self.block)

    def reserve(self, size: int) -> None:
        """Make room for `size` positions in every slot."""
        if self.blocks(size) <= self._blocks:
            return
        # spare room, so that the whole cache is not copied for every new block
        self._blocks = self.blocks(size + size // 4)
        for table in (self.keys, self.values):
            for layer, old in table.items():
                table[layer] = _zeros((self._blocks, *old.shape[1:]), old)
                table[layer][: old.shape[0]] = old

    def layer(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, made on first use for keys such as `like` [..., G, T, D]."""
        if layer not in self.keys:
            shape = (self._blocks, self.num, like.shape[-3], self.block, like.shape[-1])
            self.keys[layer], self.values[layer] = _zeros(shape, like), _zeros(shape, like)
        return self.keys[layer], self.values[layer]

    def write(self, layer: int, slot: int, past: int, key: Tensor, value: Tensor) -> None:
        """Store key and value [G, T, D] behind the first `past` positions of a slot."""
        for table, new in zip(self.layer(layer, key), (key, value), strict=True):
            start = past
            while start < past + new.shape[1]:
                number, place = divmod(start, self.block)
                part = new[:, start - past : start - past + self.block - place]
                table[number, slot, :, place : place + part.shape[1]] = part
                start += part.shape[1]

    def read(self, layer: int, slot: int, size: int) -> tuple[Tensor, Tensor]:
        """A copy of the first `size` positions of a slot: keys and values [G, size, D]."""
        key, value = (
            table[layer][: self.blocks(size), slot].transpose(0, 1).flatten(1, 2)[:, :size]
            for table in (self.keys, self.values)
        )
        return key, value

    def move(self, source: int, target: int, size: int) -> None:
        """Copy the first `size` positions of a slot into another."""
        self.copy_from(self, source, target, size)

    def copy_from(self, other: "KVCache", source: int, target: int, size: int) -> None:
        """Copy the first `size` positions of a slot of `other` into a slot."""
        blocks = self.blocks(size)
        for layer, key in other.keys.items():
            keys, values = self.layer(layer, key)
            keys[:blocks, target] = key[:blocks, source]
            values[:blocks, target] = other.values[layer][:blocks, source]


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    # the system makes pages of these when they are written, and most are not: prompts differ
    size = int(np.prod(shape)) * like.element_size()
    return torch.from_numpy(np.zeros(size, np.uint8)).view(like.dtype).view(shape)


class Prefill(NamedTuple):
    """Tokens to read into a slot that already holds `past` positions."""

    slot: int
    tokens: list[int]
    past: int


@dataclass(frozen=True)
class PrefillLayout:
    """Prompts in one packed row: each is stored in its slot and attends to what that slot holds."""

    cache: KVCache
    parts: Sequence[Prefill]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule = PLAIN
    ) -> Tensor:
        """query [1, H, T, D], key and value [1, G, T, D] -> [1, H, T, D]."""
        groups, start = key.shape[1], 0
        out = torch.empty_like(query)
        for slot, tokens, past in self.parts:
            end = start + len(tokens)
            k, v = key[0, :, start:end], value[0, :, start:end]
            self.cache.write(layer, slot, past, k, v)
            if past:
                k, v = self.cache.read(layer, slot, past + len(tokens))
            # group by group: the R queries that share a key head see it by a stride of 0
            q = query[0, :, start:end].reshape(groups, -1, end - start, query.shape[3])
            out[0, :, start:end] = _attend_cached(q, k, v, rule).flatten(0, 1)
            start = end
        return out


class DecodeLayout:
    """One new token for each of the first n slots, at `positions`: stored, then attended to."""

    def __init__(self, cache: KVCache, positions: Sequence[int], device: torch.device) -> None:
        self.cache, size = cache, cache.block
        self.positions = torch.tensor(positions, device=device)  # [n]
        self.places = self.positions // size, torch.arange(len(positions), device=device)
        self.offsets = self.positions % size
        # of each block the slots that are read: up to the last one that reaches it
        self.reach = [
            1 + max(slot for slot, position in enumerate(positions) if position >= start)
            for start in range(0, max(positions) + 1, size)
        ]
        self.masks: dict[int | None, Tensor] = {}  # by window

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule = PLAIN
    ) -> Tensor:
        """query [1, H, n, D], key and value [1, G, n, D] -> [1, H, n, D]."""
        keys, values = self.cache.layer(layer, key)
        keys[*self.places, :, self.offsets] = key[0].transpose(0, 1)
        values[*self.places, :, self.offsets] = value[0].transpose(0, 1)
        # the R queries that share a key head are rows of one product: keys are read once for all
        groups, size = key.shape[1], self.cache.block
        q = query[0].transpose(0, 1).reshape(-1, query.shape[1] // groups, query.shape[3])
        mask = self._mask(rule.window)
        scores = mask.new_zeros(len(q), q.shape[1], mask.shape[1])  # [n G, R, S]
        for number, slots in enumerate(self.reach):
            part, rows = slice(number * size, (number + 1) * size), slots * groups
            k = keys[number, :slots].flatten(0, 1)  # [slots G, B, D]
            scores[:rows, :, part] = torch.bmm(q[:rows], k.transpose(1, 2))
        scores = capped(scores.mul_(rule.scaling(q)), rule.softcap)
        scores.view(len(mask), -1, mask.shape[1]).add_(mask[:, None])
        weights = scores.softmax(-1).to(value.dtype)
        # sums over blocks in float32
        out = torch.zeros(q.shape, dtype=torch.float32, device=q.device)
        for number, slots in enumerate(self.reach):
            part, rows = slice(number * size, (number + 1) * size), slots * groups
            v = values[number, :slots].flatten(0, 1)
            out[:rows] += torch.bmm(weights[:rows, :, part], v)
        return out.to(q.dtype).view(len(mask), -1, q.shape[2]).transpose(0, 1)[None]

    def _mask(self, window: int | None) -> Tensor:
        """[n, S]: 0 where a token sees, else minus infinity."""
        if window not in self.masks:
            places = torch.arange(len(self.reach) * self.cache.block, device=self.positions.device)
            unseen = places > self.positions[:, None]
            if window is not None:
                unseen |= places <= self.positions[:, None] - window
            mask = torch.zeros(unseen.shape, device=unseen.device)
            self.masks[window] = mask.masked_fill_(unseen, float("-inf"))
        return self.masks[window]


def _attend_cached(query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    """query [G, R, T, D], the last T of S positions, key and value [G, S, D] -> [G, R, T, D]."""
    size, past = key.shape[1], key.shape[1] - query.shape[2]
    if rule.limits(size):
        return attend_limited(query.to(key.dtype), key, value, rule)
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return attend_blocks(query, key, value, rule.scaling(query))
    k, v = (x[:, None].expand(-1, query.shape[1], -1, -1) for x in (key, value))
    # is_causal aligns the first query with the first key, which is wrong after a prefix
    mask = None
    if past:
        shape = query.shape[2], size
        mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril(past)
    return scaled_dot_product_attention(
        query, k, v, attn_mask=mask, is_causal=mask is None, scale=rule.scale
    )
