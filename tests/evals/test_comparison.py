"""One comparison for console, report and leaderboard: what is compared, and in which words."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bezoar.evals.comparison import Measured, alike, corrected, differences, over_benchmarks
from bezoar.evals.leaderboard import leaderboard, paired_tests, read_entries
from bezoar.evals.stats import Difference, least_items, score
from bezoar.report.scoreboard import Scoreboard


def measured(model: str, values: list[float | None], **condition: str) -> Measured:
    items = {f"q{i}": value for i, value in enumerate(values)}
    return Measured(model, score("acc", values), items, condition)


def board_of(*members: Measured) -> Scoreboard:
    """A scoreboard of one benchmark, its conditions written down as evaluations write them."""
    board = Scoreboard()
    for m in members:
        board.labels[m.model] = m.model
        board.cells["acc", m.model] = m.score
        board.items["acc", m.model] = {i: v for i, v in m.values.items() if v is not None}
        board.facts[m.model] = {"info": {"s": {"conditions": {"acc": dict(m.condition)}}}}
    return board


def test_items_pair_by_name_and_the_rest_is_counted() -> None:
    first = measured("a", [float(i % 2) for i in range(40)])
    second = measured("b", [None if i == 3 else 1.0 for i in range(40)])
    (got,), notes = over_benchmarks({"t": first, "mine": first}, {"t": second})
    assert (got.n, got.num_unpaired, got.verdict, got.second) == (39, 1, "better", 1.0)
    assert notes == []


# two-sided p of n equal differences is 2 / 2**n, Holm's first step multiplies it by their number:
# 2/32 = .0625 and 2/64 = .03125; 2 * 2/64 = .0625 and 2 * 2/128 = .031; 3 * 2/128 = .047;
# 4 * 2/128 = .0625 and 4 * 2/256 = .031; 6 * 2/256 = .047; 7 * 2/256 = .055 and 7 * 2/512 = .027
@pytest.mark.parametrize(
    ("num_tests", "least"), [(1, 6), (2, 7), (3, 7), (4, 8), (6, 8), (7, 9), (13, 10)]
)
def test_the_least_number_of_items_follows_from_the_test(num_tests: int, least: int) -> None:
    others = [1.0] * (num_tests - 1)
    assert least_items(others) == least
    models = [measured(f"m{i}", [1.0] * least) for i in range(num_tests)]
    assert all(
        d.distinguishable for d in differences(measured("a", [0.0] * least), models).values()
    )
    fewer = [measured(f"m{i}", [1.0] * (least - 1)) for i in range(num_tests)]
    found = differences(measured("a", [0.0] * (least - 1)), fewer)
    said = f"too few items to tell (n = {least - 1}; at least {least} are needed)"
    assert {d.verdict for d in found.values()} == {said}


def test_no_number_of_items_is_enough_for_too_many_comparisons() -> None:
    assert least_items([1.0] * 600) is None
    many = [Difference(f"t{i}", 0.0, 1.0, 1.0, 1.0, 1.0, 0.5, 100) for i in range(601)]
    assert corrected(many)[0].verdict == "too many comparisons to tell (601)"


def test_clearer_tests_leave_more_to_the_others() -> None:
    # Holm's second step: the other test has its p already, so this one is multiplied by 1
    assert least_items([0.0001]) == 6


def test_disjoint_intervals_of_six_items_are_too_few_not_alike() -> None:
    models = [measured(name, [1.0] * 6) for name in "bcde"]
    board = board_of(measured("a", [0.0] * 6), *models)
    assert board.score("acc", "a").high < board.score("acc", "b").low  # type: ignore[union-attr,operator]
    (test,) = {d.verdict for d in board.against("acc", "a").values()}
    assert test == "too few items to tell (n = 6; at least 8 are needed)"


def test_a_difference_on_its_own_is_told_from_none() -> None:
    # seven of forty change, all upwards: p = 2/128 = .0156, times four models .0625
    base = [0.0] * 40
    seven = [1.0] * 7 + [0.0] * 33
    others = [measured(name, base) for name in "cde"]
    found = differences(measured("a", base), [measured("b", seven), *others])
    assert (found["b"].own_p, found["b"].p) == (2 / 128, 8 / 128)
    why = "only its interval excludes 0 (p = 0.062 corrected for 4 comparisons)"
    assert found["b"].verdict == why
    assert found["c"].verdict == "not distinguishable"
    # five of forty: p = 2/32, and the resampled interval leaves 0 out all the same
    (five,) = differences(measured("a", base), [measured("b", [1.0] * 5 + [0.0] * 35)]).values()
    assert five.verdict == "only its interval excludes 0 (p = 0.062)"


def test_of_a_perplexity_the_lower_is_better() -> None:
    rows = {f"q{i}": 2.0 for i in range(8)}
    low = replace(score("ppl", [1.0] * 8), higher_is_better=False)
    lower = Measured("b", low, dict.fromkeys(rows, 1.0))
    (found,) = differences(Measured("a", score("ppl", [2.0] * 8), rows), [lower]).values()
    assert (found.difference, found.verdict) == (-1.0, "better")


def test_models_are_compared_within_each_reference_and_the_rest_is_told() -> None:
    low, high = [0.0, 1.0] * 10, [1.0] * 20
    board = board_of(
        measured("sft", low, reference="base"),
        measured("dpo", high, reference="base"),
        measured("ipo", high, reference="sft"),
    )
    board.labels["base"] = "base"
    board.labels["other"] = "other"
    board.facts["dpo"]["info"]["s"]["reference"] = "base"
    assert board.headline == [
        "dpo is best on acc.",
        "ipo is not compared with sft and dpo on acc: they differ in reference.",
        "base is not compared on acc: it is the reference.",
        "other is not compared on acc: it has no reference.",
    ]


def test_two_references_give_two_verdicts() -> None:
    low, high = [0.0, 1.0] * 10, [1.0] * 20
    groups = alike(
        [
            measured("a", low, reference="x"),
            measured("b", high, reference="y"),
            measured("c", high, reference="x"),
            measured("d", low, reference="y"),
        ]
    )
    assert [[m.model for m in group] for group in groups] == [["a", "c"], ["b", "d"]]
    board = board_of(*(m for group in groups for m in group))
    assert [v.tied for v in board.verdicts] == [("c",), ("b",)]


def test_scores_under_four_references_leave_the_log_probability_to_compare() -> None:
    """What four stages, each over the stack below, have in common is compared."""
    board = Scoreboard()
    names, reward = ["base", "sft", "hh", "dpo"], "preferences/implicit reward accuracy"
    plain = "preferences/log-prob accuracy"
    for i, model in enumerate(names):
        board.labels[model] = model
        for name in [reward, plain] if i else [plain]:
            board.cells[name, model] = score(name, [0.0, 1.0] * 10)
            board.items[name, model] = {str(j): float(j % 2) for j in range(20)}
        rewards = {"reference": names[i - 1]}
        conditions = {reward: rewards, plain: {"pairs": "1"}}
        board.facts[model] = {"info": {"preferences": {**rewards, "conditions": conditions}}}
    assert board.main == [plain, reward]
    assert "nothing can be compared" not in " ".join(board.headline)
    assert board.headline[0] == (
        f"The models are not distinguishable from the leader on every benchmark ({plain})."
    )
    assert board.headline[-1] == (
        f"sft, hh and dpo are not compared on {reward}: they differ in reference."
    )
    # one reference for all: this is the score that moves, and log-probabilities are folded away
    for model in names[1:]:
        board.facts[model]["info"]["preferences"]["conditions"][reward] = {"reference": "base"}
    again = Scoreboard(board.labels, board.cells, board.items, board.parts, board.facts)
    assert again.main == [reward]
    assert again.headline[-1] == f"base is not compared on {reward}: it is the reference."


def test_console_report_and_leaderboard_say_the_same(tmp_path: Path) -> None:
    values = {"a": [0.0] * 6, "b": [1.0] * 6, "c": [0.0] * 6, "d": [0.0] * 6, "e": [0.0] * 6}
    for i, (model, its) in enumerate(values.items(), 1):
        folder = tmp_path / "r" / f"{i:02d}-{model}"
        folder.mkdir(parents=True)
        facts = {"s": {"conditions": {"acc": {"items": "1"}}}}
        row = {"model": model, "scores": [score("acc", its).to_dict()], "info": facts}
        (folder / "scores.json").write_text(json.dumps(row))
        items = [{"benchmark": "acc", "id": f"q{i}", "value": v} for i, v in enumerate(its)]
        (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    entries = read_entries([tmp_path / "r"])
    (table,) = leaderboard(entries)
    board = board_of(*(measured(model, list(its), items="1") for model, its in values.items()))
    said = "too few items to tell (n = 6; at least 8 are needed)"
    assert {table.verdict(f"r/{model}") for model in "acde"} == {said}
    assert {d.verdict for d in board.against("acc", "b").values()} == {said}
    (test,), _ = paired_tests(entries[0], entries[1])
    assert (test.verdict, test.num_tests, test.least_n) == ("better", 1, 6)


def test_leaders_are_not_called_alike_where_one_differs_on_its_own() -> None:
    # b and d: six of forty fall, p = 2/64; c falls further, so that Holm doubles those two
    six, other = [0.0] * 6 + [1.0] * 34, [1.0] * 34 + [0.0] * 6
    board = board_of(
        measured("a", [1.0] * 40),
        measured("b", six),
        measured("c", [0.0] * 40),
        measured("d", other),
    )
    assert len(board.headline) == 1
    why = r"only its interval excludes 0 \(p = [\d.]+ corrected for 3 comparisons\)"
    assert re.fullmatch(rf"a, b and d lead on acc \(.* against a: {why}.*\)\.", board.headline[0])


def test_runs_and_evaluations_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in (tmp_path / "x" / "r" / "01-m", tmp_path / "y" / "r" / "01-m"):
        folder.mkdir(parents=True)
        row = {"model": "m", "scores": [score("acc", [1.0] * 8).to_dict()], "info": {}}
        (folder / "scores.json").write_text(json.dumps(row))
        (folder / "items.jsonl").write_text("")
    runs = [tmp_path / "x" / "r", tmp_path / "y" / "r"]
    assert [e.name for e in read_entries(runs)] == [f"{run}/m" for run in runs]
    single = [run / "01-m" for run in runs]
    assert [e.name for e in read_entries(single)] == [f"m ({folder})" for folder in single]
