"""Scores of several runs in one table a benchmark; what was not measured alike is never put in one
table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bezoar.errors import RecipeError
from bezoar.evals.agreement import bradley_terry
from bezoar.evals.outcome import compare, condition, read_outcome, read_scores
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
    """One benchmark under one condition: (entry name, score), best first, and each entry against
    the first.

    `apart` says of the entries that stand in an earlier table of the benchmark what they differ in.
    """

    benchmark: str
    condition: str
    lines: list[tuple[str, Score]]
    against_first: dict[str, ModelDifference] = field(default_factory=dict)
    apart: str = ""

    def verdict(self, name: str) -> str:
        """ "", "not distinguishable" from the first, or "worse"."""
        found = self.against_first.get(name)
        return "" if not found else "worse" if found.distinguishable else NOT_DISTINGUISHABLE


def read_entries(folders: Sequence[Path]) -> list[Entry]:
    """The evaluations of run directories, and of folders that hold a scores.json. RecipeError where
    there is none at all."""
    entries = []
    for folder in folders:
        own = (folder / "scores.json").is_file()
        found = (
            [folder]
            if own
            else [path for _, path in stage_folders(folder) if (path / "scores.json").is_file()]
        )
        with as_written(folder):
            entries += [_entry(one, "" if own else f"{folder.name}/") for one in found]
    if not entries:
        raise RecipeError(
            f"{folders[0]}: no finished evaluation in it; name a run directory or a folder with"
            " scores.json."
        )
    return entries


def _entry(folder: Path, run: str) -> Entry:
    done, model = read_outcome(folder), str(read_scores(folder)["model"])
    return Entry(run + model, done.scores, done.items, done.info, run)


def unlike(first: Entry, second: Entry, benchmark: str) -> str:
    """What two entries' scores of a benchmark differ in beside the model; empty where they were
    measured alike."""
    one, two = condition(first.info, benchmark), condition(second.info, benchmark)
    if not one or not two:
        return "what one of them depends on was not written down"
    names = [name for name in dict.fromkeys([*one, *two]) if one.get(name) != two.get(name)]
    return f"they differ in {', '.join(names)}" if names else ""


def paired_tests(first: Entry, second: Entry) -> tuple[list[Difference], list[str]]:
    """The tests of all scores that were measured alike, and a sentence for each of the others.
    RecipeError where none was."""
    shared = list(
        dict.fromkeys(
            s.name for s in first.scores if any(s.name == other.name for other in second.scores)
        )
    )
    refused = {name: why for name in shared if (why := unlike(first, second, name))}
    told = [f"{name} is not compared: {why}." for name, why in refused.items()]
    kept = [name for name in shared if name not in refused]
    found = compare(
        *([item for item in entry.items if item["benchmark"] in kept] for entry in (first, second))
    )
    if not found:
        raise RecipeError(
            f"{first.name} and {second.name} share no score that can be compared;"
            f" {told[0] if told else 'no name is in both.'}"
        )
    return found, told


def leaderboard(entries: Sequence[Entry], benchmark: str = "") -> list[Table]:
    """A table a benchmark (all, or the one named) and condition. Scores without a written condition
    stand alone."""
    groups: dict[str, dict[str, list[tuple[Entry, Score]]]] = {}
    for entry in entries:
        first: dict[str, Score] = {}
        for score in entry.scores:
            first.setdefault(score.name, score)  # the first of a name is the overall one
        for name, score in first.items():
            same = canonical(condition(entry.info, name) or f"unknown, of {entry.name}")
            if name == benchmark or not benchmark:
                groups.setdefault(name, {}).setdefault(same, []).append((entry, score))
    if not groups:
        known = dict.fromkeys(s.name for entry in entries for s in entry.scores)
        raise RecipeError(f"no score is named {benchmark!r}; there are {', '.join(known)}.")
    return [
        _table(name, same, members, next(iter(tables.values()))[0][0])
        for name, tables in groups.items()
        for same, members in tables.items()
    ]


def _table(
    benchmark: str, condition: str, members: list[tuple[Entry, Score]], earlier: Entry
) -> Table:
    kept = [(entry, score) for entry, score in members if score.value is not None]
    ranked = sorted(
        kept, key=lambda pair: (pair[1].value or 0.0) * (-1 if pair[1].higher_is_better else 1)
    )
    sides = {entry.name: (score, entry.values(benchmark)) for entry, score in ranked}
    against = model_differences(sides.pop(ranked[0][0].name), sides) if ranked else {}
    own = members[0][0]
    apart = (
        ""
        if own is earlier
        else f"not in one table with {earlier.name}: {unlike(earlier, own, benchmark)}"
    )
    return Table(
        benchmark, condition, [(entry.name, score) for entry, score in ranked], against, apart
    )


def strengths(entries: Sequence[Entry]) -> list[Score]:
    """Bradley-Terry strengths from the win rates of entries that differ in their opponents alone,
    who are known by their answers.

    Empty where fewer than three models met, or fell into groups that never met.
    """
    known: dict[str, str] = {}
    groups: dict[str, list[tuple[str, str, str, float]]] = {}
    for entry in entries:
        same = condition(entry.info, "win rate")
        name = f"{entry.run}{entry.info.get('win_rate', {}).get('against', '')}"
        against = known.setdefault(str(same.pop("answers of the other", name)), name)
        games = [
            (item, entry.name, against, value) for item, value in entry.values("win rate").items()
        ]
        groups.setdefault(canonical(same), []).extend(games)
    most = max(groups.values(), key=len, default=[])
    try:
        return bradley_terry(most) if len({name for game in most for name in game[1:3]}) > 2 else []
    except ValueError:
        return []
