"""Answers of the policy that trains, with what PPO reads of them: old log-probabilities, those of
the stack below, values, scores.

N answers, T tokens of the longest, A tokens of all, E hidden size.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bezoar.chat.templates import Template
from bezoar.chat.types import Messages
from bezoar.io import content_hash
from bezoar.model.chunked_logprobs import entropies, logprobs
from bezoar.model.completions import reward_completions
from bezoar.model.generation import generate
from bezoar.model.packed import pack
from bezoar.model.prompt_group import PromptGroup, answer, best_fit
from bezoar.model.sampling import SamplingParams
from bezoar.model.score_head import ScoreHead
from bezoar.model.spec import RewardWeights
from bezoar.model.stack import Stack
from bezoar.rng import seed_for
from bezoar.train.step import states


@dataclass(frozen=True)
class Prompt:
    """A row to answer: its prompt as messages and as tokens, and the tokens of its own answer with
    the end token, for resets."""

    id: str
    messages: Messages
    tokens: list[int]
    reference: list[int]


@dataclass(frozen=True)
class Rollout:
    """One answer: the tree of prompt and answer, how many tokens of it were forced, and whether the
    model ended it."""

    prompt: Prompt
    group: PromptGroup
    forced: int
    ended: bool

    @property
    def tokens(self) -> list[int]:
        """The answer, with the end token where it ended."""
        return self.group.completions[0].tokens


@dataclass
class Policy:
    """The stack that trains, its value head and the temperature at which it speaks."""

    stack: Stack
    value_head: ScoreHead
    temperature: float

    def read(self, groups: Sequence[PromptGroup]) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities and values [A] at the tokens of the answers, each value of the state
        before its token, and the states [A, E]."""
        batch = pack(groups).to(self.stack.device)
        working, hidden = states(self.stack, batch)
        return (
            logprobs(working, self.stack.head_weight, batch.target, temperature=self.temperature),
            self.value_head(hidden)[:, 0],
            working,
        )


def draw_prefix(
    prompt: Prompt, *, share: float, max_tokens: int, seed: int, update: int
) -> list[int]:
    """The tokens that an answer is forced to begin with: none, or with probability `share` the
    first k of the row's own answer, k uniform in 1..L-1, L its length with the end token, at most
    `max_tokens` (DR-PO, arXiv 2404.08495, appendix D.2)."""
    own = prompt.reference[:max_tokens]
    draws = random.Random(content_hash("reset", seed, update, prompt.id))
    if draws.random() >= share or len(own) < 2:
        return []
    return own[: draws.randint(1, len(own) - 1)]


def roll_out(
    policy: Policy,
    prompts: Sequence[Prompt],
    prefixes: Sequence[list[int]],
    end: int,
    *,
    max_tokens: int,
    seed: int,
) -> list[Rollout]:
    """One answer to each prompt that begins with its prefix. The tokens drawn depend on (weights,
    seed, prompt) alone."""
    limits = [
        SamplingParams(
            max_tokens - len(prefix),
            policy.temperature,
            stop_tokens=(end,),
            seed=seed_for(seed, prompt.id),
        )
        for prompt, prefix in zip(prompts, prefixes, strict=True)
    ]
    made = generate(
        policy.stack,
        [[*p.tokens, *prefix] for p, prefix in zip(prompts, prefixes, strict=True)],
        limits,
    )
    found = []
    for prompt, prefix, one in zip(prompts, prefixes, made, strict=True):
        ended = one.finish == "stop"
        found.append(
            Rollout(
                prompt,
                answer(prompt.tokens, [*prefix, *one.tokens, *([end] if ended else [])]),
                len(prefix),
                ended,
            )
        )
    return found


def score(
    rollouts: Sequence[Rollout],
    policy: Policy,
    judge: Stack,
    template: Template,
    *,
    goodness: RewardWeights,
    missing_end: float,
) -> list[float]:
    """The reward model's score of every answer, read as text by its own tokenizer; `missing_end`
    where the answer was cut off."""
    decode = policy.stack.tokenizer.decode
    texts = [[decode(one.tokens[:-1] if one.ended else one.tokens)] for one in rollouts]
    assert judge.score_head is not None
    outputs = judge.score_head.outputs
    values = [
        one
        for [one] in reward_completions(
            judge, template, [r.prompt.messages for r in rollouts], texts
        )
    ]
    return [
        goodness.score(outputs, v) if r.ended else missing_end
        for r, v in zip(rollouts, values, strict=True)
    ]


@dataclass
class RolloutScores:
    """What the old policy and the stack below make of rollouts, rows [N, T] with 0 behind the end
    of an answer."""

    logprobs: Tensor
    reference: Tensor
    values: Tensor
    mask: Tensor  # 1 on tokens of an answer
    free: Tensor  # 1 on those that were not forced
    lengths: Tensor  # [N]
    entropy: float  # nats a token, over all of them


@torch.no_grad()
def read(
    policy: Policy, rollouts: Sequence[Rollout], batches: Sequence[Sequence[int]]
) -> RolloutScores:
    """Read the rollouts in the micro-batches `batches`; with one minibatch they are trained in the
    same, and the ratio starts at 1 to the bit."""
    lengths = torch.tensor([len(one.tokens) for one in rollouts], device=policy.stack.device)
    steps = torch.arange(int(lengths.max()), device=policy.stack.device)[None]
    forced = torch.tensor([one.forced for one in rollouts], device=policy.stack.device)
    mask = (steps < lengths[:, None]).float()
    rows, entropy = [torch.zeros_like(mask) for _ in range(3)], 0.0
    for micro_batch in batches:
        groups = [rollouts[i].group for i in micro_batch]
        found, values, states = policy.read(groups)
        entropy += float(
            entropies(states, policy.stack.head_weight, temperature=policy.temperature).sum()
        )
        with policy.stack.disable_adapter():
            reference = policy.read(groups)[0]
        for row, batch in zip(rows, (found, reference, values), strict=True):
            for i, part in zip(
                micro_batch,
                torch.split(batch, [len(rollouts[i].tokens) for i in micro_batch]),
                strict=True,
            ):
                row[i, : len(part)] = part
    return RolloutScores(
        rows[0],
        rows[1],
        rows[2],
        mask,
        mask * (steps >= forced[:, None]),
        lengths,
        entropy / float(mask.sum()),
    )


def micro_batches(rollouts: Sequence[Rollout], budget: int) -> list[list[int]]:
    """Rollouts in groups of at most `budget` tokens."""
    return best_fit([one.group.num_input_tokens for one in rollouts], budget)
