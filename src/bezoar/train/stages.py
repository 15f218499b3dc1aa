"""The training stages of a recipe. Imports no torch before one runs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

from bezoar.chat.row_types import COMPARISONS, TEXTS, RowNeed
from bezoar.cost import Estimate, Quote
from bezoar.model.spec import ModelSpec
from bezoar.progress import Progress
from bezoar.references import ModelRef, RowsRef
from bezoar.stage import Gives, Rows, Stage, StageContext, Stats
from bezoar.train.ppo_settings import PPOSettings
from bezoar.train.settings import StageInputs, TrainSettings


class TrainingStage(Stage, Protocol):
    """A stage that gives a model and asks nobody."""

    model: ModelRef
    rows: RowsRef
    gives: ClassVar[Gives] = "model"
    renders: ClassVar[bool] = True

    def run(self, context: StageContext) -> Stats:
        """Train on the rows of a finished stage."""
        template, work_dir, out_dir = context.template, context.work_dir, context.out_dir
        reward = self.reward_model(context)
        inputs = StageInputs(*context.model(self.model), template, work_dir, out_dir, reward)
        return context.train(self, context.stored_rows(self.rows), inputs)

    def fit(self, rows: Rows, inputs: StageInputs, *, progress: Progress, seed: int) -> Stats:
        """Train into `inputs.out_dir`: `adapter/` (or `model/`), `failures.jsonl`, `stats.json`."""

    def reward_model(self, context: StageContext) -> tuple[ModelSpec, list[Path]] | None:
        """The base and the adapters of the reward model, if there is one."""
        return None

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """The rows that it reads; no requests."""
        return Quote(rows[self.rows])


@dataclass(frozen=True)
class Train(TrainSettings, TrainingStage):
    """Train a new adapter (or all weights) on the frozen stack of a model, with an objective.

    The result is that of the evaluation after a step with the lowest loss on the validation rows,
    also where the loss was lower before the first step: that is said, and is no reason to keep
    nothing. A reference is the stack below the new adapter. Rows that are too long are counted,
    whether dropped or cut.

    Example: {kind: train, model: base, rows: clean, objective: {kind: sft}}
    """

    def takes(self) -> Mapping[str, RowNeed]:
        return {"rows": self.objective.takes}

    def fit(self, rows: Rows, inputs: StageInputs, *, progress: Progress, seed: int) -> Stats:
        from bezoar.train.supervised_trainer import train

        return train(self, rows, inputs, progress=progress, seed=seed)


@dataclass(frozen=True)
class PPO(PPOSettings, TrainingStage):
    """Proximal policy optimisation of a new adapter against a reward model.

    An update draws one answer to each of `batch_size` prompts; `epochs` times over, the answers are
    dealt into `minibatches`, each an optimizer step:

        policy loss = sum_t m_t max(-A_t q_t, -A_t clip(q_t, 1 - clip, 1 + clip)) / sum_t m_t,
                      q = exp(log pi - log pi_old),
        value loss  = mean_t max((V - R)^2, (V_old + clamp(V - V_old, -c, c) - R)^2) / 2,
                      c = value_clip,
        loss        = policy loss + value_weight * value loss.

    The reward of a token is -kl (log pi_old - log ref), plus at the last one the answer's score:
    `goodness` of the reward model's outputs, or `missing_end`. Rewards are divided by their
    standard deviation over the update (their mean stays), A is the generalised advantage estimate
    (gamma, lam), R = A + V_old, and A is then whitened.

    With `advantage: leave_one_out` (REINFORCE) A is the same for all tokens of an answer: its score
    less kl times the sum of its log-ratios, less the mean of these over the other `samples - 1`
    answers to its prompt; nothing is scaled or whitened, and there are no values. Ours: the loss is
    divided by the tokens of the minibatch.

    With `reset` (DR-PO) some answers begin with k tokens of the row's own answer, k uniform in
    1..L-1, L its length with the end token, at most `max_tokens`. They are part of the answer for
    the score, the KL, the advantages and the value loss; m_t is 0 on them and 1 elsewhere.

    Defaults are the DR-PO code's for TL;DR. Ours: padding takes part in nothing; log-probabilities
    are those at `temperature`; the value is a linear head on the policy's own states, from 0, but
    with `critic: reward` the paper's: a copy of the reward model, whose adapter trains and whose
    head, frozen, gives the score of the answer so far; the coefficient of the KL is fixed; only the
    template's end token ends an answer; there is no dropout; answers are drawn with the adapters
    merged into the weights and rounded to their precision, log-probabilities are read without.

    Source: arXiv 1707.06347; REINFORCE: arXiv 2402.14740; DR-PO: arXiv 2404.08495, appendix D.2
    Example: {kind: ppo, model: sft, reward: judge, rows: prompts, updates: 100}
    """

    def run(self, context: StageContext) -> Stats:
        """Search the weights, if asked, then train."""
        if self.goodness.rows is None:
            return super().run(context)
        from bezoar.model.stack import Stack

        # opened for the search alone: training opens its own, and memory holds one
        reward, pairs = Stack(*context.model(self.reward)), context.rows(self.goodness.rows)
        found = self.goodness.searched(reward, context.template, pairs, context.progress)
        del reward
        return {"goodness": found.weights, **replace(self, goodness=found).run(context)}

    def reward_model(self, context: StageContext) -> tuple[ModelSpec, list[Path]]:
        return context.model(self.reward)

    def takes(self) -> Mapping[str, RowNeed]:
        # sampled answers have no answer of their own
        texts = {"rows": TEXTS} if self.reset or self.normalise != "none" else {}
        return {**texts, "goodness.rows": (COMPARISONS,)}

    def fit(self, rows: Rows, inputs: StageInputs, *, progress: Progress, seed: int) -> Stats:
        from bezoar.train.ppo_trainer import train

        return train(self, rows, inputs, progress=progress, seed=seed)
