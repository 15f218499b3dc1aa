"""The score head and the baseline: what an objective that needs them is given."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.errors import DataError
from bezoar.model.packed import pack
from bezoar.model.prompt_group import PromptGroup, score_group
from bezoar.model.score import rewards
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.train.label_check import check_labels
from bezoar.train.objective import LossInputs, LossOutput, Need, Unit, prompt_and_answers
from bezoar.train.objectives.pairs import OnPairs
from bezoar.train.step import TrainState, baseline, count_units, gradient
from tests.helpers.rows import pairs


@dataclass(frozen=True)
class Margin:
    """The difference of the two scores, for tests."""

    kind: str = "margin"
    outputs: tuple[str, ...] = ("reward",)
    unit: ClassVar[Unit] = "pair"
    needs: ClassVar[frozenset[Need]] = frozenset({"scores"})

    def group(self, row: Any, template: Any, tokenizer: Any) -> PromptGroup:
        return score_group(*prompt_and_answers(row, template, tokenizer), (1.0, math.nan))

    def loss(self, batch: LossInputs, scores: torch.Tensor) -> LossOutput:
        assert batch.labels is not None
        assert batch.labels.shape == (batch.num_answers // 2, 2)
        two = scores.view(-1, 2)
        return LossOutput(two[:, 0] - two[:, 1])


@dataclass(frozen=True)
class Moved(Margin):
    kind: str = "moved"
    needs: ClassVar[frozenset[Need]] = frozenset({"baseline"})

    def group(self, row: Any, template: Any, tokenizer: Any) -> PromptGroup:
        return OnPairs().group(row, template, tokenizer)

    def loss(self, batch: LossInputs, logprobs: torch.Tensor) -> LossOutput:
        assert batch.baseline is not None
        return LossOutput(batch.sums(logprobs).view(-1, 2)[:, 0] - batch.baseline)


def make(
    model: Path, objective: Any, count: int = 6
) -> tuple[TrainState, dict[str, torch.nn.Parameter]]:
    stack = Stack(ModelSpec(str(model), dtype="float32"))
    outputs = objective.outputs if "scores" in objective.needs else ()
    named = stack.add_adapter(LoRA(r=4, alpha=8, dropout=0.0), seed=1, outputs=outputs)
    torch.manual_seed(2)
    for parameter in named.values():
        parameter.data.normal_(0, 0.1)
    items = check_labels(
        pairs(count), objective, ChatML(), stack.tokenizer, max_length=500, too_long="drop"
    ).rows
    return TrainState(stack, objective, items), named


def test_scores_are_the_head_on_the_state_of_the_end_token(tiny_model: Path) -> None:
    work, _ = make(tiny_model, Margin())
    head = work.stack.score_head
    assert head is not None
    group = work.examples[2].group
    by_hand = []
    for completion in group.completions:
        row = torch.tensor([group.prompt + completion.tokens[:-1]])
        assert row[0, -1] == ChatML().end(work.stack.tokenizer)
        batch = score_group(group.prompt, [completion.tokens[:-1]])
        state = work.stack.backbone(row, torch.arange(row.shape[1])[None], pack([batch]).layout)[
            0, -1
        ]
        by_hand.append((state @ head.weight[0] + head.bias[0]).item())
    found = rewards(work.stack, [work.examples[i].group for i in range(6)])
    assert [one[0] for one in found[2]] == pytest.approx(by_hand, abs=1e-5)
    assert rewards(work.stack, [group])[0] == [pytest.approx(one, abs=1e-5) for one in found[2]]


def test_thegradient_of_scores_does_not_depend_on_the_micro_batches(tiny_model: Path) -> None:
    work, named = make(tiny_model, Margin())
    found = []
    for groups in ([[0, 1, 2, 3, 4, 5]], [[i] for i in range(6)]):
        for parameter in named.values():
            parameter.grad = None
        loss = gradient(work, groups, seed=0, step=0).loss
        found.append((loss, {n: p.grad.clone() for n, p in named.items() if p.grad is not None}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert "score_head.weight" in found[0][1]
    for name, one in found[0][1].items():
        torch.testing.assert_close(one, found[1][1][name], rtol=1e-4, atol=1e-6)


def test_a_saved_head_scores_the_same(tiny_model: Path, tmp_path: Path) -> None:
    work, _ = make(tiny_model, Margin())
    groups = [item.group for item in work.examples]
    work.stack.save_trained(tmp_path)
    again = Stack(ModelSpec(str(tiny_model), dtype="float32"), [tmp_path / "adapter"])
    for one, two in zip(rewards(work.stack, groups), rewards(again, groups), strict=True):
        assert one == [pytest.approx(x, abs=1e-5) for x in two]
    grown = again.add_adapter(LoRA(r=2), seed=0, outputs=("reward",))
    assert torch.equal(grown["score_head.bias"], work.stack.score_head.bias)  # type: ignore[union-attr]
    assert not torch.equal(
        Stack(ModelSpec(str(tiny_model))).add_adapter(LoRA(r=2), seed=0, outputs=("reward",))[
            "score_head.bias"
        ],
        grown["score_head.bias"],
    )


def test_a_model_without_a_head_gives_no_scores(tiny_model: Path) -> None:
    with pytest.raises(DataError, match="no score head"):
        rewards(Stack(ModelSpec(str(tiny_model))), [])


def test_the_baseline_is_the_mean_over_the_step_of_mismatched_answers(tiny_model: Path) -> None:
    work, _ = make(tiny_model, Moved())
    rows = [0, 2, 5]
    total = 0.0
    for i in rows:
        group = PromptGroup(
            work.examples[i].group.prompt, work.examples[(i + 1) % 6].group.completions
        )
        with torch.no_grad():
            total += float(work.logprobs([group])[0].sum())
            with work.stack.disable_adapter():
                total -= float(work.logprobs([group])[0].sum())
    assert abs(total) > 0.01
    for budget in (10, 10_000):
        assert float(baseline(work, rows, budget)) == pytest.approx(total / 6, rel=1e-4)  # type: ignore[arg-type]


def test_units_of_labels_and_groups() -> None:
    group = score_group([1, 2], [[3, 4], [5, 4]], (1.0, math.nan, 0.0))
    assert count_units(group, "label") == 2
    assert count_units(group, "group") == 1
    assert group.completions[0].tokens == [3, 4, 4]
