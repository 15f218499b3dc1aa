"""Scores of several runs, one table a benchmark; only what was measured alike shares a table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
from bezoar.evals.repeats import Spread
from bezoar.evals.stats import Difference, Score
from bezoar.io import Row, as_written, canonical
from bezoar.references import seed_of, stage_folders


@dataclass(frozen=True)
class Entry:
    """One evaluated model; `info` holds the facts of its sections."""

    name: str
    scores: list[Score]
    items: list[Row]
    info: dict[str, Any]
    run: str = ""
    folder: Path = Path()
    further: list[list[Score]] = field(default_factory=list)
    """The scores of its repeats with other seeds."""

    def spread(self, benchmark: str) -> Spread | None:
        """Over this seed (here 0) and the further ones; None without those."""
        values: dict[int, float] = {}
        for number, scores in enumerate([self.scores, *self.further]):
            value = next((s.value for s in scores if s.name == benchmark), None)
            values |= {number: value} if value is not None else {}
        return Spread(values) if self.further and values else None

    def values(self, benchmark: str) -> dict[str, float | None]:
        """Item -> value of a benchmark, None for one that failed."""
        return {str(i["id"]): i["value"] for i in self.items if i["benchmark"] == benchmark}

    @property
    def measured(self) -> dict[str, Measured]:
        """Benchmark -> the score over all its items."""
        scores: dict[str, Measured] = {}
        for score in self.scores:
            if score.name not in scores:  # the first of a name is the overall one
                # without a written condition nobody can say that two scores were measured alike
                same = condition(self.info, score.name) or {UNKNOWN: self.name}
                values = self.values(score.name)
                scores[score.name] = Measured(self.name, score, values, same)
        return scores


@dataclass(frozen=True)
class Table:
    """One benchmark under one condition."""

    benchmark: str
    lines: list[tuple[str, Score]]
    """(entry name, score), best first."""
    against_first: dict[str, Difference] = field(default_factory=dict)
    """Every other entry against the first."""
    spreads: dict[str, Spread] = field(default_factory=dict)
    """Over the seeds of the entries that were trained with several."""
    apart: str = ""
    """What these entries differ in from those of the benchmark's first table."""

    def verdict(self, name: str) -> str:
        """How an entry stands to the first: empty for the first itself."""
        difference = self.against_first.get(name)
        return difference.verdict if difference else ""


def read_entries(folders: Sequence[Path]) -> list[Entry]:
    """The evaluations of run directories and folders with a scores.json; RecipeError for none."""
    entries: list[Entry] = []
    for folder in folders:
        is_evaluation = (folder / "scores.json").is_file()
        # two runs of one name are told apart by their paths
        same = [other for other in folders if other.name == folder.name]
        run = "" if is_evaluation else f"{folder if len(same) > 1 else folder.name}/"
        stages = [("", folder)] if is_evaluation else stage_folders(folder)
        own: dict[str, Entry] = {}
        with as_written(folder):
            # an evaluation that has not ended has no scores yet
            for stage, path in stages:
                if not (path / "scores.json").is_file():
                    continue
                facts, (first, seed) = read_scores(path), seed_of(stage)
                if seed is None:
                    name, info = run + facts["model"], facts["info"] or {}
                    scores, items = facts["scores"], read_items(path)
                    own[stage] = Entry(name, scores, items, info, run, folder)
                elif first in own:  # a repeat is a value of its model's spread, no other model
                    own[first].further.append(facts["scores"])
        entries += own.values()
    if not entries:
        advice = "name a run directory or a folder with scores.json."
        raise RecipeError(f"{folders[0]}: no finished evaluation in it; {advice}")
    # so are two evaluations of one model in folders of their own
    alone = Counter(entry.name for entry in entries if not entry.run)
    return [
        replace(entry, name=f"{entry.name} ({entry.folder})") if alone[entry.name] > 1 else entry
        for entry in entries
    ]


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
    chosen = {name: members for name, members in benchmarks.items() if benchmark in ("", name)}
    if not chosen:
        raise RecipeError(f"no score is named {benchmark!r}; there are {', '.join(benchmarks)}.")
    tables = [
        _table(name, group, members[0])
        for name, members in chosen.items()
        for group in alike(members)
    ]
    spreads = {(e.name, name): e.spread(name) for e in entries for name in chosen}
    for table in tables:
        of_table = {name: spreads.get((name, table.benchmark)) for name, _ in table.lines}
        table.spreads.update({name: spread for name, spread in of_table.items() if spread})
    return tables


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
    lines = [(m.model, m.score) for m in ranked]
    return Table(benchmark, lines, against, apart=apart)


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
