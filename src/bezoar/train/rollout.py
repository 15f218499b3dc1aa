"""Answers of the policy in training, and what PPO reads of them.

N answers, T tokens of the longest, A tokens of all, E hidden size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bezoar.chat.templates import Template, render_completions
from bezoar.chat.types import AnyRow, Dropped, Messages
from bezoar.errors import DataError
from bezoar.llm.rollouts import EngineRollouts
from bezoar.model.completions import reward_completions
from bezoar.model.generation import generate
from bezoar.model.packed import pack
from bezoar.model.prompt_group import PromptGroup, answer
from bezoar.model.sampling import SamplingParams
from bezoar.model.score_head import ScoreHead
from bezoar.model.spec import RewardWeights
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.rng import rng_for, seed_for
from bezoar.stage import Rows
from bezoar.train.advantage import advantages, leave_one_out, token_rewards, whiten
from bezoar.train.policy_settings import PolicySettings
from bezoar.train.ppo_settings import PPOSettings
from bezoar.train.ranks import Ranks
from bezoar.train.settings import StageInputs
from bezoar.train.step import states


@dataclass(frozen=True)
class Prompt:
    """A prompt to answer; `reference` is its row's own answer with the end token, for resets."""

    id: str
    messages: Messages
    tokens: list[int]
    reference: list[int]
    row: AnyRow | None = None  # for rewards that read more of it


def read_prompts(
    settings: PolicySettings, rows: Iterable[AnyRow], inputs: StageInputs, stack: Stack
) -> tuple[list[Prompt], list[Dropped]]:
    """The prompts to answer; long ones are dropped. DataError if a reset needs a missing answer."""
    resets = isinstance(settings, PPOSettings) and settings.reset > 0
    template, tokenizer = inputs.template, stack.tokenizer
    template.check(tokenizer)
    kept: list[Prompt] = []
    dropped: list[Dropped] = []
    for row in rows:
        tokens = template.prompt(row.prompt, tokenizer)
        reference: list[int] = []
        if resets:
            if not row.answer.strip():
                raise DataError(
                    f"row {row.id}: it has no answer of its own to reset to; remove the row or set"
                    " reset to 0."
                )
            [reference] = render_completions(row.prompt, [row.answer], template, tokenizer)[1]
        # the answer must fit behind the prompt too
        if len(tokens) > min(settings.max_length, stack.context_length - settings.max_tokens):
            detail = f"{len(tokens)} tokens, max_length is {settings.max_length}"
            dropped.append(Dropped(row.id, "too long", detail))
        else:
            kept.append(Prompt(row.id, row.prompt, tokens, reference, row))
    return kept, dropped


def open_prompts(
    settings: PolicySettings, rows: Rows, inputs: StageInputs, stack: Stack, progress: Progress
) -> tuple[list[Prompt], list[Dropped]]:
    """The prompts to answer, and the rows that are left out. DataError if none is left."""
    prompts, dropped = read_prompts(settings, rows, inputs, stack)
    if not prompts:
        raise DataError(
            f"stage {progress.stage}: none of its {len(rows)} rows can be answered; look at"
            " failures.jsonl or raise max_length."
        )
    if len(prompts) < settings.batch_size // settings.samples:
        progress.say(f"  {progress.stage}: an update has only {len(prompts)} prompts; add rows")
    return prompts, dropped


@dataclass(frozen=True)
class Rollout:
    """One answer; its first `forced` tokens were given, `ended` says that the model ended it."""

    prompt: Prompt
    group: PromptGroup
    forced: int
    ended: bool
    engine_logprobs: tuple[float, ...] = ()
    """Of the tokens that were not forced, where an engine drew them."""

    @property
    def tokens(self) -> list[int]:
        """The answer, with the end token if it ended."""
        return self.group.completions[0].tokens


@dataclass
class Policy:
    """The stack that trains, its value head, if any, and the temperature that it samples at.

    The head reads the states of `critic`, where there is one, else those of the policy.
    """

    stack: Stack
    value_head: ScoreHead | None
    temperature: float
    critic: Stack | None = None

    def read(
        self, groups: Sequence[PromptGroup], *, valued: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities [A] and values [A] of the answers' tokens, and their states [A, E].

        A token's value and state are those before it: of the prompt and the answer so far.
        """
        batch = pack(groups).to(self.stack.device)
        working, hidden = states(self.stack, batch)
        logprobs = self.stack.output.logprobs(working, batch.target, temperature=self.temperature)
        if self.value_head is None or not valued:
            return logprobs, logprobs[:0], working
        if self.critic is not None:
            hidden = states(self.critic, batch)[1]
        # the value head is in float32 and reads the states before they are rounded
        return logprobs, self.value_head(hidden)[:, 0], working


def draw_prefix(
    prompt: Prompt, *, share: float, max_tokens: int, seed: int, update: int
) -> list[int]:
    """The tokens that an answer is forced to begin with.

    None, or with probability `share` the first k of the row's own answer, k uniform in 1..L-1, L
    its length with the end token, at most `max_tokens` (DR-PO, arXiv 2404.08495, appendix D.2).
    """
    # a generator of its own: draws depend neither on the batch nor on what came before
    own_answer = prompt.reference[:max_tokens]
    rng = rng_for("reset", seed, update, prompt.id)
    if rng.random() >= share or len(own_answer) < 2:
        return []
    return own_answer[: rng.randint(1, len(own_answer) - 1)]


def roll_out(
    policy: Policy,
    prompts: Sequence[Prompt],
    prefixes: Sequence[list[int]],
    end: int,
    *,
    max_tokens: int,
    seed: int,
    slots: int = 32,
    engine: EngineRollouts | None = None,
) -> list[Rollout]:
    """An answer to each prompt, begun with its prefix; draws depend on (weights, seed, prompt), and
    by rounding on `slots`, the answers drawn at once, or on the engine that draws them."""
    pairs = list(zip(prompts, prefixes, strict=True))
    common = SamplingParams(max_tokens, policy.temperature, stop_tokens=(end,))
    params, drawn_before = [], Counter[str]()
    for prompt, prefix in pairs:
        # another answer to a prompt is another draw
        again = [number] if (number := drawn_before[prompt.id]) else []
        draw_seed = seed_for(seed, prompt.id, *again)
        params.append(replace(common, max_tokens=max_tokens - len(prefix), seed=draw_seed))
        drawn_before[prompt.id] += 1
    # the forced tokens are read as part of the prompt, and counted as part of the answer
    inputs = [[*prompt.tokens, *prefix] for prompt, prefix in pairs]
    rollouts = []
    drawn: list[tuple[list[int], str, tuple[float, ...]]]
    if engine is None:
        answers = generate(policy.stack, inputs, params, slots=slots)
        drawn = [(each.tokens, each.finish, ()) for each in answers]
    else:
        drawn = list(engine.draw(inputs, params))
    for (prompt, prefix), (found, finish, logprobs) in zip(pairs, drawn, strict=True):
        ended = finish == "stop"
        tokens = [*prefix, *found, *([end] if ended else [])]
        group = answer(prompt.tokens, tokens)
        rollouts.append(Rollout(prompt, group, len(prefix), ended, logprobs))
    return rollouts


def score(
    rollouts: Sequence[Rollout],
    policy: Policy,
    reward_model: Stack,
    template: Template,
    *,
    goodness: RewardWeights,
    missing_end: float,
    max_tokens: int = 0,
) -> list[float]:
    """The reward model's score of every answer; `missing_end` for an answer that was cut off.

    Answers are read as text, because the reward model may have another tokenizer.
    """
    # without the end token, which the reward model's own template adds again
    decode = policy.stack.tokenizer.decode
    texts = [[decode(r.tokens[:-1] if r.ended else r.tokens)] for r in rollouts]
    messages = [r.prompt.messages for r in rollouts]
    assert reward_model.score_head is not None
    names = reward_model.score_head.outputs
    outputs = reward_completions(reward_model, template, messages, texts, max_tokens=max_tokens)
    return [
        goodness.score(names, values) if rollout.ended else missing_end
        for rollout, [values] in zip(rollouts, outputs, strict=True)
    ]


@dataclass
class RolloutScores:
    """What the old policy and its reference make of rollouts: rows [N, T], 0 behind an answer."""

    logprobs: Tensor
    reference: Tensor
    values: Tensor
    mask: Tensor  # 1 on tokens of an answer
    free: Tensor  # 1 on those that were not forced
    lengths: Tensor  # [N]
    entropy: float  # nats a token, over all of them

    def over(self, ranks: Ranks) -> RolloutScores:
        """The same of all rollouts, from the parts that each rank has read."""
        for matrix in (self.logprobs, self.reference, self.values):
            ranks.sum(matrix)
        return replace(self, entropy=ranks.sum_named({"": self.entropy})[""])

    @property
    def log_ratios(self) -> Tensor:
        """log pi(y|x) - log ref(y|x) of the answers, [N]."""
        return ((self.logprobs - self.reference) * self.mask).sum(1)


@torch.no_grad()
def read(
    policy: Policy, rollouts: Sequence[Rollout], batches: Sequence[Sequence[int]]
) -> RolloutScores:
    """Read the rollouts in the micro-batches `batches`."""
    stack, device = policy.stack, policy.stack.device
    lengths = torch.tensor([len(r.tokens) for r in rollouts], device=device)
    forced = torch.tensor([r.forced for r in rollouts], device=device)
    positions = torch.arange(int(lengths.max()), device=device)[None]
    mask = (positions < lengths[:, None]).float()
    old_logprobs, reference, values = (torch.zeros_like(mask) for _ in range(3))
    entropy, temperature = 0.0, policy.temperature
    for batch in batches:
        groups, is_answer = [rollouts[i].group for i in batch], mask[batch].bool()
        batch_logprobs, batch_values, hidden = policy.read(groups)
        entropy += float(stack.output.entropies(hidden, temperature=temperature).sum())
        # the reference runs on the same packed row, so both round in the same way
        with stack.disable_adapter():
            batch_reference = policy.read(groups, valued=False)[0]
        # [A] to [B, T]: the answers of a batch stand one behind the other, in its order
        for matrix, tokens in (
            (old_logprobs, batch_logprobs),
            (reference, batch_reference),
            (values, batch_values),
        ):
            if not len(tokens):  # there are no values
                continue
            rows = torch.zeros_like(matrix[batch])
            matrix[batch] = rows.masked_scatter(is_answer, tokens.float())
    free = mask * (positions >= forced[:, None])
    mean_entropy = entropy / float(mask.sum())
    return RolloutScores(old_logprobs, reference, values, mask, free, lengths, mean_entropy)


def gains(settings: PPOSettings, old: RolloutScores, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages and returns [N, T] from the scores [N] of the answers."""
    if settings.advantage == "leave_one_out":
        gain = leave_one_out(scores - settings.kl * old.log_ratios, settings.samples)
        # without values there are no returns to learn
        return gain[:, None] * old.mask, old.values
    # token rewards (KL, the score at the end), scaled to deviation 1; their mean stays, because it
    # says whether the answers are good at all
    rewards = token_rewards(old.logprobs, old.reference, scores, old.lengths, kl=settings.kl)
    rewards = whiten(rewards, old.mask, shift_mean=False)  # [N, T]
    # the returns come from the raw advantages; the policy gets whitened ones
    raw = advantages(rewards, old.values, old.mask, gamma=settings.gamma, lam=settings.lam)
    return whiten(raw, old.mask), raw + old.values
