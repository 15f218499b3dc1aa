"""The models' scores side by side, and which differences between them are more than chance."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bezoar.evals.comparison import Measured, alike, condition, differences, unlike
from bezoar.evals.outcome import benchmark_of, trained_on
from bezoar.evals.stats import NOT_DISTINGUISHABLE, Difference, Score
from bezoar.io import Row
from bezoar.report.formatting import listed

Cell = tuple[str, str]
"""(benchmark, model key)."""


@dataclass(frozen=True)
class Leaders:
    """Of the models measured alike on a benchmark those that the leader cannot be told from."""

    benchmark: str
    leader: str
    others: dict[str, Difference]
    """Every other model -> its difference from the leader."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are compared, the leader first."""
        return (self.leader, *self.others)

    @property
    def tied(self) -> tuple[str, ...]:
        """The leader and those that cannot be told from it."""
        return (self.leader, *(m for m, d in self.others.items() if not d.distinguishable))

    @property
    def none(self) -> bool:
        """True if no model can be told from the leader."""
        return len(self.tied) == len(self.models)

    @property
    def why_none(self) -> dict[str, list[str]]:
        """Why a model cannot be told from the leader -> the models of which this is so."""
        reasons: dict[str, list[str]] = {}
        for model, difference in self.others.items():
            if not difference.distinguishable:
                reasons.setdefault(difference.verdict, []).append(model)
        return reasons


@dataclass(frozen=True)
class Scoreboard:
    """Scores, items, facts and answers of all evaluated models, filled by `load_scoreboard`."""

    labels: dict[str, str] = field(default_factory=dict)
    """Model keys, in order -> shown names."""
    cells: dict[Cell, Score] = field(default_factory=dict)
    """A score over all items of a benchmark."""
    items: dict[Cell, dict[str, float]] = field(default_factory=dict)
    """Item -> value."""
    parts: dict[Cell, dict[str, Score]] = field(default_factory=dict)
    """Group -> score over a part of the items, such as MT-Bench's categories."""
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model key -> scores.json."""
    answers: dict[str, list[Row]] = field(default_factory=dict)
    """Model key -> items that hold the model's answers."""
    further: dict[str, list[str]] = field(default_factory=dict)
    """Model key -> the keys of what it scored elsewhere under other conditions."""
    seeds: "dict[int, Scoreboard]" = field(default_factory=dict, repr=False)
    """With `repeats`: every seed's scoreboard, this one first."""
    repeated: set[str] = field(default_factory=set)
    """Models that were trained anew with every seed."""
    _differences: dict[Cell, dict[str, Difference]] = field(default_factory=dict, repr=False)

    @cached_property
    def benchmarks(self) -> list[str]:
        """Every benchmark once, in order of first sight."""
        return list(dict.fromkeys(benchmark for benchmark, _ in self.cells))

    @cached_property
    def main(self) -> list[str]:
        """Of each family (the name before `/`) the score that compares models and comes first.

        Where none compares two models, the first score of every model; to an accuracy its margin.
        """
        first_of_family: dict[tuple[str, str], str] = {}
        # What is so by definition leads only where another model was measured on it.
        measured = {name for (name, _), cell in self.cells.items() if not cell.by_definition}
        for benchmark, model in self.cells:
            if benchmark in measured:
                first_of_family.setdefault((benchmark.split("/")[0], model), benchmark)
        # A model that lacks the family's best score would bring in one that stands behind it.
        votes = Counter(first_of_family.values())
        main: set[str] = set()
        for family in dict.fromkeys(family for family, _ in first_of_family):
            names = [name for name in self.benchmarks if name.split("/")[0] == family]
            shared = [name for name in names if len(self.alike(name)[0]) > 1]
            best = max(shared, key=lambda name: votes[name], default="")
            main |= {n for n in names if n == best or (votes[n] and n not in shared)}
        # A margin says how clear the choices were that the accuracy counts.
        accuracies = [name for name in main if name.endswith("accuracy")]
        main |= {name.removesuffix("accuracy") + "margin" for name in accuracies}
        return [name for name in self.benchmarks if name in main]

    def info(self, model: str) -> dict[str, Any]:
        """What the evaluations of a model used and counted, by section."""
        return self.facts.get(model, {}).get("info") or {}

    def measured(self, benchmark: str, model: str) -> Measured:
        """A score with its items and its condition. KeyError for one that is not there."""
        items = self.items.get((benchmark, model), {})
        score = self.cells[benchmark, model]
        return Measured(model, score, items, condition(self.info(model), benchmark))

    def alike(self, benchmark: str) -> list[list[str]]:
        """The models that have a value, by the condition it was measured under, most first."""
        groups = alike(self.measured(benchmark, model) for model in self.of(benchmark))
        names = [[member.model for member in group] for group in groups]
        return sorted(names, key=len, reverse=True) or [[]]

    def score(self, benchmark: str, model: str) -> Score | None:
        """A cell that has a value, else None."""
        cell = self.cells.get((benchmark, model))
        return cell if cell and cell.value is not None else None

    def of(self, benchmark: str) -> dict[str, Score]:
        """Model key -> its score, for those that have one."""
        scores = {model: self.score(benchmark, model) for model in self.labels}
        return {model: score for model, score in scores.items() if score is not None}

    def against(self, benchmark: str, reference: str) -> dict[str, Difference]:
        """Model key -> its difference from `reference`, for all others that are comparable."""
        # The paired tests are slow and shown at several places: each is carried out once.
        if (benchmark, reference) not in self._differences:
            group = next((names for names in self.alike(benchmark) if reference in names), [])
            others = [self.measured(benchmark, name) for name in group if name != reference]
            tests = differences(self.measured(benchmark, reference), others) if others else {}
            self._differences[benchmark, reference] = tests
        return self._differences[benchmark, reference]

    def verdicts_on(self, benchmark: str) -> list[Leaders]:
        """A verdict on every two or more models that were measured alike, most models first."""
        verdicts = []
        for models in self.alike(benchmark):
            if len(models) > 1:
                scores = {model: self.cells[benchmark, model] for model in models}
                # Of perplexities the lowest leads.
                sign = 1 if scores[models[0]].higher_is_better else -1
                leader = max(models, key=lambda model: sign * (scores[model].value or 0.0))
                # The leader is compared with all others at once: Holm needs all p values.
                verdicts.append(Leaders(benchmark, leader, self.against(benchmark, leader)))
        return verdicts

    def verdict(self, benchmark: str) -> Leaders | None:
        """The verdict on the most models; None where no two were measured alike."""
        return next(iter(self.verdicts_on(benchmark)), None)

    def leaders(self, benchmark: str) -> tuple[str, ...]:
        """The leading models; empty if no model can be told from the leader."""
        verdict = self.verdict(benchmark)
        return verdict.tied if verdict and not verdict.none else ()

    @cached_property
    def verdicts(self) -> list[Leaders]:
        """Verdicts on the main benchmarks."""
        return [verdict for benchmark in self.main for verdict in self.verdicts_on(benchmark)]

    def in_words(self, verdict: Leaders) -> str:
        """A verdict as it stands in a table."""
        if not verdict.none:
            why = self._among_leaders(verdict)
            return self._lead(verdict.tied, [verdict.benchmark], why)
        if len(verdict.why_none) == 1:
            return next(iter(verdict.why_none))
        return "; ".join(f"{self._names(m)}: {why}" for why, m in verdict.why_none.items())

    def left_out(self, benchmarks: Iterable[str]) -> list[str]:
        """Which models are not compared on which benchmarks, and why, a sentence each."""
        reasons: dict[tuple[str, str], list[str]] = {}
        further = {key for keys in self.further.values() for key in keys}
        for benchmark in benchmarks:
            groups = self.alike(benchmark)
            compared = groups[0] if len(groups[0]) > 1 else []
            whys: dict[str, list[str]] = {}
            for model in (model for model in self.labels if model not in compared):
                # such a row holds what one evaluation measured apart, and lacks the rest
                if model in further and (benchmark, model) not in self.cells:
                    continue
                whys.setdefault(self._why_left_out(benchmark, model, groups), []).append(model)
            for why, models in whys.items():
                who = f"{self._names(models)} {'is' if len(models) == 1 else 'are'} not compared"
                if compared and "differ in" in why:
                    who += f" with {self._names(compared)}"
                reasons.setdefault((who, why), []).append(benchmark)
        return [f"{who} on {listed(names)}: {why}." for (who, why), names in reasons.items()]

    def _why_left_out(self, benchmark: str, model: str, groups: list[list[str]]) -> str:
        others = [name for group in groups for name in group if name != model]
        cell = self.cells.get((benchmark, model))
        if cell and cell.value is None:
            failed = f"all its {cell.num_failed} items failed" if cell.num_failed else ""
            return cell.reason or failed or "its score has no items"
        if not others:
            return "no other model has this score"
        other = self.measured(benchmark, others[0])
        if cell:
            return unlike(other, self.measured(benchmark, model))
        if "reference" not in other.condition:
            return "it was not measured"
        sections = [section for name in others for section in self.info(name).values()]
        is_one = any(s.get("reference") == model for s in sections if isinstance(s, dict))
        return "it is the reference" if is_one else "it has no reference"

    def _names(self, models: Iterable[str]) -> str:
        return listed([self.labels[model] for model in models])

    def trained_on(self, model: str, benchmark: str) -> str:
        """ "trained on 20 of 20 of these items", or "" if it was trained on none."""
        return trained_on(self.info(model)).get(benchmark_of(benchmark), "")

    def _among_leaders(self, verdict: Leaders) -> str:
        """Why several leaders cannot be told from each other; empty for one."""
        whys = verdict.why_none
        if set(whys) <= {NOT_DISTINGUISHABLE}:
            return f", {NOT_DISTINGUISHABLE} from each other" if whys else ""
        leader = self.labels[verdict.leader]
        reasons = [f"{self._names(m)} against {leader}: {why}" for why, m in whys.items()]
        return f" ({'; '.join(reasons)})"

    def _lead(
        self, tied: tuple[str, ...], benchmarks: Sequence[str], why: str, where: str = ""
    ) -> str:
        names = [label for model, label in self.labels.items() if model in tied]
        hits = {self.trained_on(model, name) for model in tied for name in benchmarks} - {""}
        # Who was trained on the items is not called the best for it.
        if hits:
            lead, was = ("leads", "was") if len(names) == 1 else ("lead", "were")
            return f"{listed(names)} {lead}{where}, but {was} {listed(sorted(hits))}"
        if len(names) == 1:
            return f"{names[0]} is best{where}"
        return f"{listed(names)} lead{where}{why}"

    @cached_property
    def headline(self) -> list[str]:
        """What the main scores say as a whole, a sentence each, the strongest first."""
        if not self.cells:
            return ["No model has been scored yet."]
        if len(self.labels) < 2:
            only = next(iter(self.labels.values()))
            return [f"Only {only} is scored; there is nothing to compare it with."]
        # 1) Benchmarks with the same leaders share a sentence; few leaders on many say the most.
        groups: dict[tuple[tuple[str, ...], str], list[str]] = {}
        for verdict in self.verdicts:
            if not verdict.none:
                leaders = verdict.tied, self._among_leaders(verdict)
                groups.setdefault(leaders, []).append(verdict.benchmark)
        strongest = sorted(groups.items(), key=lambda group: (len(group[0][0]), -len(group[1])))
        sentences = [
            f"{self._lead(tied, names, why, f' on {listed(names)}')}."
            for (tied, why), names in strongest
        ]
        # 2) Benchmarks without a leader, and whether more items could have told.
        sentences += self._without_leader(bool(sentences))
        # 3) Who is missing.
        return sentences + self.left_out(self.main)

    def _without_leader(self, others_have: bool) -> list[str]:
        alike, sentences = list[str](), list[str]()
        for verdict in (verdict for verdict in self.verdicts if verdict.none):
            for why, models in verdict.why_none.items():
                if why == NOT_DISTINGUISHABLE:
                    alike.append(verdict.benchmark)
                    continue
                names, leader = self._names(models), self.labels[verdict.leader]
                sentences.append(f"{verdict.benchmark}, {names} against {leader}: {why}.")
        alike = list(dict.fromkeys(alike))
        no_leader = f"models are {NOT_DISTINGUISHABLE} from the leader"
        if alike and (others_have or sentences):
            return [f"On {listed(alike)} the {no_leader}.", *sentences]
        if alike:
            return [f"The {no_leader} on every benchmark ({listed(alike)})."]
        return sentences
