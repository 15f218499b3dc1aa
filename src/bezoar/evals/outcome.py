"""What an evaluation is given and what it gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bezoar.chat.templates import Template
from bezoar.chat.types import Chat, Comparison
from bezoar.errors import DataError
from bezoar.evals.stats import Difference, Score, holm, paired
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

LOUD_FAILURES = 0.02
CachePart = Callable[[str, Callable[[], "Outcome"]], "Outcome"]
"""What gives the outcome of a named part, carried out now or, after a kill, read back from where it
was kept."""


def cache_parts_in(folder: Path | None) -> CachePart:
    """Finished parts as files of `folder`; None keeps nothing."""

    def keep(name: str, make: Callable[[], Outcome]) -> Outcome:
        if folder is None:
            return make()
        path = folder / f"{content_hash(name)}.json"
        before = read_intact(path)
        if before is not None:
            return Outcome.from_dict(before)
        made = make()
        write_checked(path, made.to_dict())
        return made

    return keep


@dataclass(frozen=True)
class EvalContext:
    """The world of an evaluation. `open_model` gives a `model.stack.Stack`, `ask_model` asks the
    same model by name, `ask` a language model of the recipe's backends, which `identity` names;
    `rows` are those of a finished stage. Parts that are done are kept in `work_dir`, which belongs
    to this evaluation with these settings alone; `texts` are those of the sections before. With
    `answers_only` the evaluated model can be asked, not opened."""

    template: Template
    open_model: Callable[[str], Any]
    ask_model: Callable[[str], Ask]
    ask: Callable[[str], Ask]
    rows: Callable[[str], Sequence[Chat] | Sequence[Comparison]]
    progress: Progress = field(default_factory=Progress)
    seed: int = 0
    work_dir: Path | None = None
    identity: Callable[[str], str] = str
    texts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    answers_only: bool = False


@dataclass(frozen=True)
class Outcome:
    """Scores, one record an item and score (`benchmark` names the score, `id` the item, `value` may
    be None), and facts.

    `info` maps a section's name to what was used and counted in it; in a section `conditions` maps
    the start of its scores' names to a table of all that two scores must share to be compared:
    names to hashes of items, prompts, judge. `texts` are the (id, text) of the items of every
    benchmark, for the search for them in training rows.
    """

    scores: list[Score] = field(default_factory=list)
    items: list[Row] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            [*self.scores, *other.scores],
            [*self.items, *other.items],
            {**self.info, **other.info},
            {**self.texts, **other.texts},
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**vars(self), "scores": [s.to_dict() for s in self.scores]}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Outcome":
        """The inverse of `to_dict`."""
        texts = {
            name: [(str(i), str(text)) for i, text in pairs] for name, pairs in row["texts"].items()
        }
        return cls([Score.from_dict(s) for s in row["scores"]], row["items"], row["info"], texts)

    def warnings(self) -> list[str]:
        """A sentence for every score of which more than 2 % of the items failed."""
        return [
            f"{s.name}: {s.num_failed} of {s.n + s.num_failed} items ({s.failure_rate:.0%}) gave no"
            " value and are not in it."
            for s in self.scores
            if s.failure_rate > LOUD_FAILURES
        ]


def write_outcome(folder: Path, model: str, outcome: Outcome, **facts: str) -> None:
    """items.jsonl, then scores.json with the name of the model and further `facts`."""
    remove(folder / "scores.json")  # a kill leaves no scores beside the items of others
    write_jsonl(folder / "items.jsonl", outcome.items)
    scores = [s.to_dict() for s in outcome.scores]
    write_json(
        folder / "scores.json",
        {"model": model, "label": model, **facts, "scores": scores, "info": outcome.info},
    )


def read_scores(folder: Path) -> Row:
    """scores.json of a finished evaluation."""
    return read_own(
        folder / "scores.json", model=str, scores=list[Score], info=dict[str, Any] | None
    )


def read_outcome(folder: Path) -> Outcome:
    """What `write_outcome` wrote; unknown keys of a score are passed over."""
    stored, path = read_scores(folder), folder / "items.jsonl"
    items = list(read_jsonl(path)) if path.is_file() else []
    for line, row in items:
        if not {"benchmark", "id", "value"} <= row.keys() or not isinstance(
            row["value"], int | float | None
        ):
            raise DataError(f"{path}:{line}: not a value of an item as bezoar wrote it; {ADVICE}.")
    return Outcome(stored["scores"], [row for _, row in items], stored["info"] or {})


def told(info: dict[str, Any]) -> list[str]:
    """What facts say that no score does, a sentence each: the standard error, ratings that were
    read otherwise, what failed and why."""
    sentences = []
    error = info.get("win_rate", {}).get("standard_error")
    if error is not None:
        sentences.append(f"The standard error of the win rate is {error:.4f}.")
    graded = info.get("mt_bench", {})
    if "changed_ratings" in graded:
        changed = {model: num for model, num in graded["changed_ratings"].items() if num}
        sentences += [
            f"{num} of {graded['num_ratings'][model]} ratings of {model} differ from the score in"
            " the file."
            for model, num in changed.items()
        ]
        if not changed:
            sentences.append(
                f"All {sum(graded['num_ratings'].values())} ratings that were read again equal the"
                " score in the file."
            )
    for section, what in (
        ("mt_bench", "ratings"),
        ("win_rate", "verdicts"),
        ("over_rows", "verdicts"),
    ):
        failures = info.get(section, {}).get("failures")
        if failures:
            sentences.append(
                f"{section}: {what} that could not be had:"
                f" {', '.join(f'{num} {reason}' for reason, num in failures.items())}."
            )
    planted = info.get("judge_card", {}).get("injection") or []
    if planted:
        fell, of = (sum(line[key] for line in planted[:-1]) for key in ("fell", "games"))
        control = f"{planted[-1]['fell']} of {planted[-1]['games']}"
        sentences.append(
            f"The judge fell for words of a verdict in the worse answer in {fell} of {of} games,"
            f" for harmless words in {control}."
        )
    duel, games = info.get("win_rate", {}), info.get("pairwise", {})
    if duel.get("num_left_out"):
        sentences.append(
            f"{duel['num_left_out']} questions have no turn {duel['turn']} and were not asked."
        )
    if games.get("num_errors"):
        sentences.append(
            f"{games['num_errors']} of {games['num_games']} games have an error and count for no"
            " strength."
        )
    return sentences


def condition(info: dict[str, Any], benchmark: str) -> dict[str, Any]:
    """What a score of this name depends on beside the model, by name; empty where `info` does not
    say."""
    sections = [section for section in info.values() if isinstance(section, dict)]
    starts = {
        start: same for section in sections for start, same in section.get("conditions", {}).items()
    }
    found = starts.get(
        max((start for start in starts if benchmark.startswith(start)), key=len, default=""), {}
    )
    return dict(found) if isinstance(found, dict) else {"conditions": found}


def compare(first: Sequence[Row], second: Sequence[Row]) -> list[Difference]:
    """Every score that two models' items share, tested on the items that both have.

    p values are corrected for their number (Holm). Items that one side lacks or failed are counted
    in `num_unpaired`.
    """
    left, right = _by_benchmark(first), _by_benchmark(second)
    found = []
    for name in left:
        if name not in right:
            continue
        a, b = left[name], right[name]
        shared = sorted(i for i in a.keys() & b.keys() if a[i] is not None and b[i] is not None)
        if shared:
            num_unpaired = len(a.keys() | b.keys()) - len(shared)
            found.append(
                paired(
                    name, [a[i] or 0.0 for i in shared], [b[i] or 0.0 for i in shared], num_unpaired
                )
            )
    fixed = holm([d.p for d in found])
    return [Difference(**{**vars(d), "p": p}) for d, p in zip(found, fixed, strict=True)]


def _by_benchmark(items: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    table: dict[str, dict[str, float | None]] = {}
    for item in items:
        table.setdefault(str(item["benchmark"]), {})[str(item["id"])] = item["value"]
    return table
