"""The stage that measures a model: benchmark tasks, judged conversations, held-out preferences."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, Literal

from bezoar.chat.row_types import RowNeed
from bezoar.cost import Estimate, Quote, exactly
from bezoar.evals.checked_answers import CheckedAnswers
from bezoar.evals.contamination import Contamination
from bezoar.evals.function_calling import FunctionCalling
from bezoar.evals.ifeval import IFEval
from bezoar.evals.judge_card import JudgeCard
from bezoar.evals.judge_minimum import below_minimum, check_minimum
from bezoar.evals.lm_eval import LmEval
from bezoar.evals.mt_bench import MTBench
from bezoar.evals.outcome import EvalContext, Outcome, cache_parts_in, write_outcome
from bezoar.evals.preferences import Preferences
from bezoar.evals.revision import Revision
from bezoar.evals.reward_bench import RewardBench
from bezoar.evals.reward_bench_2 import RewardBench2
from bezoar.evals.reward_metrics import Rewards, Steering, WinRateOverRows
from bezoar.evals.rouge_bleu import RougeBleu
from bezoar.evals.section import Section
from bezoar.evals.win_rate import WinRate
from bezoar.launch import AskLaunch
from bezoar.model.resolve import stack_identity
from bezoar.references import ModelRef
from bezoar.stage import Gives, Stage, StageContext, Stats


@dataclass(frozen=True)
class Evaluate(Stage):
    """Measures a model: at least one section beside `contamination`, in the order of the keys.

    Example: {kind: evaluate, model: sft, mt_bench: {judge: teacher}}
    """

    model: ModelRef
    """Model that is measured: of `models`, or a training stage."""
    judge_card: JudgeCard | None = None
    """What a judge of pairs is worth, on pairs whose better answer is known."""
    reward_bench: RewardBench | None = None
    """Accuracy on pairs whose better answer is known."""
    reward_bench_2: RewardBench2 | None = None
    """Best of four answers by RewardBench 2, with its ties."""
    preferences: Preferences | None = None
    """How often the model prefers the chosen answers of held-out pairs."""
    overlap: RougeBleu | None = None
    """ROUGE and BLEU against the answers of rows."""
    rewards: Rewards | None = None
    """The reward of new answers, and the KL from a reference."""
    steering: Steering | None = None
    """Whether attribute levels steer the length of answers."""
    over_rows: WinRateOverRows | None = None
    """Win rate over the rows' own answers."""
    lm_eval: LmEval | None = None
    """Benchmark tasks of LM-Eval-Harness and local files."""
    function_calling: FunctionCalling | None = None
    """Function calls by the rules of the Berkeley leaderboard."""
    checked_answers: CheckedAnswers | None = None
    """Calls, use of results, JSON mode and citations on held-out rows."""
    ifeval: IFEval | None = None
    """Instructions whose keeping a program can check."""
    mt_bench: MTBench | None = None
    """Graded conversations of two turns."""
    win_rate: WinRate | None = None
    """Win rate over another model on the same questions."""
    revision: Revision | None = None
    """Whether the model's revisions are better than the answers that it revises."""
    contamination: Contamination | None = None
    """How the training rows are searched for the items of the other sections, which always is."""
    launch: AskLaunch | None = field(default=None, kw_only=True)
    """What sends its judges' requests; default: where the recipe's `launch` says."""
    kind: Literal["evaluate"] = "evaluate"
    gives: ClassVar[Gives] = "scores"
    renders = True
    draws = True

    def __post_init__(self) -> None:
        others = ("model", "contamination", "launch", "kind")
        names = [f.name for f in fields(Evaluate) if f.name not in others]
        if not any(getattr(self, name) for name in names):
            raise ValueError(f"an evaluation needs one of {', '.join(names)}; add one")
        if self.contamination == Contamination():
            raise ValueError(
                "contamination is always searched for; give it rows or n, or remove it"
            )
        # settings that cannot work are refused before anything is trained or paid
        for name, section in self.named.items():
            section.check(self.model)
            check_minimum(name, section, self.judge_card)

    @property
    def named(self) -> dict[str, Section]:
        """The sections by key, in the order in which they run, `contamination` always and last."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["contamination"] = self.contamination or Contamination()
        return {name: value for name, value in values.items() if isinstance(value, Section)}

    def takes(self) -> Mapping[str, RowNeed]:
        """What the sections need, under their names."""
        return {
            f"{name}.{key}": need
            for name, section in self.named.items()
            for key, need in section.takes().items()
        }

    def run(self, context: StageContext) -> Stats:
        """Measure the model and write scores.json and items.jsonl."""
        outcome = self.measure(self.inputs(context))
        write_outcome(context.out_dir, self.model, outcome)
        return {}

    def inputs(self, context: StageContext) -> EvalContext:
        """What the sections are given."""
        return EvalContext(
            template=context.template,
            open_model=context.open_model,
            ask_model=lambda name: context.ask_model(name).ask_all,
            ask=lambda name: context.ask(name).ask_all,
            rows=context.rows,  # type: ignore[arg-type]
            stored_rows=context.stored_rows,
            progress=context.progress,
            seed=context.seed,
            work_dir=context.work_dir,
            identity=context.identity,
            lineage=context.lineage,
            shared_dir=context.shared_dir,
            model_identity=lambda name: stack_identity(*context.model(name)),
        )

    def measure(self, context: EvalContext) -> Outcome:
        """Every section in turn; more than 2 % failures give a warning."""
        outcome, cache_part = Outcome(), cache_parts_in(context.work_dir)
        for name, section in self.named.items():
            # the judge is not asked for verdicts that do not count
            if skipped := below_minimum(name, section, outcome.info):
                outcome += skipped
                continue
            # contamination comes last and searches for the texts of the sections before it
            earlier = replace(context, texts=outcome.texts)
            outcome += section.run(self.model, earlier, cache_part)
        for warning in outcome.warnings():
            context.progress.say(f"warning: {warning}")
        return outcome

    def files(self) -> list[Path]:
        """Files of the package whose content changes the scores."""
        return [path for section in self.named.values() for path in section.files()]

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """The requests of the judged parts; "" is the evaluated model itself."""
        requests = [line for section in self.named.values() for line in section.quote(rows)]
        return Quote(exactly(0), requests)

    def detectable(self, rows: Mapping[str, Estimate]) -> dict[str, float]:
        """Score -> the smallest difference that its items can show (80 % power)."""
        parts = [section.detectable(rows) for section in self.named.values()]
        return {score: least for part in parts for score, least in part.items()}
