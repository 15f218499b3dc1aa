"""The training stage of a recipe. Imports no torch before it runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from bezoar.cost import Estimate, Quote
from bezoar.progress import Progress
from bezoar.stage import Rows, Stage, StageContext, Stats
from bezoar.train.settings import StageInputs, TrainSettings


@dataclass(frozen=True)
class Train(TrainSettings, Stage):
    """Train a new adapter on a frozen stack of adapters, or all weights."""

    gives = "model"
    renders = True

    def run(self, context: StageContext) -> Stats:
        """Train on the rows of a finished stage."""
        spec, adapters = context.model(self.model)
        inputs = StageInputs(spec, adapters, context.template, context.work_dir, context.out_dir)
        rows = context.stored_rows(self.rows)
        return self.fit(rows, inputs, progress=context.progress, seed=context.seed)

    def fit(self, rows: Rows, inputs: StageInputs, *, progress: Progress, seed: int) -> Stats:
        """Train into `inputs.out_dir`: `adapter/` (or `model/`), `failures.jsonl`, `stats.json`."""
        from bezoar.train.loop import train

        return train(self, rows, inputs, progress=progress, seed=seed)

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """The rows that it reads; no requests."""
        return Quote(rows[self.rows])
