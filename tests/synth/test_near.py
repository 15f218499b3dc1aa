"""Near duplicates: the measure, the thresholds, that none is overlooked among many, and the same
answers as from a plain table in memory."""

import hashlib
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bezoar.data.column_file import ColumnFile
from bezoar.data.near_duplicates import (
    Hashes,
    NearDuplicates,
    Twin,
    bands,
    features,
    jaccard,
    marks,
    phrases,
    upper_bound,
    words,
)


class Plain:
    """One text after the other, with every set and every band in memory."""

    def __init__(self, threshold: float) -> None:
        self.threshold, self.ids, self.sets = threshold, list[str](), list[frozenset[str]]()
        self.table: dict[tuple[int, bytes], list[int]] = {}
        rng = np.random.Generator(np.random.PCG64(20240417))
        self.factors = rng.integers(1, 1 << 63, 128, dtype=np.uint64) | np.uint64(1)
        self.shifts = rng.integers(0, 1 << 63, 128, dtype=np.uint64)

    def add(self, name: str, text: str) -> Twin | None:
        singles = words(text)
        pairs = (f"{one} {other}" for one, other in pairwise(singles))
        own = frozenset([*singles, *pairs]) or frozenset([text.strip()])
        encoded = (feature.encode("utf-8", "replace") for feature in own)
        digests = [hashlib.blake2b(data, digest_size=8).digest() for data in encoded]
        hashes = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
        mixed = (hashes[:, None] * self.factors + self.shifts) >> np.uint64(16)
        signature = mixed.min(axis=0).reshape(32, 4)
        keys = [(band, row.tobytes()) for band, row in enumerate(signature)]
        found = {i for key in keys for i in self.table.get(key, ())}
        near = [(len(own & self.sets[i]) / len(own | self.sets[i]), -i) for i in found]
        similarity, nearest = max(near, default=(0.0, 0))
        if similarity >= self.threshold:
            return self.ids[-nearest], similarity
        for key in keys:
            self.table.setdefault(key, []).append(len(self.sets))
        self.ids.append(name)
        self.sets.append(own)
        return None


def found_in(seen: NearDuplicates, *texts: str) -> list[Twin | None]:
    return list(seen.add((text, text) for text in texts))


def changed_texts(num: int, length: int, most_changes: int) -> list[str]:
    """Random words; two of three texts are an earlier one with up to so many words changed."""
    draw, texts = random.Random(5), list[list[str]]()
    for number in range(num):
        text = [f"word{draw.randrange(3000)}" for _ in range(length)]
        if number % 3:
            text = list(draw.choice(texts))
            for _ in range(draw.randint(1, most_changes)):
                text[draw.randrange(length)] = f"word{draw.randrange(3000)}"
        texts.append(text)
    return [" ".join(text) for text in texts]


def test_words_and_features() -> None:
    assert words("Don't stop, ÉCOLE 3.5!") == ["don", "t", "stop", "école", "3", "5"]
    assert words("你好 world") == ["你", "好", "world"]
    assert features("a b a") == {b"a", b"b", b"a b", b"b a"}
    assert features("?!") == {b"?!"}


def test_similarity_by_hand() -> None:
    # words a b c and pairs ab bc; words a b d and pairs ab bd: shared a, b, ab; all a b c d ab bc
    # bd
    assert jaccard(features("a b c"), features("a b d")) == pytest.approx(3 / 7)


def test_a_repeat_names_what_it_repeats() -> None:
    seen, poem = NearDuplicates(0.7), "Write a short poem about the sea in winter."
    assert found_in(seen, poem, "How do I boil an egg?") == [None, None]
    again, changed = found_in(
        seen,
        "write a SHORT poem about the sea, in winter",
        "Write a short poem about the sea in summer.",
    )
    assert again == (poem, 1.0)
    # 9 words of which 8 are shared and 8 pairs of which 7 are: 15 of 19 features
    assert changed == (poem, pytest.approx(15 / 19))
    assert found_in(seen) == []


def test_a_different_text_is_kept() -> None:
    assert (
        found_in(
            NearDuplicates(0.7),
            "What is the capital of France?",
            "Why do cats purr when they are asleep?",
            "What is the capital of Peru, and how high does it lie?",
        )
        == [None] * 3
    )


def test_all_near_duplicates_among_many_are_found() -> None:
    """Against comparing every pair."""
    texts, slow, kept = changed_texts(400, 20, 1), list[bool](), list[frozenset[bytes]]()
    for text in texts:
        own = features(text)
        slow.append(all(jaccard(own, other) < 0.7 for other in kept))
        if slow[-1]:
            kept.append(own)
    assert [twin is None for twin in found_in(NearDuplicates(0.7), *texts)] == slow
    assert 130 <= sum(slow) < 180


@pytest.mark.parametrize("threshold", [0.5, 0.7, 1.0])
def test_answers_are_those_of_a_plain_table(
    threshold: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs of every similarity, many in one family, texts without words; a few at a time and all
    together, in files and in memory."""
    odd = ["?!", "?!", "!?", "", " ", "\ud800", "\ud801", "你好世界", "你好世界。"]
    texts = [*changed_texts(900, 12, 6), *odd, *(f"What is the price of {i}?" for i in range(50))]
    random.Random(1).shuffle(texts)
    named, plain = [(str(i), text) for i, text in enumerate(texts)], Plain(threshold)
    expected = [plain.add(name, text) for name, text in named]
    assert 0 < sum(twin is not None for twin in expected) < len(texts) / 2
    assert list(NearDuplicates(threshold).add(named)) == expected
    monkeypatch.setattr("bezoar.data.column_file._IN_MEMORY", 1)
    monkeypatch.setattr("bezoar.data.near_duplicates._IN_MEMORY", 1)
    monkeypatch.setattr("bezoar.data.near_duplicates._BLOCK", 100)
    parts, seen = [named[:1], named[1:350], named[350:]], NearDuplicates(threshold, str(tmp_path))
    assert [twin for part in parts for twin in seen.add(part)] == expected


@pytest.mark.parametrize(
    ("num_shared", "num_own", "num_pairs", "least", "most"),
    # (1 - 0.7^4)^32 is 1 in 6,500: of 12,000 about 2; (1 - 0.5^4)^32 is 1 in 8: of 2,000 about 254
    [(14, 3, 12_000, 0, 7), (10, 5, 2_000, 200, 310)],
)
def test_how_many_pairs_are_overlooked(
    num_shared: int, num_own: int, num_pairs: int, least: int, most: int
) -> None:
    """One of similarity 0.7 in 6,000, one of 0.5 in 8."""
    missed, step = 0, 1000
    for start in range(0, num_pairs, step):
        sets = []
        for pair in range(start, start + step):
            names = [b"%d %d" % (pair, i) for i in range(num_shared + 2 * num_own)]
            sets += [names[: num_shared + num_own], names[:num_shared] + names[-num_own:]]
        found = bands(Hashes.of(sets))
        missed += int((found[:, ::2] != found[:, 1::2]).all(axis=0).sum())
    assert least <= missed <= most


def test_no_similarity_is_above_its_bound() -> None:
    """Texts of few words and of more than there are marks."""
    draw = random.Random(3)
    sets = [
        frozenset(b"%d" % draw.randrange(size) for _ in range(size)) for size in (5, 40, 600) * 20
    ]
    table, sizes = marks(Hashes.of(sets)), np.array([len(each) for each in sets])
    others = np.arange(len(sets))
    for text, own in enumerate(sets):
        bounds = upper_bound(text, others, table, sizes)
        exact = np.array([jaccard(own, other) for other in sets])
        assert (bounds >= exact).all()
        assert bounds[text] == 1
    # small ones that share little are told apart
    assert upper_bound(0, others, table, sizes)[1] < 0.2


def test_bands_do_not_depend_on_the_process() -> None:
    one, other = bands(Hashes.of([[b"a", b"b", b"c"], [b"c", b"b", b"a"]])).T
    assert one.tolist() == other.tolist()
    assert len(one) == 32
    assert f"{one[0]:016x}" == "1502349b2bd078b4"


def test_column_file(tmp_path: Path) -> None:
    file = ColumnFile(2, np.uint32, str(tmp_path))
    file.append(np.array([[1, 2, 3], [10, 20, 30]]))
    file.append(np.array([[4], [40]]))
    assert file.column(1).tolist() == [10, 20, 30, 40]
    file.set_column(0, np.array([5, 6, 7, 8]))
    blocks = [block.tolist() for block in file.rows()]
    assert blocks == [[[5, 10], [6, 20], [7, 30]], [[8, 40]]]
    assert not list(tmp_path.iterdir())


def test_phrases() -> None:
    assert phrases("one two three four five six") == {
        "one two three four five",
        "two three four five six",
    }
    assert phrases("too short") == frozenset()
