"""Near duplicates: which earlier text a text almost repeats, in time linear in the number of texts.

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
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

_NUM_BANDS, _BAND_SIZE = 32, 4
Similarity = Annotated[float, Field(ge=0.5, le=1)]
"""From which a text repeats another; below 0.5 the bands would miss pairs."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_RNG = np.random.Generator(np.random.PCG64(20240417))
# odd factors: multiplying by one is a permutation of the numbers of 64 bits
_FACTORS = _RNG.integers(1, 1 << 63, _NUM_BANDS * _BAND_SIZE, dtype=np.uint64) | np.uint64(1)
_SHIFTS = _RNG.integers(0, 1 << 63, _NUM_BANDS * _BAND_SIZE, dtype=np.uint64)


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; a Chinese or Japanese character is a word."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def features(text: str) -> frozenset[str]:
    """The words and word pairs of a text, or the text itself when it has no word."""
    singles = words(text)
    pairs = (f"{first} {second}" for first, second in pairwise(singles))
    return frozenset([*singles, *pairs]) or frozenset([text.strip()])


def phrases(text: str, size: int = 5) -> frozenset[str]:
    """The runs of `size` words in a text."""
    singles = words(text)
    return frozenset(" ".join(singles[i : i + size]) for i in range(len(singles) - size + 1))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared features as a share of all."""
    return len(one & other) / len(one | other)


def bands(features: frozenset[str]) -> list[bytes]:
    """The MinHash signature in bands; sets of similarity s share a band with probability s^4."""
    encoded = (feature.encode("utf-8", "replace") for feature in features)
    digests = [hashlib.blake2b(data, digest_size=8).digest() for data in encoded]
    hashes = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)  # [features]
    # each column is one random function of the hashes; its lowest value is one number of the
    # signature, which two sets share with the probability of their Jaccard index
    # the lowest bits of a product are mixed least
    mixed: NDArray[np.uint64] = (hashes[:, None] * _FACTORS + _SHIFTS) >> np.uint64(16)
    signature = mixed.min(axis=0)  # [bands * band size]
    return [row.tobytes() for row in signature.reshape(_NUM_BANDS, _BAND_SIZE)]


@dataclass
class NearDuplicates:
    """The texts met so far; one of at least `threshold` similarity to another repeats it."""

    threshold: float
    ids: list[str] = field(default_factory=list)
    sets: list[frozenset[str]] = field(default_factory=list)
    # (number of a band, its bytes) -> indices of the texts that have it
    _table: dict[tuple[int, bytes], list[int]] = field(default_factory=dict)

    def add(self, name: str, text: str) -> tuple[str, float] | None:
        """Remember `text`, or return (name, similarity) of the nearest earlier text it repeats."""
        own = features(text)
        keys = list(enumerate(bands(own)))
        candidates = sorted({index for key in keys for index in self._table.get(key, ())})
        # of equally near texts the first
        nearest = max(((jaccard(own, self.sets[i]), -i) for i in candidates), default=(0.0, 0))
        if nearest[0] >= self.threshold:
            return self.ids[-nearest[1]], nearest[0]
        for key in keys:
            self._table.setdefault(key, []).append(len(self.sets))
        self.ids.append(name)
        self.sets.append(own)
        return None
