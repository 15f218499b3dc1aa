"""The real data sets, where they are at hand: every row is accounted for."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bezoar.data import HHRLHF, Dolly, Flan, ShareGPT, UltraFeedback
from bezoar.data.locate import MIRROR, locate
from bezoar.data.questions import read_answers, read_questions
from bezoar.data.source import Source
from bezoar.data.turns import turn_problem

ROOT = os.environ.get("BEZOAR_DATA", "")
pytestmark = pytest.mark.skipif(
    not ROOT, reason="BEZOAR_DATA is not set, so the real data sets are not here"
)

HH = "Anthropic/hh-rlhf"
SOURCES: list[tuple[Source[Any], int, dict[str, int]]] = [
    (Dolly("databricks/databricks-dolly-15k"), 15_011, {"duplicate": 15}),
    (
        HHRLHF(HH, subset="harmless-base", split="test"),
        2_312,
        {"two turns in a row": 9, "empty answer": 4},
    ),
    (
        HHRLHF(HH, subset="helpful-base", split="train"),
        4_000,
        {"two turns in a row": 10, "empty answer": 2, "equal answers": 1},
    ),
    (
        HHRLHF(HH, subset="helpful-base", split="test"),
        4_000,
        {"two turns in a row": 6, "empty answer": 1, "equal answers": 2},
    ),
    (
        Flan("kowndinya23/flan2022"),
        2_800 + 2_818 + 24 * 40 + 1_694,
        {"evaluation only": 1_694, "empty answer": 70, "duplicate": 14},
    ),
    (
        UltraFeedback("HuggingFaceH4/ultrafeedback_binarized", split="train_prefs"),
        1_000,
        {"equal answers": 4, "empty answer": 2},
    ),
    (
        UltraFeedback("HuggingFaceH4/ultrafeedback_binarized", split="test_prefs"),
        200,
        {"equal answers": 1},
    ),
    (ShareGPT("llamafactory/glaive_toolcall_en"), 300, {"duplicate": 35}),
]


@pytest.mark.parametrize(
    ("source", "num_rows", "dropped"), SOURCES, ids=lambda value: getattr(value, "kind", "")
)
def test_every_row_is_kept_or_counted(
    source: Source[Any], num_rows: int, dropped: dict[str, int]
) -> None:
    sifted = source.load()
    assert Counter(item.reason for item in sifted.dropped) == dropped
    assert len(sifted.rows) + len(sifted.dropped) == num_rows
    ids = [item.id for item in [*sifted.rows, *sifted.dropped]]
    assert len(set(ids)) == num_rows
    for item in sifted.rows:
        assert not turn_problem(
            item.as_chat().messages if hasattr(item, "chosen") else item.messages
        )


def test_windows_of_one_data_set_share_no_row() -> None:
    def texts(skip: int, limit: int) -> set[str]:
        return {repr(pair.prompt) + pair.chosen for pair in source(skip, limit).load().rows}

    def source(skip: int, limit: int) -> HHRLHF:
        return HHRLHF(
            HH, subset="harmless-base", split="test", skip=skip, limit=limit, shuffle_seed=1
        )

    train, held_out = texts(0, 200), texts(200, 50)
    assert (len(train), len(held_out), len(train & held_out)) == (200, 50, 0)


def test_the_four_submixes_with_a_stand_in_that_says_so() -> None:
    rows = (
        Flan("kowndinya23/flan2022", per_submix=50, shuffle_seed=0, flan2021_from_p3=True)
        .load()
        .rows
    )
    assert Counter(row.meta["submix"] for row in rows) == {
        "cot": 50,
        "niv2": 50,
        "t0": 50,
        "flan2021": 50,
    }
    assert all(("stand_in" in row.meta) == (row.meta["submix"] == "flan2021") for row in rows)
    assert not any("<|endoftext|>" in message.content for row in rows for message in row.messages)


def test_mt_bench_as_published() -> None:
    questions = read_questions(
        "HuggingFaceH4/mt_bench_prompts", references=f"{ROOT}/mt_bench/reference_answer/gpt-4.jsonl"
    )
    assert len(questions) == 80
    assert set(Counter(question.category for question in questions).values()) == {10}
    needed = [q for q in questions if q.category in ("math", "reasoning", "coding")]
    assert all(len(question.references) == 2 for question in needed)
    for model in (
        "alpaca-13b",
        "dolly-v2-12b",
        "falcon-40b-instruct",
        "gpt-3.5-turbo",
        "palm-2-chat-bison-001",
        "vicuna-7b-v1.3",
    ):
        answers = read_answers(f"{ROOT}/mt_bench/model_answer/{model}.jsonl")
        assert set(answers) == {question.id for question in questions}


NUM_CHOICES = {
    "eval/arc_easy.jsonl": 2_376,
    "eval/arc_challenge.jsonl": 1_172,
    "eval/piqa.jsonl": 1_838,
    "eval/openbook_qa.jsonl": 500,
    "eval/winogrande.jsonl": 1_267,
    "eval/boolq.jsonl": 3_270,
    "eval/truthfulqa_mc.json": 817,
}


@pytest.mark.parametrize("path", NUM_CHOICES)
def test_multiple_choice_sets_are_whole(path: str) -> None:
    dataset, subset, split = next(key for key, file in MIRROR.items() if file == path)
    (file,) = locate(dataset, Path(), subset=subset, split=split)
    assert sum(1 for _ in file.rows()) == NUM_CHOICES[path]
