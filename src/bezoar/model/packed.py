"""Prompt groups packed into one row without padding; the layout keeps them apart.

T tokens of a packed row, A trained tokens in it, N answers in it.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bezoar.model.attention import Segment, attend, attend_dense, attend_flex, block_mask
from bezoar.model.fast_paths import FLEX, usable
from bezoar.model.limited_attention import PLAIN, Rule
from bezoar.model.prompt_group import PromptGroup, alike, joined
from bezoar.model.resolve import reason
from bezoar.terminal import complain

FLEX_DEVICES = {"cuda"}
_flex_faults: list[str] = []
"""Why FlexAttention is not used in this process."""


@dataclass(frozen=True)
class PackedLayout:
    """Attention inside a packed row: each token sees its own segment's past and its prompt."""

    segments: tuple[Segment, ...]
    masks: dict[tuple[torch.device, int | None], Any] = field(
        default_factory=dict, compare=False, repr=False
    )

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule = PLAIN
    ) -> Tensor:
        """query [1, H, T, D], key and value [1, G, T, D] -> [1, H, T, D]."""
        if not usable("attention by segments"):
            return attend_dense(query, key, value, self.segments, rule)
        if query.device.type in FLEX_DEVICES and usable(FLEX) and not _flex_faults:
            out = self._attend_flex(query, key, value, rule)
            if out is not None:
                return out
        return attend(query, key, value, self.segments, rule)

    def _attend_flex(self, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor | None:
        """By FlexAttention; None, and a sentence, where that does not compile."""
        # one mask serves all layers of a window, forward and backward
        at = query.device, rule.window
        try:
            heads = query.shape[1], key.shape[1], query.shape[3]
            _try_flex(heads, value.dtype, query.device, rule)
            if at not in self.masks:
                self.masks[at] = block_mask(self.segments, *at)
            return attend_flex(query, key, value, self.masks[at], rule)
        except torch.OutOfMemoryError:
            raise
        # the compiler and the driver raise errors of many types
        except Exception as error:
            _flex_faults.append(reason(error))
            slower = "attention is computed segment by segment instead, which is slower"
            complain(f"FlexAttention cannot be used here ({reason(error)}); {slower}.")
            return None


@cache
def _try_flex(
    heads: tuple[int, int, int], dtype: torch.dtype, device: torch.device, rule: Rule
) -> None:
    """Compile FlexAttention for (H, G, D), forward and backward, on a short row; or raise."""

    def attempt() -> None:
        query, key, value = (
            torch.ones(1, n, 200, heads[2], dtype=dtype, device=device, requires_grad=True)
            for n in (heads[0], heads[1], heads[1])
        )
        mask = block_mask((Segment(0, 150, 0, 0), Segment(150, 200, 0, 70)), device, rule.window)
        attend_flex(query, key, value, mask, rule).sum().backward()  # type: ignore[no-untyped-call]

    # its backward pass is compiled when it first runs, too late to do without; in a thread, because
    # what wraps the caller (recomputation, no gradients, autocast) is of the thread
    with ThreadPoolExecutor(1) as thread:
        thread.submit(attempt).result()


@dataclass
class PackedBatch:
    """A packed row. The state at index[a] predicts the trained token target[a]."""

    tokens: Tensor  # [T]
    positions: Tensor  # [T]
    layout: PackedLayout
    index: Tensor  # [A]
    target: Tensor  # [A]
    answer_index: Tensor  # [A], the answer 0..N-1 that a trained token belongs to
    num_answers: int
    lengths: Tensor  # [T], the length of the longest sequence that a token is part of

    def to(self, device: torch.device) -> "PackedBatch":
        """The same row on a device."""
        tensors = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return PackedBatch(**{**vars(self), **tensors})


def pack(groups: Sequence[PromptGroup], *, share: bool = True) -> PackedBatch:
    """Groups in order as one row, prompts that begin alike read once where they are side by side.
    Without `share` every answer gets its own copy of the prompt."""
    if share and usable("shared prompts"):
        groups = [joined([groups[i] for i in run]) for run in alike(groups)]
    else:
        groups = [PromptGroup(group.prompt, [c]) for group in groups for c in group.completions]
    tokens, positions, lengths = list[int](), list[int](), list[int]()
    index, target, answer_index = list[int](), list[int](), list[int]()
    segments, num_answers = list[Segment](), 0
    for group in groups:
        # 1) the prompt, which is part of every sequence of the group
        start, size = len(tokens), len(group.prompt)
        tokens += group.prompt
        positions += range(size)
        lengths += [max([size, *(size + len(c.tokens) - 1 for c in group.completions)])] * size
        for number, answer in enumerate(group.completions):
            # 2) each answer continues at the prompt's positions, wherever it lies in the row; its
            #    last token predicts nothing and is not fed
            begin, num_fed = len(tokens), max(len(answer.tokens) - 1, 0)
            tokens += answer.tokens[:-1]
            positions += range(size, size + num_fed)
            lengths += [size + num_fed] * num_fed
            # 3) a token is predicted by the one before it, the first one by the prompt's last
            pairs = zip(answer.tokens, answer.trained, strict=True)
            for offset, (token, trained) in enumerate(pairs):
                if trained:
                    index.append(begin + offset - 1 if offset else start + size - 1)
                    target.append(token)
                    answer_index.append(num_answers)
            # 4) prompt and first answer are one segment, which saves a join; later answers are
            #    segments of their own that also see the prompt
            if number == 0:
                segments.append(Segment(start, len(tokens), 0, 0))
            elif num_fed:
                segments.append(Segment(begin, len(tokens), start, start + size))
            num_answers += 1
    return PackedBatch(
        torch.tensor(tokens),
        torch.tensor(positions),
        PackedLayout(tuple(segments)),
        torch.tensor(index, dtype=torch.long),
        torch.tensor(target, dtype=torch.long),
        torch.tensor(answer_index, dtype=torch.long),
        num_answers,
        torch.tensor(lengths),
    )
