"""Nothing that others wrote moves the cursor, sets the clipboard, colours a line or turns its
direction."""

import io
import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from bezoar import cli
from bezoar.errors import DataError, RecipeError
from bezoar.progress import Progress
from bezoar.terminal import Console, one_line, plain, show, visible
from tests.helpers.command import bezoar

OSC52 = "\x1b]52;c;cm0gLXJmIH4=\x07"
HOSTILE = (
    "[/] [red]x[/red] [bold :smile:"
    f" {OSC52}\x1b[2J\x9b31m\u202eeulb\u2066\u200f\u061c\u2028\x85\r\x08\x7f\x00\ud800"
)
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def test_every_character_that_is_obeyed_or_cannot_be_shown_is_an_escape() -> None:
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        hidden = (
            unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
            or unicodedata.bidirectional(letter)
            in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
            or code in (0x200E, 0x200F, 0x61C)
        )
        if hidden and letter not in "\n\t":
            assert visible(letter) == (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
        else:
            assert visible(letter) == letter
    assert visible("a\n\tb é 漢 🙂 \\x1b [red]") == "a\n\tb é 漢 🙂 \\x1b [red]"
    assert one_line("a\n\tb\x1b") == "a\\n\\tb\\x1b"


def test_a_sequence_in_pieces_has_no_effect_either(capsys: pytest.CaptureFixture[str]) -> None:
    for piece in OSC52:
        show(piece)
    assert capsys.readouterr().out == "\\x1b]52;c;cm0gLXJmIH4=\\x07"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_shows_text_as_it_is(terminal: bool) -> None:
    from rich.table import Table

    out = io.StringIO()
    # a dumb terminal counts as 80 wide unless both are given
    console = Console(file=out, force_terminal=terminal, no_color=True, width=400, height=50)
    table = Table("[b]head[/b]", title=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(plain(HOSTILE))
    for what in (HOSTILE, plain(HOSTILE), table):
        console.print(what)
    Progress("stage", None, console).say(HOSTILE)
    text = re.sub("\x1b\\[[0-9;]*m", "", out.getvalue())  # our own styles
    assert not OBEYED.search(text.replace("\n", ""))
    assert text.count("[/] [red]x[/red] [bold :smile: \\x1b]52;c;") == 6
    assert "[b]head[/b]" in text


def test_a_line_is_whole_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    Console(file=out).print("word " * 1000)
    assert out.getvalue().count("\n") == 1


@pytest.fixture
def hostile_run(tmp_path: Path) -> Path:
    """A finished run with hostile rows, categories and ids, in a folder whose name looks like
    markup."""
    text = HOSTILE.replace("\ud800", "").replace("\x00", "")
    rows = [
        {
            "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}],
            "id": text,
            "category": text,
        }
    ]
    pairs = [{"prompt": text, "chosen": f"a{text}", "rejected": f"b{text}"}]
    for name, values in (("rows", rows), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(value) + "\n" for value in values)
        )
    judge = [{"pattern": ".", "reply": f"Reject: {text}"}]
    (tmp_path / "judge.jsonl").write_text("".join(json.dumps(value) + "\n" for value in judge))
    stages = {
        "rows": {"kind": "jsonl", "path": "rows.jsonl"},
        "pairs": {"kind": "jsonl", "path": "pairs.jsonl"},
        "kept": {"kind": "form", "rows": "rows"},
    }
    (tmp_path / "[red]toy.yaml").write_text(json.dumps({"name": "toy", "stages": stages}))
    return tmp_path


def test_rows_plan_why_and_report_of_a_hostile_run(hostile_run: Path) -> None:
    recipe, out = hostile_run / "[red]toy.yaml", hostile_run / "[red]x[/]"
    said = [
        bezoar("run", recipe, "--out", out),
        bezoar("plan", recipe, "--out", out),
        bezoar("report", out),
    ]
    said += [bezoar("rows", out, "rows"), bezoar("rows", out, "pairs"), bezoar("why", out, "rows")]
    for text in said:
        assert not OBEYED.search(text)
    assert f"report: {out}/report.html\n" in said[0]
    assert said[3].count("[/] [red]x[/red] [bold :smile: \\x1b]52;c;") == 2
    assert "chosen   a[/] [red]x" in said[4]
    written = [out / "report.html", *out.glob("*/README.md")]
    assert len(written) == 2
    for path in written:
        assert not re.search(
            "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]",
            path.read_bytes().decode(),
        ), path


@pytest.mark.parametrize(
    "error",
    [
        RecipeError(f"runs/{HOSTILE}: bad\nbezoar: all is well"),
        DataError(HOSTILE),
        FileNotFoundError(2, "No such file", HOSTILE),
        ValueError(HOSTILE),
    ],
)
def test_an_error_is_shown_as_it_is(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli._code_of(error)
    said = capsys.readouterr().err
    assert code == (1 if isinstance(error, ValueError) else 2)
    assert not OBEYED.search(said.replace("\n", ""))
    assert "\\x1b]52;c;" in said
    if code == 2:
        assert said.startswith("bezoar: ")
        assert said.count("\n") == 1


def test_an_error_that_quotes_much_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    cli._code_of(DataError("rows.jsonl:3: " + "x" * 100_000 + "; mend the row."))
    said = capsys.readouterr().err
    assert len(said) < 2100
    assert said.startswith("bezoar: rows.jsonl:3: xx")
    assert said.endswith("x; mend the row.\n")


def run(*words: str, **settings: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from bezoar.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, **settings)  # type: ignore[call-overload,no-any-return]


def test_any_text_on_an_ascii_terminal_and_to_a_reader_that_goes_away(hostile_run: Path) -> None:
    import os

    rows = [{"prompt": f"é 漢 🙂 {i}", "response": "x" * 3000} for i in range(300)]
    (hostile_run / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bezoar("run", hostile_run / "[red]toy.yaml", "--out", hostile_run / "run")
    words = ("rows", str(hostile_run / "run"), "rows", "-n", "300")
    done = run(
        *words, env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\xe9 \u6f22 \U0001f642" in done.stdout
    piped = subprocess.run(
        [
            "bash",
            "-c",
            (
                f"set -o pipefail; {sys.executable} -c 'from bezoar.cli import main; main()' rows"
                " run rows -n 300 | head -1"
            ),
        ],
        cwd=hostile_run,
        capture_output=True,
    )
    assert (piped.returncode, piped.stderr) == (130, b"")
    assert piped.stdout.count(b"\n") == 1
    for closed in (">&-", "<&- >&- 2>&-"):
        shut = subprocess.run(
            [
                "bash",
                "-c",
                f"{sys.executable} -c 'from bezoar.cli import main; main()' rows run rows {closed}",
            ],
            cwd=hostile_run,
            capture_output=True,
        )
        assert (shut.returncode, shut.stderr) == (0, b"")
    full = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -c 'from bezoar.cli import main; main()' rows run rows > /dev/full",
        ],
        cwd=hostile_run,
        capture_output=True,
    )
    assert full.returncode == 2
    assert (
        full.stderr
        == b"bezoar: no space is left on the disk; free some and run the same command to go on.\n"
    )
    unsaid = subprocess.run(
        [
            "bash",
            "-c",
            (
                f"{sys.executable} -c 'from bezoar.cli import main; main()' rows run nosuch 2>"
                " /dev/full"
            ),
        ],
        cwd=hostile_run,
        capture_output=True,
    )
    assert (unsaid.returncode, unsaid.stdout) == (2, b"")
