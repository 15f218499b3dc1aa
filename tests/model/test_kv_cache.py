"""Attention over the cache's slots against a softmax over each slot's own keys."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bezoar.model.kv_cache import DecodeLayout, KVCache, Prefill, PrefillLayout
from bezoar.model.limited_attention import PLAIN, Rule, attend_blocks

CPU = torch.device("cpu")
RULES = {"plain": PLAIN, "scaled": Rule(0.3), "window": Rule(window=40), "cap": Rule(softcap=2.0)}


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    """The slow reference: query [H, T, D], the last of S positions, key and value [G, S, D]."""
    repeats, size = query.shape[0] // key.shape[0], key.shape[1]
    k, v = (x.double().repeat_interleave(repeats, 0) for x in (key, value))
    scores = query.double() @ k.transpose(1, 2) * rule.scaling(query)
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    for row, position in enumerate(range(size - query.shape[1], size)):
        scores[:, row, position + 1 :] = float("-inf")
        scores[:, row, : rule.first(position)] = float("-inf")
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("name", RULES)
def test_every_slot_is_read_to_its_own_end(name: str) -> None:
    """Of any length, in any order, in a slot that held a longer answer, behind a shared prefix."""
    rule, sizes, shared = RULES[name], [3, 300, 128, 257, 40], 150
    cache, prefixes = KVCache(5, CPU), KVCache(1, CPU)
    # 1) what is left of an earlier answer is never seen
    cache.reserve(200)
    cache.write(0, 0, 0, numbers(1, 2, 200, 8) * 50, numbers(2, 2, 200, 8) * 50)
    cache.reserve(302)
    # 2) a prefix that slot 1 begins with, and prompts of every length behind nothing
    k, v, q = numbers(3, 1, 2, 1000, 8), numbers(4, 1, 2, 1000, 8), numbers(5, 1, 6, 1000, 8)
    prefixes.reserve(shared)
    first = k[:, :, :shared], v[:, :, :shared]
    layout = PrefillLayout(prefixes, [Prefill(0, [0] * shared, 0)])
    layout.attend(0, q[:, :, :shared], *first, rule)
    cache.copy_from(prefixes, 0, 1, shared)
    pasts = [shared if slot == 1 else 0 for slot in range(5)]
    parts = [
        Prefill(i, [0] * (n - p), p) for i, (n, p) in enumerate(zip(sizes, pasts, strict=True))
    ]
    total = sum(len(part.tokens) for part in parts)
    own = slice(shared, shared + total)
    out = PrefillLayout(cache, parts).attend(0, q[:, :, own], k[:, :, own], v[:, :, own], rule)
    held, start = list[tuple[Tensor, Tensor]](), shared
    for slot, tokens, past in parts:
        row = slice(start, start + len(tokens))
        keys, values = (
            torch.cat((x[0, :, : past if slot == 1 else 0], x[0, :, row]), 1) for x in (k, v)
        )
        wanted = plain(q[0, :, row], keys, values, rule)
        torch.testing.assert_close(
            out[0, :, row.start - shared : row.stop - shared].double(), wanted, atol=1e-5, rtol=0
        )
        held.append((keys, values))
        start = row.stop
    # 3) two new tokens for every slot
    for step in range(2):
        q, k, v = (numbers(6 + step + i, 1, n, 5, 8) for i, n in ((0, 6), (10, 2), (20, 2)))
        out = DecodeLayout(cache, [n + step for n in sizes], CPU).attend(0, q, k, v, rule)
        for slot, old in enumerate(held):
            keys, values = (
                torch.cat((x, y[0, :, slot : slot + 1]), 1)
                for x, y in zip(old, (k, v), strict=True)
            )
            held[slot] = keys, values
            wanted = plain(q[0, :, slot : slot + 1], keys, values, rule)
            torch.testing.assert_close(
                out[0, :, slot : slot + 1].double(), wanted, atol=1e-5, rtol=0
            )


@pytest.mark.parametrize(("size", "past"), [(1, 0), (64, 0), (200, 0), (150, 77), (1, 130)])
def test_blocks_of_queries_see_their_past(size: int, past: int) -> None:
    q, k, v = (
        numbers(0, 2, 3, size, 8),
        numbers(1, 2, size + past, 8),
        numbers(2, 2, size + past, 8),
    )
    wanted = plain(q.flatten(0, 1), k, v, PLAIN)
    for dtype, allowed in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        out = attend_blocks(q.to(dtype), k.to(dtype), v.to(dtype), 8**-0.5)
        torch.testing.assert_close(out.flatten(0, 1).double(), wanted, atol=allowed, rtol=0)


def test_more_slots_where_their_keys_are_small() -> None:
    config = SimpleNamespace(
        num_hidden_layers=16, num_attention_heads=8, num_key_value_heads=4, hidden_size=512
    )
    # 2 * 16 layers * 4 groups * 64 numbers * 2 bytes = 16 KiB a position: 4096 fill 4 GiB
    assert KVCache.affordable(config, 4096, 2) == 64
    assert KVCache.affordable(config, 4097, 2) == 32
    assert KVCache.affordable(config, 4096, 4) == 32
