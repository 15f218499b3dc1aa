"""Rewards of answers, steering by levels, and answers against the rows' own."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bezoar.chat.attribute_levels import steered
from bezoar.chat.templates import ChatML, render_completions
from bezoar.chat.types import Chat, Message
from bezoar.errors import DataError
from bezoar.evals.comparison import condition
from bezoar.evals.outcome import EvalContext, cache_parts_in
from bezoar.evals.reward_metrics import Rewards, Steering, WinRateOverRows
from bezoar.llm.types import Reply, Request
from bezoar.model.completions import draw_completions, reward_completions
from bezoar.model.prompt_group import Completion, PromptGroup
from bezoar.model.score import score
from bezoar.model.spec import LoRA, ModelSpec, RewardWeights, Sampling
from bezoar.model.stack import Stack

ROWS = [
    Chat(f"r{i}", (Message("user", "tell " + "me " * i), Message("assistant", "no")))
    for i in range(4)
]
HOW = Sampling(temperature=0.9, top_p=1.0, max_tokens=6)


@pytest.fixture(scope="module")
def stacks(tiny_model: Path) -> dict[str, Stack]:
    judge, policy = (Stack(ModelSpec(str(tiny_model), dtype="float32")) for _ in range(2))
    judge.add_adapter(LoRA(r=2), seed=0, outputs=("a", "b"))
    torch.manual_seed(2)
    for parameter in policy.add_adapter(LoRA(r=2, dropout=0.0), seed=1).values():
        parameter.data.normal_(0, 0.05)
    policy.net.eval()
    return {
        "judge": judge,
        "policy": policy,
        "base": Stack(ModelSpec(str(tiny_model), dtype="float32")),
    }


def given(stacks: dict[str, Stack], ask: Any = None) -> EvalContext:
    return EvalContext(
        ChatML(), stacks.__getitem__, lambda name: ask, lambda name: ask, lambda name: ROWS, seed=3
    )


def by_name(outcome: Any) -> dict[str, Any]:
    return {s.name: s for s in outcome.scores}


def test_rewards_by_their_parts(stacks: dict[str, Stack]) -> None:
    good = RewardWeights({"b": 2.0})
    found = Rewards("rows", "judge", good, "base", HOW).run(
        "policy", given(stacks), cache_parts_in(None)
    )
    prompts = [row.prompt for row in ROWS]
    texts = [
        [one[0][0]]
        for one in draw_completions(stacks["policy"], ChatML(), prompts, HOW, num=1, seed=3)
        if one
    ]
    scored = [2 * v[1] for [v] in reward_completions(stacks["judge"], ChatML(), prompts, texts)]
    own = [2 * v[1] for [v] in reward_completions(stacks["judge"], ChatML(), prompts, [["no"]] * 4)]
    # none of these answers ended: their end token, which the model did not write, is no part of the
    # KL
    told = [
        render_completions(p, t, ChatML(), stacks["base"].tokenizer)
        for p, t in zip(prompts, texts, strict=True)
    ]
    trees = [
        PromptGroup(trunk, [Completion(tokens, [True] * len(tokens))]) for trunk, [tokens] in told
    ]
    ours, base = (
        [float(one.logprobs[:-1].sum()) for [one] in score(stacks[n], trees)]
        for n in ("policy", "base")
    )
    moved = [a - b for a, b in zip(ours, base, strict=True)]
    scores = by_name(found)
    assert scores["reward"].value == pytest.approx(sum(scored) / 4, abs=1e-5)
    assert (
        scores["reward/above the row's answer"].value
        == sum(a > b for a, b in zip(scored, own, strict=True)) / 4
    )
    assert scores["reward/KL"].value == pytest.approx(sum(moved) / 4, abs=1e-4)
    assert abs(sum(moved)) > 1e-3
    assert not scores["reward/KL"].higher_is_better
    assert scores["reward/ended"].value == 0
    info = found.info
    assert condition(info, "reward/KL") == {
        **condition(info, "reward"),
        "reference": stacks["base"].identity,
    }
    assert [i["value"] for i in found.items if i["benchmark"] == "reward"] == pytest.approx(
        scored, abs=1e-5
    )


def test_an_answer_too_long_for_the_reward_model_is_no_number(stacks: dict[str, Stack]) -> None:
    positions, limits = (
        stacks["judge"].net.config,
        stacks["judge"].net.config.max_position_embeddings,
    )
    positions.max_position_embeddings = 50
    try:
        found = Rewards("rows", "judge", RewardWeights({"b": 2.0}), None, HOW).run(
            "policy", given(stacks), cache_parts_in(None)
        )
    finally:
        positions.max_position_embeddings = limits
    scores = by_name(found)
    assert 0 < scores["reward"].num_failed < 4
    assert scores["reward"].num_failed == scores["reward/above the row's answer"].num_failed
    assert scores["reward"].value is not None
    assert math.isfinite(scores["reward"].value)


def test_steering_compares_the_levels_prompt_by_prompt(stacks: dict[str, Stack]) -> None:
    levels = ({"verbosity": 0}, {"verbosity": 4})
    found = Steering("rows", levels, HOW).run("policy", given(stacks), cache_parts_in(None))
    counts = [
        [
            len(one[0][0].split())
            for one in draw_completions(
                stacks["policy"],
                ChatML(),
                [steered(r.prompt, level) for r in ROWS],
                HOW,
                num=1,
                seed=3,
            )
            if one
        ]
        for level in levels
    ]
    scores = by_name(found)
    assert scores["steering/words at verbosity:0"].value == sum(counts[0]) / 4
    assert (
        scores["steering/words from first to last"].value == (sum(counts[1]) - sum(counts[0])) / 4
    )
    assert (
        condition(found.info, "steering/words from first to last")["levels"]
        == "verbosity:0 / verbosity:4"
    )
    with pytest.raises(ValueError, match="two or more"):
        Steering("rows", ({"verbosity": 0},))


def test_answers_against_the_rows_own_are_judged_in_both_orders(stacks: dict[str, Stack]) -> None:
    asked: list[str] = []

    def ask(requests: Sequence[Request]) -> list[Reply]:
        """The evaluated model says "yes", but fails on the second row; the judge takes whatever is
        shown first."""
        replies = []
        for request in requests:
            text = request.messages[-1].content
            asked.append(text)
            if text.startswith("tell"):
                replies.append(
                    Reply(finish="error", error="down") if text == "tell me " else Reply("yes")
                )
            else:
                replies.append(Reply("[[A]]"))
        return replies

    found = WinRateOverRows("judge-model", rows="rows").run(
        "policy", given(stacks, ask), cache_parts_in(None)
    )
    scores = by_name(found)
    score = scores["over rows"]
    # the judge named the first position in every game: that is no win rate
    assert (score.value, score.n, score.num_failed) == (None, 3, 1)
    assert "position" in score.reason
    assert scores["over rows/first position"].value == 1.0
    bare = replace(given(stacks, ask), rows=lambda name: [Chat("x", ROWS[0].prompt)])
    with pytest.raises(DataError, match="row x has no answer of its own"):
        WinRateOverRows("judge-model", rows="rows").run("policy", bare, cache_parts_in(None))
    with pytest.raises(ValueError, match="over_rows needs rows"):
        WinRateOverRows("judge-model")
