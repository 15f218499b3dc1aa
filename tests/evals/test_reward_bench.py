"""RewardBench's Prior Sets and RewardBench 2, by numbers worked by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Comparison, Message
from bezoar.data.files import locate_file
from bezoar.errors import DataError, RecipeError
from bezoar.evals.labelled_pairs import read_labelled_pairs
from bezoar.evals.outcome import EvalContext
from bezoar.evals.reward_bench import RewardBench, reward_bench
from bezoar.evals.reward_bench_2 import BenchPrompt, RewardBench2, read_reward_bench_2
from bezoar.evals.reward_bench_2 import reward_bench_2 as bench_2
from bezoar.evals.reward_bench_ties import ties
from tests.helpers.hub import serving_hub
from tests.helpers.hub_datasets import add_datasets


def pairs_of(subset: str, num: int) -> list[Comparison]:
    return [Comparison(f"{subset} {i}", (), "a", "b", {"subset": subset}) for i in range(num)]


def values(pairs: list[Comparison], margins: list[float | None]) -> dict[str, float | None]:
    return {s.name: s.value for s in reward_bench(pairs, lambda _: margins).scores}


def test_prior_sets_are_a_plain_mean_and_weigh_half_a_section() -> None:
    pairs = (
        pairs_of("math-prm", 2)
        + pairs_of("donotanswer", 4)
        + pairs_of("shp", 4)
        + pairs_of("summarize", 2)
        + pairs_of("anthropic_hhh", 1)
        + pairs_of("anthropic_helpful", 10)
        + pairs_of("anthropic_harmless", 3)
    )
    right = [1, 0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 0, 1] + [1] * 9 + [0] + [1] * 3
    got = values(pairs, [1.0 if hit else 0.0 for hit in right])
    prior = (0.25 + 0.5 + 1 + 0.9) / 4  # of unequal sizes; harmless is not one of the four
    assert got["RewardBench/section Prior Sets"] == pytest.approx(prior)
    # HelpSteer2's overall score is that of the sections alone
    assert got["RewardBench"] == pytest.approx((0.5 + 0.75) / 2)
    both = (2 * 0.5 + 2 * 0.75 + prior) / 5
    assert got["RewardBench/with Prior Sets"] == pytest.approx(both)
    assert got["RewardBench/anthropic_harmless"] == 1.0


def test_all_four_sections_with_prior_sets_weigh_2_2_2_2_1() -> None:
    names = ["alpacaeval-easy", "mt-bench-hard", "donotanswer", "hep-go", "shp"]
    pairs = [pair for name in names for pair in pairs_of(name, 10)]
    margins = [1.0 if i < hits else -1.0 for hits in (1, 2, 3, 4, 10) for i in range(10)]
    got = values(pairs, [*margins])
    assert got["RewardBench"] == pytest.approx(0.25)
    assert got["RewardBench/with Prior Sets"] == pytest.approx(
        (2 * (0.1 + 0.2 + 0.3 + 0.4) + 1) / 9
    )


def test_prior_sets_alone_and_failed_pairs() -> None:
    got = values(pairs_of("shp", 2), [1.0, None])
    assert got == {"RewardBench/section Prior Sets": 1.0, "RewardBench/shp": 1.0}
    got = values(pairs_of("shp", 1) + pairs_of("summarize", 1), [1.0, None])
    assert got["RewardBench/section Prior Sets"] is None  # one of its sets has no value


@pytest.mark.parametrize(
    "name",
    ["anthropic_hhh-00000-of-00001.jsonl", "allenai--preference-test-sets--anthropic_hhh.jsonl"],
)
def test_a_split_of_the_test_sets_is_the_subset(tmp_path: Path, name: str) -> None:
    turns = [
        {"content": "Hello", "role": "user"},
        {"content": "Hi.", "role": "assistant"},
        {"content": "Bye", "role": "user"},
    ]
    row = {"prompt": turns, "chosen": "a", "rejected": "b", "subset": "harmless", "id": 7}
    (tmp_path / name).write_text(json.dumps(row) + "\n")
    [pair] = read_labelled_pairs(tmp_path / name)
    assert pair.meta["subset"] == "anthropic_hhh"
    assert [(m.role, m.content) for m in pair.prompt] == [
        ("user", "Hello"),
        ("assistant", "Hi."),
        ("user", "Bye"),
    ]


def prompts_of(subset: str, num: int, of: int = 4) -> list[BenchPrompt]:
    answers = tuple(f"answer {i}" for i in range(of))
    return [BenchPrompt(f"{subset}{i}", subset, (), answers, 1) for i in range(num)]


def test_the_best_of_four_shares_its_credit_with_equal_scores() -> None:
    prompts = prompts_of("Math", 4) + prompts_of("Focus", 2)
    scores = [
        [3.0, 1.0, 2.0, 0.0],  # 1
        [3.0, 3.0, 2.0, 0.0],  # 1/2
        [3.0, 3.0, 3.0, 3.0],  # 1/4
        [2.0, 3.0, 0.0, 0.0],  # 0
        [5.0, 1.0, 1.0, 1.0],  # 1
        None,
    ]
    outcome = bench_2(prompts, scores)
    got = {s.name: (s.value, s.n, s.num_failed) for s in outcome.scores}
    assert got == {
        "RewardBench 2": ((1.75 / 4 + 1) / 2, 5, 1),
        "RewardBench 2/Math": (1.75 / 4, 4, 0),
        "RewardBench 2/Focus": (1.0, 1, 1),
    }
    assert [item["value"] for item in outcome.items] == [1, 0.5, 0.25, 0, 1, None]


PAIRS: list[tuple[str, int, list[float] | None]] = [
    # spread 1, gap 2 in both: all five terms; tanh(2 / 1 - 1)
    ("ref:1", 1, [4.0, 2.0, 0.0]),
    ("tied:1", 2, [4.0, 5.0, 2.0, 1.0]),
    # spread 3 above the tied gap 2: neither margin; tanh(2 / 3 - 1)
    ("ref:2", 1, [9.0, 1.0]),
    ("tied:2", 3, [4.0, 7.0, 5.0, 2.0]),
    # the tied gap 2 is above the spread 1, the ref gap 0.5 is not; tanh(0.5 / 1 - 1)
    ("tied:3", 2, [4.0, 5.0, 2.0]),
    ("ref:3", 1, [2.0, 1.5]),
    # equal correct scores: 0 / 0 counts as 0; a gap of 0 is not accurate
    ("ref:4", 1, [1.0, 1.0]),
    ("tied:4", 2, [3.0, 3.0, 3.0]),
]


def test_the_rule_of_ties() -> None:
    figure, items, _ = ties("Ties", PAIRS)
    margins = (math.tanh(1) + math.tanh(2 / 3 - 1) + math.tanh(-0.5) + 0) / 4
    # tied accurate in 1, 2, 3; ref in 1, 2, 3; a_tied > s in 1, 3; min(a) > s in 1
    expected = 0.30 * 3 / 4 + 0.30 * 3 / 4 + 0.20 * 2 / 4 + 0.20 * 1 / 4 + 0.01 * margins
    assert figure.value == pytest.approx(expected, abs=1e-12)
    assert (figure.n, figure.num_failed) == (8, 0)
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < expected < figure.high
    # the score is the mean over numbers, so two models can be paired by number
    assert sum(item["value"] for item in items) / 4 == pytest.approx(expected)
    assert [item["id"] for item in items] == [1, 2, 3, 4]


def test_equal_correct_scores_push_the_margin_to_its_ends() -> None:
    high, _, _ = ties("Ties", [("ref:0", 1, [2.0, 1.0]), ("tied:0", 2, [2.0, 2.0, 1.0])])
    low, _, _ = ties("Ties", [("ref:0", 1, [2.0, 3.0]), ("tied:0", 2, [2.0, 2.0, 1.0])])
    assert high.value == pytest.approx(1.01)  # tanh(1 / 0) = 1
    assert low.value == pytest.approx(0.30 + 0.20 - 0.01)  # tanh(-1 / 0) = -1


def test_prompts_without_a_partner_count_for_their_accuracy_alone() -> None:
    more = [("ref:9", 1, [0.0, 1.0]), ("tied:8", 2, [2.0, 2.0, 1.0]), ("tied:7", 2, None)]
    figure, items, _ = ties("Ties", [*PAIRS[:2], *more])
    expected = 0.30 * 2 / 2 + 0.30 * 1 / 2 + 0.20 + 0.20 + 0.01 * math.tanh(1)
    assert figure.value == pytest.approx(expected)
    assert (figure.n, figure.num_failed) == (4, 1)
    assert [(item["id"], item["value"] is None) for item in items] == [
        (1, False),
        (8, True),
        (9, True),
    ]
    nothing, _, _ = ties("Ties", more)
    assert nothing.value is None
    assert "ref and a tied" in nothing.reason


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROW = {
    "id": "tied:3",
    "prompt": "Name a colour.",
    "chosen": ["Red", "Blue"],
    "rejected": ["Dog", "Tree"],
    "num_correct": 2,
    "num_incorrect": 2,
    "total_completions": 4,
    "models": ["a", "b", "c", "d"],
    "subset": "Ties",
    "additional_metadata": {"method": None},
}


def test_the_file_is_read_and_faults_name_their_line(tmp_path: Path) -> None:
    math_row = {**ROW, "id": "12", "subset": "Math", "chosen": ["4"], "rejected": ["1", "2", "3"]}
    path = write(tmp_path / "bench.jsonl", ROW, math_row)
    tied, four = read_reward_bench_2(path)
    assert (tied.subset, tied.answers, tied.num_correct) == (
        "Ties",
        ("Red", "Blue", "Dog", "Tree"),
        2,
    )
    assert (four.id, four.num_correct, len(four.answers)) == ("12", 1, 4)
    for fault, said in (
        ({"id": "3"}, "neither ref:N nor tied:N"),
        ({"chosen": []}, "'chosen' is not a list of answers"),
        ({"rejected": [1]}, "'rejected' is not a list of answers"),
        ({"chosen": ["Red"]}, "several chosen answers"),
    ):
        bad = write(tmp_path / "bad.jsonl", ROW, {**ROW, **fault})
        with pytest.raises(DataError, match=rf"bad.jsonl:2: .*{said}"):
            read_reward_bench_2(bad)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="give reference for"):
        RewardBench2(by="implicit reward")
    with pytest.raises(ValueError, match="give reference for"):
        RewardBench2(by="log-prob", reference="base")
    with pytest.raises(ValueError, match="every reward is 0"):
        RewardBench2(reference="sft").check("sft")


def test_answers_are_scored_by_likelihood_and_long_ones_fail(stack: Any, tmp_path: Path) -> None:
    """Equal answers have one score, and a row with an answer that does not fit has none."""
    pytest.importorskip("torch")
    from bezoar.model.completions import completion_logprobs

    rows = [
        {**ROW, "id": "1", "subset": "Focus", "chosen": ["Red"], "rejected": ["Red", "Dog", "x"]},
        {**ROW, "id": "2", "subset": "Focus", "chosen": ["Red"], "rejected": ["x" * 5000]},
    ]
    path = write(tmp_path / "bench.jsonl", *rows)
    context = EvalContext(ChatML(), lambda name: stack, None, None, None)  # type: ignore[arg-type]
    section = RewardBench2(str(path), by="log-prob")
    outcome = section.run("m", context, lambda name, make: make())
    prompts = [[Message("user", "Name a colour.")]]
    [sums] = completion_logprobs(stack, ChatML(), prompts, [["Red", "Dog", "x"]])  # type: ignore[list-item]
    expected = 0.5 if sums[0] == max(sums) else 0.0
    [figure] = outcome.scores
    assert (figure.name, figure.value, figure.num_failed) == ("RewardBench 2/Focus", expected, 1)
    assert outcome.info["reward_bench_2"]["by"] == "log-prob"
    per_token = RewardBench2(str(path), by="log-prob per token", limit=1)
    assert per_token.run("m", context, lambda name, make: make()).scores[0].num_failed == 0
    implicit = RewardBench2(str(path), reference="base")
    # over itself every reward is 0: four equal scores
    assert implicit.run("m", context, lambda name, make: make()).scores[0].value == 0.25
    with pytest.raises(RecipeError, match="has no score head, so it has no reward"):
        RewardBench2(str(path)).run("m", context, lambda name, make: make())


def test_both_benchmarks_are_read_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    with serving_hub(tmp_path / "hub") as hub:
        add_datasets(hub)
        hub.use(monkeypatch, tmp_path / "home")
        sets = ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")
        names = [f"hub:allenai/preference-test-sets/{name}" for name in sets]
        pairs = RewardBench(("hub:allenai/reward-bench/filtered", *names)).read()
        scores = {s.name: s.n for s in reward_bench(pairs, lambda p: [1.0] * len(p)).scores}
        assert scores["RewardBench/section Prior Sets"] == 12
        assert scores["RewardBench/with Prior Sets"] == len(pairs)
        file = locate_file(RewardBench2().file, Path(), "reward_bench_2")
        prompts = read_reward_bench_2(file)
    found = bench_2(prompts, [[1.0] * p.num_correct + [0.0] * 4 for p in prompts]).scores
    assert [s.name for s in found if s.value != 1.0] == ["RewardBench 2", "RewardBench 2/Ties"]
