"""The Orca scheme: tasks of the FLAN collection with a system message and an explained answer."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, TypeAlias

from bezoar.bounds import Count, NotNegative
from bezoar.chat.row_types import RowNeed, RowType
from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Message, as_chat
from bezoar.cost import Estimate, Quote, text_tokens
from bezoar.data.files import locate_file
from bezoar.data.row_order import in_order
from bezoar.errors import DataError, RecipeError
from bezoar.io import read_jsonl
from bezoar.llm.types import Ask
from bezoar.prompts import fill, read_prompt
from bezoar.references import FileRef
from bezoar.rng import rng_for
from bezoar.stage import Rows
from bezoar.synth.accepted import RowCount, written
from bezoar.synth.scheme import Draft, Scheme, at_most

Places: TypeAlias = "dict[str, array[int]]"
"""Of each task, the places of its rows among all seeds."""
Submix = Literal["cot", "niv2", "t0", "flan2021"]
SYSTEM_IDS: dict[Submix, tuple[int, ...]] = {
    "cot": (6, 11, 16),
    "niv2": (1, 2, 5, 7, 9, 12, 13, 14, 15),
    "t0": (1, 2, 3, 5, 7),
    "flan2021": (3, 4, 7),
}
"""The numbers of the system messages that a task of a sub-mix may get (table 3 of the paper)."""
SUBMIXES = tuple(SYSTEM_IDS)
MULTIPLE_CHOICE_IDS = (8, 10)
NUM_SYSTEMS = 16


@dataclass(frozen=True)
class Orca(Scheme):
    """Tasks are drawn from FLAN's sub-mixes, each with a system message, and a teacher answers.

    Within a sub-mix a task is drawn uniformly, then one of its rows without replacement; a task
    without rows drops out (the paper's procedure for T0 and FLAN 2021). Ours: this procedure for
    all four sub-mixes, equal parts (the paper takes 150k, 440k, 2M and 2.5M), the limit on prompts,
    the sampling, and one retry. The paper's teacher does not see the target; with `hint` a teacher
    that is too weak for the tasks explains a target that it did not find (as in arXiv 2203.14465).

    Source: arXiv 2306.02707
    Example: {kind: orca, seeds: flan, teacher: teacher, num_rows: 1000}
    """

    num_rows: RowCount
    """Tasks that are drawn and answered. {accepted: N}: as many as the filters behind need to keep
    N rows."""
    shares: dict[Submix, NotNegative] = field(
        default_factory=lambda: dict[Submix, float](dict.fromkeys(SUBMIXES, 1.0))
    )
    """Weight of each sub-mix, at least 0; one with too few rows gives all, the others fill up."""
    niv2_per_task: Count = 300
    """Most rows of one task of NIV2 (the paper: 300)."""
    max_prompt_tokens: Count = 1500
    """Longest task that is used, with four characters counted as a token."""
    systems: FileRef = "bezoar:orca_system.jsonl"
    """JSON Lines of id and text: the sixteen system messages."""
    hint: FileRef = ""
    """Prompt file with {task} and {target} for a weak teacher; the row keeps the plain task."""
    kind: Literal["orca"] = "orca"
    carries = frozenset({"scheme"})

    def __post_init__(self) -> None:
        if not any(self.shares.values()):
            raise ValueError("shares are weights, one of them above 0; raise one")

    def generate(self, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """Rows of system (absent for message 1), user, answer; `meta` adds target and system_id.

        Dropped: few-shot and too long tasks, and unusable answers. DataError for a seed that is no
        FLAN task or a sub-mix that has a weight but no task.
        """
        return Filtered.split(self.each(seeds, ask, seed=seed))

    def each(
        self, seeds: Rows, ask: Ask, *, seed: int, work_dir: Path | None = None, whole: bool = False
    ) -> Iterator[Chat | Dropped]:
        """The same as it comes; in memory are a part of the tasks and the places of all."""
        system_texts = read_systems(self.systems)
        hint = read_prompt(self.hint, "task", "target") if self.hint else ""
        # 1) A first pass checks all seeds and notes where the rows of each task stand.
        places: dict[str, Places] = {name: {} for name in SUBMIXES}
        for place, row in enumerate(seeds):
            checked = self._check(as_chat(row))
            if isinstance(checked, Dropped):
                yield checked
            else:
                task = str(checked.meta.get("task_name", ""))
                places[checked.meta["submix"]].setdefault(task, array("q")).append(place)
        # 2) A second one takes those that are drawn.
        rows = in_order(seeds, self._sample(places, seed), work_dir)
        drafts = (_draft(row, system_texts, hint, seed) for row in rows)
        yield from self.answer_each(drafts, ask, seed=seed, whole=whole)

    def takes(self) -> Mapping[str, RowNeed]:
        """Tasks that say of which sub-mix they are."""
        return {"seeds": (RowType("chats", frozenset({"submix"})),)}

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """One request for each row."""
        num = at_most(rows[self.seeds], written(self.num_rows))
        answers = self.quote_answers(num, min(300, self.max_prompt_tokens))
        return Quote(Estimate(num.low * 0.5, num.expected, num.high), [(self.teacher, answers)])

    def _check(self, row: Chat) -> Chat | Dropped:
        """The row if it is zero-shot and short enough."""
        if row.meta.get("submix") not in SUBMIXES:
            raise DataError(
                f"{row.id}: the orca scheme needs meta.submix, one of {', '.join(SUBMIXES)};"
                " read its seeds with kind: flan."
            )
        num_tokens = text_tokens(row.prompt[-1].content)
        if str(row.meta.get("template_type", "")).startswith("fs"):
            return Dropped(row.id, "few-shot", str(row.meta["template_type"]))
        if num_tokens > self.max_prompt_tokens:
            return Dropped(row.id, "too long", f"about {num_tokens} tokens")
        return row

    def _sample(self, places: Mapping[str, Places], seed: int) -> "array[int]":
        """The places of `num_rows` rows, sub-mix by sub-mix, of those of all usable ones."""
        # 1) Draw as many rows of each sub-mix as could be needed if all others ran out.
        num_rows = written(self.num_rows)
        weights = {name: weight for name, weight in self.shares.items() if weight > 0}
        pools: dict[Submix, array[int]] = {}
        for name in weights:
            per_task = self.niv2_per_task if name == "niv2" else None
            pools[name] = draw_tasks(places[name], num_rows, rng_for(seed, "tasks", name), per_task)
            if not places[name]:
                raise DataError(
                    f"orca: no usable seed is of the sub-mix {name}; add such rows or set"
                    f" shares.{name} to 0."
                )
        # 2) Take the first of each, by its weight and by what there is.
        sizes = quotas(num_rows, weights, {name: len(pool) for name, pool in pools.items()})
        return sum((pool[: sizes[name]] for name, pool in pools.items()), start=array("q"))


def system_ids(submix: Submix, template_type: str) -> tuple[int, ...]:
    """The system messages of a task; multiple choice of FLAN 2021 has two more."""
    multiple_choice = submix == "flan2021" and template_type == "zs_opt"
    return SYSTEM_IDS[submix] + (MULTIPLE_CHOICE_IDS if multiple_choice else ())


def draw_tasks(places: Places, num: int, rng: Random, per_task: int | None = None) -> "array[int]":
    """Up to `num` places: a task uniformly, then one of its rows without replacement."""
    # Shuffled and cut before any draw, so that each task gives a random part of its rows.
    tasks = {name: own[:] for name, own in places.items()}
    for name in tasks:
        rng.shuffle(tasks[name])
        tasks[name] = tasks[name][:per_task]
    # Each draw takes a name uniformly, whatever the size of its task.
    names = list(tasks)
    drawn = array("q")
    while names and len(drawn) < num:
        index = rng.randrange(len(names))
        task = tasks[names[index]]
        drawn.append(task.pop())
        if not task:
            # the last name takes the place of the empty task, which is cheaper than to move all
            names[index] = names[-1]
            names.pop()
    return drawn


def quotas(
    num: int, weights: Mapping[Submix, float], sizes: Mapping[Submix, int]
) -> dict[Submix, int]:
    """How many of `num` rows each name gives, by weight and largest remainder.

    A name gives no more rows than it has, and the others make up for those that are missing.
    """
    taken = dict.fromkeys(weights, 0)
    while True:
        # Each round shares out what the names that ran out of rows in the last one left over.
        names = [name for name in weights if taken[name] < sizes[name]]
        num_missing = num - sum(taken.values())
        if not names or num_missing <= 0:
            return taken
        total = sum(weights[name] for name in names)
        exact = {name: num_missing * weights[name] / total for name in names}
        num_rounded_off = num_missing - sum(int(value) for value in exact.values())
        by_remainder = sorted(names, key=lambda name: int(exact[name]) - exact[name])
        for rank, name in enumerate(by_remainder):
            share = int(exact[name]) + (rank < num_rounded_off)
            taken[name] = min(sizes[name], taken[name] + share)


def read_systems(ref: str) -> dict[int, str]:
    """The system messages by number; RecipeError unless all sixteen are there."""
    path = locate_file(ref, Path(), f"prompt {ref}")
    texts: dict[int, str] = {}
    for line, row in read_jsonl(path):
        if not isinstance(row.get("id"), int) or not isinstance(row.get("text"), str):
            raise RecipeError(f"{path}:{line}: a system message has id, a number, and text.")
        texts[row["id"]] = row["text"].strip()
    missing = [str(number) for number in range(1, NUM_SYSTEMS + 1) if number not in texts]
    if missing:
        raise RecipeError(f"{path}: system messages are missing: {', '.join(missing)}; add them.")
    return texts


def _draft(row: Chat, system_texts: dict[int, str], hint: str, seed: int) -> Draft:
    # The seed of the draw holds the row's id: other rows do not change this row's message.
    ids = system_ids(row.meta["submix"], str(row.meta.get("template_type", "")))
    number = rng_for(seed, "system", row.id).choice(ids)
    text, task = system_texts[number], row.prompt[-1].content
    system = (Message("system", text),) if text else ()
    hinted = (*system, Message("user", fill(hint, task=task, target=row.answer))) if hint else ()
    meta = {**row.meta, "scheme": "orca", "seed": row.id, "system_id": number, "target": row.answer}
    return Draft(f"orca-{row.id}", (*system, Message("user", task)), meta, hinted)
