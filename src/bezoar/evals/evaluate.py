"""The stage that measures a model: benchmark tasks, judged conversations, held-out preferences and
more, a section each."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from bezoar.evals.contamination import Contamination
from bezoar.evals.judge_card import JudgeCard
from bezoar.evals.lm_eval import LmEval
from bezoar.evals.mt_bench import MTBench
from bezoar.evals.outcome import EvalContext, Outcome, cache_parts_in
from bezoar.evals.preferences import Preferences
from bezoar.evals.revision import Revision
from bezoar.evals.reward_bench import RewardBench
from bezoar.evals.reward_metrics import Rewards, Steering, WinRateOverRows
from bezoar.evals.rouge_bleu import RougeBleu
from bezoar.evals.win_rate import WinRate
from bezoar.llm.cost import Estimate, RequestEstimate
from bezoar.references import ModelRef


@dataclass(frozen=True)
class Evaluate:
    """Recipe keys: the model and at least one section; they run in this order, contamination last,
    which reads the others' items.

    A section has `run(model, given, keep) -> Outcome`, `keep(name, make)` being a part that is done
    once, and where it makes sense `quote() -> [(language model or "" for the evaluated one,
    Calls)]`, `detectable(rows) -> {score: smallest difference}`, `files() -> [Path]` of the package
    that change its scores, and `check(model)`, a ValueError for settings without meaning.
    """

    model: ModelRef
    judge_card: JudgeCard | None = None
    reward_bench: RewardBench | None = None
    preferences: Preferences | None = None
    overlap: RougeBleu | None = None
    rewards: Rewards | None = None
    steering: Steering | None = None
    over_rows: WinRateOverRows | None = None
    lm_eval: LmEval | None = None
    mt_bench: MTBench | None = None
    win_rate: WinRate | None = None
    revision: Revision | None = None
    contamination: Contamination | None = None
    kind: Literal["evaluate"] = "evaluate"

    def __post_init__(self) -> None:
        names = [f.name for f in fields(self) if f.name not in ("model", "contamination", "kind")]
        if not any(getattr(self, name) for name in names):
            raise ValueError(f"an evaluation needs one of {', '.join(names)}; add one")
        for check in self._having("check"):
            check(self.model)

    def _having(self, method: str) -> list[Any]:
        """This method of every section that is there and has it."""
        sections = [getattr(self, f.name) for f in fields(self)]
        return [getattr(section, method) for section in sections if hasattr(section, method)]

    def run(self, given: EvalContext) -> Outcome:
        """Every section in turn; a share of failures above 2 % is said aloud."""
        outcome, keep = Outcome(), cache_parts_in(given.work_dir)
        for run in self._having("run"):
            outcome += run(self.model, replace(given, texts=outcome.texts), keep)
        for warning in outcome.warnings():
            given.progress.say(f"warning: {warning}")
        return outcome

    def files(self) -> list[Path]:
        """Files of the package whose content changes the scores."""
        return [path for files in self._having("files") for path in files()]

    def quote(self, rows: dict[str, Estimate]) -> list[tuple[str, RequestEstimate]]:
        """(language model, calls) of the judged parts; "" is the evaluated model itself."""
        return [line for quote in self._having("quote") for line in quote()]

    def detectable(self, rows: dict[str, Estimate]) -> dict[str, float]:
        """Score -> the smallest difference of two models that its number of items can show (80 %
        power)."""
        return {
            name: least
            for detectable in self._having("detectable")
            for name, least in detectable(rows).items()
        }
