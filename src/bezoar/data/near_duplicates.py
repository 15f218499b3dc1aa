"""Near duplicates: which earlier text a text almost repeats, in time linear in the number of texts.

Similarity is the Jaccard index of the sets of words and word pairs of two texts (ours: five-grams,
the choice for web pages, tell two instructions of ten words apart by one word in the middle).
Candidates come from MinHash signatures cut into bands (Broder 1997; Leskovec, Rajaraman, Ullman,
ch. 3) and are checked exactly, so none is named wrongly; one of similarity 0.7 is overlooked once
in 6,000 times, one of 0.5 once in 8.
"""

import hashlib
import json
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice, pairwise
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bezoar.data.column_file import ColumnFile

Similarity = Annotated[float, Field(ge=0.5, le=1)]
"""From which a text repeats another; below 0.5 the bands would miss pairs."""
Twin = tuple[str, float]
"""The name of the text that is repeated, and the similarity."""
_NUM_BANDS, _BAND_SIZE = 32, 4
_NUM_FUNCTIONS = _NUM_BANDS * _BAND_SIZE
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_RNG = np.random.Generator(np.random.PCG64(20240417))
# odd factors: multiplying by one is a permutation of the numbers of 64 bits
_FACTORS = _RNG.integers(1, 1 << 63, _NUM_FUNCTIONS, dtype=np.uint64) | np.uint64(1)
_SHIFTS = _RNG.integers(0, 1 << 63, _NUM_FUNCTIONS, dtype=np.uint64)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_HASH = hashlib.blake2b(digest_size=8)
# hashes that are mixed at once, to stay in the processor's cache
_IN_CACHE = 1 << 12
# texts that are read at once
_BLOCK = 1 << 12
# numbers of 64 bits
_MARKS = 4
# bytes of texts that are not yet put on the disk
_IN_MEMORY = 1 << 24
# sets of features that are kept, of the texts that were compared last
_NUM_SETS = 1 << 16


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; a Chinese or Japanese character is a word."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def features(text: str) -> frozenset[bytes]:
    """The words and word pairs of a text, or the text itself when it has no word; in UTF-8."""
    singles = " ".join(words(text)).encode().split(b" ")
    if singles == [b""]:
        return frozenset([text.strip().encode("utf-8", "surrogatepass")])
    return frozenset([*singles, *map(b" ".join, pairwise(singles))])


def phrases(text: str, size: int = 5) -> frozenset[str]:
    """The runs of `size` words in a text."""
    singles = words(text)
    return frozenset(" ".join(singles[i : i + size]) for i in range(len(singles) - size + 1))


def jaccard(one: frozenset[bytes], other: frozenset[bytes]) -> float:
    """Shared features as a share of all."""
    num_shared = len(one & other)
    return num_shared / (len(one) + len(other) - num_shared)


class Hashes(NamedTuple):
    """Eight bytes of each feature of several texts, one behind the other."""

    values: NDArray[np.uint64]
    starts: NDArray[np.int64]
    """Where those of each text begin."""

    @classmethod
    def of(cls, texts: Sequence[Iterable[bytes]]) -> "Hashes":
        """Those of sets of features, none of them empty."""
        digests = [_digests(features) for features in texts]
        ends = np.cumsum([len(each) // 8 for each in digests])
        values = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
        return cls(values, np.concatenate([[0], ends[:-1]]))


def bands(hashes: Hashes) -> NDArray[np.uint64]:
    """[bands, texts]: the MinHash signatures of sets of features, in bands.

    Two sets of similarity s share a band with probability s^4.
    """
    # 1) The signatures, of a few texts at a time.
    values, starts = hashes
    signatures = np.empty((_NUM_FUNCTIONS, len(starts)), np.uint64)
    step = max(1, _IN_CACHE * len(starts) // len(values))
    for first in range(0, len(starts), step):
        last = first + step
        part = values[starts[first] : starts[last] if last < len(starts) else len(values)]
        mixed, begins = np.empty_like(part), starts[first:last] - starts[first]
        # each is one random function of the hashes; its lowest value in a text is one number of the
        # signature, which two texts share with the probability of their Jaccard index
        for function in range(_NUM_FUNCTIONS):
            np.multiply(part, _FACTORS[function], out=mixed)
            np.add(mixed, _SHIFTS[function], out=mixed)
            np.minimum.reduceat(mixed, begins, out=signatures[function, first:last])
    # 2) The four numbers of a band as one. The lowest bits of a product are mixed least.
    numbers = (signatures >> np.uint64(16)).reshape(_NUM_BANDS, _BAND_SIZE, len(starts))
    found = numbers[:, 0]
    for number in range(1, _BAND_SIZE):
        found = found * _MIX + numbers[:, number]
    return found


def marks(hashes: Hashes) -> NDArray[np.uint64]:
    """[texts, 4]: 256 bits a text, of which each feature sets one."""
    values, starts = hashes
    bits, places = np.uint64(1) << (values & np.uint64(63)), (values >> np.uint64(6)) & np.uint64(3)
    words = [np.where(places == word, bits, np.uint64(0)) for word in range(_MARKS)]
    return np.stack([np.bitwise_or.reduceat(word, starts) for word in words], axis=1)


def _digests(features: Iterable[bytes]) -> bytes:
    digests = []
    for feature in features:
        # a copy costs less than reading the settings of a new one
        digest = _HASH.copy()
        digest.update(feature)
        digests.append(digest.digest())
    return b"".join(digests)


class NearDuplicates:
    """The texts met so far; one of at least `threshold` similarity to another repeats it.

    Texts and bands are in temporary files in `folder`: 400 bytes a text and its length. In memory
    are some 100 bytes a text while one band is sorted, 4 to 12 for each band that texts share, and
    at most 200 MB of features.
    """

    def __init__(self, threshold: float, folder: str | None = None) -> None:
        self.threshold, self._folder = threshold, folder
        self._bands = ColumnFile(_NUM_BANDS, np.uint64, folder)
        self._texts = SpooledTemporaryFile(_IN_MEMORY, dir=folder)  # noqa: SIM115
        # of each text in the file of texts
        self._ends = array("q", [0])
        self._kept = bytearray()
        # what bounds the similarity of two texts: the marks and the number of their features
        self._marks: list[NDArray[np.uint64]] = [np.empty((0, _MARKS), np.uint64)]
        self._sizes: list[NDArray[np.int64]] = [np.empty(0, np.int64)]

    def add(self, texts: Iterable[tuple[str, str]]) -> Iterator[Twin | None]:
        """For each (name, text) None, or (name, similarity) of the nearest earlier text that it
        repeats; only texts that repeat none are remembered.

        All of `texts` are read before the first answer; all answers have to be gone through.
        """
        rest = iter(texts)
        while block := list(islice(rest, _BLOCK)):
            self._store(block)
        # Most bands are those of one text alone, and only the others have to be looked for.
        # Sorting finds them, in the memory of one band of all texts.
        shared, num = ColumnFile(_NUM_BANDS, np.uint32, self._folder), 0
        for size in self._bands.blocks:
            shared.append(np.zeros((_NUM_BANDS, size), np.uint32))
        for band in range(_NUM_BANDS):
            numbers, num = _numbered(self._bands.column(band), num)
            shared.set_column(band, numbers)
        return self._compared(shared, num)

    def _store(self, block: list[tuple[str, str]]) -> None:
        self._texts.seek(self._ends[-1])
        for item in block:
            data = json.dumps(item).encode()
            self._texts.write(data)
            self._ends.append(self._ends[-1] + len(data))
        sets = [features(text) for _, text in block]
        hashes = Hashes.of(sets)
        self._bands.append(bands(hashes))
        self._marks.append(marks(hashes))
        self._sizes.append(np.array([len(each) for each in sets]))

    def _compared(self, shared: ColumnFile, num: int) -> Iterator[Twin | None]:
        """What `add` gives, from the numbers (1 to `num`; 0 for none) of the shared bands."""
        # of each shared band the first text that is remembered, counted from 1, and later ones
        first, later = np.zeros(num + 1, np.uint32), _Later()
        # one array each, also for the next time
        table, sizes = np.concatenate(self._marks), np.concatenate(self._sizes)
        self._marks, self._sizes = [table], [sizes]
        # texts that were compared are likely to be compared again: those of a family with many rows
        features_of = lru_cache(_NUM_SETS)(lambda text: features(self._read(text)[1]))
        text, known = 0, len(self._kept)
        for block in shared.rows():
            for numbers in _not_zero(block):
                if text >= known:
                    twin, near = None, set[int]()
                    if len(numbers) and len(found := _with(numbers, first, later)):
                        # most were brought by a few common words; only what may be near is read
                        near.update(
                            found[upper_bound(text, found, table, sizes) >= self.threshold].tolist()
                        )
                    if near:
                        own = features_of(text)
                        # of equally near texts the first
                        nearest = max((jaccard(own, features_of(i)), -i) for i in near)
                        if nearest[0] >= self.threshold:
                            twin = self._read(-nearest[1])[0], nearest[0]
                    self._kept.append(twin is None)
                    yield twin
                if len(numbers) and self._kept[text]:
                    _remember(text, numbers, first, later)
                text += 1

    def _read(self, text: int) -> Any:
        """Its name and itself."""
        self._texts.seek(self._ends[text])
        return json.loads(self._texts.read(self._ends[text + 1] - self._ends[text]))


_Later = dict[int, "array[int]"]


def _numbered(column: NDArray[np.uint64], num: int) -> tuple[NDArray[np.uint32], int]:
    """Numbers above `num` for values that stand more than once, 0 for others; the highest."""
    order = np.argsort(column)
    is_same = np.diff(column[order], prepend=~column[order[:1]]) == 0
    begins = np.append(is_same[1:], False) & ~is_same
    numbers = np.zeros(len(column), np.uint32)
    shared = order[is_same | begins]
    numbers[shared] = num + np.cumsum(begins[is_same | begins])
    return numbers, num + int(begins.sum())


def _not_zero(block: NDArray[np.uint32]) -> Iterator[NDArray[np.uint32]]:
    """Of each row the numbers above 0."""
    is_shared = block > 0
    for numbers, chosen, any_shared in zip(block, is_shared, is_shared.sum(axis=1), strict=True):
        yield numbers[chosen] if any_shared else numbers[:0]


def _with(
    numbers: NDArray[np.uint32], first: NDArray[np.uint32], later: _Later
) -> NDArray[np.int64]:
    """The remembered texts that have one of these bands; those that have several as often."""
    heads = first[numbers]
    own = numbers[heads > 0].tolist() if later else []
    arrays = [later[number] for number in own if number in later]
    return np.concatenate([heads[heads > 0].astype(np.int64) - 1, *arrays])


def _remember(
    text: int, numbers: NDArray[np.uint32], first: NDArray[np.uint32], later: _Later
) -> None:
    """Put a text where `_with` finds it."""
    is_first = first[numbers] == 0
    first[numbers[is_first]] = text + 1
    for number in numbers[~is_first].tolist():
        later.setdefault(number, array("q")).append(text)


def upper_bound(
    text: int, others: NDArray[np.int64], marks: NDArray[np.uint64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How similar a text can be to others, by their marks and sizes: each mark that one has and the
    other has not is of a feature that they do not share."""
    own, theirs = marks[text], marks[others]
    num_own = sizes[text] - np.bitwise_count(own & ~theirs).sum(axis=1)
    num_theirs = sizes[others] - np.bitwise_count(theirs & ~own).sum(axis=1)
    most = np.minimum(num_own, num_theirs)
    return np.asarray(most / (sizes[text] + sizes[others] - most))
