"""What a run says to the people who must decide: one sentence, three answers, what to do next.

Every number is one of scores.json, items.jsonl or stats.json, or a test of the items.
"""

from dataclasses import dataclass, field
from typing import Literal

from bezoar.evals.outcome import LOUD_FAILURES, benchmark_of, why_without_value
from bezoar.report import repeats
from bezoar.report.changed import changed
from bezoar.report.effects import Change, Effect, changes, judges, main_effect, overlap
from bezoar.report.formatting import count, listed, percent, usd
from bezoar.report.next_steps import detectable_change, next_steps
from bezoar.report.plain_words import as_change, as_interval, as_value, is_safety, named, phrase
from bezoar.report.run import Run, StageRecord
from bezoar.report.scoreboard import Scoreboard
from bezoar.report.sections.bill import money, total

Verdict = Literal["yes", "no", "unclear", "not measured"]
BETTER, SAFE, WORSE = "Is it better?", "Is it safe to use?", "What got worse?"


@dataclass(frozen=True)
class Answer:
    """A question that people bring, its answer, and a sentence that says why."""

    question: str
    verdict: Verdict
    why: str
    limits: tuple[str, ...] = ()
    """What a yes or a no rests on: "in one seed", "best of 3"."""

    @property
    def short(self) -> str:
        """The verdict as an answer to its question."""
        if self.question == WORSE:
            return {"yes": "Something did", "no": "Nothing found"}.get(self.verdict, self.verdict)
        return ", ".join([self.verdict, *self.limits])


@dataclass(frozen=True)
class Decision:
    """The first screen of a report."""

    sentence: str
    """Effect, interval, n and cost in plain words."""
    warnings: list[str] = field(default_factory=list)
    """What keeps the sentence from being taken at its word."""
    answers: list[Answer] = field(default_factory=list)
    """Empty where nothing was trained or evaluated."""
    next_steps: list[str] = field(default_factory=list)


def decide(run: Run, board: Scoreboard) -> Decision:
    """What the finished stages of a run say, however many there are."""
    effect = main_effect(run, board)
    others = _others(run, board, effect) if effect else []
    whole = total(run.everything)
    cost = f"{usd(money(run))}, {duration(whole.seconds)}"
    parts = [_subject(run, board, effect), *changed(others), cost]
    answers = []
    if run.of("train", "evaluate"):
        answers = [_better(effect), _safe(effect, others), _worse(effect, others)]
    steps = next_steps(run, board, effect, others)
    warnings = [*_warnings(run, board), *repeats.warnings(board)]
    return Decision("; ".join(parts) + ".", warnings, answers, steps)


def duration(seconds: float) -> str:
    """A length of time in the unit that people would say it in."""
    for size, most, unit in ((1, 90, "second"), (60, 90, "minute"), (3600, 48, "hour")):
        if round(seconds / size) < most:
            num = round(seconds / size)
            return f"{num} {unit}{'' if num == 1 else 's'}"
    return f"{seconds / 86400:.0f} days"


def _subject(run: Run, board: Scoreboard, effect: Effect | None) -> str:
    if effect:
        return effect.sentence
    trained = [stage.name for stage in run.of("train") if stage.done]
    if board.cells and len(board.labels) > 1:
        return board.headline[0].removesuffix(".")
    if board.cells:
        model, label = next(iter(board.labels.items()))
        benchmark = next((name for name in board.main if board.score(name, model)), "")
        if score := board.score(benchmark, model):
            words = phrase(benchmark, score.n, held_out=not board.trained_on(model, benchmark))
            clause = words.value(as_value(benchmark, score.value))
            return f"{label} {clause} {as_interval(benchmark, score)}"
        return f"{label} was evaluated, and no score has a value"
    if not trained and run.of("train", "evaluate"):
        return "Nothing is trained or evaluated yet"
    if trained:
        were = "was" if len(trained) == 1 else "were"
        return f"{listed(trained)} {were} trained and not evaluated"
    if empty := [stage.name for stage in run.stages if stage.gave_nothing]:
        return f"No row is left after {listed(empty)}"
    if any(stage.done for stage in run.stages):
        return _rows(run)
    return "No stage has finished yet"


def _rows(run: Run) -> str:
    """What became of the rows of a run without a model."""
    read = {name for stage in run.stages for name in stage.inputs.values()}
    made = [stage for stage in run.stages if stage.done and stage.category != "source"]
    last = [stage for stage in made if stage.name not in read] or made
    if not made:
        given = [stage for stage in run.stages if stage.done]
        said = f"{count(sum(s.count('rows_out') for s in given))} rows were read"
        none = ", and none was made yet" if len(given) < len(run.stages) else ""
        return f"{said} ({', '.join(stage.name for stage in given)}){none}"
    kept = sum(stage.count("rows_out") for stage in last)
    dropped = sum(sum(stage.dropped.values()) for stage in _behind(run, last))
    names = [f"{stage.name} {count(stage.count('rows_out'))}" for stage in last]
    sentence = f"The run kept {count(kept)} rows"
    if dropped:
        sentence += f" and dropped {count(dropped)} ({percent(dropped, kept + dropped)})"
    sentence += f" ({', '.join(names)})" if len(names) > 1 else f" ({last[0].name})"
    # what rows to come have cost is no price of these
    spent = total(_behind(run, last)).cost_usd
    return f"{sentence}; {usd(spent / kept)} a kept row" if kept and spent else sentence


def _behind(run: Run, last: list[StageRecord]) -> list[StageRecord]:
    """The stages and the schemes and filters whose rows they read."""
    stages = {stage.name: stage for stage in last}
    for stage in reversed(run.stages):
        if stage.category in ("scheme", "filter") and any(
            stage.name in later.inputs.values() for later in stages.values()
        ):
            stages[stage.name] = stage
    return list(stages.values())


def _others(run: Run, board: Scoreboard, effect: Effect) -> list[Change]:
    """The model against its start model on the other main benchmarks."""
    family = effect.benchmark.split("/")[0]
    names = [name for name in board.main if name.split("/")[0] != family]
    by_benchmark = [changes(run, board, effect.stage, name) for name in names]
    return [steps[-1] for steps in by_benchmark if steps]


def _better(effect: Effect | None) -> Answer:
    if effect is None:
        return Answer(BETTER, "not measured", "No trained model has a score to compare.")
    words = {True: "yes", False: "no", None: "unclear"}
    verdict: Verdict = words[effect.better]  # type: ignore[assignment]
    # the start model first: it decides
    whys = [f"against {change.label} {change.in_words}" for change in reversed(effect.changes)]
    if not effect.changes or effect.opponent:
        low, high = effect.score.low, effect.score.high
        if effect.beats_chance is None and (low is None or high is None):
            whys = [effect.score.reason or "the score has no interval"]
        else:
            side = {True: "above", False: "below", None: "around"}[effect.beats_chance]
            whys = [f"the interval lies {side} 50 %, which is chance"]
        if not effect.chance_known:
            verdict, whys = "not measured", ["no earlier model was measured alike"]
    if effect.claim and len(effect.claim.differences) > 1:
        whys.append(f"over seeds {effect.claim}")
    if effect.overlap:
        # a test of them finds what the model remembers
        verdict, whys = "unclear", [f"{effect.label} was {effect.overlap}; new ones would tell"]
    return Answer(
        BETTER,
        verdict,
        _corrected_once(f"On {effect.benchmark}: {'; '.join(whys)}.", effect),
        _limits(effect) if verdict in ("yes", "no") else (),
    )


def _corrected_once(text: str, effect: Effect) -> str:
    """The correction of every p, said at the end alone."""
    num_tests = {change.difference.num_tests for change in effect.changes}
    correction = f" corrected for {max(num_tests, default=1)} comparisons"
    if len(num_tests) > 1 or text.count(correction) < 2:
        return text
    return f"{text.replace(correction, '')} p is{correction}."


def _limits(effect: Effect) -> tuple[str, ...]:
    """What keeps a yes or a no from being taken for more than it is."""
    one_seed = () if effect.claim and len(effect.claim.differences) > 1 else ("in one seed",)
    return (*one_seed, f"best of {effect.num_finals}") if effect.num_finals > 1 else one_seed


def _safe(effect: Effect | None, others: list[Change]) -> Answer:
    of_safety = [change for change in others if is_safety(change.benchmark)]
    fell = [change for change in others if _is_worse(change)]
    lost = (
        f" It got worse on {listed([named(change.benchmark) for change in fell])}." if fell else ""
    )
    if not of_safety:
        why = "No benchmark of safety or of refusals was run, so nothing here says that it is."
        return Answer(SAFE, "not measured", why + lost)
    whys = [f"{named(change.benchmark)} {change.in_words}" for change in of_safety]
    if any(_is_worse(change) for change in of_safety):
        return Answer(SAFE, "no", f"Against {of_safety[0].label}: {'; '.join(whys)}.")
    limit = "Items of a benchmark are not your users' prompts."
    return Answer(SAFE, "unclear", f"Against {of_safety[0].label}: {'; '.join(whys)}. {limit}")


def _worse(effect: Effect | None, others: list[Change]) -> Answer:
    # items that it was trained on show no loss
    own = effect.changes[-1:] if effect and not effect.overlap else []
    every = [*own, *others]
    if not every and effect and effect.overlap:
        return Answer(WORSE, "not measured", f"{effect.label} was {effect.overlap}.")
    if not every:
        return Answer(WORSE, "not measured", "No score of the start model was measured alike.")
    fell = [change for change in every if _is_worse(change)]
    if fell:
        whys = [f"{named(change.benchmark)} {change.in_words}" for change in fell]
        return Answer(WORSE, "yes", f"Against {every[0].label}: {'; '.join(whys)}.")
    smallest, unmoved, alike = list[str](), list[str](), list[str]()
    for change in every:
        name, difference = named(change.benchmark), change.difference
        least = detectable_change(change)
        if least is not None:
            shown = as_change(change.benchmark, least).removeprefix("+")
            smallest.append(f"{name} (n = {difference.n}; {shown})")
        elif difference.same_on_every_item:
            unmoved.append(name)
        elif difference.distinguishable:
            alike.append(name)
    whys = []
    if smallest:
        whys.append(f"The smallest fall that would be found 4 times in 5: {listed(smallest)}.")
    if unmoved:
        whys.append(f"Every item of {listed(unmoved)} was the same in both.")
    if alike:
        whys.append(f"On {listed(alike)} it got better.")
    if not whys:
        return Answer(WORSE, "unclear", "The items are too few to show that anything did.")
    return Answer(WORSE, "no", " ".join(whys))


def _is_worse(change: Change) -> bool:
    return change.difference.distinguishable and change.difference.verdict == "worse"


def _warnings(run: Run, board: Scoreboard) -> list[str]:
    warnings = []
    missing = run.missing
    if missing:
        have = "has" if len(missing) == 1 else "have"
        warnings.append(f"This run is not finished: {listed(missing)} {have} no output yet.")
    if run.earlier:
        what = f"in the folder of {listed(run.earlier)} is the output of earlier settings"
        warnings.append(f"Not shown: {what}.")
    late = [stage for stage in run.everything if stage.unfinished]
    warnings += [f"{stage.name}: {stage.unfinished}." for stage in late]
    for stage in run.everything:
        failed, asked = round(stage.calls.get("failed", 0)), round(stage.calls.get("asked", 0))
        if failed:
            of = f"{count(failed)} of {count(asked)}"
            warnings.append(f"{stage.name}: {of} requests failed and gave nothing.")
    # What several models have in common is said once.
    labels_of: dict[str, list[str]] = {}
    for model, label in board.labels.items():
        faults = [f"was {what} ({name})" for name, what in overlap(board, model).items()]
        faults += [f"{section} {reason}" for section, reason in judges(board, model).items()]
        for benchmark in board.main:
            score = board.cells.get((benchmark, model))
            if score and score.num_failed and score.failure_rate > LOUD_FAILURES:
                family = benchmark_of(benchmark)
                faults.append(f"{family}: {why_without_value(family, score, board.info(model))}")
        for fault in dict.fromkeys(faults):
            labels_of.setdefault(fault, []).append(label)
    for fault, labels in labels_of.items():
        many = len(labels) > 1 and fault.startswith("was ")
        words = fault.replace("was ", "were ", 1) if many else fault
        warnings.append(f"{listed(labels)}: {words}.")
    return warnings
