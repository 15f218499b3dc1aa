"""Tasks of LM-Eval-Harness over local files, by the columns of their rows; nothing is uploaded.

- query, choices, gold: multiple choice, scored by acc and acc_norm (by the choice's characters)
- context_options, continuation, gold: one ending after several beginnings (WinoGrande), by acc
- question, mc1_targets, mc2_targets: TruthfulQA, by acc; for mc2 the mass of the true answers
- context, answer: a written answer (GSM8K), by exact match of its last number, or of its text
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bezoar.data.questions import read_targets
from bezoar.data.rows import Placed, RowOrigin, column, read_file
from bezoar.errors import DataError
from bezoar.io import Row

Config = dict[str, Any]
ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
ACC_NORM = {**ACC, "metric": "acc_norm"}
EXACT_MATCH = {**ACC, "metric": "exact_match", "ignore_case": True}
LAST_NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
NUMBER = re.compile(r"-?[\d.,]+")


def configs(path: Path, title: str, template: str, max_tokens: int) -> list[Config]:
    """The harness's task configurations for a file; `template` puts a question for `{query}`."""
    rows = list(read_file(path, title))
    names = rows[0][1].keys()
    # the first row chooses the form; every row must have its columns
    for columns, make in _FORMS:
        if columns <= names:
            for at, row in rows:
                for name in columns:
                    column(row, name, at)
            return [_with_rows(title, config) for config in make(rows, template, max_tokens)]
    known = "; ".join(", ".join(sorted(columns)) for columns, _ in _FORMS)
    raise DataError(
        f"{path}: the rows have the columns {', '.join(names)}; a task's rows have one of: {known}."
    )


def _with_rows(title: str, config: Config) -> Config:
    rows, suffix = config.pop("rows"), config.pop("suffix", "")

    def dataset(**_: Any) -> Any:
        from datasets import Dataset

        return {"test": Dataset.from_list(rows)}

    split = {"test_split": "test", "fewshot_split": "test", "num_fewshot": 0}
    return {"task": title + suffix, "custom_dataset": dataset, **split, **config}


def _multiple_choice(rows: list[Row], metrics: list[Config]) -> Config:
    return {
        "rows": rows,
        "output_type": "multiple_choice",
        "metric_list": metrics,
        "doc_to_text": lambda doc: doc["query"],
        "doc_to_choice": lambda doc: doc["choices"],
        "doc_to_target": lambda doc: doc["gold"],
    }


def _choices(rows: list[Placed], template: str, _: int) -> list[Config]:
    docs = []
    for at, row in rows:
        choices = _checked_choices(at, row, "choices")
        query = template.replace("{query}", _text(row, "query", at))
        docs.append({"query": query, "choices": choices, "gold": row["gold"]})
    return [_multiple_choice(docs, [ACC, ACC_NORM])]


def _context_options(rows: list[Placed], template: str, _: int) -> list[Config]:
    docs = []
    for at, row in rows:
        beginnings = _checked_choices(at, row, "context_options")
        options = [template.replace("{query}", text) for text in beginnings]
        ending = _text(row, "continuation", at)
        docs.append({"options": options, "continuation": ending, "gold": row["gold"]})
    # the harness turns text and target around when the contexts are the choices
    turned = {
        "doc_to_text": lambda doc: doc["gold"],
        "doc_to_choice": lambda doc: doc["options"],
        "doc_to_target": lambda doc: doc["continuation"],
    }
    return [_multiple_choice(docs, [ACC]) | turned]


def _truthful(rows: list[Placed], template: str, _: int) -> list[Config]:
    tasks = []
    for targets in ("mc1_targets", "mc2_targets"):
        docs = []
        for at, row in rows:
            choices, labels = read_targets(row, targets, at)
            if 1 not in labels:
                raise at.wrong(f"there is no true answer in {targets}; add one or remove the row.")
            if len(choices) < 2:
                raise at.wrong(
                    f"there are not two answers in {targets}; add one or remove the row."
                )
            query = template.replace("{query}", _text(row, "question", at))
            doc = {"query": query, "choices": list(choices), "labels": labels}
            docs.append({**doc, "gold": labels.index(1)})
        tasks.append(_multiple_choice(docs, [ACC]))
    first, second = tasks
    mc2 = {**second, "suffix": " mc2", "process_results": _true_mass}
    return [{**first, "suffix": " mc1"}, mc2]


def _true_mass(doc: Row, results: list[tuple[float, bool]]) -> dict[str, float]:
    """The share of the true answers in the probability of all (TruthfulQA's mc2)."""
    import numpy as np

    logprobs = np.array([logprob for logprob, _ in results])
    chances = np.exp(logprobs - logprobs.max())
    return {"acc": float(chances[np.array(doc["labels"]) == 1].sum() / chances.sum())}


def _written(rows: list[Placed], template: str, max_tokens: int) -> list[Config]:
    docs = []
    for at, row in rows:
        query = template.replace("{query}", _text(row, "context", at))
        docs.append({"query": query, "answer": _text(row, "answer", at).strip()})
    metric: Config = EXACT_MATCH
    # where all answers are numbers, only the last number of a model's text is compared
    steps: list[Config] = [{"function": "take_first"}]
    if all(NUMBER.fullmatch(doc["answer"]) for doc in docs):
        steps.insert(0, {"function": "regex", "group_select": -1, "regex_pattern": LAST_NUMBER})
        metric = {**metric, "regexes_to_ignore": [",", "\\$", "\\.$"]}
    until = ["Question:", "</s>", "<|im_end|>"]
    config = {
        "rows": docs,
        "output_type": "generate_until",
        "doc_to_text": lambda doc: doc["query"],
        "doc_to_target": lambda doc: doc["answer"],
        "metric_list": [metric],
        "filter_list": [{"name": "none", "filter": steps}],
        "generation_kwargs": {"until": until, "do_sample": False, "max_gen_toks": max_tokens},
    }
    return [config]


def _checked_choices(at: RowOrigin, row: Row, name: str) -> list[str]:
    """The choices of a row, whose gold is the number of one of them."""
    choices, gold = row[name], row["gold"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise at.wrong("there are not two choices; add choices or remove the row.")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise at.wrong(f"gold is {str(gold)[:40]}, not the number of a choice, from 0; mend it.")
    return [_text({name: choice}, name, at) for choice in choices]


def _text(row: Row, name: str, at: RowOrigin) -> str:
    """A column that holds a text or a number, as text; DataError for anything else."""
    value = column(row, name, at)
    readable = isinstance(value, str | int | float) and not isinstance(value, bool)
    if not readable or not str(value).strip():
        what = f"the column {name!r} is {str(value)[:40]!r}"
        raise at.wrong(f"{what}, neither a text nor a number; write one.")
    return str(value)


_FORMS: list[tuple[set[str], Callable[[list[Placed], str, int], list[Config]]]] = [
    ({"query", "choices", "gold"}, _choices),
    ({"context_options", "continuation", "gold"}, _context_options),
    ({"question", "mc1_targets", "mc2_targets"}, _truthful),
    ({"context", "answer"}, _written),
]
