"""Near duplicates: which earlier text a text almost repeats, in time that grows with the number of
texts alone.

Similarity is the Jaccard index of the sets of words and word pairs of two texts (ours: five-grams,
the choice for web pages, tell two instructions of ten words apart by one word in the middle).
Candidates come from MinHash signatures cut into bands (Broder 1997; Leskovec, Rajaraman, Ullman,
ch. 3) and are checked exactly, so none is named wrongly; one of similarity 0.7 is overlooked once
in 6,000 times, one of 0.5 once in 8.
"""

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_NUM_BANDS, _BAND_SIZE = 32, 4
LOWEST_THRESHOLD = 0.5
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_DRAWS = np.random.Generator(np.random.PCG64(20240417))
_FACTORS = _DRAWS.integers(1, 1 << 63, _NUM_BANDS * _BAND_SIZE, dtype=np.uint64) | np.uint64(1)
_SHIFTS = _DRAWS.integers(0, 1 << 63, _NUM_BANDS * _BAND_SIZE, dtype=np.uint64)


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; a Chinese or Japanese character is a word."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def features(text: str) -> frozenset[str]:
    """The words and word pairs of a text, or the text itself when it has no word."""
    found = words(text)
    pairs = (f"{a} {b}" for a, b in pairwise(found))
    return frozenset([*found, *pairs]) or frozenset([text.strip()])


def phrases(text: str, size: int = 5) -> frozenset[str]:
    """The runs of `size` words in a text."""
    found = words(text)
    return frozenset(" ".join(found[i : i + size]) for i in range(len(found) - size + 1))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared features as a share of all."""
    return len(one & other) / len(one | other)


def bands(found: frozenset[str]) -> list[bytes]:
    """The signature of a feature set in bands; sets of similarity s share a band with probability
    s^4."""
    hashes = np.array(
        [
            int.from_bytes(
                hashlib.blake2b(f.encode("utf-8", "replace"), digest_size=8).digest(), "big"
            )
            for f in found
        ],
        np.uint64,
    )
    mixed: NDArray[np.uint64] = (hashes[:, None] * _FACTORS + _SHIFTS) >> np.uint64(16)
    lowest = mixed.min(axis=0)
    return [lowest[i : i + _BAND_SIZE].tobytes() for i in range(0, len(lowest), _BAND_SIZE)]


@dataclass
class NearDuplicates:
    """The texts met so far. A text of at least `threshold` similarity to one of them is its near
    duplicate."""

    threshold: float
    ids: list[str] = field(default_factory=list)
    sets: list[frozenset[str]] = field(default_factory=list)
    _tables: list[dict[bytes, list[int]]] = field(
        default_factory=lambda: [{} for _ in range(_NUM_BANDS)]
    )

    def add(self, name: str, text: str) -> tuple[str, float] | None:
        """Remember `text` under `name`, or return the name and similarity of the nearest earlier
        text that it repeats."""
        found = features(text)
        keys = bands(found)
        candidates = sorted(
            {i for table, key in zip(self._tables, keys, strict=True) for i in table.get(key, ())}
        )
        nearest = max(((jaccard(found, self.sets[i]), -i) for i in candidates), default=(0.0, 0))
        if nearest[0] >= self.threshold:
            return self.ids[-nearest[1]], nearest[0]
        for table, key in zip(self._tables, keys, strict=True):
            table.setdefault(key, []).append(len(self.sets))
        self.ids.append(name)
        self.sets.append(found)
        return None


def check_threshold(threshold: float) -> None:
    """ValueError outside the range in which near duplicates are found."""
    if not LOWEST_THRESHOLD <= threshold <= 1:
        raise ValueError(f"near_duplicate must be between {LOWEST_THRESHOLD} and 1")
