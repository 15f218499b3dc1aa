"""One score from several outputs, by hand."""

import pytest

from bezoar.errors import RecipeError
from bezoar.model.spec import RewardWeights

OUTPUTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def weights_of(*values: float) -> dict[str, float]:
    return dict(zip(OUTPUTS, values, strict=True))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, 0.65 * 4 + 0.80 * 3 + 0.45 * 2),
        (
            dict(zip(OUTPUTS, (0.30, 0.74, 0.46, 0.47, -0.33), strict=True)),
            0.30 * 4 + 0.74 * 3 + 0.46 * 2 + 0.47 * 1 - 0.33 * 2,
        ),
        (
            dict(zip(OUTPUTS, (0.65, 0.80, 0.45, 0.55, -0.40), strict=True)),
            0.65 * 4 + 0.80 * 3 + 0.45 * 2 + 0.55 * 1 - 0.40 * 2,
        ),
        ({"verbosity": -2.0}, -4.0),
    ],
)
def test_weights(weights: dict[str, float], expected: float) -> None:
    assert RewardWeights(weights).score(OUTPUTS, [4, 3, 2, 1, 2]) == pytest.approx(expected)


def test_one_output_is_the_score_and_scales() -> None:
    assert RewardWeights().score(("reward",), [1.5]) == 1.5
    assert RewardWeights(mean=1.0, std=2.0).score(("reward",), [4.0]) == 1.5


def test_references_average_0() -> None:
    found = RewardWeights(mean=9.0, std=9.0).centred(("reward",), [[1.0], [3.0], [5.0], [7.0]])
    # squared distances 9, 1, 1, 9: variance 5
    assert (found.mean, found.std) == (4.0, pytest.approx(5**0.5))
    assert sum(found.score(("reward",), [x]) for x in (1.0, 3.0, 5.0, 7.0)) == pytest.approx(0)
    assert RewardWeights().centred(("reward",), [[1.0], [3.0]], scale=False) == RewardWeights(
        mean=2.0
    )
    assert RewardWeights().centred(("reward",), [[2.0], [2.0]]) == RewardWeights(mean=2.0)


def test_wrong_settings() -> None:
    with pytest.raises(RecipeError, match="no output humour"):
        RewardWeights({"humour": 1.0}).score(OUTPUTS, [0] * 5)
    with pytest.raises(RecipeError, match="no output helpfulness; it has a, b"):
        RewardWeights().score(("a", "b"), [0, 0])
