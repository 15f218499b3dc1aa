"""What the page shows of which run, in which order, and how its words are explained."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from bezoar.report.components import table
from bezoar.report.decision import Answer, Decision
from bezoar.report.html import page
from bezoar.report.run import load_run
from bezoar.report.sections.first_screen import first_screen
from bezoar.report.terms import TERMS, explained, terms_in
from tests.helpers.fake_run import build_run, data_stages, edit_json, load, reward_stages

Build = Callable[..., Path]


def sections(text: str) -> dict[str, str]:
    """Anchor -> markup, in the order of the page."""
    parts = re.split(r'<section id="(\w+)">', text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def words(markup: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", markup.replace("<wbr>", "")).split())


def test_the_order_of_a_whole_run(whole: Path) -> None:
    text = page(*load(whole))
    order = ["examples", "scores", "training", "data", "money", "failures", "recipe"]
    assert list(sections(text)) == order
    assert re.findall(r'<a href="#(\w+)">', text) == order
    assert text.index('class="lead"') < text.index('class="answers"') < text.index("<nav")


def test_a_run_of_rows_has_a_first_screen_of_its_own(tmp_path: Path) -> None:
    text = page(*load(build_run(tmp_path / "run", table=data_stages())))
    assert list(sections(text)) == ["result", "data", "money", "failures", "recipe"]
    assert "Is it better?" not in text
    said = words(sections(text)["result"])
    # lamini wrote 96 rows of 137 and the judge kept 66 of them for 96 replies of $0.0021
    assert "lamini_ok 66 48 % of 137 $0.0031" in said
    assert said.index("Why rows were dropped") < said.index("reject 63 rows")
    assert "near duplicate 21 rows" in said
    assert "Near duplicates, 4 of 21" in said
    assert "Examples of lamini_ok" in said


def test_a_run_without_a_row_shows_what_there_is(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", table=data_stages(), until="seeds")
    assert list(sections(page(*load(run_dir)))) == ["data", "recipe"]


def test_reward_models_show_the_pairs_that_they_judge_differently(tmp_path: Path) -> None:
    parts = sections(page(*load(build_run(tmp_path / "run", table=reward_stages()))))
    assert "wrong → right" in parts["examples"]
    assert "right → wrong" in parts["examples"]
    assert "RewardBench/pairs" in parts["scores"]


def test_pairs_that_moved_stand_beside_the_answers(whole: Path) -> None:
    run, board = load(whole)
    part = words(sections(page(run, board))["examples"])
    before, after = (board.items["preferences/log-prob margin", m] for m in ("base", "dpo"))
    most = max(after[i] - before[i] for i in after)
    assert f"(+{most:.2f})" in part
    assert part.count("rejected") >= 3


def test_log_probabilities_are_folded_beside_an_implicit_reward(fresh: Build) -> None:
    run_dir = fresh()
    for folder in run_dir.glob("*-eval_*"):
        stored = json.loads((folder / "scores.json").read_text())["scores"]
        reward = {**stored[0], "name": "preferences/implicit reward accuracy"}
        edit_json(folder / "scores.json", scores=[reward, *stored])
    scores = sections(page(*load(run_dir)))["scores"]
    shown = words(scores.partition("more scores")[0].partition("<figure")[2])
    assert "preferences/implicit reward accuracy" in shown
    assert "log-prob accuracy" not in shown
    assert "log-prob accuracy" in words(scores.partition("more scores")[2])


def test_one_step_is_no_curve(fresh: Build) -> None:
    run_dir = fresh(until="eval_base")
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["step"] == 1]
    (run_dir / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    part = sections(page(*load(run_dir)))["training"]
    assert "sft_evol, hh_sft, dpo: one step was logged" in words(part)
    assert 'class="chart"' not in part


def test_every_term_is_found_where_it_stands_and_explained() -> None:
    said = (
        "The win rate [0.400, 0.600] (n = 12); kappa 0.3; 9 truncated, preferences/log-prob margin"
    )
    found = ["interval", "n", "log-probability", "margin", "win rate", "kappa", "truncated"]
    assert terms_in(said) == found
    shown = explained(said)
    assert shown is not None
    assert all(TERMS[name][1].split("'")[0] in shown for name in found)
    assert explained("nothing new") is None


def test_the_sections_explain_their_words(whole: Path) -> None:
    parts = sections(page(*load(whole)))
    for name, expected in {
        "scores": {"interval", "paired test", "Holm", "margin", "MT-Bench"},
        "training": {"loss", "margin", "trained tokens"},
        "data": {"near duplicate", "unparsed", "reject"},
    }.items():
        explained_here = set(re.findall(r'class="term"><summary>([^<]+)', parts[name]))
        assert expected <= explained_here


def test_the_first_screen_says_what_to_do(whole: Path) -> None:
    answers = [
        Answer("Is it better?", "yes", "by 12 %"),
        Answer("Is it safe to use?", "not measured", "nothing asked"),
        Answer("What got worse?", "no", "nothing found"),
        Answer("What got worse?", "yes", "arc_easy"),
    ]
    steps = ["Give `epochs: 3`.", "Then look again."]
    decision = Decision("89 % of 45", ["one", "two", "three", "four", "five"], answers, steps)
    text = first_screen(load_run(whole), decision)
    assert "89\u00a0% of 45" in text
    assert "Give <code>epochs: 3</code>." in text
    found = re.findall(r'<b class="word (\w+)">([^<]+)', text)
    assert found == [
        ("good", "Yes"),
        ("unclear", "Not measured"),
        ("good", "Nothing found"),
        ("bad", "Something did"),
    ]
    # three warnings stand open, and the others are counted
    assert "three" in text.partition("2 more")[0]
    assert "four" in text.partition("2 more")[2]


def test_a_table_has_no_empty_column_and_its_cards_name_every_figure() -> None:
    shown = table(["Stage", "Rows", "Money", "Time"], [["a", "1", "", "–"], ["b", "2", "", "–"]])
    assert "Money" not in shown
    assert "Time" not in shown
    assert shown.count('data-label="Rows"') == 2
    assert "tabindex" not in shown
    wide = table([f"c{i}" for i in range(7)], [[str(i) for i in range(7)]])
    assert 'tabindex="0"' in wide


def test_money_has_columns_only_for_what_was_paid(fresh: Build, whole: Path) -> None:
    assert "Per kept row" in sections(page(*load(whole)))["money"]
    run_dir = fresh()
    for path in run_dir.glob("*/stats.json"):
        if calls := json.loads(path.read_text()).get("calls"):
            edit_json(path, calls={**calls, "cost_usd": 0.0, "failed": 0})
    free = sections(page(*load(run_dir)))["money"]
    assert "Nothing was paid for in this run." in free
    assert "Per kept row" not in free
    assert "Failed" not in free


def test_a_run_whose_stages_are_gone_still_has_a_page(fresh: Build) -> None:
    run_dir = fresh()
    for folder in run_dir.glob("*-*"):
        shutil.rmtree(folder)
    text = page(*load(run_dir))
    assert "This run is not finished" in text
    assert list(sections(text)) == ["training", "data", "recipe"]
