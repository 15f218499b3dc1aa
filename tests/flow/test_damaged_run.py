"""A run directory that was copied, torn or changed by hand: it works, or one sentence says what is
wrong and where."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from bezoar.errors import BezoarError
from bezoar.flow import chat as talk
from bezoar.flow.recipe import load_recipe
from bezoar.flow.rundir import RunDir
from bezoar.parquet import read_parquet, write_parquet
from bezoar.progress import Progress
from tests.helpers.command import bezoar

JUDGE = [{"pattern": "Ask 3", "reply": "Reject: dull"}, {"pattern": ".", "reply": "Accept: fine"}]
RECIPE = {
    "name": "toy",
    "backends": {"judge": {"kind": "scripted", "script": "judge.jsonl"}},
    "stages": {
        "rows": {"kind": "jsonl", "path": "rows.jsonl"},
        "kept": {"kind": "filter", "rows": "rows", "judge": "judge", "rubric": "rubric.txt"},
    },
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a judged stage and lines of training, and its recipe."""
    folder, before = tmp_path_factory.mktemp("finished"), Path.cwd()
    (folder / "here").mkdir()
    os.chdir(folder / "here")
    rows = [{"prompt": f"Ask {i}", "response": f"Reply {i}"} for i in range(6)]
    for name, lines in (("rows", rows), ("judge", JUDGE)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Path("rubric.txt").write_text("Accept or Reject?\n{record}\n")
    Path("toy.yaml").write_text(json.dumps(RECIPE))
    bezoar("run", "toy.yaml")
    progress = Progress("sft", Path("runs/toy/metrics.jsonl"))
    for step in (1, 2, 3):
        progress.log(step=step, loss=1.0 / step)
    os.chdir(before)
    shutil.copytree(folder / "here", folder / "kept", symlinks=True)
    return folder


@pytest.fixture
def run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run in the same place, whole again for each test."""
    shutil.rmtree(finished / "here")
    shutil.copytree(finished / "kept", finished / "here", symlinks=True)
    monkeypatch.chdir(finished / "here")
    return Path("runs/toy")


def say(*words: object) -> str:
    """What a verb prints or, as its only other end, one sentence."""
    try:
        return bezoar(*words)
    except (BezoarError, OSError) as error:
        said = str(error)
    assert "\n" not in said
    return said


DAMAGES: dict[str, Callable[[Path], object]] = {
    "torn": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a list": lambda path: path.write_text("[1, 2]"),
    "nothing in it": lambda path: path.write_text("{}"),
    "other types": lambda path: path.write_text(
        json.dumps(
            dict.fromkeys(json.loads(path.read_text()), 5) if path.suffix == ".json" else {"a": [1]}
        )
    ),
    "lists for all": lambda path: path.write_text(
        json.dumps(
            {name: [{}] for name in json.loads(path.read_text())} if path.suffix == ".json" else []
        )
    ),
    "nulls": lambda path: path.write_text(
        json.dumps(dict.fromkeys(json.loads(path.read_text())) if path.suffix == ".json" else None)
    ),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a circle": lambda path: (path.unlink(), path.symlink_to(path.name)),
}
FILES = [
    "resolved.json",
    "recipe.yaml",
    "metrics.jsonl",
    "02-kept/key.json",
    "02-kept/stats.json",
    "02-kept/rows.parquet",
    "02-kept/failures.jsonl",
    "02-kept/rejected.parquet",
]
VERBS = [
    ("why", "runs/toy", "kept"),
    ("rows", "runs/toy", "kept"),
    ("report", "runs/toy"),
    ("run", "toy.yaml"),
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_no_more_than_a_sentence(file: str, damage: str, run: Path) -> None:
    DAMAGES[damage](run / file)
    for words in VERBS:
        say(*words)


@pytest.mark.parametrize("file", ["02-kept/key.json", "02-kept/rows.parquet", "resolved.json"])
def test_the_sentence_names_the_file(file: str, run: Path) -> None:
    DAMAGES["torn"](run / file)
    verb = ("rows", run, "kept") if "rows" in file else ("report", run)
    advice = "remove runs/toy/02-kept and run the recipe again" if "rows" in file else ""
    with pytest.raises(BezoarError, match=f"{file}.*{advice}"):
        bezoar(*verb)


def test_rows_of_another_form_are_told(run: Path) -> None:
    write_parquet(
        run / "02-kept" / "rows.parquet",
        [{"id": "1", "messages": [{"rule": "user"}], "meta": "{}"}],
    )
    with pytest.raises(
        BezoarError,
        match=r"kept/rows.parquet: row .*remove runs/toy/02-kept and run the recipe again",
    ):
        bezoar("rows", run, "kept")


def test_a_stage_without_its_key_is_made_anew(run: Path) -> None:
    (run / "02-kept" / "key.json").unlink()
    (run / "02-kept" / "rows.parquet").write_bytes(b"torn")
    assert "02 kept: 5 rows" in bezoar("run", "toy.yaml")
    assert len(list(read_parquet(run / "02-kept" / "rows.parquet"))) == 5


def test_a_torn_line_of_metrics_is_counted_and_stands_alone(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-9])
    progress = Progress("sft", metrics)
    progress.log(step=3, loss=0.25)
    lines = metrics.read_bytes().splitlines()
    assert lines[-2] == whole.splitlines()[-1][:-8]
    assert json.loads(lines[-1])["loss"] == 0.25
    bezoar("report", run)
    assert "1 line(s) of metrics.jsonl cannot be read" in (run / "report.html").read_text()
    progress.rewind(1)
    progress.log(step=2, loss=0.5)
    kept = [
        line for line in metrics.read_bytes().splitlines() if b"sft" in line and line.endswith(b"}")
    ]
    assert [json.loads(line)["step"] for line in kept] == [1, 2]


@pytest.mark.parametrize(
    "how",
    [
        "cp -rL runs/toy copy/toy",
        "cp -r runs/toy copy/toy && rm copy/toy/journal.sqlite",
        "cp -r runs/toy copy/toy",
    ],
)
def test_a_copy_without_links_works_and_goes_on(how: str, run: Path) -> None:
    subprocess.run(["bash", "-c", f"mkdir copy && {how}"], check=True)
    shutil.move("runs", "gone")
    assert "current" in bezoar("why", "copy/toy", "kept")
    assert "Ask 1" in bezoar("rows", "copy/toy", "kept")
    bezoar("report", "copy/toy")
    assert "02 kept" not in bezoar("run", "toy.yaml", "--out", "copy/toy")
    Path("rubric.txt").write_text("Reject or Accept?\n{record}\n")
    assert "6 replies (0 from the journal)" in bezoar("run", "toy.yaml", "--out", "copy/toy")
    Path("rubric.txt").write_text("Accept or Reject?\n{record}\n")
    told = bezoar("run", "toy.yaml", "--out", "copy/toy")
    assert f"6 replies ({6 if how.startswith('cp -rL') else 0} from the journal)" in told
    assert Path("copy/toy/journal.sqlite").is_symlink() == (not how.startswith("cp -rL"))


def test_a_linked_lock_is_refused_and_its_target_left_alone(run: Path) -> None:
    Path("precious").write_text("text")
    (run / ".lock").unlink()
    (run / ".lock").symlink_to("../../precious")
    with pytest.raises(BezoarError, match=r"\.lock: a link"):
        bezoar("run", "toy.yaml")
    assert Path("precious").read_text() == "text"


def test_a_board_that_is_not_known_is_told_though_all_is_current(run: Path) -> None:
    with pytest.raises(BezoarError, match="--log nosuch: there is no such board"):
        bezoar("run", "toy.yaml", "--log", "nosuch")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["why", "runs/toy", "kepd"],
            "no stage is named 'kepd'; the stages are rows, kept; did you mean kept",
        ),
        (
            ["rows", "runs/toy", "kepd"],
            "no stage is named 'kepd'; the stages are rows, kept; did you mean kept",
        ),
        (
            ["rows", "runs/toy", "nosuch", "--tokens"],
            "no stage is named 'nosuch'; the stages are rows, kept",
        ),
        (["rows", "runs/toy", "kept", "--tokens"], "no training stage reads the rows of kept"),
        (
            ["export", "runs/toy", "-m", "nosuch", "--out", "o"],
            "no training stage is named 'nosuch'; there is none",
        ),
        (
            ["export", "runs/toy", "-m", "rows", "--out", "o"],
            "no training stage is named 'rows'; there is none",
        ),
        (["chat", "runs/toy", "-m", "nosuch"], "no finished model is named 'nosuch'"),
        (["ask", "runs/toy", "hi", "-m", "nosuch"], "no finished model is named 'nosuch'"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_a_name_that_does_not_exist(words: list[str], message: str, run: Path) -> None:
    with pytest.raises(BezoarError, match=message) as caught:
        bezoar(*words)
    assert "\n" not in str(caught.value)


AS_NOBODY = """
import os, sys
from bezoar import cli
run = lambda *words: cli.app(words, prog_name="bezoar", standalone_mode=False)
run("plan", "new.yaml"), run("run", "new.yaml", "--out", "warm"), run("why", "warm", "kept"), run("rows", "warm", "kept"), run("report", "warm")
run("revise", "judge.jsonl", "rows.jsonl", "--out", "warm.jsonl")
os.setgid(65534); os.setuid(65534)  # who may import nothing more
for line in open("words"):
    try:
        run(*line.split())
        print("done", file=sys.stderr)
    except BaseException as error:
        assert cli._code_of(error) == 2, error
"""  # noqa: E501
REFUSED = [
    ("run secret.yaml", "secret.yaml"),
    ("run toy.yaml", "runs/toy"),
    ("run new.yaml", "runs/new"),
    ("run hidden.yaml --out open/h", "secret.jsonl"),
    ("run new.yaml --out open/n", ""),
    ("report runs/toy", "runs/toy/02-kept/key.json"),
    ("rows runs/toy rows", "runs/toy/01-rows/rows.parquet"),
    ("why runs/toy kept", "runs/toy/02-kept/key.json"),
    ("plan toy.yaml", "runs/toy/02-kept/key.json"),
    ("revise judge.jsonl secret.jsonl --out open/r", "secret.jsonl"),
    ("revise judge.jsonl rows.jsonl --out r.jsonl", "r.jsonl"),
    ("run new.yaml --out shut/deep", "shut"),
    ("report shut/deep", "shut"),
]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as somebody else")
def test_what_may_not_be_read_or_written_is_one_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the user nobody, in a process of its own, since root may read and write everything."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's are closed to others
        shutil.copytree(".", folder, symlinks=True, dirs_exist_ok=True)
        monkeypatch.chdir(folder)
        for name in ("secret.yaml", "secret.jsonl"):
            Path(name).write_text("{}")
        stages = {**RECIPE["stages"], "rows": {"kind": "jsonl", "path": "secret.jsonl"}}  # type: ignore[dict-item]
        Path("hidden.yaml").write_text(json.dumps({**RECIPE, "name": "hidden", "stages": stages}))
        Path("new.yaml").write_text(json.dumps({**RECIPE, "name": "new"}))
        Path("words").write_text("".join(f"{words}\n" for words, _ in REFUSED))
        for path in (Path(), *Path().rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
        for name, mode in (("open", 0o777), ("shut", 0o700)):
            Path(name).mkdir()
            Path(name).chmod(mode)
        for path in (
            "secret.yaml",
            "secret.jsonl",
            run / "01-rows" / "rows.parquet",
            run / "02-kept" / "key.json",
        ):
            Path(path).chmod(0o600)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY],
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": "/nonexistent"},
        )
        monkeypatch.chdir("/")
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert len(told) == len(REFUSED), done.stderr
    for line, (_, name) in zip(told, REFUSED, strict=True):
        assert (
            line.startswith("bezoar: ")
            and name in line
            and ("ermission denied" in line or "not readable" in line)
            if name
            else line == "done"
        ), line


def test_an_unusable_journal_is_one_sentence(run: Path) -> None:
    Path("rubric.txt").write_text("Reject or Accept?\n{record}\n")
    for damage in (
        lambda p: p.write_text("not a database" * 99),
        lambda p: (p.unlink(), p.mkdir()),
        lambda p: (p.rmdir(), p.symlink_to(p.name)),
    ):
        damage(Path("runs/journal.sqlite"))
        with pytest.raises(
            BezoarError, match=r"journal\.sqlite: the journal cannot be (used|opened)"
        ):
            bezoar("run", "toy.yaml")


def test_what_a_person_writes_to_a_model_must_be_text(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, told in (
        (b"hi\n\xff\n", "HI\\x1b]0;"),
        (b"", ""),
        (b"hi", "HI\\x1b]0;"),
        (b"\xff", ""),
    ):
        with monkeypatch.context() as stand_in:
            stand_in.setattr(talk, "open_model", lambda recipe, run, name: None)
            stand_in.setattr(
                talk,
                "answer",
                lambda stack, recipe, messages, **settings: iter(
                    [messages[-1].content.upper(), "\x1b]0;"]
                ),
            )
            stand_in.setattr(
                sys,
                "stdin",
                io.TextIOWrapper(io.BytesIO(given), encoding="utf-8", errors="surrogateescape"),
            )
            stand_in.setattr(sys, "stdout", out := io.StringIO())
            with (
                pytest.raises(BezoarError, match="not UTF-8") if b"\xff" in given else nullcontext()
            ):
                talk.converse(
                    load_recipe(Path("toy.yaml")), RunDir(run), "toy", start=(), temperature=0.5
                )
        assert out.getvalue().strip() == told
    for words in (["ask", run, "\udcff"], ["chat", run, "--system", "\udcff"]):
        with pytest.raises(BezoarError, match="not UTF-8"):
            bezoar(*words)
