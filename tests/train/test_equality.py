"""Every objective's loss and gradient against a plain computation: one sequence at a time, full
logits, transformers and peft."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.chat.templates import ChatML
from bezoar.model.prompt_group import PromptGroup
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.train.label_check import Example, check_labels
from bezoar.train.objective import LossInputs
from bezoar.train.objectives import (
    ASFT,
    DPO,
    IPO,
    KTO,
    OBJECTIVES,
    ORPO,
    SFT,
    Hinge,
    SimPO,
    SteerLM2,
)
from bezoar.train.step import TrainState, gradient, reference
from tests.helpers.rows import chats, judged, pairs, sampled

CASES: dict[str, tuple[Any, Any]] = {
    "sft": (SFT(), chats(8)),
    "sft-all": (SFT(loss_on="all"), chats(8)),
    "sft-pairs": (SFT(), pairs(8)),
    "dpo": (DPO(beta=0.3), pairs(8)),
    "dpo-smooth": (DPO(label_smoothing=0.1), pairs(8)),
    "dpo-robust": (DPO(label_smoothing=0.1, smoothing="robust", sft_weight=0.5), pairs(8)),
    "ipo": (IPO(), pairs(8)),
    "ipo-sums": (IPO(normalise="none"), pairs(8)),
    "hinge": (Hinge(), pairs(8)),
    "slic": (Hinge(reference=False, sft_weight=0.5), pairs(8)),
    "simpo": (SimPO(), pairs(8)),
    "orpo": (ORPO(), pairs(8)),
    "asft": (ASFT(), pairs(8)),
    "asft-tempered": (ASFT(beta=0.3, sft_weight=0.0), pairs(8)),
    "steerlm2": (SteerLM2(), sampled(8)),
    "kto": (KTO(beta=0.2), pairs(8)),
    "kto-chats": (KTO(undesirable_weight=1.5), judged(8)),
}


@dataclass
class Case:
    work: TrainState
    named: dict[str, torch.nn.Parameter]
    adapter: Path


@pytest.fixture(scope="module", params=list(CASES))
def case(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    objective, rows = CASES[request.param]
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    named = stack.add_adapter(LoRA(r=4, alpha=8, dropout=0.0), seed=1)
    torch.manual_seed(2)
    for parameter in named.values():
        parameter.data.normal_(0, 0.1)
    items = check_labels(
        rows, objective, ChatML(), stack.tokenizer, max_length=500, too_long="drop"
    ).rows
    if "baseline" in objective.needs:
        _learn(TrainState(stack, SFT(), items), named)
    out = tmp_path_factory.mktemp("case")
    stack.save_trained(out)
    work = TrainState(stack, objective, items)
    if "reference" in objective.needs:
        work.references = reference(work, [list(range(8))])
    return Case(work, named, out / "adapter")


def _learn(work: TrainState, named: dict[str, torch.nn.Parameter]) -> None:
    """A few steps towards the answers, so that a baseline is above 0, where it counts."""
    for step in range(10):
        gradient(work, [list(range(8))], seed=0, step=step)
        for parameter in named.values():
            assert parameter.grad is not None
            parameter.data -= 0.1 * parameter.grad
            parameter.grad = None


def fast(case: Case, groups: list[list[int]]) -> tuple[float, dict[str, torch.Tensor]]:
    for parameter in case.named.values():
        parameter.grad = None
    totals = gradient(case.work, groups, seed=0, step=0)
    return totals.loss, {
        name: p.grad.clone() for name, p in case.named.items() if p.grad is not None
    }


def one_by_one(net: torch.nn.Module, items: list[Example]) -> torch.Tensor:
    """Log-probabilities of all trained tokens, in order."""
    found = []
    for item in items:
        for completion in item.group.completions:
            row = torch.tensor([item.group.prompt + completion.tokens])
            values = (
                net(input_ids=row).logits[0, :-1].log_softmax(-1).gather(1, row[0, 1:, None])[:, 0]
            )
            found.append(values[len(item.group.prompt) - 1 :][torch.tensor(completion.trained)])
    return torch.cat(found)


def plain(case: Case, model: Path) -> tuple[float, dict[str, torch.Tensor]]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        model, attn_implementation="eager", dtype=torch.float32
    )
    items = list(case.work.examples)
    others = [
        Example(a.id, PromptGroup(a.group.prompt, b.group.completions))
        for a, b in zip(items, [*items[1:], items[0]], strict=True)
    ]
    with torch.no_grad():
        reference, moved = one_by_one(base, items), one_by_one(base, others)
    net = PeftModel.from_pretrained(base, case.adapter, is_trainable=True).train()
    with torch.no_grad():
        moved = one_by_one(net, others) - moved
    assert "baseline" not in case.work.objective.needs or float(moved.sum()) > 1
    values = one_by_one(net, items)
    sizes = [b.num_trained for item in items for b in item.group.completions]
    batch = LossInputs(
        torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), len(sizes), reference
    )
    batch.labels = torch.tensor([item.group.labels for item in items])
    batch.baseline = moved.sum() / len(sizes)
    loss = case.work.objective.loss(batch, values).loss.mean()
    loss.backward()
    return float(loss.detach()), {
        n.replace(".default", ""): p.grad for n, p in net.named_parameters() if p.grad is not None
    }


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    largest = max(float(g.abs().max()) for g in two.values())
    assert largest > 1e-4
    assert max(float((one[n] - two[n]).abs().max()) for n in one) < 1e-4 * largest


def test_one_flat_row_equals_the_plain_computation(case: Case, tiny_model: Path) -> None:
    loss, grads = fast(case, [list(range(8))])
    expected, slow = plain(case, tiny_model)
    assert loss == pytest.approx(expected, rel=1e-5)
    same(grads, slow)


@pytest.mark.parametrize("groups", [[[i] for i in range(8)], [[0, 1, 2, 3, 4], [5, 6, 7]]])
def test_micro_batches_change_nothing(case: Case, groups: list[list[int]]) -> None:
    loss, grads = fast(case, [list(range(8))])
    other, more = fast(case, groups)
    assert other == pytest.approx(loss, rel=1e-5)
    same(more, grads)


def test_sharing_the_prompt_changes_nothing(case: Case) -> None:
    from bezoar.model.chunked_logprobs import logprobs
    from bezoar.model.packed import pack

    stack, groups = case.work.stack, [item.group for item in case.work.examples]

    def values(share: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = pack(groups, share=share)
        found = logprobs(stack.hidden(batch), stack.head_weight, batch.target)
        weights = torch.linspace(-1, 1, len(found))
        return found, dict(
            zip(
                case.named,
                torch.autograd.grad((weights * found).sum(), list(case.named.values())),
                strict=True,
            )
        )

    (one, by_one), (two, by_two) = values(True), values(False)
    assert torch.allclose(one, two, atol=1e-4)
    same(by_one, by_two)


def test_every_objective_has_a_case() -> None:
    on_scores = {"bradley_terry", "regression"}  # their like is in test_reward_models.py
    assert {objective.kind for objective, _ in CASES.values()} | on_scores == set(OBJECTIVES)


def test_all_weights_in_mixed_precision_train_near_float32(tiny_model: Path) -> None:
    found = []
    for dtype in ("float32", "bfloat16"):
        stack = Stack(ModelSpec(str(tiny_model), dtype=dtype))  # type: ignore[arg-type]
        named = stack.add_adapter(None, seed=0)
        items = check_labels(
            chats(6), SFT(), ChatML(), stack.tokenizer, max_length=500, too_long="drop"
        ).rows
        totals = gradient(TrainState(stack, SFT(), items), [list(range(6))], seed=0, step=0)
        found.append(
            (
                totals.loss,
                torch.cat([p.grad.flatten() for p in named.values() if p.grad is not None]),
            )
        )
    (one, grads), (two, mixed) = found
    assert grads.shape == mixed.shape
    assert two == pytest.approx(one, rel=0.02)
    assert float(torch.cosine_similarity(grads, mixed, 0)) > 0.995


def test_all_weights_train_as_in_the_plain_computation(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    named = stack.add_adapter(None, seed=0)
    items = check_labels(
        chats(6), SFT(), ChatML(), stack.tokenizer, max_length=500, too_long="drop"
    ).rows
    totals = gradient(TrainState(stack, SFT(), items), [[0, 1, 2], [3, 4, 5]], seed=0, step=0)
    net = AutoModelForCausalLM.from_pretrained(
        tiny_model, attn_implementation="eager", dtype=torch.float32
    )
    loss = -one_by_one(net, list(items)).mean()
    loss.backward()
    assert totals.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    same(
        {n: p.grad for n, p in named.items() if p.grad is not None},
        {n: p.grad for n, p in net.named_parameters() if p.grad is not None},
    )
