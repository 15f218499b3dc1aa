"""What an evaluation is given and what it gives back, and its files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bezoar.chat.templates import Template
from bezoar.chat.types import AnyRow, Chat, Comparison
from bezoar.errors import DataError
from bezoar.evals.stats import Score
from bezoar.io import (
    ADVICE,
    Row,
    content_hash,
    read_intact,
    read_jsonl,
    read_own,
    remove,
    write_checked,
    write_json,
    write_jsonl,
)
from bezoar.llm.types import Ask
from bezoar.progress import Progress
from bezoar.stage import TrainedStage

LOUD_FAILURES = 0.02
CachePart = Callable[[str, Callable[[], "Outcome"]], "Outcome"]
"""Runs a named part once; later calls read its file."""
ItemText = tuple[str, str, str]
"""(id, prompt, answer or ""); of several texts of an item one that is found is enough."""


def cache_parts_in(folder: Path | None) -> CachePart:
    """Finished parts as files of `folder`; None keeps nothing."""

    def cache_part(name: str, measure: Callable[[], Outcome]) -> Outcome:
        if folder is None:
            return measure()
        path = folder / f"{content_hash(name)}.json"
        stored = read_intact(path)
        if stored is not None:
            return Outcome.from_dict(stored)
        outcome = measure()
        write_checked(path, outcome.to_dict())
        return outcome

    return cache_part


@dataclass(frozen=True)
class EvalContext:
    """What the sections of an evaluation are given; models and backends go by their names."""

    template: Template
    open_model: Callable[[str], Any]
    """Gives a `model.stack.Stack`."""
    ask_model: Callable[[str], Ask]
    """Asks the same model for answers."""
    ask: Callable[[str], Ask]
    """Asks a backend, which `identity` names by what its answers depend on."""
    rows: Callable[[str], Sequence[Chat] | Sequence[Comparison]]
    """The rows of a finished stage."""
    progress: Progress = field(default_factory=Progress)
    seed: int = 0
    work_dir: Path | None = None
    """Where finished parts are kept; it belongs to this evaluation with these settings."""
    identity: Callable[[str], str] = str
    texts: dict[str, list[ItemText]] = field(default_factory=dict)
    """Those of the sections before."""
    stored_rows: Callable[[str], Iterable[AnyRow]] | None = None
    """The same without holding them all; None where `rows` serves."""
    answers_only: bool = False
    """The evaluated model can be asked, not opened."""
    lineage: Callable[[str], Sequence[TrainedStage]] = lambda name: ()
    """The training stages that made a model, lowest first."""
    shared_dir: Path | None = None
    """Where evaluations keep what another one may need; file names say what it depends on."""
    model_identity: Callable[[str], str] | None = None
    """`Stack.identity` of a model that need not be opened for it."""


@dataclass(frozen=True)
class Outcome:
    """Scores, one record an item and score, and facts."""

    scores: list[Score] = field(default_factory=list)
    items: list[Row] = field(default_factory=list)
    """`benchmark` names the score, `id` the item; `value` may be None."""
    info: dict[str, Any] = field(default_factory=dict)
    """What was used and counted, by section. In it `conditions` maps the start of scores' names to
    all that two scores must share to be compared: hashes of items, prompts, judge by name."""
    texts: dict[str, list[ItemText]] = field(default_factory=dict)
    """The items by benchmark, which are searched for in training rows."""

    def __add__(self, other: "Outcome") -> "Outcome":
        info, texts = self.info | other.info, self.texts | other.texts
        return Outcome(self.scores + other.scores, self.items + other.items, info, texts)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**vars(self), "scores": [s.to_dict() for s in self.scores]}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Outcome":
        """The inverse of `to_dict`."""
        # JSON has lists in place of tuples
        texts = {name: [(i, p, a) for i, p, a in items] for name, items in row["texts"].items()}
        return cls([Score.from_dict(s) for s in row["scores"]], row["items"], row["info"], texts)

    def warnings(self) -> list[str]:
        """A sentence for every section with a score of which more than 2 % of the items failed."""
        first: dict[str, Score] = {}
        # a section's own score before those of its parts, of which fewer items make a larger share
        for s in sorted(self.scores, key=lambda score: bool(score.group)):
            if s.failure_rate > LOUD_FAILURES:
                first.setdefault(benchmark_of(s.name), s)
        return [
            f"{section}: {why_without_value(section, s, self.info)}."
            for section, s in first.items()
        ]


def write_outcome(folder: Path, model: str, outcome: Outcome, **facts: str) -> None:
    """items.jsonl, then scores.json with the name of the model and further `facts`."""
    remove(folder / "scores.json")  # a kill leaves no scores beside the items of others
    write_jsonl(folder / "items.jsonl", outcome.items)
    scores = [s.to_dict() for s in outcome.scores]
    content = {"model": model, "label": model, **facts, "scores": scores, "info": outcome.info}
    write_json(folder / "scores.json", content)


def read_scores(folder: Path, *, lenient: bool = False) -> Row:
    """scores.json of a finished evaluation; with `lenient` its scores are rows of any content."""
    path, info = folder / "scores.json", dict[str, Any] | None
    if lenient:
        return read_own(path, model=str | None, scores=list[Row] | None, info=info)
    return read_own(path, model=str, scores=list[Score], info=info)


def read_items(folder: Path, *, lenient: bool = False) -> list[Row]:
    """items.jsonl of a finished evaluation; with `lenient` unreadable lines are left out."""
    path = folder / "items.jsonl"
    items = list(read_jsonl(path, broken=[] if lenient else None)) if path.is_file() else []
    for line, row in items if not lenient else []:
        complete = {"benchmark", "id", "value"} <= row.keys()
        if not complete or not isinstance(row["value"], int | float | None):
            raise DataError(f"{path}:{line}: not a value of an item as bezoar wrote it; {ADVICE}.")
    return [row for _, row in items]


def read_outcome(folder: Path) -> Outcome:
    """What `write_outcome` wrote; unknown keys of a score are passed over."""
    stored = read_scores(folder)
    return Outcome(stored["scores"], read_items(folder), stored["info"] or {})


def remarks(info: dict[str, Any]) -> list[str]:
    """What facts say that no score does, a sentence each: rereadings, failures, planted words."""
    # facts of files of judgements and of live evaluations have the same names
    win_rate, mt_bench = info.get("win_rate", {}), info.get("mt_bench", {})
    games, card = info.get("pairwise", {}), info.get("judge_card", {})
    sentences = []
    if win_rate.get("standard_error") is not None:
        error = win_rate["standard_error"]
        sentences.append(f"The standard error of the win rate is {error:.4f}.")
    if "changed_ratings" in mt_bench:
        sentences += _rereadings(mt_bench["changed_ratings"], mt_bench["num_ratings"])
    for section in ("mt_bench", "win_rate"):
        if without := info.get(section, {}).get("without_reference"):
            what = f"judged without a reference, which their category should have: {len(without)}"
            sentences.append(f"{section}: questions {what} ({', '.join(without)}).")
    # what a section says of itself; a file may hold anything
    for section in info.values():
        told = section.get("remarks") if isinstance(section, dict) else None
        sentences += map(str, told if isinstance(told, list) else ())
    for name, sentence in trained_on(info).items():
        advice = "its scores may show what it remembers"
        sentences.append(f"{name}: the model was {sentence}; {advice}.")
    judged = dict.fromkeys(("win_rate", "over_rows", "revision"), "verdicts")
    judged = {"mt_bench": "ratings", **judged, "judge_card": "verdicts"}
    for section, judgements in judged.items():
        failures = info.get(section, {}).get("failures")
        if failures:
            counts = ", ".join(f"{num} {reason}" for reason, num in failures.items())
            sentences.append(f"{section}: {judgements} that could not be had: {counts}.")
        if reason := info.get(section, {}).get("cannot_judge"):
            # a reward model compares answers, and gives no grades
            other = "" if section == "mt_bench" else "a reward model (`reward_model`) or "
            sentences.append(f"{section}: {reason}; take {other}another judge.")
    for section, facts in info.items():
        if isinstance(facts, dict) and facts.get("held to a form"):
            what = "answers" if facts.get("held to a form") == "answers" else "the judge's verdicts"
            sentences.append(f"{section}: {what} were held to a form while they were drawn.")
    if card.get("injection"):
        *plants, control = card["injection"]
        num_fell, num_games = (sum(plant[key] for plant in plants) for key in ("fell", "games"))
        sentences.append(
            f"The judge fell for words of a verdict in the worse answer in {num_fell} of"
            f" {num_games} games, for harmless words in {control['fell']} of {control['games']}."
        )
    if win_rate.get("num_left_out"):
        num, turn = win_rate["num_left_out"], win_rate["turn"]
        sentences.append(f"{num} questions have no turn {turn} and were not asked.")
    if games.get("num_errors"):
        num, total = games["num_errors"], games["num_games"]
        sentences.append(f"{num} of {total} games have an error and count for no strength.")
    return sentences


def why_without_value(section: str, worst: Score, info: Mapping[str, Any]) -> str:
    """How many items of a section have no value and, where its facts say so, why."""
    facts = info.get(section)
    facts = facts if isinstance(facts, dict) else {}
    reasons, num = facts.get("failures"), facts.get("num_items")
    if section == "preferences" and isinstance(reasons, dict) and num:
        counts = " and ".join(f"{count} of {num} pairs are {why}" for why, count in reasons.items())
        return f"{counts} and have no value"
    total = worst.n + worst.num_failed
    return f"{worst.num_failed} of {total} items ({worst.failure_rate:.0%}) gave no value"


def trained_on(info: Mapping[str, Any]) -> dict[str, str]:
    """Benchmark -> "trained on 20 of 20 of these items", for those with such items; `info` is that
    of scores.json. `benchmark_of` finds the benchmark of a score.

    Items that served as validation, which chose the weights, are counted behind it.
    """
    sentences = {}
    for name, counts in _contamination(info).items():
        num, validated = counts.get("trained_on"), counts.get("validated")
        if num:
            more = f" and validated on {validated} more" if validated else ""
            sentences[name] = f"trained on {num} of {counts['items']} of these items{more}"
        elif validated:
            sentences[name] = f"validated on {validated} of {counts['items']} of these items"
    return sentences


def mostly_trained_on(info: Mapping[str, Any], benchmark: str) -> bool:
    """Whether the model was trained on half of a benchmark's items or more."""
    counts = _contamination(info).get(benchmark, {})
    return 2 * (counts.get("trained_on") or 0) >= (counts.get("items") or 1)


def _contamination(info: Mapping[str, Any]) -> dict[str, Row]:
    """Benchmark -> the counts of its items; a file may hold anything in their place."""
    section = info.get("contamination")
    counts = section.get("benchmarks") if isinstance(section, dict) else None
    benchmarks = counts.items() if isinstance(counts, dict) else ()
    return {str(name): own for name, own in benchmarks if isinstance(own, dict)}


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of two evaluations of one model; the second's where both say something."""
    info = {**first, **second}
    for section in first.keys() & second.keys():
        old, new = first[section], second[section]
        if isinstance(old, dict) and isinstance(new, dict):
            tables = {
                key: {**old[key], **new[key]}
                for key in ("conditions", "benchmarks")
                if isinstance(old.get(key), dict) and isinstance(new.get(key), dict)
            }
            info[section] = {**old, **new, **tables}
    return info


def benchmark_of(score: str) -> str:
    """The benchmark whose items a score is over, under the name that `trained_on` has."""
    start = score.split("/")[0]
    named = {"ROUGE": "overlap", "BLEU": "overlap", "reward": "rewards", "revision": "revision"}
    return next((name for prefix, name in named.items() if start.startswith(prefix)), start)


def _rereadings(num_changed: dict[str, int], num_ratings: dict[str, int]) -> list[str]:
    changed = {model: num for model, num in num_changed.items() if num}
    if changed:
        return [
            f"{num} of {num_ratings[model]} ratings of {model} differ from the score in the file."
            for model, num in changed.items()
        ]
    total = sum(num_ratings.values())
    return [f"All {total} ratings that were read again equal the score in the file."]
