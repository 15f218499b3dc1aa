"""Trees packed into one flat row without padding, with the attention that keeps them apart.

T tokens of a flat row, A trained tokens in it, N answers (branches) in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bezoar.model import flex_attention as flex
from bezoar.model.fast_paths import FLEX, usable
from bezoar.model.prompt_group import PromptGroup
from bezoar.model.segments import Segment, attend, attend_dense


@dataclass(frozen=True)
class PackedLayout:
    """Attention inside a flat row: each token sees its own segment's past and, in a later branch,
    the trunk it answers."""

    segments: tuple[Segment, ...]
    masks: dict[torch.device, Any] = field(default_factory=dict, compare=False, repr=False)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None
    ) -> Tensor:
        """query [1, H, T, D], key and value [1, G, T, D] -> [1, H, T, D]."""
        if not usable("attention by segments"):
            return attend_dense(query, key, value, self.segments, scale)
        if query.device.type == "cuda" and usable(FLEX):
            if query.device not in self.masks:
                self.masks[query.device] = flex.block_mask(self.segments, query.device)
            return flex.attend(query, key, value, self.masks[query.device], scale)
        return attend(query, key, value, self.segments, scale)


@dataclass
class PackedBatch:
    """A flat row. `index[a]` is the position that predicts the trained token `target[a]`, which
    belongs to answer `owner[a]`."""

    tokens: Tensor  # [T]
    positions: Tensor  # [T]
    layout: PackedLayout
    index: Tensor  # [A]
    target: Tensor  # [A]
    answer_index: Tensor  # [A], 0..N-1
    num_answers: int
    lengths: Tensor  # [T], the length of the longest sequence that a token is part of

    def to(self, device: torch.device) -> "PackedBatch":
        """The same row on a device."""
        moved = [getattr(self, name).to(device) for name in ("tokens", "positions")]
        rest = [getattr(self, name).to(device) for name in ("index", "target", "answer_index")]
        return PackedBatch(
            moved[0],
            moved[1],
            self.layout,
            rest[0],
            rest[1],
            rest[2],
            self.num_answers,
            self.lengths.to(device),
        )


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
        """The trunk and the first branch are one segment; every later branch is its own and looks
        back at the trunk."""
        start, size = len(self.tokens), len(group.prompt)
        self.tokens += group.prompt
        self.positions += range(size)
        self.lengths += [max([size, *(size + len(b.tokens) - 1 for b in group.completions)])] * size
        for number, completion in enumerate(group.completions):
            begin, fed = len(self.tokens), completion.tokens[:-1]
            self.tokens += fed
            self.positions += range(size, size + len(fed))
            self.lengths += [size + len(fed)] * len(fed)
            for offset, (token, trained) in enumerate(
                zip(completion.tokens, completion.trained, strict=True)
            ):
                if trained:
                    self.index.append(begin + offset - 1 if offset else start + size - 1)
                    self.target.append(token)
                    self.answer_index.append(self.num_answers)
            self.num_answers += 1
            if number == 0:
                self.segments.append(Segment(start, len(self.tokens), 0, 0))
            elif fed:
                self.segments.append(Segment(begin, len(self.tokens), start, start + size))


def pack(groups: Sequence[PromptGroup], *, share: bool = True) -> PackedBatch:
    """One flat row of the trees in order. Without `share` every answer gets its own copy of the
    prompt (the tests' reference)."""
    row, share = _Row(), share and usable("shared prompts")
    for group in groups:
        for part in (
            [group] if share else [PromptGroup(group.prompt, [b]) for b in group.completions]
        ):
            row.add(part)
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
