"""Tables in a pipe of 80 columns are whole: nothing is cut, no number is broken."""

import io
import os
import re
import subprocess
import sys

import pytest
from rich.table import Table

from bezoar.evals.leaderboard import leaderboard, read_entries
from bezoar.flow.explain import print_kind
from bezoar.report.console import print_decision, print_leaderboard
from bezoar.report.decision import decide
from bezoar.terminal import Console, plain
from tests.helpers.fake_run import load
from tests.helpers.small_run import START, SmallRun, hits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """Four models with long names on benchmarks with long names."""
    recipe = tmp_path_factory.mktemp("recipe") / "r.yaml"
    rows = "{kind: hh_rlhf, path: 'bezoar:preferences_test.jsonl'}"
    recipe.write_text(f"name: a-run-with-a-long-name\nstages: {{rows: {rows}}}\n")
    folder = tmp_path_factory.mktemp("runs") / "a-run-with-a-long-name"
    made = SmallRun(folder, recipe=str(recipe))
    below = "base"
    conditions = {"s": {"conditions": {"": {"items": "1"}}}}
    for i, model in enumerate(["base", "sft-on-lamini-rows", "hh-sft-on-pairs", "dpo-on-pairs"]):
        if i:
            made.train(model, below, "dpo")
        rewards = [0.5] * 45 if not i else hits(25 + 5 * i, 45)
        more = {f"a/benchmark of many words {n}": [0.125 * i + 0.01 * n] * 9 for n in range(2)}
        made.evaluate(model, {START: rewards, "quiz/acc": hits(20, 40), **more}, info=conditions)
        below = model
    return made


def piped(*words: object, columns: str | None = "80") -> str:
    """What a command prints into a real pipe."""
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    env |= {"TERM": "dumb", "NO_COLOR": "1", **({"COLUMNS": columns} if columns else {})}
    command = [sys.executable, "-m", "bezoar", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tables(text: str) -> str:
    """What stands above the sentences, which are single lines of any length."""
    lines = text.split("\n")
    return "\n".join(
        lines[: next((i for i, line in enumerate(lines) if len(line) > 80), len(lines))]
    )


@pytest.mark.parametrize("columns", ["80", None])
def test_compare_is_whole_in_a_pipe(run: SmallRun, columns: str | None) -> None:
    folders = [next(run.path.glob(f"*-eval-{name}")) for name in ("base", "dpo-on-pairs")]
    text = piped("compare", *folders, columns=columns)
    assert max(map(len, text.split("\n")[4:])) <= 80
    assert "…" not in text
    # four tests, each with its interval in one piece
    assert len(re.findall(r"\[\S+, \S+\]", text)) == 4
    for whole in ("0.889", "+0.389", "40", "better"):
        assert whole in text
    for name in (START, "quiz/acc", "a/benchmark of many words 1"):
        assert name in text


def test_the_scores_are_whole_in_a_pipe(run: SmallRun) -> None:
    text = tables(piped("report", run.path))
    assert max(map(len, text.split("\n"))) <= 80
    assert "…" not in text
    # three main scores of four models, each interval in one piece; the start model has none on one
    assert len(re.findall(r"\[\S+, \S+\]", text)) == 11
    for name in ("base", "sft-on-lamini-rows", "hh-sft-on-pairs", "dpo-on-pairs"):
        assert name in text


def printed(make: object, columns: int) -> str:
    """What is printed into a file by a console whose tables have so many columns."""
    out = io.StringIO()
    console = Console(file=out)
    console.table_width = columns
    make(console)  # type: ignore[operator]
    return out.getvalue()


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_a_leaderboard_keeps_every_figure_at_any_width(run: SmallRun, columns: int) -> None:
    entries = read_entries([run.path])
    wide = printed(lambda c: print_leaderboard(leaderboard(entries), [], c), 1000)
    narrow = printed(lambda c: print_leaderboard(leaderboard(entries), [], c), columns)
    figures = r"[−+]?\d[\d.,]*\d|\d"
    wide, narrow = (text.replace("95 % interval", "") for text in (wide, narrow))
    assert sorted(re.findall(figures, narrow)) == sorted(re.findall(figures, wide))
    assert max(map(len, narrow.split("\n"))) <= max(columns, len("a-run-with-a-long-name/") + 18)


@pytest.mark.parametrize("columns", [40, 80])
def test_every_word_of_an_explanation_is_there(columns: int) -> None:
    wide = printed(lambda c: print_kind("train", c), 10_000)
    narrow = printed(lambda c: print_kind("train", c), columns)
    words = r"[\w.]+"
    # the first head has no place in a block
    assert set(re.findall(words, wide)) - {"key"} == set(re.findall(words, narrow)) - {"key"}


def test_rows_stay_lines_where_they_fit_and_become_blocks_where_they_do_not() -> None:
    def table(console: Console) -> None:
        made = Table("name", "value", "interval", title="a title", box=None, pad_edge=False)
        made.columns[1].justify = made.columns[2].justify = "right"
        made.add_row(plain("one of two names"), "0.311", plain("[0.195, 0.457]"))
        made.add_row("two", "12.25", plain(""))
        console.print(made)

    assert [line.split() for line in printed(table, 40).splitlines()[2:]] == [
        ["one", "of", "two", "names", "0.311", "[0.195,", "0.457]"],
        ["two", "12.25"],
    ]
    assert printed(table, 33).splitlines() == [
        "a title",
        "one of two names",
        "  value     0.311",
        "  interval  [0.195, 0.457]",
        "two",
        "  value     12.25",
    ]


def test_the_decision_is_one_line_a_sentence(run: SmallRun) -> None:
    text = printed(lambda c: print_decision(decide(*load(run.path)), c), 80)
    assert text.startswith("After dpo-on-pairs the model prefers the better answer in 89 % of 45")
    assert text.splitlines()[0].endswith(".")
