"""`bezoar journal`, `reparse` and `trace`: what is told of stored replies, and that nobody is
asked."""

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bezoar.flow.rundir import RunDir
from bezoar.judge import filter as judging
from bezoar.llm import endpoint
from bezoar.llm.journal import Journal
from bezoar.synth import lamini
from tests.helpers.command import ended
from tests.helpers.server import Server, answer, serving

RECIPE = """
name: toy
backends:
  teacher: &paid {kind: endpoint, url: "URL", model: a-teacher, concurrency: 2,
    prices: {input_usd_per_million: 100, output_usd_per_million: 200}}
  judge: {<<: *paid, model: a-judge}
stages:
  seeds: {kind: dolly, path: "bezoar:instructions.jsonl", limit: 24}
  made: {kind: lamini, seeds: seeds, teacher: teacher, num_rows: 6, ask_for: 3}
  formed: {kind: form, rows: made, unfinished: false}
  kept: {kind: filter, rows: formed, judge: judge, rubric: rubric.txt}
  short: {kind: form, rows: kept, max_words: 100, unfinished: false}
"""
PRICE = 10 * 100e-6 + 5 * 200e-6  # the server says 10 and 5 tokens


def behave(body: dict[str, Any], seen: int) -> tuple[int, dict[str, str], str]:
    """Lists of three instructions, answers, and a judge that rejects multiples of three."""
    text = body["messages"][-1]["content"]
    if body["model"] == "a-judge":
        about = re.search(r"thing (\d+)", text)
        assert about
        return answer(f"{'Reject' if int(about[1]) % 3 == 0 else 'Accept'}: thing {about[1]}")
    if "<example>" in text:
        first = int(body["seed"]) % 1000 * 3
        asks = (f"Tell a{first + i} b{first * 2 + i} of thing {first + i}!" for i in range(3))
        return answer("".join(f"<example>{ask}</example>\n" for ask in asks))
    if "Not Equal" in text:
        return answer("Not Equal")
    return answer(f"It is for {hashlib.sha256(text.encode()).hexdigest()[:20]} and more of them.")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(behave) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rubric.txt").write_text("Accept or Reject this record, with a reason?\n{record}\n")
    (tmp_path / "toy.yaml").write_text(RECIPE.replace("URL", server.url))
    assert said("run", "toy.yaml")
    return tmp_path


def said(*words: object, code: int = 0) -> str:
    done, told = ended(*words)
    assert done == code, told
    return told


def rows(stage: str) -> list[Any]:
    return RunDir(Path("runs/toy")).items(stage)


def finished(stage: str) -> str:
    return str(RunDir(Path("runs/toy")).stored(stage)["finished"])


def test_a_row_is_traced_to_its_seeds_requests_and_price(folder: Path, server: Server) -> None:
    row, num = rows("kept")[0], len(server.bodies)
    told = said("trace", "runs/toy", row.id)
    assert f"row {row.id}: made -> formed -> kept -> short, kept\nscheme: lamini\n" in told
    for seed in row.meta["seeds"]:
        assert f"seed: {seed} of seeds, bezoar:instructions.jsonl, licence Apache-2.0" in told
    found = dict(re.findall(r"(answer|instruction|verdict): model \S+, journal key (\w+)", told))
    with Journal(Path("runs/journal.sqlite")) as journal:
        replies = journal.get_many(found.values())
    assert replies[found["answer"]].text == row.answer
    assert row.prompt[-1].content in replies[found["instruction"]].text
    assert replies[found["verdict"]].text == f"Accept: {row.meta['reason']}"
    assert f"kept (filter): accept: {row.meta['reason']}\nverdict: model a-judge" in told
    assert "0.0020 USD, prompt file rubric.txt" in told
    assert "answer: model a-teacher" in told
    assert re.search(r"instruction: .*prompt file bezoar:lamini_(guided|topics).txt", told)
    assert "price: 0.0060 USD for these requests; 0.0080 USD with its share" in told
    assert len(server.bodies) == num
    # without the run, where there is one; and a row that was left out
    assert said("trace", row.id) == told
    gone = next(r for r in rows("formed") if r.id not in {k.id for k in rows("kept")})
    told = said("trace", "runs/toy", gone.id)
    assert f"row {gone.id}: made -> formed -> kept, left out by kept (reject: thing " in told
    assert "no stage has a row with the id 'x'" in said("trace", "runs/toy", "x", code=2)


def test_a_verdict_that_failed_first_is_traced_to_its_answer(folder: Path, server: Server) -> None:
    row = rows("kept")[0]
    told = said("trace", "runs/toy", row.id)
    [key] = re.findall(r"verdict: model \S+, journal key (\w+)", told)
    with closing(sqlite3.connect("runs/journal.sqlite")) as db, db:
        # as by a run before it, which the judge did not answer
        passing = {"finish": "error", "error": "503", "failure": "passing"}
        db.execute(
            "INSERT INTO replies SELECT 0, key, request, ?, model, run, stage, time_s, 1, 0.0, body"
            " FROM replies WHERE key = ?",
            [json.dumps(passing), key],
        )
    assert said("trace", "runs/toy", row.id) == told


def test_an_evolved_row_tells_operation_round_and_prompt(folder: Path, server: Server) -> None:
    evolved = "evolved: {kind: evol_instruct, seeds: seeds, teacher: teacher, num_seeds: 2}\n"
    text = RECIPE.replace("URL", server.url).replace("name: toy", "name: more")
    (folder / "more.yaml").write_text(text + f"  {evolved}")
    said("run", "more.yaml")
    row = RunDir(Path("runs/more")).items("evolved")[-1]
    told = said("trace", "runs/more", row.id)
    assert f"operation: {row.meta['op']}\nround: {row.meta['round']}\n" in told
    assert f"seed: {row.meta['seed']} of seeds, bezoar:instructions.jsonl, licence Apa" in told
    file = "breadth" if row.meta["op"] == "breadth" else "depth"
    found = re.search(rf"instruction: .*key (\w+), .*prompt file bezoar:evol_{file}.txt", told)
    assert found
    with Journal(Path("runs/journal.sqlite")) as journal:
        assert journal.get_many([found[1]])[found[1]].text == row.prompt[-1].content


def test_a_changed_parser_reads_stored_replies(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    num, before, read = len(server.bodies), finished("kept"), judging.read_text
    assert "4 rows, 4 before; 0 gained, 0 lost, 0 changed" in said("reparse", "runs/toy", "kept")
    assert finished("kept") == before
    assert RunDir(Path("runs/toy")).stored("short")["key"] != "outdated"
    kept = {row.id for row in rows("kept")}
    monkeypatch.setattr(judging, "read_text", lambda r: read(type(r)("Accept: all")))
    told = said("reparse", "kept")
    assert "kept: 6 rows, 4 before; 2 gained, 0 lost, 4 changed; 0 stored replies" in told
    assert "made anew by `bezoar run`: short" in told
    assert len(rows("kept")) == 6
    assert "stage it reads changed" in said("why", "runs/toy", "short")
    # the bill stays, and a run makes the rest anew, asking nobody
    stats = json.loads(next(Path("runs/toy").glob("*-kept/stats.json")).read_text())
    assert (stats["calls"]["cost_usd"], stats["rows_out"]) == (round(6 * PRICE, 6), 6)
    assert "short: 6 rows" in said("run", "toy.yaml")
    assert kept < {row.id for row in rows("short")}
    # none left: nothing is replaced
    monkeypatch.setattr(judging, "read_text", lambda r: read(type(r)("Reject: all")))
    assert "no row is left" in said("reparse", "runs/toy", "kept", code=2)
    assert (len(rows("kept")), len(server.bodies)) == (6, num)
    assert "formed makes no rows of replies" in said("reparse", "formed", code=2)


def test_what_a_server_sent_is_read_again(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    num, read = len(server.bodies), endpoint.from_body

    def reads_more(text: str, *more: Any) -> Any:
        return read(text.replace("It is for", "That is for"), *more)

    monkeypatch.setattr(endpoint, "from_body", reads_more)
    told = said("reparse", "toy.yaml", "made")
    assert "0 gained, 0 lost, 6 changed; 6 stored replies read otherwise, 0 requests" in told
    assert all(row.answer.startswith("That is for") for row in rows("made"))
    with Journal(Path("runs/journal.sqlite")) as journal:
        assert journal.spent_usd("toy") == pytest.approx(num * PRICE)
        assert journal.spent_usd("toy", "made") == pytest.approx((num - 6) * PRICE)
    # the judge reads other answers now, and is asked about them
    assert "out of date now, and made anew by `bezoar run`: formed, kept, short" in told
    said("run", "toy.yaml")
    assert len(server.bodies) == num + 6


def test_questions_that_were_never_asked_are_told(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    num, parse = len(server.bodies), lamini.parse_examples
    before = [row.id for row in rows("made")]

    def parse_more(text: str, *, cut: bool) -> Any:
        return parse(text.replace("Tell a", "Say a"), cut=cut)

    monkeypatch.setattr(lamini, "parse_examples", parse_more)
    told = said("reparse", "runs/toy", "made", code=3)
    assert "questions that the parser makes now were never asked (without them: made: 0" in told
    assert [row.id for row in rows("made")] == before
    assert len(server.bodies) == num
    assert "read by an earlier parser" in said("why", "runs/toy", "made")
    said("run", "toy.yaml")
    assert all(row.prompt[-1].content.startswith("Say a") for row in rows("made"))


def test_the_journal_is_shown_searched_and_exported(folder: Path) -> None:
    told = said("journal", "show", "runs/toy", "--stage", "kept", "-n", 2)
    assert "2 of 6 entries in " in told
    assert "kept  stop  10 + 5 tokens  0.0020 USD\n    Accept or Reject this record" in told
    key = told.split()[0]
    told = said("journal", "show", "toy.yaml", key)
    assert "user: Accept or Reject this record, with a reason?\n[Instruction]" in told
    assert 'as the server sent it: {"id": "x"' in told
    assert "no entry has a key" in said("journal", "show", "runs/toy", "zz", code=2)
    row = rows("kept")[0]
    told = said("journal", "search", "runs/journal.sqlite", row.answer.upper())
    assert "2 of 2 entries" in told  # the answer, and the question about it
    told = said("journal", "export", "runs/toy", "all.jsonl")
    lines = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]
    assert f"{len(lines)} entries: all.jsonl" in told
    assert row.answer in {line["reply"]["text"] for line in lines}
    assert Path("all.jsonl").stat().st_mode & 0o777 == 0o600
    assert "is there already" in said("journal", "export", "runs/toy", "all.jsonl", code=2)


def test_pruning_keeps_what_was_spent_and_what_is_read(folder: Path, server: Server) -> None:
    num = len(server.bodies)
    path = Path("runs/journal.sqlite")
    with Journal(path) as journal:
        entry = journal.entries(stage="kept")[0]
        failed = {**entry["reply"], "finish": "error", "failure": "passing"}
        values = (entry["key"], json.dumps(entry["request"]), entry["model"])
        for reply, state in ((failed, 1), (entry["reply"], 0), ({**failed, "text": ""}, 2)):
            journal._db.execute(
                "INSERT INTO replies (key, request, model, reply, run, stage, time_s, failed,"
                " cost_usd) VALUES (?,?,?,?,'toy','kept',0,?,0.5)",
                (*values, json.dumps(reply), state),
            )
        journal._db.execute("INSERT INTO replies SELECT NULL, 'f0', request, reply, model, run,"
                            " stage, 0, 2, 0, NULL FROM replies LIMIT 1")  # fmt: skip
        spent = journal.spent_usd("toy", "kept")
    # a failed attempt, a second answer and a failure beside an answer: nobody reads them
    assert "3 entries would be removed; --yes" in said("journal", "prune", "runs/toy")
    assert "3 entries removed: /" in said("journal", "prune", "runs/toy", "--yes")
    assert "0 entries would be" in said("journal", "prune", "runs/toy")
    with Journal(path) as journal:
        assert journal.spent_usd("toy", "kept") == pytest.approx(spent)
        assert entry["key"] in journal.get_many([entry["key"]])
    told = said("journal", "prune", "runs/toy", "--stage", "kept", "--before", "2100-01-01")
    assert "6 entries would be removed; --yes removes them; 6 of them are answers" in told
    assert "pays again (0.012 USD)" in told
    assert "6 entries removed" in said("journal", "prune", "runs/toy", "--stage", "kept", "--yes")
    assert "is no day" in said("journal", "prune", "runs/toy", "--before", "soon", code=2)
    # what is done stays done; what is asked again is paid again
    assert len(server.bodies) == num
    with Journal(path) as journal:
        assert journal.spent_usd("toy", "kept") == pytest.approx(spent)
        # another process asks
        holder = Journal(path)
        assert holder.claims.take("ab")
        told = said("journal", "prune", "runs/toy", "--stage", "made", "--yes", code=2)
        assert "a run is asking just now" in told
        holder.close()
