"""The stage that measures a model: benchmark tasks, judged conversations, held-out preferences and
more, a section each."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from bezoar.cost import Estimate, Quote, exactly
from bezoar.evals.contamination import Contamination
from bezoar.evals.judge_card import JudgeCard
from bezoar.evals.lm_eval import LmEval
from bezoar.evals.mt_bench import MTBench
from bezoar.evals.outcome import EvalContext, Outcome, cache_parts_in, write_outcome
from bezoar.evals.preferences import Preferences
from bezoar.evals.revision import Revision
from bezoar.evals.reward_bench import RewardBench
from bezoar.evals.reward_metrics import Rewards, Steering, WinRateOverRows
from bezoar.evals.rouge_bleu import RougeBleu
from bezoar.evals.win_rate import WinRate
from bezoar.llm.pool import Pool
from bezoar.llm.types import Ask
from bezoar.references import ModelRef
from bezoar.stage import Stage, StageContext, Stats


@dataclass(frozen=True)
class Evaluate(Stage):
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
    gives = "scores"
    renders = True

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

    def run(self, context: StageContext) -> Stats:
        """Measure the model and write scores.json and items.jsonl."""
        pools: dict[tuple[str, str], Pool] = {}

        def ask(what: str, name: str) -> Ask:
            if (what, name) not in pools:
                opener = context.ask_model if what == "model" else context.ask
                pools[what, name] = opener(name)
            return pools[what, name].ask_all

        outcome = self.measure(
            EvalContext(
                template=context.template,
                open_model=context.open_model,
                ask_model=lambda name: ask("model", name),
                ask=lambda name: ask("backend", name),
                rows=context.rows,  # type: ignore[arg-type]
                progress=context.progress,
                seed=context.seed,
                work_dir=context.work_dir,
                identity=context.identity,
            )
        )
        write_outcome(context.out_dir, self.model, outcome)
        counts = [pool.counts() for pool in pools.values()]
        return {"calls": {key: sum(c[key] for c in counts) for key in counts[0]}} if counts else {}

    def measure(self, given: EvalContext) -> Outcome:
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

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """The requests of the judged parts; "" is the evaluated model itself."""
        return Quote(exactly(0), [line for quote in self._having("quote") for line in quote()])

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """Score -> the smallest difference of two models that its number of items can show (80 %
        power)."""
        return {
            name: least
            for detectable in self._having("detectable")
            for name, least in detectable(rows).items()
        }
