"""The Orca scheme (arXiv 2306.02707): tasks of the FLAN collection, a system message each, and an
explained answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bezoar.chat.types import AnyRow, Chat, Dropped, Filtered, Message, as_chats
from bezoar.cost import Estimate, Quote, text_tokens
from bezoar.data.files import locate_file
from bezoar.errors import DataError, RecipeError
from bezoar.io import read_jsonl
from bezoar.llm.types import Ask
from bezoar.model.spec import Sampling
from bezoar.prompts import fill, read_prompt
from bezoar.references import FileRef
from bezoar.rng import rng_for
from bezoar.synth.answering import Draft, answer, quote_answers
from bezoar.synth.scheme import Scheme

SUBMIXES = ("cot", "niv2", "t0", "flan2021")
SYSTEM_IDS: dict[str, tuple[int, ...]] = {
    "cot": (6, 11, 16),
    "niv2": (1, 2, 5, 7, 9, 12, 13, 14, 15),
    "t0": (1, 2, 3, 5, 7),
    "flan2021": (3, 4, 7),
}
MULTIPLE_CHOICE_IDS = (8, 10)
NUM_SYSTEMS = 16


def system_ids(submix: str, template_type: str) -> tuple[int, ...]:
    """The numbers of the system messages that a task may get (paper, table 3); multiple choice of
    FLAN 2021 has two more."""
    ids = SYSTEM_IDS[submix]
    return (
        (*ids, *MULTIPLE_CHOICE_IDS) if submix == "flan2021" and template_type == "zs_opt" else ids
    )


@dataclass(frozen=True)
class Orca(Scheme):
    """Recipe keys. `num_rows` tasks are drawn, a system message is drawn for each, and the teacher
    answers.

    Sub-mixes have equal parts of `num_rows`, or parts by the weights in `shares`; one with too few
    rows gives all it has, and the others fill up. Within a sub-mix a task is drawn uniformly, then
    one of its rows without replacement; an empty task drops out (the paper's procedure for T0 and
    FLAN 2021). A task of NIV2 gives at most `niv2_per_task` rows (paper: 300).

    Ours: one procedure for all four sub-mixes and equal parts (the paper takes 150k, 440k, 2M and
    2.5M), `max_prompt_tokens`, counted as four characters a token, the sampling, and one retry. The
    paper's teacher does not see the target. One that is too weak for the tasks can be told it by
    `hint`, a prompt file with {task} and {target}, and explains what it did not find (as in arXiv
    2203.14465); the row keeps the task as it was.
    """

    num_rows: int
    shares: dict[Literal["cot", "niv2", "t0", "flan2021"], float] = field(
        default_factory=lambda: dict.fromkeys(SUBMIXES, 1.0)  # type: ignore[arg-type]
    )
    niv2_per_task: int = 300
    max_prompt_tokens: int = 1500
    retries: int = 1
    systems: FileRef = "bezoar:orca_system.jsonl"
    hint: FileRef = ""
    answers: Sampling = field(default_factory=Sampling)
    kind: Literal["orca"] = "orca"

    def __post_init__(self) -> None:
        if min(self.num_rows, self.niv2_per_task, self.max_prompt_tokens) < 1 or self.retries < 0:
            raise ValueError(
                "num_rows, niv2_per_task and max_prompt_tokens must be at least 1, retries at"
                " least 0"
            )
        if min(self.shares.values(), default=0) < 0 or sum(self.shares.values()) <= 0:
            raise ValueError("shares must be weights of at least 0, one of them more")

    def generate(self, seeds: Sequence[AnyRow], ask: Ask, *, seed: int) -> Filtered[Chat]:
        """Rows of system (absent for message 1), user, answer; `meta` has the task's, the target
        and the message's number.

        Dropped: few-shot and too long tasks, and rows whose answer is unusable. DataError when a
        seed is no FLAN task or a sub-mix with a weight has none.
        """
        texts, hint = (
            read_systems(self.systems),
            (read_prompt(self.hint, "task", "target") if self.hint else ""),
        )
        fit, dropped = self._fit(as_chats(seeds))
        drafts = [_draft(row, texts, hint, seed) for row in self._sample(fit, seed)]
        done = answer(drafts, ask, self.answers, seed=seed, retries=self.retries)
        return Filtered(done.rows, [*dropped, *done.dropped])

    def quote(self, rows: Mapping[str, Estimate]) -> Quote:
        """Rows that it will give, and calls."""
        num = Estimate(
            min(rows[self.seeds].low, self.num_rows),
            min(rows[self.seeds].expected, self.num_rows),
            min(rows[self.seeds].high, self.num_rows),
        )
        calls = quote_answers(num, min(300, self.max_prompt_tokens), self.answers, self.retries)
        return Quote(Estimate(num.low * 0.5, num.expected, num.high), [(self.teacher, calls)])

    def _fit(self, seeds: Sequence[Chat]) -> tuple[list[Chat], list[Dropped]]:
        """The zero-shot rows within the length, and the others."""
        kept: list[Chat] = []
        dropped: list[Dropped] = []
        for row in seeds:
            if row.meta.get("submix") not in SUBMIXES:
                raise DataError(
                    f"{row.id}: the orca scheme needs meta.submix, one of {', '.join(SUBMIXES)};"
                    " read its seeds with kind: flan."
                )
            num_tokens = text_tokens(row.prompt[-1].content)
            if str(row.meta.get("template_type", "")).startswith("fs"):
                dropped.append(Dropped(row.id, "few-shot", str(row.meta["template_type"])))
            elif num_tokens > self.max_prompt_tokens:
                dropped.append(Dropped(row.id, "too long", f"about {num_tokens} tokens"))
            else:
                kept.append(row)
        return kept, dropped

    def _sample(self, rows: Sequence[Chat], seed: int) -> list[Chat]:
        """`num_rows` rows, sub-mix by sub-mix."""
        pools: dict[str, list[Chat]] = {}
        weights = {str(name): weight for name, weight in self.shares.items() if weight > 0}
        for name in weights:
            limit = self.niv2_per_task if name == "niv2" else None
            pools[name] = draw_tasks(
                [row for row in rows if row.meta["submix"] == name], self.num_rows, seed, limit
            )
            if not pools[name]:
                raise DataError(
                    f"orca: no usable seed is of the sub-mix {name}; add such rows or set"
                    f" shares.{name} to 0."
                )
        sizes = quotas(self.num_rows, weights, {name: len(pool) for name, pool in pools.items()})
        return [row for name, pool in pools.items() for row in pool[: sizes[name]]]


def draw_tasks(
    rows: Sequence[Chat], num: int, seed: int, per_task: int | None = None
) -> list[Chat]:
    """Up to `num` rows: a task uniformly, then one of its rows without replacement; tasks that are
    empty drop out."""
    tasks: dict[str, list[Chat]] = {}
    for row in rows:
        tasks.setdefault(str(row.meta.get("task_name", "")), []).append(row)
    random = rng_for(seed, "tasks", str(rows[0].meta["submix"]) if rows else "")
    for name in tasks:
        random.shuffle(tasks[name])
        tasks[name] = tasks[name][:per_task]
    names = list(tasks)
    drawn: list[Chat] = []
    while names and len(drawn) < num:
        place = random.randrange(len(names))
        drawn.append(tasks[names[place]].pop())
        if not tasks[names[place]]:
            names[place] = names[-1]
            names.pop()
    return drawn


def quotas(num: int, weights: dict[str, float], sizes: dict[str, int]) -> dict[str, int]:
    """How many of `num` rows each name gives: by weight and largest remainder, no more than it has,
    the rest from the others."""
    taken = dict.fromkeys(weights, 0)
    while True:
        open_names = [name for name in weights if taken[name] < sizes[name]]
        left = num - sum(taken.values())
        if not open_names or left <= 0:
            return taken
        total = sum(weights[name] for name in open_names)
        exact = {name: left * weights[name] / total for name in open_names}
        extra = left - sum(int(value) for value in exact.values())
        order = sorted(open_names, key=lambda name: int(exact[name]) - exact[name])
        for place, name in enumerate(order):
            taken[name] = min(sizes[name], taken[name] + int(exact[name]) + (place < extra))


def read_systems(ref: str) -> dict[int, str]:
    """The system messages by number. RecipeError when the sixteen are not all there."""
    path: Path = locate_file(ref, Path(), f"prompt {ref}")
    texts: dict[int, str] = {}
    for line, row in read_jsonl(path):
        if not isinstance(row.get("id"), int) or not isinstance(row.get("text"), str):
            raise RecipeError(
                f"{path}:{line}: a system message has id, a number, and text; mend the line."
            )
        texts[row["id"]] = row["text"].strip()
    missing = [str(number) for number in range(1, NUM_SYSTEMS + 1) if number not in texts]
    if missing:
        raise RecipeError(
            f"{path}: the system messages {', '.join(missing)} of {NUM_SYSTEMS} are missing; add"
            " them."
        )
    return texts


def _draft(row: Chat, texts: dict[int, str], hint: str, seed: int) -> Draft:
    ids = system_ids(row.meta["submix"], str(row.meta.get("template_type", "")))
    number = rng_for(seed, "system", row.id).choice(ids)
    said = (Message("system", texts[number]),) if texts[number] else ()
    task = row.prompt[-1].content
    asked = (*said, Message("user", fill(hint, task=task, target=row.answer))) if hint else ()
    meta = {**row.meta, "scheme": "orca", "seed": row.id, "system_id": number, "target": row.answer}
    return Draft(f"orca-{row.id}", (*said, Message("user", task)), meta, asked)
