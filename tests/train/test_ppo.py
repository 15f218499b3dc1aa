"""PPO and DR-PO: the maths by hand, rollouts, resets, and what a stage does."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Message
from bezoar.errors import DataError, RecipeError
from bezoar.model.completions import reward_completions
from bezoar.model.prompt_group import micro_batches
from bezoar.model.score_head import ScoreHead
from bezoar.model.spec import LoRA, ModelSpec, RewardWeights
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.terminal import Console
from bezoar.train import rollout
from bezoar.train.advantage import advantages, policy_losses, token_rewards, value_losses, whiten
from bezoar.train.ppo_trainer import normalised
from bezoar.train.rollout import Policy, Prompt, draw_prefix, read, read_prompts, roll_out
from bezoar.train.settings import StageInputs
from bezoar.train.stages import PPO
from tests.helpers.stopping import StopError, Stopping

ROWS = [
    Chat(
        f"c{i}",
        (
            Message("user", "say " + "ab" * (i + 1)),
            Message("assistant", "the cat sat on a mat"[: 6 + i]),
        ),
    )
    for i in range(6)
]
SMALL = PPO(
    "m",
    "r",
    "rows",
    adapter=LoRA(r=4, alpha=8, dropout=0.0),
    updates=3,
    batch_size=4,
    epochs=2,
    max_tokens=8,
    lr=1e-2,
    temperature=1.0,
)


def test_whitening_by_hand() -> None:
    values, mask = torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    # mean 3, variance (4 + 0 + 4) / 3
    scale = 1 / math.sqrt(8 / 3)
    assert whiten(values, mask).tolist() == [
        pytest.approx([-2 * scale, 0.0]),
        pytest.approx([2 * scale, 0.0]),
    ]
    assert whiten(values, mask, shift_mean=False).tolist() == [
        pytest.approx([3 - 2 * scale, 3.0]),
        pytest.approx([3 + 2 * scale, 0.0]),
    ]
    alone = torch.tensor([[5.0, 9.0]]), torch.tensor([[1.0, 0.0]])
    assert whiten(*alone).tolist() == [[0.0, 0.0]]
    assert whiten(*alone, shift_mean=False).tolist() == [[5.0, 0.0]]


def test_advantages_by_hand() -> None:
    rewards, values = (
        torch.tensor([[1.0, 0.0, 2.0], [3.0, 7.0, 7.0]]),
        torch.tensor([[0.5, 1.0, 1.5], [2.0, 7.0, 7.0]]),
    )
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    last = 2.0 - 1.5
    middle = 0.0 + 0.9 * 1.5 - 1.0 + 0.9 * 0.8 * last
    first = 1.0 + 0.9 * 1.0 - 0.5 + 0.9 * 0.8 * middle
    found = advantages(rewards, values, mask, gamma=0.9, lam=0.8)
    assert found.tolist() == [pytest.approx([first, middle, last]), pytest.approx([1.0, 0.0, 0.0])]
    alone = advantages(
        torch.tensor([[3.0], [1.0]]),
        torch.tensor([[1.0], [2.0]]),
        torch.ones(2, 1),
        gamma=0.9,
        lam=0.8,
    )
    assert alone.tolist() == [[2.0], [-1.0]]


def test_rewards_of_tokens() -> None:
    given = (
        torch.tensor([[-1.0, -2.0], [-1.0, 0.0]]),
        torch.tensor([[-1.5, -1.0], [-3.0, 0.0]]),
        torch.tensor([5.0, 7.0]),
        torch.tensor([2, 1]),
    )
    with torch.device("meta"):  # what is made lies where the scores lie, wherever that is
        found = token_rewards(*given, kl=0.1)
    assert found.tolist() == [pytest.approx([-0.05, 5.1]), pytest.approx([6.8, 0.0])]


def test_clipped_losses_by_hand() -> None:
    old = torch.zeros(4)
    new = torch.tensor([0.5, -0.5, 0.5, 0.1])
    losses, clipped = policy_losses(new, old, torch.tensor([1.0, -1.0, -1.0, 2.0]), clip=0.2)
    assert losses.tolist() == pytest.approx([-1.2, 0.8, math.exp(0.5), -2 * math.exp(0.1)])
    assert clipped.tolist() == [True, True, False, False]
    # it is the change that counts: of log-probabilities one lower as of these
    moved, _ = policy_losses(new - 1, old - 1, torch.tensor([1.0, -1.0, -1.0, 2.0]), clip=0.2)
    assert moved.tolist() == pytest.approx(losses.tolist())
    # value 1.0 is clipped to 0.2: squared errors 1 and 0.04 to the return 0; to the return 2: 1 and
    # 3.24
    values = value_losses(
        torch.tensor([1.0, 1.0]), torch.zeros(2), torch.tensor([0.0, 2.0]), clip=0.2
    )
    assert values.tolist() == pytest.approx([0.5, 1.62])
    # from 2.0 the value 1.5 may move to 1.8: squared errors 1.5 and 1.8 to the return 0, and 1.5
    # and 1.2 to the return 3
    values = value_losses(
        torch.tensor([1.5, 1.5]), torch.full((2,), 2.0), torch.tensor([0.0, 3.0]), clip=0.2
    )
    assert values.tolist() == pytest.approx([0.5 * 1.8**2, 0.5 * 1.5**2])


def test_prefixes_are_uniform_and_never_the_whole_answer() -> None:
    prompt = Prompt("a", (), [1], [10, 11, 12, 13])
    drawn = [
        draw_prefix(replace(prompt, id=str(i)), share=1.0, max_tokens=8, seed=0, update=0)
        for i in range(600)
    ]
    assert {tuple(p) for p in drawn} == {(10,), (10, 11), (10, 11, 12)}
    for k in (1, 2, 3):
        assert 150 < sum(len(p) == k for p in drawn) < 250
    assert all(
        len(draw_prefix(replace(prompt, id=str(i)), share=1.0, max_tokens=3, seed=0, update=0)) < 3
        for i in range(50)
    )
    assert (
        draw_prefix(replace(prompt, reference=[10]), share=1.0, max_tokens=8, seed=0, update=0)
        == []
    )
    half = [
        draw_prefix(replace(prompt, id=str(i)), share=0.5, max_tokens=8, seed=0, update=0)
        for i in range(400)
    ]
    assert 140 < sum(p == [] for p in half) < 260
    assert not any(
        draw_prefix(replace(prompt, id=str(i)), share=0.0, max_tokens=8, seed=0, update=0)
        for i in range(50)
    )


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Policy:
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    for parameter in stack.add_adapter(LoRA(r=4, dropout=0.0), seed=0).values():
        parameter.data.normal_(0, 0.05)
    stack.net.eval()
    return Policy(stack, ScoreHead(("value",), 64, seed=3), 1.3)


def place(model: Path, out: Path, **settings: Any) -> StageInputs:
    return StageInputs(
        ModelSpec(str(model), dtype="float32"), [], ChatML(), out / "work", out / "out", **settings
    )


def prompts_of(policy: Policy, out: Path) -> list[Prompt]:
    return read_prompts(
        replace(SMALL, reset=1.0), ROWS, place(Path(policy.stack.spec.path), out), policy.stack
    )[0]


def test_rollouts_begin_with_their_prefix_and_are_read_as_a_plain_model_reads_them(
    policy: Policy, tmp_path: Path
) -> None:
    prompts = prompts_of(policy, tmp_path)
    end = ChatML().end(policy.stack.tokenizer)
    prefixes = [p.reference[:i] for i, p in enumerate(prompts)]
    rollouts = roll_out(policy, prompts, prefixes, end, max_tokens=9, seed=1)
    for one, prefix in zip(rollouts, prefixes, strict=True):
        assert one.tokens[: len(prefix)] == prefix
        assert one.forced == len(prefix)
        assert len(prefix) < len(one.tokens) <= 9 + one.ended
        assert (one.tokens[-1] == end) == one.ended
    reading = read(policy, rollouts, micro_batches([r.group for r in rollouts], 60))
    for i, one in enumerate(rollouts):
        row = torch.tensor([one.group.prompt + one.tokens])
        start, size = len(one.group.prompt), len(one.tokens)
        from bezoar.model.packed import pack

        layout = pack([one.group]).layout
        with torch.no_grad():
            states = policy.stack.backbone(
                row[:, :-1], torch.arange(row.shape[1] - 1)[None], layout
            )[0, start - 1 :]
            plain = (
                (states @ policy.stack.head_weight.T / 1.3)
                .log_softmax(-1)
                .gather(1, row[0, start:, None])[:, 0]
            )
        torch.testing.assert_close(reading.logprobs[i, :size], plain, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            reading.values[i, :size], policy.value_head(states)[:, 0].detach(), atol=1e-4, rtol=1e-4
        )
        assert reading.mask[i].sum() == size
        assert reading.free[i].tolist() == [
            float(one.forced <= t < size) for t in range(reading.mask.shape[1])
        ]
        assert not torch.allclose(reading.reference[i, :size], plain, atol=1e-3)


@pytest.fixture(scope="module")
def reward_model(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelSpec, list[Path]]:
    """A fixed random reward model, on an adapter of its own."""
    stack = Stack(ModelSpec(str(tiny_model), dtype="float32"))
    stack.add_adapter(LoRA(r=2), seed=5, outputs=("reward",))
    out = tmp_path_factory.mktemp("reward")
    stack.save_trained(out)
    return stack.spec, [out / "adapter"]


def run(
    settings: PPO, model: Path, out: Path, reward: Any, *, progress: Progress | None = None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    stats = settings.fit(
        ROWS, place(model, out, reward=reward), progress=progress or Progress("ppo"), seed=7
    )
    return stats, load_file(out / "out" / "adapter" / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_a_stage_moves_the_policy_and_the_micro_batches_have_no_effect(
    tiny_model: Path, tmp_path: Path, reward_model: Any
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    stats, weights = run(
        SMALL, tiny_model, tmp_path / "a", reward_model, progress=Progress("ppo", metrics)
    )
    assert stats["steps"] == 3
    assert stats["rows_out"] == 6
    assert metrics.read_text().count('"kl"') == 3
    assert any(w.abs().max() > 0 for name, w in weights.items() if "lora_B" in name)
    _, cut = run(replace(SMALL, tokens_per_batch=30), tiny_model, tmp_path / "b", reward_model)
    for name, one in weights.items():
        torch.testing.assert_close(one, cut[name], atol=2e-3, rtol=1e-2)


def test_without_resets_it_is_ppo_to_the_bit_and_with_them_it_is_not(
    tiny_model: Path, tmp_path: Path, reward_model: Any
) -> None:
    """Answers of their own are then never read: PPO does not see them at all."""
    _, plain = run(SMALL, tiny_model, tmp_path / "a", reward_model)
    bare = [Chat(row.id, row.prompt) for row in ROWS]
    SMALL.fit(
        bare,
        place(tiny_model, tmp_path / "b", reward=reward_model),
        progress=Progress("ppo"),
        seed=7,
    )
    assert same(plain, load_file(tmp_path / "b" / "out" / "adapter" / "adapter_model.safetensors"))
    stats, reset = run(replace(SMALL, reset=1.0), tiny_model, tmp_path / "c", reward_model)
    assert stats["forced"] > 0
    assert not same(plain, reset)


def test_a_stage_that_stopped_goes_on_to_the_same_bytes(
    tiny_model: Path, tmp_path: Path, reward_model: Any
) -> None:
    settings = replace(SMALL, reset=0.5, minibatches=2, checkpoint_every=1)
    _, whole = run(settings, tiny_model, tmp_path / "a", reward_model)
    with pytest.raises(StopError):
        run(settings, tiny_model, tmp_path / "b", reward_model, progress=Stopping("ppo", at_step=2))
    assert list((tmp_path / "b" / "work").glob("*/step-1"))
    _, resumed = run(settings, tiny_model, tmp_path / "b", reward_model)
    assert same(whole, resumed)


def test_out_of_memory_fewer_answers_are_drawn_and_read_at_once(
    tiny_model: Path, tmp_path: Path, reward_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose memory holds one answer to draw, to score and to read."""
    drawn, scored, was_read = list[int](), list[int](), list[int]()

    def tight(work: Any, size: Any, sizes: list[int]) -> Any:
        def attempt(*args: Any, **keywords: Any) -> Any:
            sizes.append(size(args, keywords))
            if sizes[-1] > 1:
                raise torch.OutOfMemoryError("out of memory")
            return work(*args, **keywords)

        return attempt

    few = replace(SMALL, slots=1, tokens_per_batch=1)
    _, alone = run(few, tiny_model, tmp_path / "a", reward_model)
    draw = tight(rollout.generate, lambda _, keywords: keywords["slots"], drawn)
    monkeypatch.setattr(rollout, "generate", draw)
    read = tight(Policy.read, lambda args, _: len(args[1]), was_read)
    monkeypatch.setattr(Policy, "read", read)
    few_tokens = lambda _, keywords: 1 if 0 < keywords["max_tokens"] < 100 else 2  # noqa: E731
    rewards = tight(rollout.reward_completions, few_tokens, scored)
    monkeypatch.setattr(rollout, "reward_completions", rewards)
    stats, weights = run(SMALL, tiny_model, tmp_path / "b", reward_model)
    assert drawn == [32, 16, 8, 4, 2, 1, 1, 1]
    assert scored[-3:] == [1, 1, 1]
    # what did not fit was tried once, and not again in any later update
    failed = sum(size > 1 for size in (*drawn, *scored, *was_read))
    assert stats["memory_splits"] == failed < 16
    assert set(was_read[-8:]) == {1}
    # weights, optimizer and answers are those of a recipe that asks for it
    for name, one in alone.items():
        torch.testing.assert_close(one, weights[name], atol=2e-3, rtol=1e-2)


def test_recomputed_activations_change_nothing(
    tiny_model: Path, tmp_path: Path, reward_model: Any
) -> None:
    said = io.StringIO()
    told = Progress("ppo", console=Console(file=said))
    always, never = (replace(SMALL, recompute=how) for how in ("always", "never"))
    _, one = run(always, tiny_model, tmp_path / "a", reward_model, progress=told)
    _, two = run(never, tiny_model, tmp_path / "b", reward_model)
    assert same(one, two)
    assert "activations are recomputed" in said.getvalue()


def test_the_reward_rises(tiny_model: Path, tmp_path: Path, reward_model: Any) -> None:
    metrics = tmp_path / "metrics.jsonl"
    settings = replace(
        SMALL, updates=25, batch_size=6, lr=2e-2, kl=0.0, missing_end=-4.0, schedule="constant"
    )
    run(settings, tiny_model, tmp_path / "a", reward_model, progress=Progress("ppo", metrics))
    import json

    rewards = [json.loads(line)["reward"] for line in metrics.read_text().splitlines()]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.5


def test_the_rows_own_answers_can_set_the_scale(
    tiny_model: Path, tmp_path: Path, reward_model: Any
) -> None:
    judge = Stack(*reward_model)
    where = place(tiny_model, tmp_path, reward=reward_model)
    own = [
        v[0]
        for [v] in reward_completions(
            judge, ChatML(), [row.prompt for row in ROWS], [[row.answer] for row in ROWS]
        )
    ]
    mean = sum(own) / 6
    std = math.sqrt(sum((v - mean) ** 2 for v in own) / 6)
    only = normalised(replace(SMALL, normalise="mean"), ROWS, where, judge)
    both = normalised(replace(SMALL, normalise="std"), ROWS, where, judge)
    assert only.score(("reward",), [own[0]]) == pytest.approx(own[0] - mean, abs=1e-4)
    assert both.score(("reward",), [own[0]]) == pytest.approx((own[0] - mean) / std, abs=1e-3)
    stats, _ = run(replace(SMALL, normalise="std", updates=1), tiny_model, tmp_path, reward_model)
    assert stats["steps"] == 1
    with pytest.raises(DataError, match="rows: normalise needs rows with answers"):
        normalised(replace(SMALL, normalise="mean"), [Chat("x", ROWS[0].prompt)] * 3, where, judge)
    long = [Chat("x", (*ROWS[0].prompt, Message("assistant", "no " * 200)))] * 3
    with pytest.raises(DataError, match="that fit the reward model"):
        normalised(replace(SMALL, normalise="mean"), long, where, judge)


def test_wrong_inputs_are_told(tiny_model: Path, tmp_path: Path, reward_model: Any) -> None:
    with pytest.raises(RecipeError, match="reward: r has no score head"):
        run(SMALL, tiny_model, tmp_path, (ModelSpec(str(tiny_model)), []))
    bare = [Chat("x", (Message("user", "hi"),))]
    with pytest.raises(DataError, match="row x: it has no answer of its own to reset to"):
        replace(SMALL, reset=1.0).fit(
            bare, place(tiny_model, tmp_path, reward=reward_model), progress=Progress("ppo"), seed=0
        )
    with pytest.raises(ValueError, match="dropout"):
        PPO("m", "r", "rows", adapter=LoRA(dropout=0.1))
    with pytest.raises(ValueError, match="have no effect where normalise finds them"):
        PPO("m", "r", "rows", normalise="mean", goodness=RewardWeights(mean=1.0))
