"""The models' scores side by side, and which differences between them are more than chance."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from bezoar.evals.outcome import condition, read_items, read_scores
from bezoar.evals.stats import NOT_DISTINGUISHABLE, ModelDifference, Score, model_differences
from bezoar.io import Row, canonical
from bezoar.report.formatting import finite, listed
from bezoar.report.run import Run

Cell = tuple[str, str]
"""(benchmark, model key)."""


@dataclass(frozen=True)
class Leaders:
    """The model keys on a benchmark that the leader cannot be told from, itself included."""

    benchmark: str
    tied: tuple[str, ...]
    num_models: int

    @property
    def none(self) -> bool:
        """True if no model can be told from the leader."""
        return len(self.tied) == self.num_models


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
    _differences: dict[Cell, dict[str, ModelDifference]] = field(default_factory=dict, repr=False)

    @cached_property
    def benchmarks(self) -> list[str]:
        """Every benchmark once, in order of first sight."""
        return list(dict.fromkeys(benchmark for benchmark, _ in self.cells))

    @cached_property
    def main(self) -> list[str]:
        """Of each family (the name before `/`) the benchmark that some model has first.

        To an accuracy belongs its margin.
        """
        # Models may lack benchmarks (a base has no implicit reward), so every model counts.
        first_of_family: dict[tuple[str, str], str] = {}
        # What is so by definition leads only where another model was measured on it.
        measured = {name for (name, _), cell in self.cells.items() if not cell.by_definition}
        for benchmark, model in self.cells:
            if benchmark in measured:
                first_of_family.setdefault((benchmark.split("/")[0], model), benchmark)
        main = set(first_of_family.values())
        # A margin says how clear the choices were that the accuracy counts.
        accuracies = [name for name in main if name.endswith("accuracy")]
        main |= {name.removesuffix("accuracy") + "margin" for name in accuracies}
        return [name for name in self.benchmarks if name in main]

    def condition(self, benchmark: str, model: str) -> str:
        """What a score must share with another to be compared with it."""
        return canonical(condition(self.facts.get(model, {}).get("info") or {}, benchmark))

    def score(self, benchmark: str, model: str) -> Score | None:
        """A cell that has a value, else None."""
        cell = self.cells.get((benchmark, model))
        return cell if cell and cell.value is not None else None

    def of(self, benchmark: str) -> dict[str, Score]:
        """Model key -> its score, for those that have one."""
        scores = {model: self.score(benchmark, model) for model in self.labels}
        return {model: score for model, score in scores.items() if score is not None}

    def against(self, benchmark: str, reference: str) -> dict[str, ModelDifference]:
        """Model key -> its difference from `reference`, for all others that are comparable."""
        # The paired tests are slow and shown at several places: each is carried out once.
        if (benchmark, reference) not in self._differences:
            required = self.condition(benchmark, reference)
            sides = {
                model: (score, self.items.get((benchmark, model), {}))
                for model, score in self.of(benchmark).items()
                if self.condition(benchmark, model) == required
            }
            own = sides.pop(reference, None)
            self._differences[benchmark, reference] = model_differences(own, sides) if own else {}
        return self._differences[benchmark, reference]

    def verdict(self, benchmark: str) -> Leaders | None:
        """None with fewer than two scores, or if they were measured under different conditions."""
        scores = self.of(benchmark)
        if len(scores) < 2 or len({self.condition(benchmark, model) for model in scores}) > 1:
            return None
        # Of perplexities the lowest leads.
        sign = 1 if next(iter(scores.values())).higher_is_better else -1
        leader = max(scores, key=lambda model: sign * (scores[model].value or 0.0))
        # The leader is compared with all others at once: Holm's correction needs all p values.
        differences = self.against(benchmark, leader)
        apart = {model for model, d in differences.items() if d.distinguishable}
        return Leaders(benchmark, tuple(m for m in scores if m not in apart), len(scores))

    def leaders(self, benchmark: str) -> tuple[str, ...]:
        """The leading models; empty if no model can be told from the leader."""
        verdict = self.verdict(benchmark)
        return verdict.tied if verdict and not verdict.none else ()

    @cached_property
    def verdicts(self) -> list[Leaders]:
        """Verdicts on the main benchmarks that have one."""
        return [verdict for verdict in map(self.verdict, self.main) if verdict]

    def in_words(self, verdict: Leaders) -> str:
        """A verdict as it stands in a table."""
        return NOT_DISTINGUISHABLE if verdict.none else self._lead(verdict.tied)

    def _lead(self, tied: tuple[str, ...], where: str = "") -> str:
        names = [self.labels[model] for model in tied]
        if len(names) == 1:
            return f"{names[0]} is best{where}"
        return f"{listed(names)} lead{where}, {NOT_DISTINGUISHABLE} from each other"

    @cached_property
    def headline(self) -> list[str]:
        """What the main scores say as a whole, a sentence each, the strongest first."""
        if not self.cells:
            return ["No model has been scored yet."]
        if len(self.labels) < 2:
            only = next(iter(self.labels.values()))
            return [f"Only {only} is scored; there is nothing to compare it with."]
        # 1) Benchmarks with the same leaders share a sentence.
        groups: dict[tuple[str, ...], list[str]] = {}
        for verdict in self.verdicts:
            groups.setdefault(() if verdict.none else verdict.tied, []).append(verdict.benchmark)
        alike = groups.pop((), [])
        # 2) Few leaders on many benchmarks say the most.
        strongest = sorted(groups.items(), key=lambda group: (len(group[0]), -len(group[1])))
        sentences = [f"{self._lead(tied, f' on {listed(names)}')}." for tied, names in strongest]
        # 3) Benchmarks without a leader come last.
        no_leader = f"models are {NOT_DISTINGUISHABLE} from the leader"
        if alike and sentences:
            sentences.append(f"On {listed(alike)} the {no_leader}.")
        elif alike:
            sentences.append(f"The {no_leader} on every benchmark ({listed(alike)}).")
        return sentences or ["No benchmark has a value for two models, so nothing can be compared."]


def load_scoreboard(run: Run) -> Scoreboard:
    """Read every finished evaluation; several stages of one model count as one."""
    board = Scoreboard()
    for stage in run.of("evaluate"):
        if stage.folder is None or not stage.path("scores.json"):
            continue
        facts = read_scores(stage.folder, lenient=True)
        model = facts["model"] or stage.inputs.get("model", stage.name)
        board.labels.setdefault(model, str(facts.get("label") or model))
        board.facts.setdefault(model, {}).update(facts)
        _add_scores(board, model, [read_score(row) for row in facts["scores"] or []])
        _add_items(board, model, read_items(stage.folder, lenient=True))
    return board


def read_score(row: Row) -> Score:
    """A score of scores.json, of which unknown keys are ignored and what is no number is None."""
    # Scores of other versions have keys that we do not know; they are no reason to fail.
    known = {f.name: row[f.name] for f in fields(Score) if f.name in row}
    known |= {key: finite(row.get(key)) for key in ("value", "low", "high")}
    known |= {key: round(finite(row.get(key)) or 0) for key in ("n", "num_failed")}
    texts = {key: str(row.get(key) or "") for key in ("group", "reason")}
    known |= texts | {"name": str(row.get("name", "score"))}
    return Score(**known)


def _add_scores(board: Scoreboard, model: str, scores: list[Score]) -> None:
    # A score with a group is a part of another only if that other is there: a harness names a
    # group of tasks without a score over all of them.
    over_all = {score.name for score in scores if not score.group}
    for score in scores:
        if score.group and score.name in over_all:
            board.parts.setdefault((score.name, model), {})[score.group] = score
        else:
            board.cells[score.name, model] = score


def _add_items(board: Scoreboard, model: str, items: list[Row]) -> None:
    for row in items:
        # Items without a value failed; they are counted in the score and take no part in tests.
        value, cell = finite(row.get("value")), (str(row.get("benchmark")), model)
        if value is not None:
            board.items.setdefault(cell, {})[str(row.get("id"))] = value
        if "answers" in row:
            board.answers.setdefault(model, []).append(row)
