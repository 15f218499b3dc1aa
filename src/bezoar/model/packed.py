"""Prompt groups packed into one row without padding; the layout keeps them apart.

T tokens of a packed row, A trained tokens in it, N answers in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bezoar.model.fast_paths import FLEX, usable
from bezoar.model.prompt_group import PromptGroup
from bezoar.model.segments import Segment, attend, attend_dense, attend_flex, block_mask


@dataclass(frozen=True)
class PackedLayout:
    """Attention inside a packed row: each token sees its own segment's past and its prompt."""

    segments: tuple[Segment, ...]
    masks: dict[torch.device, Any] = field(default_factory=dict, compare=False, repr=False)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None
    ) -> Tensor:
        """query [1, H, T, D], key and value [1, G, T, D] -> [1, H, T, D]."""
        if not usable("attention by segments"):
            return attend_dense(query, key, value, self.segments, scale)
        device = query.device
        if device.type == "cuda" and usable(FLEX):
            # one mask serves all layers, forward and backward
            if device not in self.masks:
                self.masks[device] = block_mask(self.segments, device)
            return attend_flex(query, key, value, self.masks[device], scale)
        return attend(query, key, value, self.segments, scale)


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


@dataclass
class _Row:
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    answer_index: list[int] = field(default_factory=list)
    num_answers: int = 0
    lengths: list[int] = field(default_factory=list)

    def add(self, group: PromptGroup) -> None:
        """Append a group. The last token of an answer predicts nothing and is not fed."""
        # 1) the prompt, which is part of every sequence of the group
        start, size = len(self.tokens), len(group.prompt)
        longest = max([size, *(size + len(c.tokens) - 1 for c in group.completions)])
        self.tokens += group.prompt
        self.positions += range(size)
        self.lengths += [longest] * size
        for number, answer in enumerate(group.completions):
            # 2) each answer continues at the prompt's positions, wherever it lies in the row
            begin, fed = len(self.tokens), answer.tokens[:-1]
            self.tokens += fed
            self.positions += range(size, size + len(fed))
            self.lengths += [size + len(fed)] * len(fed)
            # 3) a token is predicted by the one before it, the first one by the prompt's last
            for offset, (token, trained) in enumerate(
                zip(answer.tokens, answer.trained, strict=True)
            ):
                if trained:
                    self.index.append(begin + offset - 1 if offset else start + size - 1)
                    self.target.append(token)
                    self.answer_index.append(self.num_answers)
            self.num_answers += 1
            # 4) prompt and first answer are one segment, which saves a join; later answers are
            #    segments of their own that also see the prompt
            if number == 0:
                self.segments.append(Segment(start, len(self.tokens), 0, 0))
            elif fed:
                self.segments.append(Segment(begin, len(self.tokens), start, start + size))


def pack(groups: Sequence[PromptGroup], *, share: bool = True) -> PackedBatch:
    """Groups in order as one row. Without `share` every answer gets its own copy of the prompt."""
    if not (share and usable("shared prompts")):
        groups = [PromptGroup(group.prompt, [c]) for group in groups for c in group.completions]
    row = _Row()
    for group in groups:
        row.add(group)
    return PackedBatch(
        torch.tensor(row.tokens),
        torch.tensor(row.positions),
        PackedLayout(tuple(row.segments)),
        torch.tensor(row.index, dtype=torch.long),
        torch.tensor(row.target, dtype=torch.long),
        torch.tensor(row.answer_index, dtype=torch.long),
        row.num_answers,
        torch.tensor(row.lengths),
    )
