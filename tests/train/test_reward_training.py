"""Reward models from end to end on the tiny model: learning, saving, packing, micro-batches,
labelling, scoring of pairs."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Comparison, Message
from bezoar.errors import DataError
from bezoar.evals.judges import reward_margins
from bezoar.judge.attribute_stages import Label
from bezoar.model.score import rewards
from bezoar.model.spec import LoRA, ModelSpec, RewardWeights
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.train.label_check import check_labels
from bezoar.train.objectives.bradley_terry import BradleyTerry
from bezoar.train.objectives.regression import Regression
from bezoar.train.settings import StageInputs
from bezoar.train.stages import Train
from bezoar.train.step import TrainState, gradient
from tests.helpers.rows import chats, labelled, sentence
from tests.helpers.toy_context import ToyContext

NAMES = ("helpfulness", "verbosity")


def marked(count: int, seed: int) -> list[Comparison]:
    """Pairs whose chosen answer holds a mark somewhere and whose rejected answer does not."""
    draw, rows = random.Random(seed), []
    for n in range(count):
        words = sentence(n + 31 * seed, 4).split()
        at = draw.randrange(5)
        with_mark = " ".join([*words[:at], "!", *words[at:]])
        rows.append(
            Comparison(
                f"{seed}-{n}",
                (Message("user", sentence(n, 2)),),
                with_mark,
                sentence(n + 5, 5),
                {"strength": 1 + n % 3},
            )
        )
    return rows


def train(objective: Any, rows: Any, model: Path, folder: Path, **settings: Any) -> Path:
    """The adapter's folder."""
    stage = Train(
        "m",
        "r",
        objective,
        LoRA(r=8, alpha=16, dropout=0.0),
        validation=0.0,
        batch_size=8,
        schedule="constant",
        **settings,
    )
    stage.fit(
        rows,
        StageInputs(
            ModelSpec(str(model), dtype="float32"), [], ChatML(), folder / "work", folder / "out"
        ),
        progress=Progress("s"),
        seed=0,
    )
    return folder / "out" / "adapter"


@pytest.fixture(scope="module")
def learned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    adapter = train(
        BradleyTerry(), marked(96, 1), tiny_model, tmp_path_factory.mktemp("bt"), lr=1e-2, epochs=8
    )
    return Stack(ModelSpec(str(tiny_model), dtype="float32"), [adapter])


def test_a_visible_mark_is_learned(learned: Stack, tiny_model: Path) -> None:
    held_out = marked(24, 2)
    fresh = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    fresh.add_adapter(LoRA(r=8), seed=0, outputs=("reward",))
    before = [m for m in reward_margins(fresh, held_out, ChatML()) if m is not None]
    after = [m for m in reward_margins(learned, held_out, ChatML()) if m is not None]
    assert sum(m > 0 for m in after) == 24
    assert sum(m > 0 for m in before) < 24


def test_a_score_does_not_depend_on_what_is_read_beside_it(learned: Stack) -> None:
    groups = [BradleyTerry().group(pair, ChatML(), learned.tokenizer) for pair in marked(8, 3)]
    together = torch.tensor(rewards(learned, groups))
    alone = torch.tensor([rewards(learned, [group])[0] for group in groups])
    unshared = torch.tensor(
        [[rewards(learned, [type(t)(t.prompt, [b])])[0][0] for b in t.completions] for t in groups]
    )
    assert together.std() > 0.1
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.allclose(together, unshared, atol=1e-4)


def test_a_saved_model_scores_the_same(tiny_model: Path, tmp_path: Path) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    named = stack.add_adapter(LoRA(r=4, dropout=0.0), seed=3, outputs=NAMES)
    for parameter in named.values():
        parameter.data.normal_(0, 0.1)
    stack.save_trained(tmp_path)
    again = Stack(ModelSpec(str(tiny_model), dtype="float32"), [tmp_path / "adapter"])
    groups = [Regression(NAMES).group(row, ChatML(), stack.tokenizer) for row in labelled(6)]
    assert again.score_head is not None
    assert again.score_head.outputs == NAMES
    assert torch.allclose(
        torch.tensor(rewards(again, groups)), torch.tensor(rewards(stack, groups)), atol=1e-5
    )


@pytest.mark.parametrize(
    ("objective", "rows"),
    [
        (BradleyTerry(), marked(8, 4)),
        (BradleyTerry("margin"), marked(8, 4)),
        (BradleyTerry("scaled"), marked(8, 4)),
        (Regression(NAMES), labelled(8)),
    ],
)
def test_the_gradient_is_that_of_one_answer_at_a_time_in_any_micro_batches(
    objective: Any, rows: Any, tiny_model: Path
) -> None:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    named = stack.add_adapter(LoRA(r=4, dropout=0.0), seed=1, outputs=objective.outputs)
    for parameter in named.values():
        parameter.data.normal_(0, 0.1)
    items = check_labels(
        rows, objective, ChatML(), stack.tokenizer, max_length=500, too_long="drop"
    ).rows
    work = TrainState(stack, objective, items)

    def found(groups: list[list[int]]) -> tuple[float, torch.Tensor]:
        for parameter in named.values():
            parameter.grad = None
        loss = gradient(work, groups, seed=0, step=0).loss
        return loss, torch.cat([p.grad.flatten() for p in named.values() if p.grad is not None])

    assert stack.score_head is not None
    states = []
    for item in items:
        for completion in item.group.completions:
            ids = torch.tensor([item.group.prompt + completion.tokens[:-1]])
            hidden = stack.backbone(ids, torch.arange(ids.shape[1])[None], _plain(ids.shape[1]))
            states.append(stack.score_head(hidden[0, -1:]))
    expected = _by_hand(objective, torch.cat(states), rows)
    grads = torch.cat([g.flatten() for g in torch.autograd.grad(expected, list(named.values()))])
    for groups in ([list(range(8))], [[i] for i in range(8)], [[0, 1, 2, 3, 4], [5, 6, 7]]):
        loss, grad = found(groups)
        assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
        assert float((grad - grads).abs().max()) < 1e-4 * float(grads.abs().max())


def _plain(length: int) -> Any:
    from bezoar.model.attention import Segment
    from bezoar.model.packed import PackedLayout

    return PackedLayout((Segment(0, length, 0, 0),))


def _by_hand(objective: Any, scores: torch.Tensor, rows: Any) -> torch.Tensor:
    """The loss of a step from the scores [N, K] of its answers, without the objective's code."""
    if isinstance(objective, Regression):
        labels = [[row.meta["attributes"].get(name) for name in NAMES] for row in rows]
        errors = [
            (scores[i, k] - label) ** 2
            for i, line in enumerate(labels)
            for k, label in enumerate(line)
            if label is not None
        ]
        assert len(errors) == 13, "8 and 5 labels"
        return torch.stack(errors).mean()
    strength = torch.tensor([float(row.meta["strength"]) for row in rows])
    gap = scores[0::2, 0] - scores[1::2, 0]
    shift, weight = (
        strength * (objective.loss_type == "margin"),
        (strength if objective.loss_type == "scaled" else torch.ones(len(rows))),
    )
    return (weight * torch.log(1 + torch.exp(shift - gap))).mean()


def test_regression_learns_its_labels_and_labels_rows(tiny_model: Path, tmp_path: Path) -> None:
    rows = labelled(10)
    adapter = train(Regression(NAMES), rows, tiny_model, tmp_path, lr=1e-2, epochs=40)
    stack, said = Stack(ModelSpec(str(tiny_model), dtype="float32"), [adapter]), list[str]()
    progress = Progress("s")
    progress.say = said.append  # type: ignore[method-assign]
    long = Chat("long", (Message("user", "x" * 600), Message("assistant", "y")))
    sifted = Label("rows", "model").label(
        [*rows, long, Chat("none", (Message("user", "x"),))], ToyContext(lambda _: stack, progress)
    )
    assert [(d.id, d.reason) for d in sifted.dropped] == [
        ("none", "no answer"),
        ("long", "too long"),
    ]
    found = [
        (row.meta["attributes"][name], given.meta["attributes"][name])
        for row, given in zip(sifted.rows, rows, strict=True)
        for name in NAMES
        if name in given.meta["attributes"]
    ]
    assert sum(a == b for a, b in found) >= len(found) - 1
    values = [value for row in sifted.rows for value in row.meta["attributes"].values()]
    assert all(isinstance(value, int) and 0 <= value <= 4 for value in values)
    assert "levels lay outside 0 to 4" in said[0]


def test_models_and_rows_that_cannot_be_labelled(learned: Stack, tiny_model: Path) -> None:
    for stack in (learned, Stack(ModelSpec(str(tiny_model), dtype="float32"))):
        with pytest.raises(DataError, match="gives no attributes"):
            Label("rows", "model").label(chats(1), ToyContext(lambda _, s=stack: s))


def test_scores_of_pairs(learned: Stack) -> None:
    pairs = [
        *marked(2, 5),
        Comparison("same", (Message("user", "x"),), "y", "y"),
        Comparison("long", (Message("user", "x" * 600),), "y", "z"),
    ]
    margins = reward_margins(learned, pairs, ChatML())
    assert margins[2:] == [0.0, None]
    scored = rewards(
        learned, [BradleyTerry().group(pair, ChatML(), learned.tokenizer) for pair in pairs[:2]]
    )
    assert margins[:2] == pytest.approx(
        [chosen[0] - rejected[0] for chosen, rejected in scored], abs=1e-4
    )
    halved = reward_margins(learned, pairs, ChatML(), RewardWeights({"reward": 0.5}, mean=3.0))
    assert [m for m in halved if m is not None] == pytest.approx(
        [m / 2 for m in margins if m is not None], abs=1e-4
    )
