"""Statistics against numbers worked by hand or known from the literature."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from bezoar.evals.agreement import bradley_terry, cohen_kappa, quadratic_kappa
from bezoar.evals.outcome import Outcome
from bezoar.evals.power import detectable
from bezoar.evals.stats import (
    NUM_RESAMPLES,
    Difference,
    Score,
    bootstrap_mean,
    clustered_score,
    holm,
    paired,
    percentiles,
    resamples,
    score,
    sign_flip,
    wilson,
)


def test_wilson_by_hand() -> None:
    # p = 0.8, n = 10, z = 1.959964: centre (0.8 + 0.192073) / 1.384146, half 1.959964 / 1.384146 *
    # sqrt(0.016 + 0.0096036)
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.490162, abs=1e-5)
    assert high == pytest.approx(0.943318, abs=1e-5)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(0, 5)[1] == pytest.approx(0.434482, abs=1e-5)  # z^2 / (n + z^2)


def test_a_score_counts_failures_and_leaves_them_out() -> None:
    got = score("x", [1.0, None, 0.0, 1.0])
    assert (got.n, got.num_failed, got.failure_rate) == (3, 1, 0.25)
    assert got.value == pytest.approx(2 / 3)
    assert Score.from_dict(got.to_dict()) == got
    assert score("x", [None]).value is None
    assert score("x", [2.5]).low is None


def test_a_single_item_is_its_own_mean_without_an_interval() -> None:
    assert score("x", [0.7, None], "g") == Score("x", 0.7, None, None, 1, 1, "g")
    assert clustered_score("x", [[0.25, None, 0.75], [None]], "g") == Score(
        "x", 0.5, None, None, 2, 2, "g"
    )
    assert (
        score("x", [None, None], "g")
        == clustered_score("x", [[None], [None]], "g")
        == Score("x", None, None, None, 0, 2, "g")
    )
    for hits in ([1.0], [0.0, 0.0], [1.0, 0.0, 1.0]):  # what is yes or no has Wilson's interval
        assert score("x", hits, "g") == Score(
            "x", sum(hits) / len(hits), *wilson(round(sum(hits)), len(hits)), len(hits), 0, "g"
        )
    assert bootstrap_mean([3.0]) is None
    one = paired("x", [0.25], [1.0], num_unpaired=3)
    assert one == Difference("x", 0.25, 1.0, 0.75, None, None, 1.0, 1, 3)
    assert paired("x", [0.25], [1.0]).num_unpaired == 0
    assert paired("x", [True, False], [True, True]) == paired("x", [1.0, 0.0], [1.0, 1.0])


def test_no_item_has_no_failure_rate() -> None:
    assert Score("x", None, None, None, 0).failure_rate == 0.0
    assert Score("x", None, None, None, 0, 2).failure_rate == 1.0
    assert score("x", []) == clustered_score("x", []) == Score("x", None, None, None, 0)


def test_a_score_as_people_read_it() -> None:
    assert str(Score("x", 0.5, 0.25, 0.75, 8)) == "x 0.500 [0.250 to 0.750] (n 8)"
    assert str(Score("x", 0.5, None, None, 1, 2)) == "x 0.500 [no interval] (n 1, 2 failed)"
    assert (
        str(Score("x", 0.5, 0.25, None, 1))
        == str(Score("x", 0.5, None, 0.25, 1))
        == "x 0.500 [no interval] (n 1)"
    )
    assert str(Score("x", None, None, None, 0, 3)) == "x none (n 0, 3 failed)"


def test_wilson_at_the_ends_and_at_another_confidence() -> None:
    # z^2 = 3.841459: at 0 of n the upper end is z^2 / (n + z^2), at n of n the lower end n / (n +
    # z^2)
    assert wilson(0, 1) == (0.0, pytest.approx(3.841459 / 4.841459, abs=1e-6))
    assert wilson(1, 1) == (pytest.approx(1 / 4.841459, abs=1e-6), 1.0)
    # whatever rounding does
    assert all(wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0 for n in range(1, 200))
    # z = 1 at 68.27 %: of 1 of 2 the half is 1 / 1.5 * sqrt(1/8 + 1/16)
    assert wilson(1, 2, 0.6826894921) == (
        pytest.approx(0.5 - math.sqrt(3) / 6, abs=1e-6),
        pytest.approx(0.5 + math.sqrt(3) / 6, abs=1e-6),
    )


def test_percentiles_cut_equal_tails() -> None:
    assert percentiles(np.arange(1001.0)) == pytest.approx((25.0, 975.0))
    assert percentiles(np.arange(1001.0), 0.9) == pytest.approx((50.0, 950.0))


def test_resamples_are_drawn_with_replacement_and_repeat() -> None:
    picks = resamples(3)
    assert picks.shape == (NUM_RESAMPLES, 3) == (5000, 3)
    assert np.array_equal(picks, resamples(3))
    assert not np.array_equal(resamples(3, 40), resamples(3, 40, seed=1))
    # all 27 triples come up, each about 185 times
    assert len(set(map(tuple, picks.tolist()))) == 27
    assert np.bincount(picks @ [9, 3, 1], minlength=27).min() > 130


def test_the_bootstrap_of_two_values() -> None:
    # of two draws from 0 and 1 the mean is 0 or 1 a quarter of the time each: the central 95 % is
    # everything
    assert bootstrap_mean([0.0, 1.0]) == (0.0, 1.0)
    # of three, 1/27 of the means are 0 and 1/27 are 1
    assert bootstrap_mean([0.0, 0.0, 3.0]) == (0.0, 3.0)
    # 34.9 % none; 3 or fewer in 98.7 %, 2 or fewer in 93.0 %
    assert bootstrap_mean([0.0] * 9 + [10.0]) == (0.0, 3.0)


@pytest.mark.parametrize("n", [7, 1000])
def test_the_bootstrap_is_that_of_5000_resamples_however_they_are_drawn(n: int) -> None:
    # of 1000 values 4000 resamples are drawn at a time, then 1000
    values = np.arange(n) ** 2 % 101 / 7
    assert bootstrap_mean(values.tolist()) == percentiles(values[resamples(n)].mean(axis=1))


def test_the_bootstrap_of_many_values_is_drawn_in_parts() -> None:
    # 1333 resamples at a time; standard deviation 1
    values = [float(i % 2) * 2 for i in range(3000)]
    low, high = bootstrap_mean(values)  # type: ignore[misc]
    assert low == pytest.approx(1 - 1.96 / math.sqrt(3000), abs=0.003)
    assert high == pytest.approx(1 + 1.96 / math.sqrt(3000), abs=0.003)
    assert bootstrap_mean(values) == (low, high)


def test_a_bootstrap_interval_is_that_of_the_mean() -> None:
    # mean 3, standard deviation 2, so the mean's is 2 / sqrt(700)
    values = [float(v % 7) for v in range(700)]
    got = score("x", values)
    assert got.low == pytest.approx(3 - 1.96 * 2 / math.sqrt(700), abs=0.01)
    assert got.high == pytest.approx(3 + 1.96 * 2 / math.sqrt(700), abs=0.01)
    assert score("x", values) == got


def test_clusters_are_resampled_whole() -> None:
    # 800 values, but 16 questions of 1 or 3 throughout
    groups = [[float(i % 2 * 2 + 1)] * 50 for i in range(16)]
    wide, narrow = clustered_score("x", groups), score("x", [v for g in groups for v in g])
    assert wide.value == narrow.value == 2.0
    assert wide.low == pytest.approx(2 - 1.96 * 1 / math.sqrt(16), abs=0.06)
    assert narrow.low is not None
    assert wide.low is not None
    assert narrow.low > wide.low + 0.3
    assert clustered_score("x", [[7.0, None], [None, None], [3.0, 5.0]]).value == 5.0
    assert clustered_score("x", [[7.0, None], [None, None], [3.0, 5.0]]).num_failed == 3
    for value in (0, 1):
        sure = clustered_score("x", [[value, value]] * 4 + [[None, value, value]], "g", share=True)
        # five questions, not ten
        assert sure == Score("x", value, *wilson(5 * value, 5), 10, 1, "g")
    # of two groups, a quarter of the draws are one of them twice
    assert clustered_score("x", [[2.0], [4.0, 4.0, None]], "g") == Score(
        "x", 10 / 3, 2.0, 4.0, 3, 1, "g"
    )
    assert clustered_score("x", [[1.0, 1.0]] * 5).low == 1.0


def test_the_sign_flip_test_is_exact_for_few_differences() -> None:
    # 5 gains and no loss: 2 of 2^5 sign patterns are as far from 0
    assert sign_flip(np.array([1.0, 1, 1, 1, 1, 0, 0])) == pytest.approx(2 / 32)
    # 7 against 1 (McNemar exact): 2 * (C(8,0) + C(8,1)) / 2^8
    assert sign_flip(np.array([1.0] * 7 + [-1.0])) == pytest.approx(18 / 256)
    assert sign_flip(np.zeros(4)) == sign_flip(np.array([1.0, -1.0])) == 1.0


def exact(gaps: list[float]) -> float:
    """The share of all sign patterns whose sum is as far from 0, one by one."""
    seen = abs(sum(gaps))
    return sum(
        abs(sum(s * g for s, g in zip(signs, gaps, strict=True))) >= seen - 1e-9
        for signs in itertools.product((-1, 1), repeat=len(gaps))
    ) / 2 ** len(gaps)


def test_the_sign_flip_test_is_exact_up_to_14_differences() -> None:
    # sums of tenths are not exact: equal ones still count
    for gaps in ([0.3], [-0.1, 0.2, 0.1], [0.1] * 11 + [-0.1] * 3):
        assert sign_flip(np.array(gaps)) == exact(gaps)
    fifteen = [0.1] * 12 + [-0.1] * 3
    assert sign_flip(np.array(fifteen)) == pytest.approx(exact(fifteen), abs=0.006)
    assert sign_flip(np.array(fifteen)) != exact(fifteen)
    assert sign_flip(np.array(fifteen)) == sign_flip(np.array(fifteen))


def test_a_random_p_counts_the_seen_pattern_in() -> None:
    # 60 gains and no loss: no random pattern comes near, and p is 1 / (num + 1), never 0
    assert sign_flip(np.ones(60)) == 1 / 10_001
    assert sign_flip(np.ones(60), 19) == 0.05
    # a sum of 0 is reached by every pattern: all of them and the seen one
    assert sign_flip(np.array([1.0, -1.0] * 10)) == 1.0
    # 999 at a time: of an odd number of equal gaps no sum is nearer to 0 than 1
    assert sign_flip(np.array([1.0] * 2001 + [-1.0] * 2000), 3000) == 1.0


def test_the_random_sign_flip_agrees_with_the_binomial() -> None:
    wanted = 2 * sum(math.comb(20, k) for k in range(6)) / 2**20  # 15 against 5: 0.0414
    assert sign_flip(np.array([1.0] * 15 + [-1.0] * 5)) == pytest.approx(wanted, abs=0.006)


def test_a_verdict_needs_evidence() -> None:
    base = [0.0, 1.0] * 50
    same = paired("x", base, [1 - v if i < 6 else v for i, v in enumerate(base)])
    assert same.verdict == "not distinguishable"
    better = paired("x", base, [1.0] * 100)
    assert better.verdict == "better"
    assert (better.difference, better.n) == (0.5, 100)
    assert better.low is not None
    assert better.low > 0
    assert paired("x", [1.0] * 100, base).verdict == "worse"
    assert (better.first, better.second) == (0.5, 1.0)
    assert better.high is not None
    assert 0.5 < better.high < 0.7
    for wrong in (([1.0], []), ([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(
            ValueError, match=r"^paired values must be of one length and not empty$"
        ):
            paired("x", *wrong)


@pytest.mark.parametrize(
    ("difference", "p", "verdict"),
    [
        (0.1, 0.049, "better"),
        (-0.1, 0.049, "worse"),
        (0.1, 1 - 0.95, "not distinguishable"),
        (0.1, 0.0501, "not distinguishable"),
    ],
)
def test_a_verdict_needs_p_below_5_percent(difference: float, p: float, verdict: str) -> None:
    assert Difference("x", 0.0, difference, difference, None, None, p, 10).verdict == verdict


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_detectable_by_hand() -> None:
    assert detectable(200) == pytest.approx(
        (1.959964 + 0.841621) * math.sqrt(0.5) / math.sqrt(200), abs=1e-6
    )


def test_kappa_by_hand() -> None:
    # table [[20, 5], [10, 15]]: observed 0.7, chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    got = cohen_kappa("k", first, second)
    assert got.value == pytest.approx(0.4)
    assert got.low is not None
    assert got.high is not None
    assert 0.1 < got.low < 0.4 < got.high < 0.7  # the large-sample standard error is 0.13
    assert cohen_kappa("k", ["y", "y"], ["y", "y"]).value is None


def test_quadratic_kappa_by_hand() -> None:
    # observed cost (0 + 1 + 0 + 4) / 4; chance: marginals (1,2,1)/4 and (2,1,1)/4 over ratings 1..3
    first, second = [1, 2, 2, 3], [1, 1, 2, 1]
    observed = (0 + 1 + 0 + 4) / 4
    a, b = {1: 0.25, 2: 0.5, 3: 0.25}, {1: 0.75, 2: 0.25}
    chance = sum(p * q * (i - j) ** 2 for i, p in a.items() for j, q in b.items())
    got = quadratic_kappa("k", Counter(zip(first, second, strict=True)))
    assert got.value == pytest.approx(1 - observed / chance)


def test_bradley_terry_finds_the_strengths_of_two_models() -> None:
    # 3 to 1: difference log 3
    games = [(f"q{i}", "a", "b", 1.0 if i % 4 else 0.0) for i in range(400)]
    ranked = bradley_terry(games, ties=0.0, num_resamples=200)
    assert [s.name for s in ranked] == ["a", "b"]
    assert ranked[0].value == pytest.approx(math.log(3) / 2, abs=1e-6)
    se = 1 / math.sqrt(400 * 0.75 * 0.25) / 2
    assert ranked[0].low == pytest.approx(math.log(3) / 2 - 1.96 * se, abs=0.03)


def test_bradley_terry_through_a_third_model_and_a_clean_sweep() -> None:
    games = [
        ("q", "a", "b", 0.75),
        ("q", "b", "c", 0.75),
        ("r", "a", "b", 0.75),
        ("r", "b", "c", 0.75),
    ]
    strengths = {s.name: s.value for s in bradley_terry(games, ties=0.0)}
    assert strengths["a"] == pytest.approx(math.log(3), abs=1e-4)
    assert strengths["c"] == pytest.approx(-math.log(3), abs=1e-4)
    sweep = bradley_terry([(str(i), "a", "b", 1.0) for i in range(10)], num_resamples=20)
    assert sweep[0].value == pytest.approx(math.log(10.05 / 0.05) / 2, abs=1e-5)
    with pytest.raises(ValueError, match="never met"):
        bradley_terry([("q", "a", "b", 1.0), ("q", "c", "d", 1.0)])


def test_many_failures_are_told() -> None:
    loud = Outcome([score("judge", [1.0] * 90 + [None] * 10), score("fine", [1.0] * 99 + [None])])
    assert [w.split(":")[0] for w in loud.warnings()] == ["judge"]
