"""Near duplicates: the measure, the thresholds, and that none is overlooked among many."""

import random

import pytest

from bezoar.data.near_duplicates import NearDuplicates, bands, features, jaccard, phrases, words


def test_words_and_features() -> None:
    assert words("Don't stop, ÉCOLE 3.5!") == ["don", "t", "stop", "école", "3", "5"]
    assert words("你好 world") == ["你", "好", "world"]
    assert features("a b a") == {"a", "b", "a b", "b a"}
    assert features("?!") == {"?!"}


def test_similarity_by_hand() -> None:
    # words a b c and pairs ab bc; words a b d and pairs ab bd: shared a, b, ab; all a b c d ab bc
    # bd
    assert jaccard(features("a b c"), features("a b d")) == pytest.approx(3 / 7)


def test_a_repeat_names_what_it_repeats() -> None:
    seen = NearDuplicates(0.7)
    assert seen.add("one", "Write a short poem about the sea in winter.") is None
    assert seen.add("two", "How do I boil an egg?") is None
    assert seen.add("three", "write a SHORT poem about the sea, in winter") == ("one", 1.0)
    found = seen.add("four", "Write a short poem about the sea in summer.")
    # 9 words of which 8 are shared and 8 pairs of which 7 are: 15 of 19 features
    assert found is not None
    assert found == ("one", pytest.approx(15 / 19))


def test_a_different_text_is_kept() -> None:
    seen = NearDuplicates(0.7)
    seen.add("one", "What is the capital of France?")
    assert seen.add("two", "Why do cats purr when they are asleep?") is None
    assert seen.add("three", "What is the capital of Peru, and how high does it lie?") is None


def test_all_near_duplicates_among_many_are_found() -> None:
    """Against comparing every pair: 400 random texts, of which half are an earlier one with a word
    changed."""
    draw = random.Random(5)
    vocabulary = [f"word{i}" for i in range(3000)]
    texts: list[list[str]] = []
    for number in range(400):
        text = (
            [draw.choice(vocabulary) for _ in range(20)]
            if number % 2 == 0
            else list(draw.choice(texts))
        )
        if number % 2:
            text[draw.randrange(20)] = draw.choice(vocabulary)
        texts.append(text)
    seen, kept, slow = NearDuplicates(0.7), [], []
    kept_sets: list[frozenset[str]] = []
    for number, text in enumerate(texts):
        line = " ".join(text)
        kept.append(seen.add(str(number), line) is None)
        found = features(line)
        slow.append(all(jaccard(found, other) < 0.7 for other in kept_sets))
        if slow[-1]:
            kept_sets.append(found)
    assert kept == slow
    assert 200 <= sum(kept) < 260


def test_bands_do_not_depend_on_the_process() -> None:
    assert (
        bands(features("a b c"))[0].hex()
        == bands(frozenset(["c", "b", "a", "a b", "b c"]))[0].hex()
    )
    assert len(bands(features("a"))) == 32


def test_phrases() -> None:
    assert phrases("one two three four five six") == {
        "one two three four five",
        "two three four five six",
    }
    assert phrases("too short") == frozenset()
