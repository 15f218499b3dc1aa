"""How an instruction is evolved: the prompt of each operation, worked rewritings and begun replies
for weak teachers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from bezoar.chat.types import Message
from bezoar.data.files import locate_file
from bezoar.errors import RecipeError
from bezoar.io import read_jsonl
from bezoar.prompts import fill, read_prompt
from bezoar.rng import rng_for
from bezoar.synth.examples import clean

Op = Literal["constraints", "deepen", "concretise", "reasoning", "complicate", "breadth"]
OPS: tuple[Op, ...] = ("constraints", "deepen", "concretise", "reasoning", "complicate", "breadth")
NUM_WORKED = 3
_PUNCTUATION = " .?!:"


@dataclass(frozen=True)
class Line:
    """A seed and what has become of it: `steps` are the operations that survived, each with its
    round."""

    seed: str
    text: str
    facts: dict[str, Any]
    steps: tuple[tuple[int, Op], ...] = ()

    @property
    def id(self) -> str:
        """The id of its last evolution."""
        return f"evol-{self.seed}-r{self.steps[-1][0]}"

    @property
    def op(self) -> Op:
        """Its last operation."""
        return self.steps[-1][1]


@dataclass(frozen=True)
class Wording:
    """The prompt of each operation, with `{prompt}` left to fill, and worked rewritings (before,
    after) of each."""

    prompts: dict[Op, str]
    worked: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def messages(self, line: Line, seed: int) -> tuple[Message, ...]:
        """What is asked to evolve `line` by its last operation: up to three worked rewritings as
        earlier turns, then it."""
        prompt, worked = self.prompts[line.op], self.worked.get(line.op, [])
        shown = rng_for(seed, "worked", line.id).sample(worked, min(NUM_WORKED, len(worked)))
        turns = [
            m
            for before, after in shown
            for m in (Message("user", fill(prompt, prompt=before)), Message("assistant", after))
        ]
        return (*turns, Message("user", fill(prompt, prompt=line.text)))

    def opening(self, line: Line) -> str:
        """How the evolved text begins: as the worked ones do, or else with the first paragraph of
        the old text, open at its end.

        Worked rewritings that repeat the old text share what follows it ("Also,"); of those that do
        not, and in breadth, the old text gives the first word, or without worked ones the first
        two.
        """
        head = line.text.partition("\n\n")[0].rstrip()
        worked = self.worked.get(line.op, [])
        if worked:
            grown = [after[len(before) :] for before, after in worked if after.startswith(before)]
            shared = _shared_words(grown) if len(grown) == len(worked) else ""
            ending = "" if head[-1:] in _PUNCTUATION else "."
            return f"{head}{ending} {shared}" if shared else head.split()[0]
        head = head.rstrip(_PUNCTUATION)
        return " ".join(head.split()[:2]) if line.op == "breadth" else f"{head}, and"


def read_wording(
    ops: Sequence[Op], files: dict[Literal["depth", "breadth", "methods", "worked"], str]
) -> Wording:
    """The wording in prompt files. RecipeError for a missing placeholder or operation."""
    depth, methods = read_prompt(files["depth"], "method", "prompt"), read_methods(files["methods"])
    prompts: dict[Op, str] = {}
    for op in ops:
        if op != "breadth" and op not in methods:
            raise RecipeError(
                f"{files['methods']}: there is no line for the operation {op}; add one or remove it"
                " from ops."
            )
        prompts[op] = (
            read_prompt(files["breadth"], "prompt")
            if op == "breadth"
            else fill(depth, method=methods[op])
        )
    return Wording(prompts, read_worked(files["worked"]) if files["worked"] else {})


def read_methods(ref: str) -> dict[str, str]:
    """How each in-depth operation makes a prompt harder."""
    return {row["op"]: row["text"] for row in _rows(ref, ("op", "text"))}


def read_worked(ref: str) -> dict[str, list[tuple[str, str]]]:
    """Rewritings (before, after) by operation."""
    worked: dict[str, list[tuple[str, str]]] = {}
    for row in _rows(ref, ("op", "before", "after")):
        worked.setdefault(row["op"], []).append((row["before"], row["after"]))
    return worked


def _rows(ref: str, names: tuple[str, ...]) -> list[dict[str, str]]:
    path = locate_file(ref, Path(), f"prompt {ref}")
    rows: list[dict[str, str]] = []
    for number, row in read_jsonl(path):
        if not all(isinstance(row.get(name), str) for name in names) or row["op"] not in OPS:
            raise RecipeError(
                f"{path}:{number}: a line has {', '.join(names)} as texts, op one of"
                f" {', '.join(OPS)}; mend the line."
            )
        rows.append(row)
    return rows


def evolved_text(line: Line, prefill: str, written: str) -> str:
    """The evolved text in what was `written` after `prefill`; "" where nothing was written.

    Of a begun reply the paragraphs of the old text behind the first stay, except in breadth.
    """
    if not prefill or not written.strip():
        return clean(written)
    rest = line.text.partition("\n\n")[2] if line.op != "breadth" else ""
    return prefill + written.rstrip() + (f"\n\n{rest}" if rest else "")


def _shared_words(texts: Sequence[str]) -> str:
    """The words with which all texts begin."""
    columns = zip(*(text.split() for text in texts), strict=False)
    return " ".join(
        column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)
    )
