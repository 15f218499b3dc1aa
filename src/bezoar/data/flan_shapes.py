"""The four shapes in which the FLAN collection is published, as rows of one schema.

The schema is that of the Hub's samples and of our seeds: inputs, targets, submix (cot, niv2, t0,
flan2021), task_name, template_type (zs_opt, zs_noopt, fs_...), and where they are known rationale,
answers, categories.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bezoar.data.rows import Placed, RowOrigin, column, text
from bezoar.io import Row

SUBMIX_NAMES: dict[str, str] = {
    "cot": "cot",
    "niv2": "niv2",
    "natinst": "niv2",
    "t0": "t0",
    "p3": "t0",
    "flan2021": "flan2021",
    "flan": "flan2021",
}

# Data sets of the P3 sample that FLAN 2021 (arXiv 2109.01652, figure 3, and 2301.13688, appendix)
# holds too.
FLAN2021_IN_P3 = (
    "ag_news",
    "cnn_dailymail",
    "common_gen",
    "cosmos_qa",
    "gigaword",
    "glue_mrpc",
    "glue_qqp",
    "imdb",
    "multi_news",
    "paws",
    "samsum",
    "trec",
    "xsum",
    "yelp_review",
)

_OPTIONS = re.compile(
    r"^[^\S\n]*+(options|choices|options are|possible answers)\s*+:", re.IGNORECASE | re.MULTILINE
)
_END = "<|endoftext|>"


def uniform(at: RowOrigin, row: Row) -> Iterator[Placed]:
    """One row of any shape as rows of the one schema; a Natural Instructions task file gives a row
    an instance."""
    if "0" in row:
        yield at, _cot(row, at)
    elif "Instances" in row:
        yield from _natural_instructions(row, at)
    elif "completion" in row:
        yield at, _t0(row, at)
    elif {"topic", "instruction", "output"} <= row.keys():
        yield at, {"evaluation_only": True}
    else:
        yield at, _flan(row, at)


def _flan(row: Row, at: RowOrigin) -> Row:
    named = text(row, "submix", at, needed=False) or text(row, "task_source", at, needed=False)
    if not named:
        raise at.wrong(
            f"the row has no column 'submix' or 'task_source'; it has {', '.join(row) or 'none'}."
        )
    return {
        "inputs": text(row, "inputs", at),
        "targets": text(row, "targets", at),
        "submix": SUBMIX_NAMES.get(
            re.sub(r"[\W_]", "", named.lower()).removesuffix("original").removesuffix("submix"), ""
        ),
        "task_name": text(row, "task_name", at, needed=False),
        "template_type": text(row, "template_type", at, needed=False) or "zs_noopt",
        "rationale": text(row, "rationale", at, needed=False),
    }


def _cot(row: Row, at: RowOrigin) -> Row:
    """Input, target, rationale: the chain-of-thought files hold nothing else; the file's name is
    the task's."""
    if set(row) != {"0", "1", "2"}:
        raise at.wrong(
            f"a chain-of-thought line has three tab-separated columns and this one has {len(row)};"
            " mend the file."
        )
    question, answer, rationale = (text(row, name, at) for name in "012")
    task = Path(at.label).name.split(".")[0]
    return {**_zero_shot(question, answer, "cot", task), "rationale": rationale}


def _t0(row: Row, at: RowOrigin) -> Row:
    answer = text(row, "completion", at).removesuffix(_END).strip()
    return _zero_shot(text(row, "prompt", at), answer, "t0", text(row, "template", at))


def _zero_shot(question: str, answer: str, submix: str, task: str) -> Row:
    kind = "zs_opt" if _OPTIONS.search(question) else "zs_noopt"
    return {
        "inputs": question,
        "targets": answer,
        "submix": submix,
        "task_name": task,
        "template_type": kind,
    }


def _natural_instructions(task: Row, at: RowOrigin) -> Iterator[Placed]:
    """The definition, an empty line, the instance's input; the target is the first of its
    outputs."""
    definition = _joined(column(task, "Definition", at), "Definition", at)
    name = Path(at.label).name.removesuffix(".json")
    categories = task.get("Categories") or []
    if not isinstance(task["Instances"], list):
        raise at.wrong(
            "the column 'Instances' is not a list; it should hold objects with input and output."
        )
    for number, instance in enumerate(task["Instances"], 1):
        place = RowOrigin(f"{at.text.removesuffix(':1')}: instance {number}", at.label, number)
        if not isinstance(instance, dict):
            raise place.wrong(
                f"the instance is a JSON {type(instance).__name__}, not an object; mend it."
            )
        outputs = column(instance, "output", place)
        outputs = [outputs] if isinstance(outputs, str) else outputs
        if not isinstance(outputs, list) or not all(isinstance(output, str) for output in outputs):
            raise place.wrong("the column 'output' is not a list of texts; mend it.")
        question = f"{definition}\n\n{text(instance, 'input', place)}"
        answer = outputs[0].strip() if outputs else ""
        yield (
            place,
            {
                **_zero_shot(question, answer, "niv2", name),
                "answers": outputs,
                "categories": categories,
            },
        )


def _joined(value: Any, name: str, at: RowOrigin) -> str:
    parts = value if isinstance(value, list) else [value]
    if not parts or not all(isinstance(part, str) for part in parts):
        raise at.wrong(f"the column {name!r} is not text; write a string.")
    return "\n".join(parts).strip()


def flan2021_in_p3(task: str) -> bool:
    """Whether a P3 template belongs to a data set that FLAN 2021 holds too."""
    return task.startswith(FLAN2021_IN_P3)
