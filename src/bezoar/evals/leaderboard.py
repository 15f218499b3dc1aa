"""Scores of several runs, one table a benchmark; only what was measured alike shares a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bezoar.errors import RecipeError
from bezoar.evals.agreement import bradley_terry
from bezoar.evals.outcome import compare, condition, read_items, read_scores
from bezoar.evals.stats import (
    NOT_DISTINGUISHABLE,
    Difference,
    ModelDifference,
    Score,
    model_differences,
)
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

    def values(self, benchmark: str) -> dict[str, float]:
        """Item -> value of a benchmark, without the items that failed."""
        return {
            str(i["id"]): float(i["value"])
            for i in self.items
            if i["benchmark"] == benchmark and i["value"] is not None
        }


@dataclass(frozen=True)
class Table:
    """One benchmark under one condition."""

    benchmark: str
    condition: str
    lines: list[tuple[str, Score]]
    """(entry name, score), best first."""
    against_first: dict[str, ModelDifference] = field(default_factory=dict)
    """Every other entry against the first."""
    apart: str = ""
    """What these entries differ in from those of the benchmark's first table."""

    def verdict(self, name: str) -> str:
        """ "", "not distinguishable" from the first, or "worse"."""
        difference = self.against_first.get(name)
        if not difference:
            return ""
        return "worse" if difference.distinguishable else NOT_DISTINGUISHABLE


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


def unlike(first: Entry, second: Entry, benchmark: str) -> str:
    """What two scores of a benchmark differ in beside the model; empty if measured alike."""
    ours, theirs = condition(first.info, benchmark), condition(second.info, benchmark)
    if not ours or not theirs:
        return "what one of them depends on was not written down"
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    return f"they differ in {', '.join(names)}" if names else ""


def paired_tests(first: Entry, second: Entry) -> tuple[list[Difference], list[str]]:
    """The tests of the scores measured alike, a sentence for each other; RecipeError for none."""
    theirs = {score.name for score in second.scores}
    shared = [name for name in dict.fromkeys(s.name for s in first.scores) if name in theirs]
    refused = {name: why for name in shared if (why := unlike(first, second, name))}
    notes = [f"{name} is not compared: {why}." for name, why in refused.items()]
    kept = set(shared) - refused.keys()
    sides = ([i for i in entry.items if i["benchmark"] in kept] for entry in (first, second))
    tests = compare(*sides)
    if not tests:
        reason = notes[0] if notes else "no name is in both."
        models = f"{first.name} and {second.name}"
        raise RecipeError(f"{models} share no score that can be compared; {reason}")
    return tests, notes


def leaderboard(entries: Sequence[Entry], benchmark: str = "") -> list[Table]:
    """A table a benchmark (all, or the one named) and condition."""
    groups: dict[str, dict[str, list[tuple[Entry, Score]]]] = {}
    for entry in entries:
        overall: dict[str, Score] = {}
        for score in entry.scores:
            overall.setdefault(score.name, score)  # the first of a name is the overall one
        for name, score in overall.items():
            # without a written condition nobody can say that two scores were measured alike
            same = canonical(condition(entry.info, name) or f"unknown, of {entry.name}")
            if name == benchmark or not benchmark:
                groups.setdefault(name, {}).setdefault(same, []).append((entry, score))
    if not groups:
        known = dict.fromkeys(score.name for entry in entries for score in entry.scores)
        raise RecipeError(f"no score is named {benchmark!r}; there are {', '.join(known)}.")
    tables = []
    for name, conditions in groups.items():
        first = next(iter(conditions.values()))[0][0]
        tables += [_table(name, same, members, first) for same, members in conditions.items()]
    return tables


def _table(
    benchmark: str, condition: str, members: list[tuple[Entry, Score]], first: Entry
) -> Table:
    """`first` is an entry of the benchmark's first table."""

    def rank(member: tuple[Entry, Score]) -> float:
        return (member[1].value or 0.0) * (-1 if member[1].higher_is_better else 1)

    ranked = sorted((member for member in members if member[1].value is not None), key=rank)
    # only the first is compared with each other one: fewer tests leave each more power
    differences: dict[str, ModelDifference] = {}
    if ranked:
        sides = {entry.name: (score, entry.values(benchmark)) for entry, score in ranked}
        differences = model_differences(sides.pop(ranked[0][0].name), sides)
    apart, entry = "", members[0][0]
    if entry is not first:
        apart = f"not in one table with {first.name}: {unlike(first, entry, benchmark)}"
    lines = [(entry.name, score) for entry, score in ranked]
    return Table(benchmark, condition, lines, differences, apart)


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
            games.append((item, entry.name, opponent, value))
    # strengths of two groups have no common scale
    largest = max(groups.values(), key=len, default=[])
    models = {name for game in largest for name in game[1:3]}
    try:
        return bradley_terry(largest) if len(models) > 2 else []
    except ValueError:
        return []
