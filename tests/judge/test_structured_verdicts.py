"""Judges of random weights that are held to the form of their verdict."""

from pathlib import Path

import pytest

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Chat, Comparison, Message
from bezoar.judge.attributes import Attributes
from bezoar.judge.filter import Filter
from bezoar.llm.local import StackBackend
from bezoar.llm.types import Ask, Reply, Request
from bezoar.verdicts.accept_reject import Unparsed, read_structured
from bezoar.verdicts.pairwise import Pairwise
from bezoar.verdicts.rating import grade_request, read_grade

ROWS = [Chat(f"row {n}", (Message("user", f"q{n}"), Message("assistant", "a"))) for n in range(5)]
PAIRS = [Comparison(f"pair {n}", (Message("user", f"q{n}"),), "a", "b" * n) for n in range(5)]


@pytest.fixture(scope="module")
def ask(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """A model that writes noise, with room for long prompts."""
    import json
    import shutil

    from bezoar.model.spec import ModelSpec
    from bezoar.model.stack import Stack

    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("judge") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    backend = StackBackend(Stack(ModelSpec(str(folder), dtype="float32")), ChatML())

    def answer(requests: list[Request]) -> list[Reply]:
        return [reply for _, reply in next(backend.answer(requests))]

    return answer  # type: ignore[return-value]


def test_accept_or_reject(ask: Ask, tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Accept: why, or Reject: why?\n\n{record}")
    plain = Filter("rows", "judge", rubric=str(rubric), max_tokens=30)
    assert len(plain.judge_rows(ROWS, ask).unparsed) == len(ROWS)
    held = Filter("rows", "judge", rubric=str(rubric), max_tokens=30, verdict="structured")
    judged = held.judge_rows(ROWS, ask)
    assert not judged.unparsed
    assert len(judged.accepted) + len(judged.rejected) == len(ROWS)
    with pytest.raises(ValueError, match="only with verdict: logprob"):
        Filter("rows", "judge", verdict="structured", keep_share=0.5)


def test_reasons_that_name_the_other_verdict_do_not_confuse() -> None:
    for text in ("Accept: no. Reject: yes", "Accept: reject", "Accept: no", "Accept: > `x`"):
        verdict = read_structured(Reply(text, "length"))
        assert not isinstance(verdict, Unparsed)
        assert verdict.label == "accept"
    assert isinstance(read_structured(Reply("Rej", "length")), Unparsed)
    assert read_structured(Reply(finish="error", error="x")) == Unparsed("", "failed: x")


@pytest.mark.parametrize("max_tokens", [5, 60])
def test_pairs(ask: Ask, tmp_path: Path, max_tokens: int) -> None:
    """Also where the tokens suffice for nothing but the mark."""
    prompt = tmp_path / "pairs.txt"
    prompt.write_text("Which is better?\n{prompt}\n{a}\n{b}")
    plain = Pairwise("judge", str(prompt), "text", max_tokens)
    assert all(isinstance(p.verdict, Unparsed) for p in plain.compare(PAIRS, ask))
    held = Pairwise("judge", str(prompt), "structured", max_tokens)
    assert not any(isinstance(p.verdict, Unparsed) for p in held.compare(PAIRS, ask))


@pytest.mark.parametrize("max_tokens", [14, 50])
def test_grades(ask: Ask, max_tokens: int) -> None:
    requests = [grade_request(f"Grade {n}.", "structured", max_tokens) for n in range(6)]
    grades = [read_grade(reply, "structured") for reply in ask(requests)]
    assert all(grade.value in range(1, 11) for grade in grades)
    assert read_grade(Reply("It is good.\nRating: [[", "length"), "structured").value is None


def test_attributes(ask: Ask, tmp_path: Path) -> None:
    """Names of any kind; the form is never cut off."""
    names = ["help (in short)", "truth/é", "a+b"]
    lines = [f'{{"name": "{n}", "asks": "?", "levels": ["a", "b", "c", "d", "e"]}}' for n in names]
    (tmp_path / "names.jsonl").write_text("\n".join(lines))
    (tmp_path / "prompt.txt").write_text("{attributes} {record}")
    held = Attributes(
        "rows",
        "judge",
        prompt=str(tmp_path / "prompt.txt"),
        definitions=str(tmp_path / "names.jsonl"),
        verdict="structured",
        repeats=1,
        max_tokens=3,
    )
    judged = held.judge_rows(ROWS, ask)
    assert not judged.unparsed
    assert all(list(row.meta["attributes"]) == names for row in judged.accepted)
    assert len(judged.accepted) + len(judged.rejected) == len(ROWS)
