"""The checkpoint of a training that evaluations like best."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import ClassVar, Literal

from bezoar.bounds import Count
from bezoar.cost import Estimate, Quote, exactly
from bezoar.errors import DataError
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.outcome import Outcome
from bezoar.references import CHECKPOINT
from bezoar.stage import Gives, StageContext, Stats


@dataclass(frozen=True)
class Choose(Evaluate):
    """Chooses the checkpoint of a training whose suites of scores have the highest mean.

    The training has `keep: all`. Each suite is the mean of some scores; over the checkpoints it is
    scaled to 0 for the lowest and 100 for the highest, and the mean over the suites decides, the
    earlier checkpoint where two are equal. A suite that is the same for all counts 0.

    Source: Hermes 3, arXiv 2408.11857, section 4.1 (four suites, a checkpoint an epoch)
    Example: {kind: choose, model: sft, suites: {MT-Bench: [mt_bench]}, mt_bench: {judge: teacher}}
    """

    suites: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Suites by name: the scores of which each is the mean, by their names in the report."""
    checkpoints: Count = 4
    """Checkpoints that are measured, the last ones."""
    kind: Literal["choose"] = "choose"  # type: ignore[assignment]
    gives: ClassVar[Gives] = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.suites or not all(self.suites.values()):
            raise ValueError("suites needs a suite, and each suite a score; add one")

    def run(self, context: StageContext) -> Stats:
        """Measure the checkpoints and copy the best."""
        spec, adapters = context.model(self.model)
        folder = (adapters[-1] if adapters else Path(spec.path)).parent / "checkpoints"
        found = sorted(folder.glob("step-*"), key=lambda path: int(path.name[5:]))
        if not found:
            what = f"{self.model} kept one result"
            raise DataError(f"{what}; set `keep: all` there, and `eval_every` or `epochs`.")
        # 1) Each checkpoint by the sections of this stage.
        found = found[-self.checkpoints :]
        suites: dict[str, dict[str, float]] = {}
        for checkpoint in found:
            one = replace(self, model=f"{self.model}{CHECKPOINT}{checkpoint.name}")
            inputs = replace(one.inputs(context), work_dir=context.work_dir / checkpoint.name)
            suites[checkpoint.name] = self.suite_means(one.measure(inputs))
        # 2) The best, and what it was trained without.
        totals = normalised_means(list(suites.values()))
        best = max(range(len(totals)), key=lambda i: (totals[i], -i))
        chosen = found[best]
        shutil.copytree(chosen, context.out_dir, dirs_exist_ok=True)
        for name in ("validation.jsonl", "failures.jsonl"):
            shutil.copy(folder.parent / name, context.out_dir / name)
        table = [
            {"checkpoint": name, **scores, "normalised mean": round(total, 2)}
            for (name, scores), total in zip(suites.items(), totals, strict=True)
        ]
        context.progress.say(f"  {context.progress.stage}: {chosen.name} has the highest mean")
        return {"chosen": chosen.name, "choice": table}

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """The requests of each checkpoint."""
        requests = [
            (name, replace(asked, num=asked.num * self.checkpoints))
            for name, asked in super().quote(rows).requests
        ]
        return Quote(exactly(0), requests)

    def suite_means(self, outcome: Outcome) -> dict[str, float]:
        """Each suite of one checkpoint; a score of which lower is better counts negatively."""
        known = {
            score.name: score.value if score.higher_is_better else -score.value
            for score in outcome.scores
            if score.value is not None
        }
        for suite, names in self.suites.items():
            if missing := [name for name in names if name not in known]:
                there = ", ".join(known)
                raise DataError(
                    f"suites.{suite}: there is no score {missing[0]}; there are {there}."
                )
        return {suite: fmean(known[name] for name in names) for suite, names in self.suites.items()}


def normalised_means(checkpoints: Sequence[Mapping[str, float]]) -> list[float]:
    """The mean over the suites of each checkpoint, each suite scaled to 0..100 over all of them."""
    totals = []
    for scores in checkpoints:
        scaled = []
        for suite, value in scores.items():
            values = [other[suite] for other in checkpoints]
            spread = max(values) - min(values)
            scaled.append(100 * (value - min(values)) / spread if spread else 0.0)
        totals.append(fmean(scaled))
    return totals
