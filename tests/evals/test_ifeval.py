"""IFEval: the harness's programs on our prompts, by prompt and by instruction, strict and loose."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.templates import ChatML
from bezoar.errors import DataError
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.ifeval import Checks, IFEval, Instructed, read_ifeval
from bezoar.evals.outcome import EvalContext
from bezoar.llm.types import Reply, Request
from tests.helpers.command import bezoar, refused

pytest.importorskip("lm_eval")
pytest.importorskip("langdetect")
NO_COMMA, TITLE = "punctuation:no_comma", "detectable_format:title"
WORDS, QUOTED = "length_constraints:number_words", "startend:quotation"
SENTENCES = "length_constraints:number_sentences"
ROWS: list[dict[str, Any]] = [
    {
        "key": 1,
        "prompt": "Praise bees in three words without a comma. ",
        "instruction_id_list": [NO_COMMA, WORDS],
        "kwargs": [{}, {"relation": "at least", "num_words": 3}],
    },
    {
        "key": 2,
        "prompt": "Wrap your answer in quotation marks.",
        "instruction_id_list": [QUOTED],
        # as a table with columns has them
        "kwargs": [{"relation": None, "num_words": None}],
    },
    {
        "key": 3,
        "prompt": "Give it a title in double angular brackets.",
        "instruction_id_list": [TITLE],
        "kwargs": [None],
    },
]
ANSWERS = {
    "1": "Busy, golden bees.",  # a comma: one of two
    "2": 'Sure:\n"Quoted."',  # right only without its first line
    "3": "<<Bees>>\nare here",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "ifeval.jsonl", ROWS)


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def context(texts: dict[str, str]) -> EvalContext:
    keys = {row["prompt"]: str(row["key"]) for row in ROWS}

    def ask(requests: Sequence[Request]) -> list[Reply]:
        assert all(r.temperature == 0 and r.max_tokens == 1280 for r in requests)
        return [Reply(texts[keys[r.messages[-1].content]]) for r in requests]

    return EvalContext(
        ChatML(),
        open_model=lambda name: None,
        ask_model=lambda name: ask,
        ask=lambda name: ask,
        rows=lambda name: [],
    )


def test_prompts_and_instructions_strict_and_loose(file: Path) -> None:
    outcome = Evaluate("m", ifeval=IFEval(str(file))).measure(context(ANSWERS))
    figures = {s.name: (s.value, s.n, s.num_failed) for s in outcome.scores}
    assert figures == {
        "IFEval/prompt_level_strict_acc": (pytest.approx(1 / 3), 3, 0),
        "IFEval/inst_level_strict_acc": (0.5, 4, 0),
        "IFEval/prompt_level_loose_acc": (pytest.approx(2 / 3), 3, 0),
        "IFEval/inst_level_loose_acc": (0.75, 4, 0),
    }
    assert all(s.low is not None for s in outcome.scores)
    values = {(i["benchmark"], i["id"]): i["value"] for i in outcome.items}
    assert values["IFEval/inst_level_strict_acc", "1"] == 0.5
    facts = outcome.info["ifeval"]
    assert facts["kinds"]["strict"][NO_COMMA] == [0, 1]
    assert facts["kinds"]["loose"][QUOTED] == [1, 1]
    assert "ChatML" in facts["conditions"]["IFEval"]["prompt format"]
    assert outcome.texts["IFEval"][0] == ("1", ROWS[0]["prompt"], "")


def test_what_needs_a_model_of_sentences_that_is_not_there_has_no_value(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    sentences = {
        "key": 4,
        "prompt": "Two sentences.",
        "instruction_id_list": [SENTENCES],
        "kwargs": [{"relation": "at least", "num_sentences": 2}],
    }
    write(file, [*ROWS, sentences])
    items = read_ifeval(file)
    from lm_eval.tasks.ifeval import instructions_util

    instructions_util._get_sentence_tokenizer.cache_clear()
    checks = Checks()
    outcome = checks.outcome(items, [*ANSWERS.values(), "One. Two."])
    strict = outcome.scores[0]
    assert (strict.n, strict.num_failed) == (3, 1)
    assert checks.counts == "not counted"
    (told,) = outcome.info["ifeval"]["remarks"]
    assert "cannot be counted in 1 answers" in told
    assert "punkt_tab" in told


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"instruction_id_list": ["keywords:rhyme"], "kwargs": [{}]}, "named 'keywords:rhyme'"),
        ({"kwargs": [{}]}, "no lists of one length"),
        ({"kwargs": [{}, 3]}, "no table of arguments"),
        ({"kwargs": [{}, {"words": 3}]}, "number_words cannot be checked"),
        ({"prompt": " "}, "the prompt is no text"),
        ({"instruction_id_list": NO_COMMA}, "no lists of one length"),
    ],
)
def test_a_broken_file_is_one_sentence_with_its_line(
    file: Path, change: dict[str, Any], what: str
) -> None:
    write(file, [ROWS[1], {**ROWS[0], **change}])
    with pytest.raises(DataError) as caught:
        Evaluate("m", ifeval=IFEval(str(file))).measure(context(ANSWERS))
    assert str(caught.value).startswith(f"{file}:2: ")
    assert what in str(caught.value)


@pytest.mark.parametrize("form", ["key", "prompt"])
def test_given_answers_are_checked_by_key_or_prompt(file: Path, tmp_path: Path, form: str) -> None:
    rows = [
        {"key": int(key), "text": text}
        if form == "key"
        else {"prompt": ROWS[int(key) - 1]["prompt"], "response": text}
        for key, text in ANSWERS.items()
    ]
    answers, out = write(tmp_path / "answers.jsonl", rows), tmp_path / "out"
    shown = bezoar("eval", answers, "--ifeval", file, "--out", out)
    assert "IFEval/prompt_level_loose_acc" in shown
    scores = json.loads((out / "scores.json").read_text())["scores"]
    assert [s["value"] for s in scores] == pytest.approx([1 / 3, 0.5, 2 / 3, 0.75])
    write(answers, [{"key": 9, "text": "x"}])
    assert "answers none of the items" in refused(
        "eval", answers, "--ifeval", file, "--out", tmp_path / "other"
    )


IFEVAL = Path(os.environ.get("BEZOAR_DATA", "/nowhere")) / "eval" / "ifeval.jsonl"


@pytest.mark.skipif(not IFEVAL.is_file(), reason="needs BEZOAR_DATA/eval/ifeval.jsonl")
def test_every_published_prompt_can_be_asked_and_its_instructions_checked() -> None:
    items, checks = read_ifeval(IFEVAL), Checks()
    assert (len(items), sum(len(item.instructions) for item in items)) == (541, 834)
    for item in items:
        checks.build(item)
    first = Instructed(*(getattr(items[0], name) for name in Instructed.__dataclass_fields__))
    assert checks.kept(first, "no comma", "strict") == [True, False, False]
