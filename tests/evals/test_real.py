"""The bridge on the 135M model and published data: equal to the harness's own HFLM, batch sizes 1
and 8 alike."""

import os
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from lm_eval.models.huggingface import HFLM

from bezoar.chat.templates import ChatML
from bezoar.evals.lm_eval import LmEval, Task
from bezoar.model.resolve import resolve_model
from bezoar.model.spec import ModelSpec
from bezoar.model.stack import Stack

MODEL = "smollm2-135m-instruct"


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "template", "limit"),
    [
        ("arc_easy.jsonl", "{query}\nAnswer:", 16),
        ("piqa.jsonl", "{query}Answer:", 8),
        ("truthfulqa_mc.json", "Q: {query}\nA:", 6),
        ("winogrande.jsonl", "{query}", 8),
        ("gsm8k.jsonl", "Question: {query}\nAnswer:", 2),
    ],
)
def test_published_benchmarks_give_what_the_harness_gives(
    file: str, template: str, limit: int
) -> None:
    folder = os.environ.get("BEZOAR_DATA")
    if not folder:
        pytest.skip("BEZOAR_DATA names no folder with the published benchmarks")
    section = LmEval(
        (
            Task(
                path=str(Path(folder) / "eval" / file),
                template=template,
                limit=limit,
                max_tokens=48,
            ),
        )
    )
    ours = section.measure(Stack(ModelSpec(MODEL, dtype="float32"), [], device="cpu"), ChatML())
    for batch_size in (1, 8):
        theirs = section.run_lm(
            HFLM(
                pretrained=str(resolve_model(MODEL)),
                device="cpu",
                dtype="float32",
                batch_size=batch_size,
            )
        )
        assert [(i["benchmark"], i["id"]) for i in ours.items] == [
            (i["benchmark"], i["id"]) for i in theirs.items
        ]
        assert [i["value"] for i in ours.items] == pytest.approx(
            [i["value"] for i in theirs.items], abs=1e-4
        )
