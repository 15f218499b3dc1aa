"""Answers that several cores draw: the same as one core's, and all end when one fails."""

from collections.abc import Iterator
from pathlib import Path
from threading import get_ident

import pytest
import torch

from bezoar.model.generation import generate
from bezoar.model.sampling import SamplingParams
from bezoar.model.side_by_side import side_by_side
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_cores_draw_what_one_draws(
    tiny_model: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    prompts = [[5 + i % 11, 9, 20 + i % 7] for i in range(70)]
    params = [SamplingParams(12, 0.7 * (i % 2), seed=i) for i in range(70)]
    at, threads = stack.backbone, set[tuple[int, int]]()

    def backbone(*args: object) -> object:
        threads.add((get_ident(), torch.get_num_threads()))
        return at(*args)

    monkeypatch.setattr(stack, "backbone", backbone)
    found = generate(stack, prompts, params, slots=32)
    assert [num for _, num in threads] == [1, 1]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    threads.clear()
    assert generate(stack, prompts, params, slots=32) == found
    assert [num for _, num in threads] == [1]


def test_few_answers_are_drawn_by_all_threads_together(
    tiny_model: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    at, threads = stack.backbone, set[int]()

    def backbone(*args: object) -> object:
        threads.add(torch.get_num_threads())
        return at(*args)

    monkeypatch.setattr(stack, "backbone", backbone)
    generate(stack, [[5, 9]] * 20, SamplingParams(3), slots=32)
    assert threads == {2}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_one_part_ends_all(error: type[BaseException], two_threads: None) -> None:
    steps = 0

    def endless() -> Iterator[None]:
        nonlocal steps
        while True:
            steps += 1
            yield

    def failing() -> Iterator[None]:
        while steps < 3:
            yield
        raise error("no more")

    with pytest.raises(error, match="no more"):
        side_by_side([endless(), failing()])
    assert torch.get_num_threads() == 2
