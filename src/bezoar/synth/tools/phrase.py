"""Requests with gaps for arguments: `Convert {amount*} to {unit}[ with {digits} decimals]`.

`[...]` is left out where its optional argument is not given, or to leave out a required one;
`[...|flag=true]` says a value in words; `{name*}` may hold a list, one call for each of its items.
"""

import json
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bezoar.synth.tools.values import articles, listed

_PART = re.compile(r"\[([^\]|]*)(?:\|(\w+)=([^\]]+))?\]|([^\[]+)")
_GAP = re.compile(r"\{([\w.]+)(\*?)\}")


@dataclass(frozen=True)
class Part:
    """A piece of a phrase; `sets` is what it says in words."""

    text: str
    in_brackets: bool
    sets: tuple[str, Any] | None = None

    @cached_property
    def gaps(self) -> tuple[str, ...]:
        """The arguments that it names, `wall.width` for a part of an object."""
        return tuple(name for name, _ in _GAP.findall(self.text))

    @cached_property
    def arguments(self) -> frozenset[str]:
        """The parameters that it gives a value."""
        named = {gap.partition(".")[0] for gap in self.gaps}
        return frozenset(named | ({self.sets[0]} if self.sets else set()))


@dataclass(frozen=True)
class Phrase:
    """One way to ask for a call."""

    text: str

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Its pieces in order. ValueError for a value in `[...|name=value]` that is no JSON."""
        parts = []
        for inner, name, value, plain in _PART.findall(self.text):
            sets = (name, json.loads(value)) if name else None
            parts.append(Part(plain or inner, not plain, sets))
        return tuple(parts)

    @cached_property
    def listable(self) -> str:
        """The argument that may be a list; "" if none may."""
        return next((name for name, star in _GAP.findall(self.text) if star), "")

    def listed(self, texts: Sequence[str]) -> str:
        """Items for the gap that may be a list, each in quotes where the gap is."""
        if f'"{{{self.listable}*}}"' not in self.text:
            return listed(texts)
        return listed([f'"{text}"' for text in texts])[1:-1]

    def can_lack(self, required: Collection[str]) -> list[str]:
        """The required arguments without which the phrase still reads well."""
        firm = {name for p in self.parts if not p.in_brackets for name in p.arguments}
        alone = [p.arguments & set(required) for p in self.parts if p.in_brackets]
        return sorted({name for names in alone if len(names) == 1 for name in names} - firm)

    def choose(
        self, required: Collection[str], rng: random.Random, lack: str = ""
    ) -> tuple[Part, ...]:
        """The pieces of one request: all that say required arguments but `lack`, others or not."""
        chosen = []
        for part in self.parts:
            needed = not part.in_brackets or part.arguments & set(required)
            if lack not in part.arguments and (needed or rng.random() < 0.5):
                chosen.append(part)
        return tuple(chosen)


def filled(parts: tuple[Part, ...], words: Mapping[str, str]) -> str:
    """The request, with the words for each argument."""
    text = _GAP.sub(lambda gap: words[gap[1]], "".join(part.text for part in parts))
    return articles(" ".join(text.split()))
