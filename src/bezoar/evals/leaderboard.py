"""Scores of several runs, one table a benchmark; only what was measured alike shares a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bezoar.errors import RecipeError
from bezoar.evals.agreement import bradley_terry
from bezoar.evals.comparison import (
    UNKNOWN,
    Measured,
    alike,
    condition,
    differences,
    over_benchmarks,
    unlike,
)
from bezoar.evals.outcome import read_items, read_scores
from bezoar.evals.stats import Difference, Score
from bezoar.io import Row, as_written, canonical
from bezoar.references import stage_folders


@dataclass(frozen=True)
class Entry:
    """One evaluated model; `info` holds the facts of its sections."""

    name: str
    scores: list[Score]
    items: list[Row]
    info: dict[str, Any]
    run: str = ""

    def values(self, benchmark: str) -> dict[str, float | None]:
        """Item -> value of a benchmark, None for one that failed."""
        return {str(i["id"]): i["value"] for i in self.items if i["benchmark"] == benchmark}

    @property
    def measured(self) -> dict[str, Measured]:
        """Benchmark -> the score over all its items."""
        found: dict[str, Measured] = {}
        for score in self.scores:
            if score.name not in found:  # the first of a name is the overall one
                # without a written condition nobody can say that two scores were measured alike
                same = condition(self.info, score.name) or {UNKNOWN: self.name}
                values = self.values(score.name)
                found[score.name] = Measured(self.name, score, values, same)
        return found


@dataclass(frozen=True)
class Table:
    """One benchmark under one condition."""

    benchmark: str
    lines: list[tuple[str, Score]]
    """(entry name, score), best first."""
    against_first: dict[str, Difference] = field(default_factory=dict)
    """Every other entry against the first."""
    apart: str = ""
    """What these entries differ in from those of the benchmark's first table."""

    def verdict(self, name: str) -> str:
        """How an entry stands to the first: empty for the first itself."""
        difference = self.against_first.get(name)
        return difference.verdict if difference else ""


def read_entries(folders: Sequence[Path]) -> list[Entry]:
    """The evaluations of run directories and folders with a scores.json; RecipeError for none."""
    entries = []
    for folder in folders:
        is_evaluation = (folder / "scores.json").is_file()
        run = "" if is_evaluation else f"{folder.name}/"
        stages = [folder] if is_evaluation else [path for _, path in stage_folders(folder)]
        with as_written(folder):
            # an evaluation that has not ended has no scores yet
            for path in (path for path in stages if (path / "scores.json").is_file()):
                facts, items = read_scores(path), read_items(path)
                name, info = run + facts["model"], facts["info"] or {}
                entries.append(Entry(name, facts["scores"], items, info, run))
    if not entries:
        advice = "name a run directory or a folder with scores.json."
        raise RecipeError(f"{folders[0]}: no finished evaluation in it; {advice}")
    return entries


def paired_tests(first: Entry, second: Entry) -> tuple[list[Difference], list[str]]:
    """The tests of the scores measured alike, a sentence for each other; RecipeError for none."""
    tests, notes = over_benchmarks(first.measured, second.measured)
    if not tests:
        reason = notes[0] if notes else "no name is in both."
        models = f"{first.name} and {second.name}"
        raise RecipeError(f"{models} share no score that can be compared; {reason}")
    return tests, notes


def leaderboard(entries: Sequence[Entry], benchmark: str = "") -> list[Table]:
    """A table a benchmark (all, or the one named) and condition."""
    benchmarks: dict[str, list[Measured]] = {}
    for entry in entries:
        for name, measured in entry.measured.items():
            benchmarks.setdefault(name, []).append(measured)
    chosen = {name: found for name, found in benchmarks.items() if benchmark in ("", name)}
    if not chosen:
        raise RecipeError(f"no score is named {benchmark!r}; there are {', '.join(benchmarks)}.")
    return [
        _table(name, group, members[0])
        for name, members in chosen.items()
        for group in alike(members)
    ]


def _table(benchmark: str, members: list[Measured], first: Measured) -> Table:
    """`first` is a member of the benchmark's first table."""

    def rank(member: Measured) -> float:
        return (member.score.value or 0.0) * (-1 if member.score.higher_is_better else 1)

    ranked = sorted((member for member in members if member.score.value is not None), key=rank)
    # only the first is compared with each other one: fewer tests leave each more power
    against = differences(ranked[0], ranked[1:]) if ranked else {}
    apart, member = "", members[0]
    if member is not first:
        apart = f"not in one table with {first.model}: {unlike(first, member)}"
    return Table(benchmark, [(m.model, m.score) for m in ranked], against, apart)


def strengths(entries: Sequence[Entry]) -> list[Score]:
    """Bradley-Terry strengths from win rates; empty for fewer than three models that met."""
    # an opponent is known by its answers: one model may have other names in other runs
    opponents: dict[str, str] = {}
    groups: dict[str, list[tuple[str, str, str, float]]] = {}
    for entry in entries:
        same = condition(entry.info, "win rate")
        name = f"{entry.run}{entry.info.get('win_rate', {}).get('against', '')}"
        opponent = opponents.setdefault(str(same.pop("answers of the other", name)), name)
        games = groups.setdefault(canonical(same), [])
        for item, value in entry.values("win rate").items():
            if value is not None:
                games.append((item, entry.name, opponent, value))
    # strengths of two groups have no common scale
    largest = max(groups.values(), key=len, default=[])
    models = {name for game in largest for name in game[1:3]}
    try:
        return bradley_terry(largest) if len(models) > 2 else []
    except ValueError:
        return []
