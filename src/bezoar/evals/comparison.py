"""Which scores were measured alike, and what paired tests say of their differences.

One module for the console, the report and the leaderboard. Scores are compared only under one
condition: the same items, prompts, judge and reference.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bezoar.evals.stats import Difference, Score, apart, holm, least_items, paired
from bezoar.io import canonical

UNKNOWN = "unknown, of"
"""The key of a condition that nobody wrote down: such a score is measured like no other."""


@dataclass(frozen=True)
class Measured:
    """What one model has on one benchmark."""

    model: str
    score: Score
    values: Mapping[str, float | None] = field(default_factory=dict)
    """Item -> value, None for one that failed."""
    condition: Mapping[str, Any] = field(default_factory=dict)
    """What the score depends on beside the model, by name."""


def condition(info: Mapping[str, Any], benchmark: str) -> dict[str, Any]:
    """What a score depends on beside the model, by name; empty if `info` does not say."""
    conditions: dict[str, Any] = {}
    # info of a file may be of any content
    for section in info.values():
        if isinstance(section, dict):
            conditions |= section.get("conditions", {})
    # the longest start wins: "judge/injection" before "judge/"
    starts = [start for start in conditions if benchmark.startswith(start)]
    longest = conditions.get(max(starts, key=len, default=""), {})
    return dict(longest) if isinstance(longest, dict) else {"conditions": longest}


def unlike(first: Measured, second: Measured) -> str:
    """What two scores differ in beside the model; empty if they were measured alike."""
    ours, theirs = first.condition, second.condition
    if UNKNOWN in ours or UNKNOWN in theirs:
        return "what one of them depends on was not written down"
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    return f"they differ in {', '.join(names)}" if names else ""


def alike(members: Iterable[Measured]) -> list[list[Measured]]:
    """The members by condition, in order of first sight."""
    groups: dict[str, list[Measured]] = {}
    for member in members:
        groups.setdefault(canonical(dict(member.condition)), []).append(member)
    return list(groups.values())


def differences(reference: Measured, others: Sequence[Measured]) -> dict[str, Difference]:
    """Each other model against `reference` on one benchmark, corrected for their number."""
    tests = [_difference(other.model, reference, other) for other in others]
    return {test.name: test for test in corrected(tests)}


def over_benchmarks(
    first: Mapping[str, Measured], second: Mapping[str, Measured]
) -> tuple[list[Difference], list[str]]:
    """The second model against the first on every benchmark of both, corrected for their number.

    Beside the tests a sentence for each benchmark that was not compared.
    """
    tests, notes = [], []
    for name in (name for name in first if name in second):
        why = unlike(first[name], second[name])
        if not why and not _shared(first[name], second[name]):
            why = "no item has a value in both"
        if why:
            notes.append(f"{name} is not compared: {why}.")
        else:
            tests.append(_difference(name, first[name], second[name]))
    return corrected(tests), notes


def corrected(tests: Sequence[Difference]) -> list[Difference]:
    """The tests with p values corrected for their number (Holm), and how many items each needs.

    Those without p, decided by their intervals, are left as they are.
    """
    own = [test.p for test in tests if test.p is not None]
    ps, seen, results = holm(own), 0, []
    for test in tests:
        if test.p is not None:
            least = least_items([*own[:seen], *own[seen + 1 :]])
            test = replace(test, own_p=test.p, p=ps[seen], num_tests=len(own), least_n=least)
            seen += 1
        results.append(test)
    return results


def _shared(first: Measured, second: Measured) -> list[tuple[float, float]]:
    # sorted, so that the resamples do not depend on the order of the files
    names = sorted(first.values.keys() & second.values.keys())
    pairs = [(first.values[name], second.values[name]) for name in names]
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def _difference(name: str, first: Measured, second: Measured) -> Difference:
    """Over the items of both; without such items by the two intervals, which is cautious."""
    pairs, higher = _shared(first, second), second.score.higher_is_better
    if pairs:
        num_unpaired = len(first.values.keys() | second.values.keys()) - len(pairs)
        ours, theirs = zip(*pairs, strict=True)
        return replace(paired(name, ours, theirs, num_unpaired), higher_is_better=higher)
    ours_value, theirs_value = first.score.value or 0.0, second.score.value or 0.0
    return Difference(
        name,
        ours_value,
        theirs_value,
        theirs_value - ours_value,
        None,
        None,
        None,
        0,
        higher_is_better=higher,
        intervals_apart=apart(first.score, second.score),
    )
