"""A run whose money ends: what is asked, what is not, and what the same command then does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bezoar.cost import dollars
from bezoar.errors import RecipeError
from bezoar.flow.recipe import load_recipe
from bezoar.io import read_json
from tests.helpers.command import ended
from tests.helpers.rows import plant_judged
from tests.helpers.server import Server, answer, serving

# a request may cost 0.04 USD and costs 0.01 (20 tokens at most, 5 written)
RECIPE = """
name: toy
budget_usd: 0.105
backends:
  judge: {kind: endpoint, url: "URL", model: m, key_env: SOME_KEY, concurrency: 1,
    prices: {input_usd_per_million: 0, output_usd_per_million: 2000}}
stages:
  rows: {kind: jsonl, path: rows.jsonl}
  first: &judged {kind: filter, rows: rows, judge: judge, rubric: one.txt, max_tokens: 20}
  second: {<<: *judged, rubric: two.txt}
  behind: {kind: form, rows: first, max_words: 100}
"""
ALL = ["01-rows", "02-first", "03-second", "04-behind"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    plant_judged(tmp_path, 12, "one", "two")
    return tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda body, seen: answer("Accept: fine")) as found:
        yield found


def bezoar(folder: Path, server: Server, verb: str, *changes: tuple[str, str]) -> tuple[int, str]:
    text = RECIPE.replace("URL", server.url)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "toy.yaml").write_text(text)
    return ended(verb, "toy.yaml", SOME_KEY="a-key-of-some-length")


def finished(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in (folder / "runs" / "toy").glob("*/key.json"))


def asked(server: Server, rubric: str) -> int:
    return sum(f"Rubric {rubric}" in body["messages"][-1]["content"] for body in server.bodies)


def test_a_spent_budget_is_unfinished_and_a_raised_one_does_only_the_rest(
    folder: Path, server: Server
) -> None:
    code, said = bezoar(folder, server, "run")
    assert code == 3, said
    num = asked(server, "one")
    assert 0 < num < 12
    left = f"{dollars(0.105 - num / 100)} left, and the next request could cost up to 0.04"
    why = f"{12 - num} of 12 requests were not asked: the budget of 0.105 USD has {left}"
    assert f"stage first: {why}" in said
    assert "not run, as they read it: behind; raise budget_usd and run the same command" in said
    assert "unparsed" not in said
    assert "0 rows" not in said
    assert finished(folder) == ["01-rows"]
    # the money of the stage is on the bill, and its own words are in the report
    report = (folder / "runs" / "toy" / "report.html").read_text()
    assert why in report
    assert f"${num / 100:.2f}"[:5] in report
    [partial] = (folder / "runs" / "toy").glob(".partial-02-first")
    assert read_json(partial / "stats.json")["unfinished"] == why
    # the same command asks nothing more; a larger budget asks each of the others once
    assert bezoar(folder, server, "run")[0] == 3
    assert asked(server, "one") == num
    code, said = bezoar(folder, server, "run", ("0.105", "5.0"))
    assert code == 0, said
    assert finished(folder) == ALL
    assert (asked(server, "one"), asked(server, "two")) == (12, 12)
    assert "04 behind: 12 rows" in said
    assert bezoar(folder, server, "run", ("0.105", "9.0"))[1].count("rows;") == 0  # nothing twice


def test_money_that_is_kept_for_a_stage_is_there_for_it(folder: Path, server: Server) -> None:
    more = ("0.105", "0.2\nbudgets: {second: 0.16}")
    code, said = bezoar(folder, server, "plan", more)
    assert code == 0
    assert "Budget: 0.20 USD: second 0.16, the other stages in their order 0.04." in said
    assert "the budget is expected to end in first" in said
    code, said = bezoar(folder, server, "run", more)
    assert code == 3, said
    assert finished(folder) == ["01-rows", "03-second"]
    assert asked(server, "second".replace("second", "two")) == 12
    assert "the budget of 0.20 USD, less 0.16 USD for second, has 0.0" in said
    # what the finished stage has left is everybody's
    bezoar(folder, server, "run", more)
    assert asked(server, "one") > 0


def test_replies_in_the_journal_are_not_quoted_again(folder: Path, server: Server) -> None:
    bezoar(folder, server, "run")
    num = asked(server, "one")
    _, said = bezoar(folder, server, "plan", ("0.105", "5.0"))
    [line] = [line for line in said.splitlines() if line.strip().startswith("first  ")]
    assert f" {12 - num} " in line
    assert bezoar(folder, server, "run", ("0.105", "5.0"))[0] == 0
    # another run of the folder, and rows that are worked on further: all replies are there
    changes = (("0.105", "5.0"), ("name: toy", "name: other"), ("max_words: 100", "max_words: 99"))
    _, said = bezoar(folder, server, "plan", *changes)
    [total] = [line for line in said.splitlines() if line.strip().startswith("total  ")]
    assert total.split() == ["total", "0", "0", "0.00"]
    [behind] = [line for line in said.splitlines() if line.strip().startswith("behind  ")]
    assert behind.split() == ["behind", "to", "run", "12"]
    assert (asked(server, "one"), asked(server, "two")) == (12, 12)


def test_a_stage_has_a_limit_of_its_own(folder: Path, server: Server) -> None:
    code, said = bezoar(folder, server, "run", ("budget_usd: 0.105", "budgets: {first: 0.05}"))
    assert code == 3, said
    assert "up to 0.04; not run, as they read it: behind; raise budgets.first and run" in said
    assert "the budget of 0.05 USD for first has 0.0" in said
    assert finished(folder) == ["01-rows", "03-second"]
    assert asked(server, "one") <= 5


@pytest.mark.parametrize(
    "prices", ["", "prices: {input_usd_per_million: 0, output_usd_per_million: 0}"]
)
def test_a_budget_without_prices_bounds_nothing(prices: str, folder: Path) -> None:
    path = folder / "toy.yaml"
    text = RECIPE.replace("URL", "http://x/v1")
    path.write_text(
        text.replace("prices: {input_usd_per_million: 0, output_usd_per_million: 2000}", prices)
    )
    told = r"toy.yaml:3: budget_usd: no language model of this recipe has prices, .*remove the key"
    with pytest.raises(RecipeError, match=told):
        load_recipe(path)


def test_one_price_alone_is_warned_of(folder: Path, server: Server) -> None:
    both = "{input_usd_per_million: 0, output_usd_per_million: 2000}"
    code, said = bezoar(folder, server, "plan", (both, "{output_usd_per_million: 2000}"))
    assert code == 0
    at = "toy.yaml:6: backends.judge.prices.input_usd_per_million"
    assert f"warning: {at} is 0: input tokens are counted as free" in said


@pytest.mark.parametrize("budget", ["budget_usd: 0.105", "budgets: {first: 0.05}"])
def test_a_budget_needs_the_prices_of_every_endpoint(
    budget: str, folder: Path, server: Server
) -> None:
    for verb in ("plan", "run"):
        teacher = f'backends:\n  other: {{kind: endpoint, url: "{server.url}", model: o}}'
        two = ("rubric: two.txt", "judge: other, rubric: two.txt")
        changes = (("budget_usd: 0.105", budget), ("backends:", teacher), two)
        code, said = bezoar(folder, server, verb, *changes)
        assert code == 2
        told = "the budget cannot bound other without `prices`; write them, 0 for what is free."
        assert f"toy.yaml:5: backends.other: {told}" in said
    assert not server.bodies
    # a price of 0 that is written is one, and so is none where nothing is bounded
    free = teacher.replace(
        "o}", "o, prices: {input_usd_per_million: 0, output_usd_per_million: 0}}"
    )
    assert bezoar(folder, server, "plan", changes[0], ("backends:", free), two)[0] == 0
    assert bezoar(folder, server, "plan", ("budget_usd: 0.105", ""), *changes[1:])[0] == 0


@pytest.mark.parametrize(
    ("budgets", "what"),
    [
        ("{first: 0.1, second: 0.1}", "0.20 USD for stages, of 0.105 in budget_usd"),
        ("{frist: 0.1}", "no stage 'frist' asks a language model that has prices"),
        ("{behind: 0.1}", "no stage 'behind' asks a language model that has prices"),
        ("{first: -1}", "greater than or equal to 0"),
    ],
)
def test_budgets_that_do_not_fit_the_recipe(budgets: str, what: str, folder: Path) -> None:
    (folder / "toy.yaml").write_text(RECIPE.replace("URL", "http://x/v1") + f"budgets: {budgets}\n")
    with pytest.raises(RecipeError, match=what) as told:
        load_recipe(folder / "toy.yaml")
    assert "toy.yaml:1" in str(told.value)
