"""What training on drawn answers shares: an update draws answers, scores them, reads them and lets
the optimizer step on them.

N answers, T tokens of the longest, A tokens of a micro-batch.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from bezoar.chat.types import Dropped
from bezoar.errors import RecipeError, TrainingError
from bezoar.io import content_hash
from bezoar.llm.rollouts import EngineRollouts
from bezoar.model.prompt_group import micro_batches, num_read
from bezoar.model.spec import RewardWeights
from bezoar.model.stack import Stack
from bezoar.rng import rng_for
from bezoar.stage import Stats
from bezoar.train.engine_gap import beside_engine
from bezoar.train.optim import epoch_order
from bezoar.train.policy_settings import PolicySettings
from bezoar.train.rank_rollouts import deal, deal_rollouts, together
from bezoar.train.rollout import Policy, Prompt, Rollout, RolloutScores, read, roll_out, score
from bezoar.train.settings import StageInputs
from bezoar.train.trainer import Trainer

T = TypeVar("T")
Terms = Callable[..., tuple[Tensor, dict[str, float]]]
"""From log-probabilities [A], values [A] and further numbers [A] of the tokens of a micro-batch to
its share of the loss, and of the numbers that are logged."""


def open_reward(inputs: StageInputs, key: str, name: str, stage: str) -> Stack:
    """The reward model that stands at `key`. RecipeError if it has no score head."""
    hint = "name a stage that trains bradley_terry or regression"
    if inputs.reward is None:
        raise RecipeError(f"stage {stage}: {key} names no model; {hint}.")
    reward_model = Stack(*inputs.reward)
    if reward_model.score_head is None:
        raise RecipeError(f"stage {stage}: {key}: {name} has no score head; {hint}.")
    return reward_model


@dataclass
class PolicyTrainer(Trainer):
    """A step is an update: answers, and the optimizer steps on them."""

    settings: PolicySettings
    policy: Policy
    reward_model: Stack | None
    prompts: list[Prompt]
    last_metrics: dict[str, float] = field(default_factory=dict)
    unit: ClassVar[str] = "update"

    def __post_init__(self) -> None:
        self.num_steps = self.settings.updates
        if self.settings.rollouts == "engine" and self.inputs.engine is None:
            fix = "write `launch: {kind: local}` in the stage, or rollouts: here"
            fault = "rollouts: an engine draws for a training on one process alone"
            raise RecipeError(f"stage {self.progress.stage}: {fault}; {fix}.")

    @abstractmethod
    def experience(self) -> tuple[list[Rollout], list[float], dict[str, float]]:
        """The answers of the update, their scores, and further numbers to log."""

    @abstractmethod
    def targets(self, old: RolloutScores, scores: Tensor) -> Sequence[Tensor]:
        """What the loss of the tokens reads, [N, T] each, from the scores [N]."""

    @abstractmethod
    def gradient(
        self,
        rollouts: list[Rollout],
        rows: list[int],
        old: RolloutScores,
        targets: Sequence[Tensor],
    ) -> dict[str, float]:
        """Add the gradient of the minibatch `rows` by `accumulate`; returns its losses."""

    def key(self) -> str:
        """What the checkpoints belong to."""
        settings = self.settings_of_weights()
        reward = self.reward_model.identity if self.reward_model else None
        prompts = [asdict(replace(prompt, row=None)) for prompt in self.prompts]
        models = self.policy.stack.identity, reward
        return content_hash(settings, prompts, *models, self.seed)

    @property
    def stack(self) -> Stack:
        return self.policy.stack

    def prepare(self) -> None:
        """The engine, and memory: every update makes its own data."""
        longest = max(len(prompt.tokens) for prompt in self.prompts) + self.settings.max_tokens
        # first, so that what an engine beside it takes is no longer free
        if (engine := self._engine()) is not None:
            engine.refuse_longer(longest)
        self.save_memory(max(self.budget, longest), self.policy.critic)

    def result(self, dropped: Sequence[Dropped], more: Mapping[str, Any]) -> Stats:
        """Write the trained weights and what is to be said of the training; the first rank does."""
        if not self.ranks.first:
            return {}
        num = len(self.prompts)
        facts = {"rows_trained": num, "memory_splits": self.state.splits, **self.last_metrics}
        return self.write_result(self.stack, num, dropped, {**facts, **more})

    def batch(self, number: int) -> list[Prompt]:
        """The prompts of a draw (0-based), each `samples` times: the next ones; each pass has its
        own order of all."""
        count, samples = len(self.prompts), self.settings.samples
        size, batch = min(self.settings.batch_size // samples, count), list[Prompt]()
        for position in range(number * size, (number + 1) * size):
            epoch, index = divmod(position, count)
            batch += [self.prompts[epoch_order(count, epoch, self.seed)[index]]] * samples
        return batch

    def prefix(self, prompt: Prompt) -> list[int]:
        """The tokens that the answer to a prompt is forced to begin with."""
        return []

    def step(self) -> str:
        """One update: answers, their scores and targets, and the optimizer steps."""
        started = time.monotonic()
        # 1) answers by the current policy, and their scores
        rollouts, scores, numbers = self.experience()
        for rollout, value in zip(rollouts, scores, strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"update {self.state.step}: the reward of the answer to row"
                    f" {rollout.prompt.id} is not finite; look at the reward model."
                )
        # 2) read the old policy, its reference and the values before any weight changes, in the
        # micro-batches of training: with one minibatch the first ratio is 1 to the bit
        old = self._read(rollouts)
        # 3) what each token was worth
        scores_tensor = torch.tensor(scores, device=old.mask.device)  # [N]
        targets = self.targets(old, scores_tensor)
        gaps, targets = beside_engine(self.settings, rollouts, old, targets)
        losses = self._improve(rollouts, old, targets)
        # 4) count before logging: a log line has the number of updates that are done
        seconds, groups = time.monotonic() - started, [r.group for r in rollouts]
        counts = {"tokens": num_read(groups), "trained_tokens": int(old.free.sum())}
        self.count(loss=losses["loss"], **counts, seconds=seconds)
        self.last_metrics = {
            "reward": float(scores_tensor.mean()),
            **numbers,
            "kl": float(old.log_ratios.mean()),
            "entropy": old.entropy,
            "answer_tokens": float(old.lengths.float().mean()),
            "ended": sum(r.ended for r in rollouts) / len(rollouts),
            **gaps,
        }
        self.progress.log(
            step=self.state.step,
            **losses,
            **self.last_metrics,
            seconds=round(seconds, 3),
            lr=self.optimizer.param_groups[0]["lr"],
            **counts,
        )
        return f"reward {self.last_metrics['reward']:.3f}"

    def _engine(self) -> EngineRollouts | None:
        """What draws the answers in place of this process, with the adapters as they are now."""
        engine = self.inputs.engine
        if engine is not None:
            engine.refresh(self.stack, self.folder / "engine", self.state.step)
        return engine

    def draw(self, number: int) -> list[Rollout]:
        """The answers to the prompts of a draw."""
        settings, prompts = self.settings, self.batch(number)
        prefixes = [self.prefix(prompt) for prompt in prompts]
        end = self.inputs.template.end(self.policy.stack.tokenizer)
        engine = self._engine()
        own = deal(self.ranks, prompts, [len(p.tokens) + settings.max_tokens for p in prompts])
        answers = partial(
            roll_out,
            self.policy,
            [prompts[i] for i in own],
            [prefixes[i] for i in own],
            end,
            max_tokens=settings.max_tokens,
            seed=int(content_hash(self.seed, number), 16),
            engine=engine,
        )

        def shrink() -> str:
            slots = self.state.slots or settings.slots
            self.state.slots = slots // 2
            return "" if slots > 1 else "for one answer; lower max_tokens or max_length"

        drawn = self.again_with_less(
            lambda: answers(slots=self.state.slots or settings.slots) if own else [], shrink
        )
        return together(self.ranks, prompts, prefixes, dict(zip(own, drawn, strict=True)))

    def _read(self, rollouts: list[Rollout]) -> RolloutScores:
        own = deal_rollouts(self.ranks, rollouts)

        def part(batches: list[list[int]]) -> RolloutScores:
            return read(self.policy, rollouts, [[own[i] for i in batch] for batch in batches])

        return self.in_micro_batches([rollouts[i] for i in own], part).over(self.ranks)

    def model_scores(self, rollouts: list[Rollout], goodness: RewardWeights) -> list[float]:
        """The reward model's score of every answer."""
        assert self.reward_model is not None
        own = deal_rollouts(self.ranks, rollouts)
        mine, models = [rollouts[i] for i in own], (self.policy, self.reward_model)
        rate = partial(score, mine, *models, self.inputs.template, goodness=goodness)
        missing_end = self.settings.missing_end
        scores = self.in_micro_batches(
            mine, lambda _: rate(missing_end=missing_end, max_tokens=self.state.budget)
        )
        rows = {i: [value] for i, value in zip(own, scores, strict=True)}
        return [value for [value] in self.ranks.gather(rows, len(rollouts), 1).tolist()]

    def _improve(
        self, rollouts: list[Rollout], old: RolloutScores, targets: Sequence[Tensor]
    ) -> dict[str, float]:
        """The optimizer steps of an update; their mean losses."""
        settings, totals = self.settings, dict[str, float]()
        num_steps = settings.epochs * settings.minibatches
        for epoch in range(settings.epochs):
            order = list(range(len(rollouts)))
            if settings.minibatches > 1:
                rng_for("minibatches", self.seed, self.state.step, epoch).shuffle(order)
            # sorted, as in supervised training: the cut depends on the set of answers only
            for number in range(settings.minibatches):
                rows = sorted(order[number :: settings.minibatches])
                losses = self.gradient(rollouts, rows, old, targets)
                ids = [rollouts[i].prompt.id for i in rows]
                losses["grad_norm"] = self.apply_gradient(settings.max_grad_norm, ids)
                for name, value in losses.items():
                    totals[name] = totals.get(name, 0.0) + value / num_steps
        return totals

    def accumulate(
        self,
        rollouts: list[Rollout],
        rows: list[int],
        matrices: Sequence[Tensor],
        mask: Tensor,
        terms: Terms,
    ) -> dict[str, float]:
        """Add this rank's part of the gradient of the loss that `terms` makes of the minibatch
        `rows`, micro-batch by micro-batch; the sums of what all ranks log.

        `matrices` [N, T] are given to it without padding; divisors are the caller's, of the whole
        minibatch, so that micro-batches and ranks have no effect on the result.
        """
        own = [rows[i] for i in deal_rollouts(self.ranks, [rollouts[i] for i in rows])]
        # a rank without answers reads one that counts nothing: it has a part in all sums
        counts, own = bool(own), own or rows[:1]

        def compute(batches: list[list[int]]) -> dict[str, float]:
            totals = dict[str, float]()
            for batch in batches:
                # 1) numbers from before the update, in the order of the tokens
                micro_rows = [own[i] for i in batch]
                is_answer = mask[micro_rows].bool()
                numbers = [matrix[micro_rows][is_answer] for matrix in matrices]  # [A] each
                # 2) the policy of now; backward at once, so that one micro-batch's graph is held
                logprobs, values, _ = self.policy.read([rollouts[i].group for i in micro_rows])
                loss, shown = terms(logprobs, values, *numbers)
                torch.autograd.backward(loss * counts)
                for name, value in shown.items():
                    totals[name] = totals.get(name, 0.0) + value * counts
            return totals

        return self.ranks.sum_named(self.in_micro_batches([rollouts[i] for i in own], compute))

    def in_micro_batches(
        self, rollouts: list[Rollout], compute: Callable[[list[list[int]]], T]
    ) -> T:
        """`compute` of rollouts; out of memory, again in smaller micro-batches."""
        sizes = {rollout.prompt.id: rollout.group.num_input_tokens for rollout in rollouts}
        split = partial(micro_batches, [rollout.group for rollout in rollouts])
        return self.with_less_memory(split, compute, sizes)
