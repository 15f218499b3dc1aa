"""GRPO and RLOO: draw several answers to each prompt, reward them, improve the policy on them.

N answers, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bezoar.io import content_hash
from bezoar.model.fast_paths import refuse_broken
from bezoar.model.stack import Stack
from bezoar.progress import Progress
from bezoar.stage import Rows, Stats
from bezoar.train.group_policy import GroupPolicy
from bezoar.train.hardware import fresh_peak
from bezoar.train.policy_trainer import PolicyTrainer, open_reward
from bezoar.train.rank_rollouts import deal_rollouts
from bezoar.train.rewards.program import check_rows
from bezoar.train.rollout import Policy, Rollout, RolloutScores, open_prompts
from bezoar.train.settings import StageInputs


def train(
    settings: GroupPolicy, rows: Rows, inputs: StageInputs, *, progress: Progress, seed: int
) -> Stats:
    """Run the stage; one that was killed goes on from its last checkpoint."""
    refuse_broken(progress.stage)
    fresh_peak()
    # before a model is opened: a row that cannot be rewarded would end the stage hours later
    check_rows(settings.programs, rows)
    by_model, reward_model = settings.by_model, None
    if by_model:
        reward_model = open_reward(inputs, "rewards", by_model.reward, progress.stage)
    stack = Stack(inputs.spec, inputs.adapters)
    prompts, dropped = open_prompts(settings, rows, inputs, stack, progress)
    parameters = stack.add_adapter(settings.adapter, seed=seed)
    # without dropout, answers are read as they were drawn
    stack.net.eval()
    policy = Policy(stack, None, settings.temperature)
    args = settings, inputs, progress, seed, parameters, policy, reward_model, prompts
    trainer = GroupTrainer(*args)
    trainer.run()
    return trainer.result(dropped, {})


@dataclass
class GroupTrainer(PolicyTrainer):
    """GRPO or RLOO on prompts."""

    settings: GroupPolicy

    def key(self) -> str:
        """The rows too, which the rewards read."""
        # a row with another right answer is another training, though its prompt is the same
        rows = [prompt.row.to_row() for prompt in self.prompts if prompt.row]
        return content_hash(super().key(), rows)

    def experience(self) -> tuple[list[Rollout], list[float], dict[str, float]]:
        """Draws until every group has a signal, if the recipe asks for it; the numbers are of all
        that was drawn."""
        settings = self.settings
        num_draws, size = 1 + settings.dynamic_sampling, settings.samples
        kept: list[tuple[Rollout, float]] = []
        seen: list[dict[str, float]] = []
        num_groups = num_flat = wanted = 0
        for number in range(self.state.step * num_draws, (self.state.step + 1) * num_draws):
            rollouts = self.draw(number)
            found = self._rewards(rollouts)
            seen += found
            pairs = list(zip(rollouts, (each["reward"] for each in found), strict=True))
            wanted = max(wanted, len(pairs))
            groups = [pairs[i : i + size] for i in range(0, len(pairs), size)]
            live = [group for group in groups if len({score for _, score in group}) > 1]
            num_groups, num_flat = num_groups + len(groups), num_flat + len(groups) - len(live)
            # if no group has a signal, the last ones stay: their advantages are 0
            taken = live if num_draws > 1 else groups
            kept += [pair for group in taken for pair in group]
            if len(kept) >= wanted:
                break
        kept = kept[:wanted] or pairs
        # of all that was drawn: what is kept was chosen by its rewards
        numbers = {name: sum(each[name] for each in seen) / len(seen) for name in seen[0]}
        numbers["no_signal"] = num_flat / num_groups
        return [rollout for rollout, _ in kept], [score for _, score in kept], numbers

    def _rewards(self, rollouts: list[Rollout]) -> list[dict[str, float]]:
        """The reward of every answer and, where there are several, its parts."""
        settings, decode = self.settings, self.stack.tokenizer.decode
        by_model, scores = settings.by_model, [0.0] * len(rollouts)
        if by_model:
            scores = self.model_scores(rollouts, by_model.goodness)
        names = ["reward", *(f"reward_{reward.kind}" for reward in settings.rewards)]
        found = dict[int, list[float]]()
        # by one rank each: a program with a time limit need not say the same twice
        for index in deal_rollouts(self.ranks, rollouts):
            rollout, score = rollouts[index], scores[index]
            # by kind, so that each can be logged beside the sum
            parts = {"model": score} if by_model else {}
            text, row = decode(rollout.tokens[:-1]), rollout.prompt.row
            # half an answer can read like a right one: programs see whole ones only
            if rollout.ended and row is not None:
                parts |= {program.kind: program.score(row, text) for program in settings.programs}
            total = sum(r.weight * parts[r.kind] for r in settings.rewards if r.kind in parts)
            total = total if rollout.ended else settings.missing_end
            total -= settings.length_penalty(len(rollout.tokens))
            found[index] = [total, *(parts.get(r.kind, 0.0) for r in settings.rewards)]
        table = self.ranks.gather(found, len(rollouts), len(names)).tolist()
        # of one reward, its part is the sum
        names = names if len(names) > 2 else names[:1]
        return [dict(zip(names, row, strict=False)) for row in table]

    def targets(self, old: RolloutScores, scores: Tensor) -> Sequence[Tensor]:
        # one advantage an answer: nobody knows which of its tokens earned the reward
        return [self.settings.advantages(scores, old.log_ratios)[:, None] * old.mask]

    def gradient(
        self,
        rollouts: list[Rollout],
        rows: list[int],
        old: RolloutScores,
        targets: Sequence[Tensor],
    ) -> dict[str, float]:
        # weights of the whole minibatch
        mask, [advantage] = old.mask, targets
        ended = torch.tensor([rollouts[i].ended for i in rows], device=mask.device)
        weights = torch.zeros_like(mask)
        weights[rows] = self.settings.weights(mask[rows], ended)
        num_tokens = float(mask[rows].sum())

        def terms(
            logprobs: Tensor, values: Tensor, *numbers: Tensor
        ) -> tuple[Tensor, dict[str, float]]:
            old_logprobs, reference, gain, weight = numbers
            losses, clipped = self.settings.token_losses(logprobs, old_logprobs, reference, gain)
            loss = (losses * weight).sum()
            return loss, {"loss": loss.item(), "clipped": float(clipped.sum()) / num_tokens}

        matrices = old.logprobs, old.reference, advantage, weights
        return self.accumulate(rollouts, rows, matrices, mask, terms)
