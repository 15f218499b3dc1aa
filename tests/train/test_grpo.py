"""GRPO: advantages, losses and weights by hand, and a plain computation beside the fast one."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Message
from bezoar.errors import DataError
from bezoar.model.prompt_group import alike, answer, joined, micro_batches
from bezoar.model.spec import LoRA, ModelSpec
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.train.group_policy import GroupPolicy
from bezoar.train.group_trainer import GroupTrainer
from bezoar.train.grpo import GRPO
from bezoar.train.rewards import Number
from bezoar.train.rloo import RLOO
from bezoar.train.rollout import Policy, Prompt, Rollout, read
from bezoar.train.settings import StageInputs
from tests.helpers.stopping import StopError, Stopping

ROWS = [
    Chat(f"c{i}", (Message("user", "say " + "ab" * (i + 1)),), {"number": i % 10}) for i in range(6)
]
SMALL = GRPO(
    model="m",
    rows="rows",
    rewards=(Number(),),
    samples=4,
    batch_size=8,
    adapter=LoRA(r=4, alpha=8, dropout=0.0),
    updates=2,
    max_tokens=40,
    lr=1e-2,
)


def test_advantages_by_hand() -> None:
    scores = torch.tensor([1.0, 2.0, 3.0, 6.0, 0.1, 0.1, 0.1, 0.1])
    # mean 3, squares 4, 1, 0, 9: variance 14 / 3 with n - 1
    scale = math.sqrt(14 / 3) + 1e-4
    expected = [-2 / scale, -1 / scale, 0.0, 3 / scale]
    found = SMALL.advantages(scores, torch.zeros(8))
    assert found[:4].tolist() == pytest.approx(expected)
    # all alike: no advantage at all, not one by rounding
    assert found[4:].tolist() == [0.0] * 4
    centred = replace(SMALL, scale="none").advantages(scores, torch.zeros(8))
    assert centred[:4].tolist() == pytest.approx([-2.0, -1.0, 0.0, 3.0])


def test_leave_one_out_by_hand() -> None:
    rloo = RLOO("m", "rows", (Number(),), samples=2, batch_size=2, kl=0.5)
    # returns 1 - 0.5 * 2 and 4 - 0.5 * -1, each less the other
    found = rloo.advantages(torch.tensor([1.0, 4.0]), torch.tensor([2.0, -1.0]))
    assert found.tolist() == [-4.5, 4.5]


def test_token_losses_and_their_gradient_by_hand() -> None:
    settings = replace(SMALL, clip=0.2, clip_high=0.28, kl=0.5)
    logprobs = torch.tensor([0.5, 0.25, -0.5, -0.1], requires_grad=True)
    reference = torch.tensor([0.5, 0.0, 0.0, -0.1])
    gains = torch.tensor([1.0, 2.0, -1.0, -1.0])
    losses, clipped = settings.token_losses(logprobs, torch.zeros(4), reference, gains)
    # ratios e^.5 (above 1.28), e^.25 = 1.284 (above it too), e^-.5 (below .8), e^-.1; and
    # .5 (e^d - d - 1) with d = 0, -.25, .5, 0
    kl = [0.0, 0.5 * (math.exp(-0.25) - 0.75), 0.5 * (math.exp(0.5) - 1.5), 0.0]
    expected = [-1.28, -2.56 + kl[1], 0.8 + kl[2], math.exp(-0.1)]
    assert losses.tolist() == pytest.approx(expected)
    assert clipped.tolist() == [True, True, True, False]
    losses.sum().backward()
    # of a clipped token the KL alone: kl (1 - e^d)
    slopes = [0.0, 0.5 * (1 - math.exp(-0.25)), 0.5 * (1 - math.exp(0.5)), math.exp(-0.1)]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx(slopes, abs=1e-6)
    # without clip_high the bound is that of clip
    same = replace(settings, clip_high=None).token_losses(
        logprobs, torch.zeros(4), reference, gains
    )[0]
    assert same[0].item() == pytest.approx(-1.2)


def test_weights_by_hand() -> None:
    mask, ended = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]), torch.tensor([False, True])
    cases: list[tuple[Any, list[list[float]]]] = [
        (SMALL, [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]),
        (replace(SMALL, average="answer"), [[1 / 6] * 3, [0.5, 0.0, 0.0]]),
        (replace(SMALL, average="constant"), [[1 / 80] * 3, [1 / 80, 0.0, 0.0]]),
        (replace(SMALL, cut_off="mask"), [[0.0] * 3, [1.0, 0.0, 0.0]]),
        (RLOO("m", "rows", (Number(),)), [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]),
    ]
    for settings, expected in cases:
        found = settings.weights(mask, ended)
        torch.testing.assert_close(found, torch.tensor(expected))
    # when every answer was cut off nothing is divided by 0
    none = replace(SMALL, cut_off="mask").weights(mask, torch.tensor([False, False]))
    assert not none.any()


def test_the_penalty_of_length_by_hand() -> None:
    settings = replace(SMALL, overlong_buffer=10)
    assert [settings.length_penalty(n) for n in (5, 30, 33, 40)] == [0.0, 0.0, 0.3, 1.0]
    assert SMALL.length_penalty(40) == 0.0


def make_policy(model: Path) -> tuple[Policy, dict[str, torch.nn.Parameter]]:
    stack = Stack(ModelSpec(str(model), dtype="float32"))
    named = stack.add_adapter(LoRA(r=4, alpha=8, dropout=0.0), seed=0)
    torch.manual_seed(2)
    for parameter in named.values():
        parameter.data.normal_(0, 0.1)
    stack.net.eval()
    return Policy(stack, None, 1.3), named


def rolled() -> list[Rollout]:
    """Two prompts with three answers each, of different lengths."""
    prompts = [Prompt("a", (), [65, 66, 67], []), Prompt("b", (), [70, 71], [])]
    answers = [[80, 81, 82, 83], [90], [84, 85], [86, 87, 88], [89, 80], [65, 66, 67, 68, 69]]
    ended = [True, True, False, True, True, False]
    return [
        Rollout(prompts[i // 3], answer(prompts[i // 3].tokens, tokens), 0, ended[i])
        for i, tokens in enumerate(answers)
    ]


@pytest.fixture(scope="module")
def plain_net(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same adapter on transformers' own model, by peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = tmp_path_factory.mktemp("adapter")
    make_policy(tiny_model)[0].stack.save_trained(out)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    return PeftModel.from_pretrained(base, out / "adapter", is_trainable=True).eval()


def plain_logprobs(net: Any, rollout: Rollout) -> Tensor:
    """Of an answer's tokens, one sequence at a time."""
    row = torch.tensor([rollout.group.prompt + rollout.tokens])
    values = (net(input_ids=row).logits[0, :-1] / 1.3).log_softmax(-1)
    return values.gather(1, row[0, 1:, None])[len(rollout.group.prompt) - 1 :, 0]


def plain_loss(
    settings: GroupPolicy, net: Any, rollouts: list[Rollout], rewards: list[float]
) -> Tensor:
    """The loss as the papers write it: answer by answer, token by token."""
    olds, references = [], []
    with torch.no_grad():
        for rollout in rollouts:
            olds.append(plain_logprobs(net, rollout) - 0.3)
            with net.disable_adapter():
                references.append(plain_logprobs(net, rollout))
    loss, num_tokens = torch.zeros(()), sum(len(r.tokens) for r in rollouts)
    for i, rollout in enumerate(rollouts):
        group = range(i - i % 3, i - i % 3 + 3)
        returns = list(rewards)
        if isinstance(settings, RLOO):
            for k in group:
                returns[k] -= settings.kl * float((olds[k] - references[k]).sum())
            gain = returns[i] - sum(returns[k] for k in group if k != i) / 2
        else:
            mean = sum(returns[k] for k in group) / 3
            spread = math.sqrt(sum((returns[k] - mean) ** 2 for k in group) / 2) + 1e-4
            gain = (returns[i] - mean) / (spread if settings.scale == "group" else 1.0)
        new = plain_logprobs(net, rollout)
        for t in range(len(rollout.tokens)):
            ratio = (new[t] - olds[i][t]).exp()
            high = getattr(settings, "clip_high", None) or settings.clip
            inside = ratio.clamp(1 - settings.clip, 1 + high)
            token = -torch.minimum(ratio * gain, inside * gain)
            if isinstance(settings, GRPO):
                gap = references[i][t] - new[t]
                token = token + settings.kl * (gap.exp() - gap - 1)
                if settings.cut_off == "mask" and not rollout.ended:
                    continue
                if settings.average == "answer":
                    token = token / len(rollout.tokens) / len(rollouts) * num_tokens
                if settings.average == "constant":
                    token = token / settings.max_tokens / len(rollouts) * num_tokens
            loss = loss + token / num_tokens
    return loss


LIKE = {"model": "m", "rows": "rows", "rewards": (Number(),), "samples": 3, "batch_size": 6}
CASES = {
    "grpo": GRPO(**LIKE, kl=0.3),
    "paper": GRPO(**LIKE, kl=0.04, average="answer"),
    "dr-grpo": GRPO(**LIKE, scale="none", average="constant", kl=0.0, max_tokens=9),
    "dapo": GRPO(**LIKE, clip_high=0.28, kl=0.0),
    "masked": GRPO(**LIKE, average="answer", cut_off="mask"),
    "rloo": RLOO(**LIKE, kl=0.2),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_the_plain_computation(
    name: str, tiny_model: Path, plain_net: Any, tmp_path: Path
) -> None:
    """Packed with shared prompts, whole and in micro-batches, after the policy has moved."""
    settings, rollouts = CASES[name], rolled()
    rewards = [0.0, 1.0, 0.5, 0.2, 0.2, 0.9]
    plain_net.zero_grad()
    expected = plain_loss(settings, plain_net, rollouts, rewards)
    expected.backward()  # type: ignore[no-untyped-call]
    slow = {
        n.replace(".default", ""): p.grad
        for n, p in plain_net.named_parameters()
        if p.grad is not None
    }
    policy, named = make_policy(tiny_model)
    for budget in (1, 12, 2048):
        for parameter in named.values():
            parameter.grad = None
        inputs = StageInputs(policy.stack.spec, [], ChatML(), tmp_path, tmp_path)
        prompts = [rollouts[0].prompt, rollouts[3].prompt]
        cut = replace(settings, tokens_per_batch=budget)
        trainer = GroupTrainer(cut, inputs, Progress("x"), 0, named, policy, None, prompts)
        old = trainer.in_micro_batches(rollouts, partial(read, policy, rollouts))
        # as if an optimizer step lay between: old log-probabilities differ from today's
        old.logprobs -= 0.3 * old.mask
        targets = trainer.targets(old, torch.tensor(rewards))
        found = trainer.gradient(rollouts, list(range(6)), old, targets)
        assert found["loss"] == pytest.approx(expected.item(), abs=1e-5)
        assert slow.keys() == named.keys()
        largest = max(float(gradient.abs().max()) for gradient in slow.values())
        assert largest > 1e-3
        for n, parameter in named.items():
            assert parameter.grad is not None
            assert float((parameter.grad - slow[n]).abs().max()) < 1e-4 * largest


def test_answers_to_one_prompt_are_read_with_it_once() -> None:
    each = [r.group for r in rolled()]
    groups = [joined([each[i] for i in run]) for run in alike(each)]
    assert [len(group.completions) for group in groups] == [3, 3]
    # prompt 3 and 3 + 0 + 1 tokens fed; prompt 2 and 2 + 1 + 4
    assert [group.num_input_tokens for group in groups] == [7, 9]
    assert micro_batches(each, 16) == [[0, 1, 2, 3, 4, 5]]
    assert micro_batches(each, 9) == [[0, 1, 2], [3, 4, 5]]
    # a prompt whose answers do not fit together is read once for each part of them
    assert micro_batches(each, 6) == [[0, 1], [2], [3, 4], [5]]
    assert micro_batches(each, 1) == [[i] for i in range(6)]


def run(
    settings: GroupPolicy,
    model: Path,
    out: Path,
    *,
    progress: Progress | None = None,
    rows: Any = ROWS,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    spec = ModelSpec(str(model), dtype="float32")
    inputs = StageInputs(spec, [], ChatML(), out / "work", out / "out")
    stats = settings.fit(rows, inputs, progress=progress or Progress("grpo"), seed=7)
    return stats, load_file(out / "out" / "adapter" / "adapter_model.safetensors")


class Digits(Number):
    """Half a point for each digit in the answer: what a random model can learn at once."""

    def score(self, row: Any, text: str) -> float:
        return min(1.0, sum(c.isdigit() for c in text) / 8)


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


EASY = replace(SMALL, rewards=(Digits(),), missing_end=0.0, max_tokens=60)


@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_a_stage_that_stopped_goes_on_to_the_same_bytes(
    kind: type[GroupPolicy], tiny_model: Path, tmp_path: Path
) -> None:
    names = ("model", "rows", "rewards", "samples", "batch_size", "adapter", "max_tokens", "lr")
    like = {name: getattr(EASY, name) for name in names}
    settings = kind(**like, updates=3, minibatches=2, dynamic_sampling=1, checkpoint_every=1)
    metrics = tmp_path / "metrics.jsonl"
    stats, whole = run(settings, tiny_model, tmp_path / "a", progress=Progress("x", metrics))
    assert any(w.abs().max() > 0 for name, w in whole.items() if "lora_B" in name)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert {"reward", "kl", "no_signal", "clipped", "answer_tokens", "ended"} <= lines[0].keys()
    assert stats["rows_trained"] == 6
    with pytest.raises(StopError):
        run(settings, tiny_model, tmp_path / "b", progress=Stopping("x", at_step=2))
    assert list((tmp_path / "b" / "work").glob("*/step-1"))
    _, resumed = run(settings, tiny_model, tmp_path / "b")
    assert same(whole, resumed)


def test_groups_without_signal_make_room_or_stay(tiny_model: Path, tmp_path: Path) -> None:
    """Answers that are all worth the same move nothing, and are counted."""

    class Flat(Number):
        def score(self, row: Any, text: str) -> float:
            return 0.1 if row.id == "c0" else float(len(text) % 7) / 7

    flat = replace(EASY, rewards=(Flat(),), missing_end=0.1, kl=0.0, updates=1)
    stats, still = run(flat, tiny_model, tmp_path / "a", rows=ROWS[:1])
    assert stats["no_signal"] == 1.0
    assert all(not w.any() for name, w in still.items() if "lora_B" in name)
    # with further draws an update takes groups with a signal alone, until it is full
    seen: list[dict[str, float]] = []

    class Watched(Progress):
        def log(self, **values: Any) -> None:
            super().log(**values)
            seen.append(values)

    several = replace(flat, samples=2, batch_size=4, dynamic_sampling=3)
    run(several, tiny_model, tmp_path / "b", progress=Watched("x"), rows=ROWS[:3])
    run(replace(several, dynamic_sampling=0), tiny_model, tmp_path / "c", progress=Watched("x"))
    assert 0.0 < seen[0]["no_signal"] < 1.0


def test_rows_and_settings_that_cannot_work_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row x: meta.number is missing; the reward number needs"):
        run(SMALL, tiny_model, tmp_path, rows=[Chat("x", ROWS[0].messages)])
    bad = [Chat("x", ROWS[0].messages, {"number": "seven"})]
    with pytest.raises(DataError, match=r"row x: meta.number is .seven., not one number"):
        run(SMALL, tiny_model, tmp_path, rows=bad)
    for name, value, fault in (
        ("samples", 1, "samples must be 2 or more"),
        ("samples", 3, "samples must divide batch_size"),
        ("rewards", (), "rewards is empty"),
        ("rewards", (Number(), Number()), "one kind twice"),
        ("overlong_buffer", 40, "below max_tokens"),
        ("adapter", LoRA(dropout=0.1), "dropout"),
    ):
        with pytest.raises(ValueError, match=fault):
            replace(SMALL, **{name: value})
    assert SMALL.takes()["rows"][0].carries == {"number"}
