"""The FLAN collection (arXiv 2301.13688): tasks of four sub-mixes, the seeds of the Orca scheme.

It is published in four shapes. Each is read as rows of one schema, that of the Hub's samples and of
our seeds: inputs, targets, submix (cot, niv2, t0, flan2021), task_name, template_type (zs_opt,
zs_noopt, fs_...), and where they are known rationale, answers, categories.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from bezoar.bounds import Count
from bezoar.chat.types import Chat, Dropped
from bezoar.data.even_draw import EvenDraw, Part
from bezoar.data.locate import DataFile
from bezoar.data.rows import Placed, RowOrigin, column, text
from bezoar.data.source import Source, chat
from bezoar.data.unused_columns import UnusedColumns
from bezoar.io import Row

_SUBMIXES = ("cot", "niv2", "t0", "flan2021")
_OTHER_NAMES = {"natinst": "niv2", "p3": "t0", "flan": "flan2021"}
# P3 templates of data sets that FLAN 2021 holds too (arXiv 2109.01652, figure 3, and 2301.13688,
# appendix)
_FLAN2021_IN_P3 = re.compile(
    "ag_news|cnn_dailymail|common_gen|cosmos_qa|gigaword|glue_mrpc|glue_qqp|imdb|multi_news|paws"
    "|samsum|trec|xsum|yelp_review"
)
_STAND_IN = "a P3 template of a data set that FLAN 2021 holds too"
_OPTIONS = re.compile(
    r"^[^\S\n]*+(options|choices|options are|possible answers)\s*+:", re.IGNORECASE | re.MULTILINE
)
_END = "<|endoftext|>"


@dataclass(frozen=True)
class Flan(Source[Chat]):
    """Zero-shot FLAN tasks as chats; `meta` holds submix, task_name, template_type and more.

    Files may have any of the published shapes, also mixed in one folder: JSON Lines with inputs,
    targets and submix or task_source; chain-of-thought `.tsv` (input, target, rationale); P3 rows
    (template, prompt, completion); Natural Instructions task files. Dropped and counted: few-shot
    rows (the Orca paper uses zero-shot ones), other sub-mixes, and rows of the Super-NI test set,
    which is for evaluation only.

    Source: arXiv 2301.13688
    Example: {kind: flan, path: kowndinya23/flan2022, split: all, per_submix: 500}
    """

    per_submix: Count | None = None
    """Rows to take of each sub-mix, drawn evenly over its tasks, in place of `limit`;
    null: no bound by sub-mix."""
    flan2021_from_p3: bool = False
    """Move P3 rows over data sets that FLAN 2021 holds too from t0 to flan2021, marked `stand_in`,
    because the FLAN 2021 sub-mix itself is only on the Hub."""
    kind: Literal["flan"] = "flan"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_submix is not None and self.limit is not None:
            raise ValueError("per_submix takes the place of limit; remove one")

    def window(self) -> Iterator[Chat | Dropped]:
        """The tasks that are taken, and those that were dropped on the way."""
        if self.per_submix is None:
            return super().window()
        draw = EvenDraw(list(self._parts()), _place, _SUBMIXES, self.shuffle_seed)
        taken = draw.take(self.skip, self.per_submix)
        return chain(taken.rows, taken.dropped)

    def _parts(self) -> Iterator[Part]:
        """Each file, and of Parquet on the Hub each row group."""
        unused = UnusedColumns(self.passed, self.ignore, self.column_keys)

        def items(rows: Callable[[], Iterable[Placed]], licence: str) -> Iterator[Chat | Dropped]:
            in_schema = (row for placed in rows() for row in _to_schema(*placed))
            return self._items(in_schema, licence, unused)

        for file in self._data_files():
            groups = file.row_groups("task_name")
            if groups is None:
                read = partial(items, partial(super()._rows, file), file.licence)
                yield Part(read, file.label, self._submix_of(file.split))
            for group in groups or ():
                read = partial(items, group.rows, file.licence)
                submix = self._submix_of(group.split, group.texts[0])
                yield Part(read, f"{group.label}:{group.first}", submix, group.texts)

    def _submix_of(self, split: str, task: str = "") -> str:
        """The sub-mix of all rows of a split that is named after it; "" where it is not known."""
        if split == "t0" and self.flan2021_from_p3:
            return "flan2021" if _FLAN2021_IN_P3.match(task) else "t0" if task else ""
        return split if split in (*_SUBMIXES, "dialog") else ""

    def count(self) -> int:
        """The number of rows that `load` gives; for large files and the Hub an upper bound."""
        count = super().count()
        if self.per_submix is None:
            return count
        most = round(len(_SUBMIXES) * self.per_submix * self._share)
        return min(count or most, most)

    def read(self, row: Row, at: RowOrigin) -> Chat | Dropped:
        # training on the test set would make later scores on it worthless
        if row.get("evaluation_only"):
            return Dropped(at.id, "evaluation only", f"{at.text}: a row of the Super-NI test set")
        if not row["submix"]:
            return Dropped(at.id, "other sub-mix", at.text)
        if row["template_type"].startswith("fs"):
            return Dropped(at.id, "few-shot", at.text)
        meta = {key: row[key] for key in row if row[key] and key not in ("inputs", "targets")}
        in_both = row["submix"] == "t0" and _FLAN2021_IN_P3.match(row["task_name"])
        if self.flan2021_from_p3 and in_both:
            meta.update(submix="flan2021", stand_in=_STAND_IN)
        return chat(row["inputs"], row["targets"], at, meta)

    def _rows(self, file: DataFile) -> Iterator[Placed]:
        for at, row in super()._rows(file):
            yield from _to_schema(at, row)


def _place(item: Chat) -> tuple[str, str]:
    return item.meta["submix"], item.meta.get("task_name", "")


def _to_schema(at: RowOrigin, row: Row) -> Iterator[Placed]:
    """A row of any shape in the one schema; Natural Instructions give a row for each instance."""
    # the column names tell the shapes apart, not the file's name, which people change; files
    # without a header have columns 0, 1, 2
    if "0" in row:
        yield at, _from_cot(row, at)
    elif "Instances" in row:
        yield from _from_natural_instructions(row, at)
    elif "completion" in row:
        answer = text(row, "completion", at).removesuffix(_END).strip()
        yield at, _zero_shot(text(row, "prompt", at), answer, "t0", text(row, "template", at))
    elif {"topic", "instruction", "output"} <= row.keys():
        yield at, {"evaluation_only": True}
    else:
        yield at, _from_flan(row, at)


def _from_flan(row: Row, at: RowOrigin) -> Row:
    # the Hub's samples say submix, the published JSON Lines task_source
    name = text(row, "submix", at, needed=False) or text(row, "task_source", at, needed=False)
    if not name:
        columns = ", ".join(row) or "none"
        raise at.wrong(f"the row has no column 'submix' or 'task_source'; it has {columns}.")
    # "Flan 2021", "flan_2021" and "flan2021_submix_original" are the same
    letters = re.sub(r"[\W_]", "", name.lower()).removesuffix("original").removesuffix("submix")
    submix = _OTHER_NAMES.get(letters, letters)
    return {
        "inputs": text(row, "inputs", at),
        "targets": text(row, "targets", at),
        "submix": submix if submix in _SUBMIXES else "",
        "task_name": text(row, "task_name", at, needed=False),
        "template_type": text(row, "template_type", at, needed=False) or "zs_noopt",
        "rationale": text(row, "rationale", at, needed=False),
    }


def _from_cot(row: Row, at: RowOrigin) -> Row:
    # input, target, rationale and nothing else; only the file's name tells the task
    if set(row) != {"0", "1", "2"}:
        fault = f"a chain-of-thought line has three tab-separated columns, not {len(row)}"
        raise at.wrong(f"{fault}; mend the file.")
    question, answer, rationale = (text(row, name, at) for name in "012")
    task = Path(at.label).name.split(".")[0]
    return {**_zero_shot(question, answer, "cot", task), "rationale": rationale}


def _from_natural_instructions(task: Row, at: RowOrigin) -> Iterator[Placed]:
    """Inputs: the definition, an empty line, the instance's input; targets: its first output."""
    definition = column(task, "Definition", at)
    parts = definition if isinstance(definition, list) else [definition]
    if not parts or not all(isinstance(part, str) for part in parts):
        raise at.wrong("the column 'Definition' is not text; write a string.")
    instances = task["Instances"]
    if not isinstance(instances, list):
        raise at.wrong("the column 'Instances' is not a list of objects with input and output.")
    name, definition = Path(at.label).name.removesuffix(".json"), "\n".join(parts).strip()
    for number, instance in enumerate(instances, 1):
        # the file is one object, whose row is number 1
        origin = RowOrigin(f"{at.text.removesuffix(':1')}: instance {number}", at.label, number)
        if not isinstance(instance, dict):
            kind = type(instance).__name__
            raise origin.wrong(f"the instance is a JSON {kind}, not an object; mend it.")
        outputs = column(instance, "output", origin)
        outputs = [outputs] if isinstance(outputs, str) else outputs
        if not isinstance(outputs, list) or not all(isinstance(output, str) for output in outputs):
            raise origin.wrong("the column 'output' is not a list of texts; mend it.")
        question = f"{definition}\n\n{text(instance, 'input', origin)}"
        row = _zero_shot(question, outputs[0].strip() if outputs else "", "niv2", name)
        yield origin, {**row, "answers": outputs, "categories": task.get("Categories") or []}


def _zero_shot(question: str, answer: str, submix: str, task: str) -> Row:
    return {
        "inputs": question,
        "targets": answer,
        "submix": submix,
        "task_name": task,
        "template_type": "zs_opt" if _OPTIONS.search(question) else "zs_noopt",
    }
