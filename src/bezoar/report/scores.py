"""The models' scores side by side, and which differences between them are more than chance."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from bezoar.evals.outcome import condition
from bezoar.evals.stats import NOT_DISTINGUISHABLE, ModelDifference, Score, model_differences
from bezoar.io import Row, canonical, read_jsonl, read_own
from bezoar.report.formatting import finite, listed
from bezoar.report.run import Run


@dataclass(frozen=True)
class Verdict:
    """Who leads a benchmark and who cannot be told from the leader (itself included), by model
    key."""

    benchmark: str
    leader: str
    tied: tuple[str, ...]
    num_models: int

    @property
    def none(self) -> bool:
        """True when no model can be told from the leader."""
        return len(self.tied) == self.num_models


@dataclass(frozen=True)
class Scoreboard:
    """`labels` maps model keys, in order, to shown names; `cells` and `items` are by (benchmark,
    model key).

    `parts` holds scores of a part of a benchmark's items, such as MT-Bench's categories, by
    (benchmark, model key).
    """

    labels: dict[str, str] = field(default_factory=dict)
    cells: dict[tuple[str, str], Score] = field(default_factory=dict)
    items: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    parts: dict[tuple[str, str], dict[str, Score]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, list[Row]] = field(default_factory=dict)
    _gaps: dict[tuple[str, str], dict[str, ModelDifference]] = field(
        default_factory=dict, repr=False
    )

    @cached_property
    def benchmarks(self) -> list[str]:
        """Every benchmark once, in order of first sight."""
        return list(dict.fromkeys(benchmark for benchmark, _ in self.cells))

    @cached_property
    def main(self) -> list[str]:
        """The benchmarks that stand for all: of each family (the name before `/`) those that some
        model has first.

        To an accuracy belongs its margin.
        """
        firsts: dict[tuple[str, str], str] = {}
        for benchmark, model in self.cells:
            firsts.setdefault((benchmark.split("/")[0], model), benchmark)
        chosen = set(firsts.values())
        margins = {
            name.removesuffix("accuracy") + "margin" for name in chosen if name.endswith("accuracy")
        }
        return [name for name in self.benchmarks if name in chosen | margins]

    def condition(self, benchmark: str, model: str) -> str:
        """What a score must share with another to be compared with it."""
        return canonical(condition(self.facts.get(model, {}).get("info", {}), benchmark))

    def score(self, benchmark: str, model: str) -> Score | None:
        """A cell that has a value, else None."""
        cell = self.cells.get((benchmark, model))
        return cell if cell and cell.value is not None else None

    def of(self, benchmark: str) -> dict[str, Score]:
        """Model key -> its score, for those that have one."""
        found = {model: self.score(benchmark, model) for model in self.labels}
        return {model: score for model, score in found.items() if score is not None}

    def against(self, benchmark: str, reference: str) -> dict[str, ModelDifference]:
        """Model key -> its difference from `reference`, for all other models that have a score."""
        if (benchmark, reference) not in self._gaps:
            sides = {
                model: (score, self.items.get((benchmark, model), {}))
                for model, score in self.of(benchmark).items()
            }
            own = sides.pop(reference, None)
            same = self.condition(benchmark, reference)
            sides = {
                model: side
                for model, side in sides.items()
                if self.condition(benchmark, model) == same
            }
            self._gaps[benchmark, reference] = model_differences(own, sides) if own else {}
        return self._gaps[benchmark, reference]

    def verdict(self, benchmark: str) -> Verdict | None:
        """None where fewer than two models have a value, or where they were not measured under the
        same conditions."""
        scores = self.of(benchmark)
        if len(scores) < 2 or len({self.condition(benchmark, model) for model in scores}) > 1:
            return None
        sign = 1 if next(iter(scores.values())).higher_is_better else -1
        leader = max(scores, key=lambda model: sign * (scores[model].value or 0.0))
        apart = {
            model for model, gap in self.against(benchmark, leader).items() if gap.distinguishable
        }
        return Verdict(benchmark, leader, tuple(m for m in scores if m not in apart), len(scores))

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """Verdicts on the main benchmarks that have one."""
        found = {benchmark: self.verdict(benchmark) for benchmark in self.main}
        return {benchmark: verdict for benchmark, verdict in found.items() if verdict}

    def told(self, verdict: Verdict) -> str:
        """A verdict in words."""
        names = [self.labels[m] for m in verdict.tied]
        if verdict.none:
            return NOT_DISTINGUISHABLE
        return (
            f"{names[0]} is best"
            if len(names) == 1
            else f"{listed(names)} lead, {NOT_DISTINGUISHABLE} from each other"
        )

    @cached_property
    def headline(self) -> list[str]:
        """What the main scores say as a whole, a sentence each, the strongest first."""
        if not self.cells:
            return ["No model has been scored yet."]
        if len(self.labels) < 2:
            return [
                f"Only {next(iter(self.labels.values()))} is scored; there is nothing to compare it"
                " with."
            ]
        groups: dict[tuple[str, ...], list[str]] = {}
        for verdict in self.verdicts.values():
            groups.setdefault(() if verdict.none else verdict.tied, []).append(verdict.benchmark)
        alike = groups.pop((), [])
        sentences = []
        for tied, benchmarks in sorted(
            groups.items(), key=lambda pair: (len(pair[0]), -len(pair[1]))
        ):
            names = [self.labels[m] for m in tied]
            tail = "" if len(tied) == 1 else f", {NOT_DISTINGUISHABLE} from each other"
            sentences.append(
                f"{listed(names)} {'is best' if len(tied) == 1 else 'lead'} on"
                f" {listed(benchmarks)}{tail}."
            )
        if alike and sentences:
            sentences.append(
                f"On {listed(alike)} the models are {NOT_DISTINGUISHABLE} from the leader."
            )
        elif alike:
            sentences.append(
                f"The models are {NOT_DISTINGUISHABLE} from the leader on every benchmark"
                f" ({listed(alike)})."
            )
        return sentences or ["No benchmark has a value for two models, so nothing can be compared."]


def load_scoreboard(run: Run) -> Scoreboard:
    """Read scores.json and items.jsonl of every finished evaluation; several stages of one model
    are joined."""
    board = Scoreboard()
    for stage in run.of("evaluate"):
        path = stage.path("scores.json")
        if path is None:
            continue
        found = read_own(path, scores=list[Row] | None, info=dict[str, Any] | None)
        model = str(found.get("model") or stage.inputs.get("model") or stage.name)
        board.labels.setdefault(model, str(found.get("label") or model))
        board.facts.setdefault(model, {}).update(found)
        _read_scores(board, model, [read_score(row) for row in found.get("scores") or []])
        _read_items(board, model, stage.path("items.jsonl"))
    return board


def read_score(row: Row) -> Score:
    """A score of scores.json; keys that are not known are passed over, numbers that are none become
    None."""
    known = {f.name: row[f.name] for f in fields(Score) if f.name in row}
    known |= {key: finite(row.get(key)) for key in ("value", "low", "high")}
    known |= {key: round(finite(row.get(key)) or 0) for key in ("n", "num_failed")}
    return Score(
        **{**known, "name": str(row.get("name", "score")), "group": str(row.get("group") or "")}
    )


def _read_scores(board: Scoreboard, model: str, scores: list[Score]) -> None:
    whole = {score.name for score in scores if not score.group}
    for score in scores:
        if score.group and score.name in whole:
            board.parts.setdefault((score.name, model), {})[score.group] = score
        else:
            board.cells[score.name, model] = score


def _read_items(board: Scoreboard, model: str, path: Path | None) -> None:
    for _, row in read_jsonl(path, broken=[]) if path else ():
        value = finite(row.get("value"))
        if value is not None:
            board.items.setdefault((str(row.get("benchmark")), model), {})[str(row.get("id"))] = (
                value
            )
        if "answers" in row:
            board.answers.setdefault(model, []).append(row)
