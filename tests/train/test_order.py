"""The order of rows: all of them, given by epoch and seed alone."""

import pytest

from bezoar.train.optim import epoch_order


def test_an_order_has_every_row_and_is_the_same_in_every_process() -> None:
    order = epoch_order(50, 1, 2)
    assert sorted(order) == list(range(50))
    epoch_order.cache_clear()
    assert epoch_order(50, 1, 2) == order


@pytest.mark.parametrize(("epoch", "seed"), [(2, 2), (1, 3), (2, 1)])
def test_each_epoch_and_each_seed_has_its_own_order(epoch: int, seed: int) -> None:
    assert epoch_order(50, epoch, seed) != epoch_order(50, 1, 2)
