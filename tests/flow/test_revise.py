"""Answers in files, revised: what is read, what is written, and that no question is asked twice."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from bezoar.chat.types import Chat, Comparison, Message
from bezoar.data.columns import Columns
from bezoar.errors import DataError, RecipeError
from bezoar.flow.recipe import load_recipe
from bezoar.flow.revise import read_answers, revise_chats, revise_file
from bezoar.flow.run import run_recipe
from bezoar.flow.rundir import RunDir
from bezoar.io import read_jsonl, write_jsonl
from bezoar.llm.budget import Budget
from bezoar.llm.journal import Journal
from bezoar.llm.pool import Pool
from bezoar.llm.scripted import ScriptedBackend
from bezoar.llm.types import Reply, Request
from bezoar.parquet import write_parquet
from bezoar.progress import Progress


def chat(name: str, answer: str) -> Chat:
    return Chat(
        name, (Message("user", f"Why {name}?"), Message("assistant", answer)), {"from": "a test"}
    )


def longer(requests: Sequence[Request]) -> list[Reply]:
    """One more ! up to three; what begins with "mute" gets no revision."""
    replies = []
    for request in requests:
        old = request.messages[0].content.split("[Answer]\n")[1].split("\n")[0]
        new = old if old.endswith("!!!") else f"{old}!"
        replies.append(
            Reply(
                "No."
                if old.startswith("mute")
                else f"Critique: {len(old)} letters.\nRevision: {new}"
            )
        )
    return replies


def test_every_iteration_is_written_with_its_critique(tmp_path: Path) -> None:
    rows, out, told = [chat("a", "so!"), chat("b", "mute")], tmp_path / "out.jsonl", io.StringIO()
    revise_chats(rows, longer, out, times=5, max_tokens=9, console=Console(file=told, width=200))
    a, b = (row for _, row in read_jsonl(out))
    assert (a["first"], [i["answer"] for i in a["iterations"]]) == (
        "so!",
        ["so!!", "so!!!", "so!!!"],
    )
    assert [i["critique"] for i in a["iterations"]] == ["3 letters.", "4 letters.", "5 letters."]
    assert [(i["answer"], i["critique"], i["failure"]) for i in b["iterations"]] == [
        ("mute", "", "no critique")
    ] * 3
    assert told.getvalue().splitlines() == [
        "iteration 1: 1 of 2 answers changed; 1 not revised: no critique",
        "iteration 2: 1 of 2 answers changed; 1 not revised: no critique",
        "iteration 3: 0 of 2 answers changed; 1 not revised: no critique",
    ]
    back = Columns(str(out)).load().rows
    assert [(c.answer, c.prompt, c.meta["from"]) for c in back] == [
        ("so!!!", rows[0].prompt, "a test"),
        ("mute", rows[1].prompt, "a test"),
    ]


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda request: longer([request])[0].text)
    for _ in range(2):
        with Journal(tmp_path / "journal.sqlite") as journal:
            pool = Pool(backend, journal, Budget(), Progress())
            revise_chats(
                [chat("a", "so!")],
                pool.ask,
                tmp_path / "out.jsonl",
                times=2,
                max_tokens=9,
                console=Console(file=io.StringIO()),
            )
    assert len(backend.seen) == 2


def test_any_model_and_not_a_file_of_answers(tmp_path: Path) -> None:
    script, answers, out = (
        tmp_path / "script.jsonl",
        tmp_path / "rows.jsonl",
        tmp_path / "out.jsonl",
    )
    write_jsonl(
        script,
        [
            {"pattern": r"\[Answer\]\n(no)\n", "reply": r"Critique: rude.\nRevision: \1, sorry"},
            {"pattern": "", "reply": "Fine."},
        ],
    )
    write_jsonl(
        answers, [{"prompt": "Why a?", "response": "no"}, {"prompt": "Why b?", "response": "yes"}]
    )
    keys = {
        "questions": "",
        "turn": 1,
        "times": 5,
        "max_tokens": 9,
        "console": Console(file=io.StringIO()),
    }
    revise_file(str(script), answers, out, **keys)  # type: ignore[arg-type]
    rows = [row for _, row in read_jsonl(out)]
    assert [[i["answer"] for i in row["iterations"]] for row in rows] == [
        ["no, sorry"] * 2,
        ["yes"] * 2,
    ]
    assert Path(f"{out}.journal.sqlite").is_file()
    with pytest.raises(RecipeError, match="this is a file of answers"):
        revise_file(str(answers), answers, out, **keys)  # type: ignore[arg-type]


def test_files_that_are_read(tmp_path: Path) -> None:
    chats = [chat("a", "one"), chat("b", "two")]
    write_jsonl(
        tmp_path / "rows.jsonl",
        [{"prompt": "Why a?", "response": "one"}, {"prompt": "Why b?", "response": "two"}],
    )
    write_parquet(tmp_path / "rows.parquet", [c.to_row() for c in chats])
    write_parquet(
        tmp_path / "pairs.parquet",
        [Comparison(c.id, c.prompt, c.answer, "no").to_row() for c in chats],
    )
    for name in ("rows.jsonl", "rows.parquet", "pairs.parquet"):
        assert [(c.prompt[-1].content, c.answer) for c in read_answers(tmp_path / name, "", 1)] == [
            ("Why a?", "one"),
            ("Why b?", "two"),
        ]
    questions, answers = tmp_path / "question.jsonl", tmp_path / "answer.jsonl"
    questions.write_text(
        json.dumps(
            {
                "question_id": 1,
                "category": "math",
                "turns": ["Why a?", "Why b?"],
                "reference": ["x", "y"],
            }
        )
    )
    answers.write_text(json.dumps({"question_id": 1, "choices": [{"turns": ["one", "two"]}]}))
    assert [c.answer for c in read_answers(answers, str(questions), 1)] == ["one"]
    (second,) = read_answers(answers, str(questions), 2)
    assert [m.content for m in second.messages] == ["Why a?", "one", "Why b?", "two"]
    revise_chats(
        [second],
        longer,
        tmp_path / "out.jsonl",
        times=1,
        max_tokens=9,
        console=Console(file=io.StringIO()),
    )
    assert [row["first"] for _, row in read_jsonl(tmp_path / "out.jsonl")] == ["two"]
    with pytest.raises(DataError, match="name their file with --questions"):
        read_answers(answers, "", 1)


def test_rows_of_pairs_and_of_people_are_alike(tmp_path: Path) -> None:
    (tmp_path / "cnr.yaml").write_text("""
name: cnr
backends: {teacher: {kind: scripted, script: teacher.jsonl}}
stages:
  pairs: {kind: jsonl, path: pairs.jsonl}
  people: {kind: critiques, path: people.jsonl}
  critiques: {kind: critique_revise, seeds: pairs, teacher: teacher}
""")
    write_jsonl(
        tmp_path / "pairs.jsonl", [{"prompt": "Why a?", "chosen": "Because.", "rejected": "No."}]
    )
    write_jsonl(
        tmp_path / "people.jsonl",
        [{"prompt": "Why b?", "response": "No.", "critique": "Rude.", "revision": "Because."}],
    )
    write_jsonl(
        tmp_path / "teacher.jsonl",
        [{"pattern": "First answer.*No.*Revised answer.*Because", "reply": "Rude."}],
    )
    place = RunDir(tmp_path / "run")
    run_recipe(load_recipe(tmp_path / "cnr.yaml"), place)
    (made,), (people,) = place.items("critiques"), place.items("people")
    assert isinstance(made, Chat)
    assert isinstance(people, Chat)
    assert made.answer == people.answer == "Critique: Rude.\nRevision: Because."
    assert made.prompt[0].content.replace("Why a?", "Why b?") == people.prompt[0].content
