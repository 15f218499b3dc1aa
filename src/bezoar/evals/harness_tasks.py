"""Tasks of LM-Eval-Harness over local files, by the columns of their rows. No row leaves the
machine and none comes from the Hub.

- query, choices, gold: multiple choice, scored by acc and acc_norm (log-probability by the choice's
length in characters)
- context_options, continuation, gold: the same ending after several beginnings (WinoGrande), scored
by acc
- question, mc1_targets, mc2_targets: TruthfulQA; acc of mc1, and for mc2 the probability mass of
the true answers
- context, answer: a written answer (GSM8K), scored by exact match of its last number, or of its
text where the answer is none
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
LAST_NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
NUMBER = re.compile(r"-?[\d.,]+")


def configs(path: Path, title: str, template: str, max_tokens: int) -> list[Config]:
    """The harness's task configurations for a file; `template` holds `{query}`, which is a row's
    question."""
    placed = list(read_file(path, title))
    first = placed[0][1]
    for columns, make in _FORMS:
        if columns <= first.keys():
            for at, row in placed:
                for name in columns:
                    column(row, name, at)
            return [_common(title, config) for config in make(placed, template, max_tokens)]
    known = "; ".join(", ".join(sorted(columns)) for columns, _ in _FORMS)
    raise DataError(
        f"{path}: the rows have the columns {', '.join(first)}; a task's rows have one of: {known}."
    )


def _common(title: str, config: Config) -> Config:
    rows, suffix = config.pop("rows"), config.pop("suffix", "")

    def dataset(**_: Any) -> Any:
        from datasets import Dataset

        return {"test": Dataset.from_list(rows)}

    return {
        "task": title + suffix,
        "custom_dataset": dataset,
        "test_split": "test",
        "fewshot_split": "test",
        "num_fewshot": 0,
        **config,
    }


def _asked(template: str, row: Row, name: str, at: RowOrigin) -> str:
    return template.replace("{query}", _written_text(row, name, at))


def _written_text(row: Row, name: str, at: RowOrigin) -> str:
    """A column as it stands, a number as text; DataError for anything else and for nothing."""
    value = column(row, name, at)
    if (
        isinstance(value, bool)
        or not isinstance(value, (str, int, float))
        or not str(value).strip()
    ):
        raise at.wrong(
            f"the column {name!r} is {str(value)[:40]!r}, neither a text nor a number; write one."
        )
    return str(value)


def _choices(rows: list[Placed], template: str, _: int) -> list[Config]:
    kept = []
    for at, row in rows:
        choices = _checked(at, row, "choices")
        kept.append(
            {"query": _asked(template, row, "query", at), "choices": choices, "gold": row["gold"]}
        )
    return [_multiple_choice(kept, [ACC, ACC_NORM])]


def _multiple_choice(rows: list[Row], metrics: list[Config]) -> Config:
    return {
        "rows": rows,
        "output_type": "multiple_choice",
        "metric_list": metrics,
        "doc_to_text": lambda doc: doc["query"],
        "doc_to_choice": lambda doc: doc["choices"],
        "doc_to_target": lambda doc: doc["gold"],
    }


def _options(rows: list[Placed], template: str, _: int) -> list[Config]:
    kept = []
    for at, row in rows:
        options = [template.replace("{query}", c) for c in _checked(at, row, "context_options")]
        kept.append(
            {
                "options": options,
                "continuation": _written_text(row, "continuation", at),
                "gold": row["gold"],
            }
        )
    config = _multiple_choice(kept, [ACC])
    config.update(doc_to_text=lambda doc: doc["gold"], doc_to_choice=lambda doc: doc["options"])
    return [{**config, "doc_to_target": lambda doc: doc["continuation"]}]


def _truthful(rows: list[Placed], template: str, _: int) -> list[Config]:
    tables = []
    for targets in ("mc1_targets", "mc2_targets"):
        kept = []
        for at, row in rows:
            choices, labels = read_targets(row, targets, at)
            if 1 not in labels:
                raise at.wrong(f"there is no true answer in {targets}; add one or remove the row.")
            if len(choices) < 2:
                raise at.wrong(
                    f"there are not two answers in {targets}; add answers or remove the row."
                )
            kept.append(
                {
                    "query": _asked(template, row, "question", at),
                    "choices": list(choices),
                    "labels": labels,
                    "gold": labels.index(1),
                }
            )
        tables.append(kept)
    first, second = (_multiple_choice(kept, [ACC]) for kept in tables)
    return [
        {**first, "suffix": " mc1"},
        {**second, "suffix": " mc2", "process_results": _true_mass},
    ]


def _true_mass(doc: Row, results: list[tuple[float, bool]]) -> dict[str, float]:
    """The share of the true answers in the probability of all (TruthfulQA's mc2)."""
    import numpy as np

    logprobs = np.array([logprob for logprob, _ in results])
    chances = np.exp(logprobs - logprobs.max())
    return {"acc": float(chances[np.array(doc["labels"]) == 1].sum() / chances.sum())}


def _written(rows: list[Placed], template: str, max_tokens: int) -> list[Config]:
    kept = [
        {
            "query": _asked(template, row, "context", at),
            "answer": _written_text(row, "answer", at).strip(),
        }
        for at, row in rows
    ]
    exact = {
        "metric": "exact_match",
        "aggregation": "mean",
        "higher_is_better": True,
        "ignore_case": True,
    }
    steps: list[Config] = [{"function": "take_first"}]
    if all(NUMBER.fullmatch(row["answer"]) for row in kept):
        steps.insert(0, {"function": "regex", "group_select": -1, "regex_pattern": LAST_NUMBER})
        exact |= {"regexes_to_ignore": [",", "\\$", "\\.$"]}
    return [
        {
            "rows": kept,
            "output_type": "generate_until",
            "doc_to_text": lambda doc: doc["query"],
            "doc_to_target": lambda doc: doc["answer"],
            "metric_list": [exact],
            "filter_list": [{"name": "none", "filter": steps}],
            "generation_kwargs": {
                "until": ["Question:", "</s>", "<|im_end|>"],
                "do_sample": False,
                "max_gen_toks": max_tokens,
            },
        }
    ]


def _checked(at: RowOrigin, row: Row, name: str) -> list[str]:
    """The choices of a row, whose gold is one of them."""
    choices, gold = row[name], row["gold"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise at.wrong("there are not two choices; add choices or remove the row.")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise at.wrong(
            f"gold is {str(gold)[:40]}, not the number of a choice counted from 0; mend it."
        )
    return [_written_text({name: choice}, name, at) for choice in choices]


_FORMS: list[tuple[set[str], Callable[[list[Placed], str, int], list[Config]]]] = [
    ({"query", "choices", "gold"}, _choices),
    ({"context_options", "continuation", "gold"}, _options),
    ({"question", "mc1_targets", "mc2_targets"}, _truthful),
    ({"context", "answer"}, _written),
]
