"""Money by hand: prices, what fits, what is put aside and given back."""

import math

import pytest

from bezoar.chat.types import Message
from bezoar.errors import RecipeError
from bezoar.llm.budget import FREE, Budget, Prices
from bezoar.llm.journal import affordable
from bezoar.llm.types import Request
from tests.helpers.loaded import loaded
from tests.helpers.questions import question


def test_prices_are_by_the_million() -> None:
    prices = Prices(2.0, 10.0)
    assert prices.cost_usd(1_000_000, 0) == 2.0
    assert prices.cost_usd(0, 1_000_000) == 10.0
    assert prices.cost_usd(300, 50) == pytest.approx((600 + 500) / 1e6)
    assert FREE.cost_usd(10**9, 10**9) == 0.0


def test_the_most_a_request_can_cost() -> None:
    request = Request((Message("system", "é"), Message("user", "abc")), max_tokens=7, prefill="ü!")
    # bytes 2 + 3 and 16 for each message, 3 of the prefill, 16 for what is around them; then 7
    # tokens of answer
    assert Prices(1e6, 0.0).most_usd(request) == 2 + 16 + 3 + 16 + 3 + 16
    assert Prices(0.0, 1e6).most_usd(request) == 7
    # half a character is sent as "?"
    assert Prices(1e6, 0.0).most_usd(question("\ud83d", prefill="\ud83d")) == 1 + 16 + 1 + 16


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1e-9])
def test_prices_and_limits_are_finite_and_not_below_0(wrong: float) -> None:
    for prices in ((wrong, 0.0), (0.0, wrong)):
        with pytest.raises(RecipeError, match=r"_usd_per_million: must be (a finite|greater)"):
            loaded(Prices(*prices))
    with pytest.raises(ValueError, match=r"^a budget must be a finite number of at least 0, not "):
        Budget(wrong)
    assert Budget(0.0).limit_usd == 0.0


@pytest.mark.parametrize(
    ("costs", "room", "count"),
    [
        ([], 0.0, 0),
        ([1.0], 1.0, 1),
        ([1.0], 0.999, 0),
        ([1.0, 2.0, 3.0], 3.0, 2),
        ([1.0, 2.0, 3.0], 6.0, 3),
        ([0.1] * 10, 1.0, 10),
        ([0.0, 0.0], -5.0, 2),
        ([0.0, 1.0, 0.0], 0.0, 1),
        ([1.0, 0.0, 1.0], 1.0, 2),
        ([2.0, 1.0], 1.0, 0),
        ([1e-8], 0.0, 0),
        ([1e-9], 0.0, 1),
    ],
)
def test_what_fits_from_the_first_on(costs: list[float], room: float, count: int) -> None:
    assert affordable(costs, room) == count


def test_a_budget_without_a_journal() -> None:
    budget = Budget(10.0)
    assert budget.reserve([4.0, 4.0, 4.0]) == (2, 0.0)
    budget.release(4.0)
    assert budget.reserve([6.5]) == (0, 0.0)  # 4 in flight
    assert budget.reserve([6.0]) == (1, 0.0)
    budget.release(10.0)
    budget.release(1.0)  # never below nothing
    assert budget.reserve([10.0, 0.5]) == (1, 0.0)
    budget.end()
    assert budget.reserve([10.5]) == (0, 0.0)
    assert budget.reserve([5.0, 5.0]) == (2, 0.0)


def test_no_limit_refuses_nothing() -> None:
    budget = Budget()
    assert budget.reserve([1e300] * 3) == (3, 0.0)
    budget.end()
    assert (budget.limit_usd, budget.run) == (None, "")
    assert Budget(1.0, run="r").run == "r"
