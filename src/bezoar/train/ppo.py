"""The reinforcement learning stage of a recipe. Imports no torch before it runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from bezoar.cost import Estimate, Quote
from bezoar.progress import Progress
from bezoar.stage import Rows, Stage, StageContext, Stats
from bezoar.train.ppo_settings import PPOSettings
from bezoar.train.settings import StageInputs


@dataclass(frozen=True)
class PPO(PPOSettings, Stage):
    """Proximal policy optimisation of a new adapter against the score of a reward model."""

    gives = "model"
    renders = True

    def run(self, context: StageContext) -> Stats:
        """Train on the prompts of a finished stage."""
        reward = context.model(self.reward)
        out = context.work_dir, context.out_dir
        inputs = StageInputs(*context.model(self.model), context.template, *out, reward)
        rows = context.stored_rows(self.rows)
        return self.fit(rows, inputs, progress=context.progress, seed=context.seed)

    def fit(self, rows: Rows, inputs: StageInputs, *, progress: Progress, seed: int) -> Stats:
        """Train into `inputs.out_dir`: `adapter/`, `failures.jsonl`, `stats.json`."""
        from bezoar.train.ppo_loop import train

        return train(self, rows, inputs, progress=progress, seed=seed)

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """The rows that it reads; no requests."""
        return Quote(rows[self.rows])
