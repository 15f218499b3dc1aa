"""Where results are written: never over what is there and is not ours, never over an input, never
into a run; whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bezoar.errors import BezoarError
from tests.helpers.command import bezoar

QUESTIONS = [
    {"question_id": i, "category": "writing", "turns": [f"question {i}", "And?"]} for i in range(4)
]
JUDGE = [{"pattern": ".", "reply": "[[A]]"}]
REVISER = [{"pattern": ".", "reply": "Critique: short.\nRevision: longer"}]
ANSWERS = [{"prompt": "Why a?", "response": "no"}, {"prompt": "Why b?", "response": "yes"}]
JUDGED = [
    {"question_id": i, "model": "m", "turn": 1, "judgment": f"[[{i}]]", "score": i} for i in (4, 5)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files to read, a finished run, and a folder and a file of somebody."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("one", "zebra"), ("two", "poor")):
        write(
            tmp_path / f"{name}.jsonl",
            [
                {"question_id": q["question_id"], "choices": [{"index": 0, "turns": [text, text]}]}
                for q in QUESTIONS
            ],
        )
    for file, rows in (
        ("q", QUESTIONS),
        ("judge", JUDGE),
        ("reviser", REVISER),
        ("answers", ANSWERS),
        ("judged", JUDGED),
        ("rows", ANSWERS),
    ):
        write(tmp_path / f"{file}.jsonl", rows)
    Path("toy.yaml").write_text(
        json.dumps({"name": "toy", "stages": {"rows": {"kind": "jsonl", "path": "rows.jsonl"}}})
    )
    bezoar("run", "toy.yaml")
    Path("thesis").mkdir()
    Path("thesis/journal.sqlite").write_text("not ours")
    Path("thesis/chapter.txt").write_text("precious")
    Path("letter.txt").write_text("dear")
    Path("link").symlink_to("runs/toy")
    Path("dangling").symlink_to("nowhere")
    Path("circle").symlink_to("circle")
    return tmp_path


COMMANDS = {
    "run": ("run", "toy.yaml"),
    "eval": ("eval", "one.jsonl", "--mt-bench", "--judge", "judge.jsonl", "--questions", "q.jsonl"),
    "judgements": ("eval", "judged.jsonl"),
    "compare": (
        "compare",
        "one.jsonl",
        "two.jsonl",
        "--judge",
        "judge.jsonl",
        "--questions",
        "q.jsonl",
    ),
    "revise": ("revise", "reviser.jsonl", "answers.jsonl", "--times", "1"),
    "export": ("export", "runs/toy", "-m", "rows"),
}


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(".lock")
    }


@pytest.mark.parametrize(
    "out",
    [
        "runs/toy/results",
        "link/results",
        "letter.txt",
        "letter.txt/deeper",
        "not there/../thesis",
        "dangling",
        "circle",
        ".",
        "\udcff",
    ],
)
@pytest.mark.parametrize("verb", COMMANDS)
def test_no_verb_writes_there(verb: str, out: str, here: Path) -> None:
    before = everything(here)
    with pytest.raises((BezoarError, OSError)) as caught:
        bezoar(*COMMANDS[verb], "--out", out)
    assert everything(here) == before
    assert "\n" not in str(caught.value)
    assert out in str(caught.value)


@pytest.mark.parametrize("out", ["thesis", "runs", "runs/toy", "link"])
@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb != "run"])
def test_no_verb_writes_into_the_folder_of_something_else(verb: str, out: str, here: Path) -> None:
    before = everything(here)
    with pytest.raises(BezoarError, match=r"name another|name a file"):
        bezoar(*COMMANDS[verb], "--out", out)
    assert everything(here) == before


@pytest.mark.parametrize("out", ["thesis", "runs", "evals"])
def test_a_run_takes_no_folder_of_something_else(out: str, here: Path) -> None:
    bezoar(*COMMANDS["eval"], "--out", "evals")
    before = everything(here)
    with pytest.raises(BezoarError, match="is no run directory; name another"):
        bezoar("run", "toy.yaml", "--out", out)
    assert everything(here) == before


def test_a_run_that_was_killed_as_it_began_goes_on(here: Path) -> None:
    begun = here / "runs" / "begun"
    begun.mkdir()
    (begun / ".lock").touch()
    (begun / ".resolved.json.74d44675").write_text("{")
    bezoar("run", "toy.yaml", "--out", "runs/begun")
    assert (begun / "report.html").is_file()


@pytest.mark.parametrize(
    "out",
    [
        "answers.jsonl",
        "reviser.jsonl",
        "letter.txt",
        "judged.jsonl",
        "./answers.jsonl",
        "hard.jsonl",
    ],
)
def test_revise_never_writes_over_a_file_that_it_did_not_make(out: str, here: Path) -> None:
    os.link("answers.jsonl", "hard.jsonl")
    before = everything(here)
    with pytest.raises(BezoarError, match="name another"):
        bezoar(*COMMANDS["revise"], "--out", out)
    assert everything(here) == before


def test_the_same_command_writes_again_what_it_made(here: Path) -> None:
    for verb, out in (
        ("run", "r"),
        ("eval", "e"),
        ("judgements", "j"),
        ("compare", "c"),
        ("revise", "v.jsonl"),
    ):
        bezoar(*COMMANDS[verb], "--out", out)
        first = everything(here / out) if (here / out).is_dir() else (here / out).read_bytes()
        bezoar(*COMMANDS[verb], "--out", out)
        assert (
            everything(here / out) if (here / out).is_dir() else (here / out).read_bytes()
        ) == first
    write(here / "other.jsonl", [{"prompt": "Why a?", "response": "maybe"}])
    with pytest.raises(BezoarError, match="holds no revisions of these answers"):
        bezoar("revise", "reviser.jsonl", "other.jsonl", "--out", "v.jsonl")
    with pytest.raises(BezoarError, match=r"holds the scores of .*judged\.jsonl"):
        bezoar(*COMMANDS["eval"], "--out", "j")


def test_an_evaluation_that_was_stopped_goes_on_in_its_folder(here: Path) -> None:
    bezoar(*COMMANDS["eval"], "--out", "e")
    Path("e/scores.json").unlink()
    Path("e/parts-0123456789abcdef").mkdir()
    bezoar(*COMMANDS["eval"], "--out", "e")
    assert Path("e/scores.json").is_file()
    assert not list(Path("e").glob("parts-*"))


def test_judgements_leave_results(here: Path) -> None:
    told = bezoar(*COMMANDS["judgements"], "--out", "deep/results")
    stored = json.loads(Path("deep/results/scores.json").read_text())
    assert stored["model"] == "judged.jsonl"
    assert stored["scores"][0]["value"] == 4.5
    assert "4.50" in told
    rows = [
        {
            "instruction": f"do {i}",
            "output_1": "a",
            "output_2": "b",
            "generator_2": "m",
            "preference": p,
        }
        for i, p in enumerate([1.0, 2.0, 2.0, 1.5])
    ]
    told = bezoar("eval", write(here / "annotations.jsonl", rows), "--out", "alpaca")
    assert "standard error of the win rate is 0.239" in told
    assert json.loads(Path("alpaca/scores.json").read_text())["info"]["win_rate"][
        "standard_error"
    ] == pytest.approx(0.2393, abs=1e-4)
    assert len(Path("alpaca/items.jsonl").read_text().splitlines()) == 4


def test_paired_tests_leave_results(here: Path) -> None:
    for name in ("one", "two"):
        bezoar(
            "eval",
            f"{name}.jsonl",
            "--mt-bench",
            "--judge",
            write(
                here / "grader.jsonl",
                [{"pattern": "zebra", "reply": "[[8]]"}, {"pattern": ".", "reply": "[[3]]"}],
            ),
            "--questions",
            "q.jsonl",
            "--out",
            f"evals/{name}",
        )
    bezoar("compare", "evals/one", "evals/two", "--out", "tested")
    stored = json.loads(Path("tested/tests.json").read_text())
    assert (stored["first"], stored["second"]) == ("evals/one", "evals/two")
    assert stored["tests"][0]["difference"] == -5.0
    before = everything(here)
    for out, sentence in (
        ("thesis", "holds no evaluation"),
        ("evals/one", "would be written over"),
        ("runs/toy", "run directory"),
    ):
        with pytest.raises(BezoarError, match=sentence):
            bezoar("compare", "evals/one", "evals/two", "--out", out)
    assert everything(here) == before


@pytest.mark.parametrize(
    "refused",
    [
        lambda out: out.write_text("{"),
        lambda out: out.write_text("[]"),
        lambda out: out.write_text('{"model": 5, "scores": []}'),
    ],
)
def test_scores_that_are_not_ours_are_not_written_over(
    refused: Callable[[Path], object], here: Path
) -> None:
    Path("e").mkdir()
    refused(Path("e/scores.json"))
    before = everything(here)
    with pytest.raises(BezoarError, match=r"e/scores\.json"):
        bezoar(*COMMANDS["eval"], "--out", "e")
    assert everything(here) == before
