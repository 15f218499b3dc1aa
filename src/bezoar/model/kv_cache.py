"""The keys and values of growing answers, one slot each, and attention during prefill and decoding.

n slots in use, H query heads, G key/value heads, R = H / G, S positions, T tokens of a packed row,
D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bezoar.model.limited_attention import PLAIN, Rule, attend_limited, capped

# positions by which the cache grows at least
_SPARE = 64


class KVCache:
    """Keys and values [num, G, S, D] of each layer, in the model's precision; S grows on demand."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._size = 0

    def reserve(self, size: int) -> None:
        """Make room for `size` positions in every slot."""
        if size <= self._size:
            return
        # spare room, so that the whole cache is not copied for every new token
        self._size = size + max(_SPARE, size // 4)
        for table in (self.keys, self.values):
            for layer, old in table.items():
                table[layer] = old.new_zeros(self.num, old.shape[1], self._size, old.shape[3])
                table[layer][:, :, : old.shape[2]] = old

    def layer(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, made on first use for keys such as `like` [1, G, T, D]."""
        if layer not in self.keys:
            shape = (self.num, like.shape[1], self._size, like.shape[3])
            self.keys[layer], self.values[layer] = like.new_zeros(shape), like.new_zeros(shape)
        return self.keys[layer], self.values[layer]

    def move(self, source: int, target: int, size: int) -> None:
        """Copy the first `size` positions of a slot into another."""
        for table in (self.keys, self.values):
            for tensor in table.values():
                tensor[target, :, :size] = tensor[source, :, :size]

    def copy_from(self, other: "KVCache", source: int, target: int, size: int) -> None:
        """Copy the first `size` positions of a slot of `other` into a slot."""
        for layer, key in other.keys.items():
            keys, values = self.layer(layer, key)
            keys[target, :, :size] = key[source, :, :size]
            values[target, :, :size] = other.values[layer][source, :, :size]


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
        keys, values = self.cache.layer(layer, key)
        groups = key.shape[1]
        out = torch.empty_like(query)
        start = 0
        for slot, tokens, past in self.parts:
            end = start + len(tokens)
            # 1) store first, so that cached prefix and new tokens are one slice of the slot
            size = past + end - start
            keys[slot, :, past:size] = key[0, :, start:end]
            values[slot, :, past:size] = value[0, :, start:end]
            # 2) attend group by group: the R queries that share a key head see it by a stride of 0
            q = query[0, :, start:end].reshape(groups, -1, end - start, query.shape[3])
            k, v = (x[slot, :, :size] for x in (keys, values))
            part = _attend_cached(q, k, v, rule)
            out[0, :, start:end] = part.flatten(0, 1)
            start = end
        return out


class DecodeLayout:
    """One new token for each of the first n slots, at `positions` [n]: stored, then attended to."""

    def __init__(self, cache: KVCache, positions: Tensor, dtype: torch.dtype) -> None:
        self.cache, self.positions = cache, positions
        self.rows = torch.arange(len(positions), device=positions.device)
        self.size, self.dtype = int(positions.max()) + 1, dtype
        self.masks: dict[int | None, Tensor] = {}  # by window

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule = PLAIN
    ) -> Tensor:
        """query [1, H, n, D], key and value [1, G, n, D] -> [1, H, n, D]."""
        keys, values = self.cache.layer(layer, key)
        num, groups = len(self.rows), key.shape[1]
        keys[self.rows, :, self.positions] = key[0].transpose(0, 1)
        values[self.rows, :, self.positions] = value[0].transpose(0, 1)
        # the R queries that share a key head take the place of a sequence: keys and values are
        # read once for all of them
        q = query[0].transpose(0, 1).reshape(num, groups, -1, query.shape[3])  # [n, G, R, D]
        k, v = keys[:num, :, : self.size], values[:num, :, : self.size]  # [n, G, S, D]
        mask = self._mask(rule.window)
        if rule.softcap is None:
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=rule.scale)
        else:
            scores = capped((q @ k.transpose(2, 3) * rule.scaling(q)).float(), rule.softcap)
            weights = (scores + mask).softmax(-1)  # [n, G, R, S]
            out = weights.to(v.dtype) @ v
        return out.flatten(1, 2).transpose(0, 1)[None]

    def _mask(self, window: int | None) -> Tensor:
        """[n, 1, 1, S]: 0 where a token sees, else minus infinity."""
        if window not in self.masks:
            places, seen_by = torch.arange(self.size, device=self.rows.device), self.positions
            unseen = places > seen_by[:, None]
            if window is not None:
                unseen |= places <= seen_by[:, None] - window
            mask = torch.zeros(unseen.shape, dtype=self.dtype, device=self.rows.device)
            self.masks[window] = mask.masked_fill_(unseen, float("-inf"))[:, None, None]
        return self.masks[window]


def _attend_cached(query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    """query [G, R, T, D], the last T of S positions, key and value [G, S, D] -> [G, R, T, D]."""
    size, past = key.shape[1], key.shape[1] - query.shape[2]
    if rule.limits(size):
        return attend_limited(query.to(key.dtype), key, value, rule)
    k, v = (x[:, None].expand(-1, query.shape[1], -1, -1) for x in (key, value))
    # is_causal aligns the first query with the first key, which is wrong after a prefix
    mask = None
    if past:
        shape = query.shape[2], size
        mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril(past)
    return scaled_dot_product_attention(
        query, k, v, attn_mask=mask, is_causal=mask is None, scale=rule.scale
    )
