"""Judge cards with planted faults, RewardBench's weights, LLMBar."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from bezoar.chat.types import Comparison, Message
from bezoar.errors import DataError, RecipeError
from bezoar.evals.judge_card import JudgeCard, card
from bezoar.evals.judges import PairJudge, asked_judge, judge_hash
from bezoar.evals.labelled_pairs import read_labelled_pairs
from bezoar.evals.reward_bench import SECTIONS, judge_scorer, reward_bench
from bezoar.evals.stats import Score
from bezoar.llm.types import Ask, Reply, Request
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.pairwise import Pairwise, Preference

FAILED = Unparsed("?", "no verdict")


def figures(
    pairs: Sequence[Comparison], verdicts: Sequence[Preference], own: str = ""
) -> dict[str, Score]:
    return {s.name: s for s in card(pairs, verdicts, [verdicts], own).scores}


def test_a_card_by_hand() -> None:
    pairs = [
        Comparison("0", (), "long answer", "short"),
        Comparison("1", (), "s", "longer"),
        Comparison("2", (), "same", "size"),
        Comparison("3", (), "long answer", "short"),
    ]
    verdicts = [
        Preference("0", "A", "A"),
        Preference("1", "B", "A"),
        Preference("2", "tie", "A"),
        Preference("3", "A", FAILED),
    ]
    got = figures(pairs, verdicts)
    # a tie is wrong, a failure is in no mean
    assert got["judge/accuracy"].value == pytest.approx((2 + 1 + 1 + 1) / 7)
    assert (got["judge/accuracy"].n, got["judge/accuracy"].num_failed) == (7, 1)
    assert got["judge/right in both orders"].value == pytest.approx(1 / 3)
    assert got["judge/unparsed"].value == pytest.approx(1 / 8)
    # the longer one is gold in pair 0, taken in 2 of 2; it is not in pair 1, taken in 1 of 2: (1 +
    # 1/2) / 2 - 1/2
    assert got["judge/length bias"].value == pytest.approx(0.25)
    assert (got["judge/length bias"].n, got["judge/length bias"].num_failed) == (2, 1)
    assert got["judge/repeats itself"].value == 1.0
    # positions, gold / said: ff fs(pair 1) ft ff | ss ss ss ; three of four first, three of three
    # second
    observed = 5 / 7
    chance = (4 / 7) * (2 / 7) + (3 / 7) * (4 / 7)
    assert got["judge/kappa"].value == pytest.approx((observed - chance) / (1 - chance))
    assert got["judge/kappa"].num_failed == 1


def judge(rule: str) -> Ask:
    def ask(requests: Sequence[Request]) -> list[Reply]:
        replies = []
        for request in requests:
            text = request.messages[0].content
            a, b = (text.split(f"[Answer {side}]\n", 1)[1].split("\n\n[", 1)[0] for side in "AB")
            side = {
                "first": "A",
                "longer": "A" if len(a) > len(b) else "B",
                "gold": "A" if "gold" in a else "B",
                "seed": "AB"[request.seed % 2],
            }[rule]
            replies.append(Reply(f"[[{side}]]"))
        return replies

    return ask


def asked(ask: Ask, verdict: Literal["text", "logprob"] = "text") -> PairJudge:
    return asked_judge(Pairwise("j", verdict=verdict), ask, "m")


PAIRS = [
    Comparison(
        str(i),
        (Message("user", "?"),),
        "gold" + "!" * (9 * (i % 2)),
        "other" + "." * (5 * ((i + 1) % 2)),
        {"models": ["me", "you"] if i % 4 < 2 else ["you", "me"]},
    )
    for i in range(60)
]


@pytest.mark.parametrize(
    ("rule", "accuracy", "first", "length", "repeats"),
    [
        ("gold", 1.0, 0.5, 0.0, 1.0),
        ("first", 0.5, 1.0, 0.0, 1.0),
        ("longer", 0.5, 0.5, 0.5, 1.0),
        ("seed", 0.5, 1.0, 0.0, 0.0),
    ],
)
def test_planted_faults_are_found(
    rule: str, accuracy: float, first: float, length: float, repeats: float
) -> None:
    scores = {
        s.name: s.value
        for s in JudgeCard(rows="r", own="me").measure(PAIRS, asked(judge(rule))).scores
    }
    assert scores["judge/accuracy"] == pytest.approx(accuracy)
    assert scores["judge/first position"] == pytest.approx(first)
    assert scores["judge/length bias"] == pytest.approx(length, abs=1e-9)
    assert scores["judge/repeats itself"] == repeats
    assert scores["judge/kappa"] == pytest.approx(2 * accuracy - 1)
    assert scores["judge/self-preference"] == pytest.approx(0.0)


def test_a_judge_that_favours_its_own_answers_is_found() -> None:
    verdicts = [
        Preference(p.id, *(("A", "A") if p.meta["models"][0] == "me" else ("B", "B")))
        for p in PAIRS
    ]
    got = figures(PAIRS, verdicts, own="me")
    assert got["judge/self-preference"].value == 0.5
    assert got["judge/accuracy"].value == 0.5


def test_log_probabilities_are_freed_of_the_position() -> None:
    def ask(requests: Sequence[Request]) -> list[Reply]:
        replies = []
        for request in requests:
            gold_first = "[Answer A]\ngold" in request.messages[0].content
            # A by far, a little more for gold
            replies.append(Reply("A", logprobs=(3.0 + (0.2 if gold_first else -0.2), 0.0, -9.0)))
        return replies

    scores = {
        s.name: s.value
        for s in JudgeCard(rows="r", repeats=0).measure(PAIRS, asked(ask, "logprob")).scores
    }
    assert scores["judge/first position"] == 1.0
    assert scores["judge/accuracy"] == 0.5
    assert scores["judge/accuracy free of position"] == 1.0
    assert judge_scorer(asked(ask, "logprob"))(PAIRS)[0] == pytest.approx(0.2)


def test_a_minimum_is_enforced_and_the_hash_names_the_judge() -> None:
    with pytest.raises(RecipeError, match=r"accuracy is 0\.500 and min_accuracy asks for 0\.7"):
        JudgeCard(rows="r", min_accuracy=0.7).measure(PAIRS, asked(judge("first")))
    with pytest.raises(RecipeError, match=r"kappa is 0\.000 and min_kappa asks for 0\.2"):
        JudgeCard(rows="r", min_kappa=0.2).measure(PAIRS, asked(judge("first")))
    one = (
        JudgeCard(rows="r", min_accuracy=0.7)
        .measure(PAIRS, asked(judge("gold")))
        .info["judge_card"]["judge_hash"]
    )
    assert one == judge_hash(Pairwise("j"), "m")
    assert (
        len(
            {one, judge_hash(Pairwise("j"), "n"), judge_hash(Pairwise("j", verdict="logprob"), "m")}
        )
        == 3
    )


def subset_pairs(subset: str, num: int) -> list[Comparison]:
    return [Comparison(f"{subset} {i}", (), "a", "b", {"subset": subset}) for i in range(num)]


def test_sections_are_weighted_by_the_published_counts() -> None:
    pairs = (
        subset_pairs("math-prm", 10)
        + subset_pairs("hep-cpp", 10)
        + subset_pairs("alpacaeval-easy", 4)
    )
    margins: list[float | None] = (
        [1.0] * 5 + [-1.0] * 4 + [0.0] + [1.0] * 10 + [2.0, 0.0, -1.0, None]
    )
    scores = {s.name: s for s in reward_bench(pairs, lambda _: margins).scores}
    assert scores["RewardBench/math-prm"].value == 0.5  # a tie is wrong
    reasoning = (984 * 0.5 + 164 * 1.0) / (984 + 164)
    assert scores["RewardBench/section Reasoning"].value == pytest.approx(reasoning)
    assert scores["RewardBench/alpacaeval-easy"].num_failed == 1
    assert scores["RewardBench"].value == pytest.approx((reasoning + 1 / 3) / 2)
    whole = {s.name: s for s in reward_bench(pairs, lambda _: [1.0] * len(pairs)).scores}[
        "RewardBench"
    ]
    assert whole.value == 1.0
    assert whole.low is not None
    assert 0.7 < whole.low < 0.95  # 24 pairs are no proof of perfection
    low, high = (
        scores["RewardBench/section Reasoning"].low,
        scores["RewardBench/section Reasoning"].high,
    )
    assert low is not None
    assert high is not None
    assert low < reasoning < high
    assert {name: sum(c.values()) for name, c in SECTIONS.items()} == {
        "Chat": 358,
        "Chat Hard": 456,
        "Safety": 740,
        "Reasoning": 1968,
    }


def test_gold_files(tmp_path: Path) -> None:
    path = tmp_path / "Natural" / "dataset.json"
    path.parent.mkdir()
    row = {"input": "Say hi.", "output_1": "no", "output_2": "hi", "label": 2}
    path.write_text(json.dumps([row]))
    (pair,) = read_labelled_pairs(path)
    assert (pair.chosen, pair.rejected, pair.meta["subset"]) == ("hi", "no", "llmbar-natural")
    path.write_text(json.dumps([{**row, "label": 3}]))
    with pytest.raises(DataError, match="row 1: label is 3"):
        read_labelled_pairs(path)
    for name in ("Neighbor", "GPTInst"):
        hard = tmp_path / "Adversarial" / name / "dataset.json"
        hard.parent.mkdir(parents=True)
        hard.write_text(json.dumps([row]))
        subset = read_labelled_pairs(hard)[0].meta["subset"]
        assert subset in SECTIONS["Chat Hard"], subset
    bench = tmp_path / "filtered.jsonl"
    bench.write_text(
        json.dumps(
            {
                "prompt": "p",
                "chosen": "c",
                "rejected": "r",
                "subset": "hep-go",
                "chosen_model": "human",
                "id": 7,
            }
        )
        + "\n"
    )
    (pair,) = read_labelled_pairs(bench)
    assert (pair.prompt[0].content, pair.chosen, pair.meta["subset"], pair.meta["models"]) == (
        "p",
        "c",
        "hep-go",
        ["human", ""],
    )


def test_llmbar_under_a_judge() -> None:
    folder = os.environ.get("BEZOAR_DATA")
    if not folder:
        pytest.skip("BEZOAR_DATA names no folder with LLMBar")
    files = [
        Path(folder) / "llmbar" / name / "dataset.json"
        for name in ("Natural", "Adversarial/Neighbor")
    ]
    pairs = [pair for file in files for pair in read_labelled_pairs(file)]
    scores = {s.name: s for s in reward_bench(pairs, judge_scorer(asked(judge("longer")))).scores}
    assert scores["RewardBench/llmbar-natural"].n == 100
    assert scores["RewardBench/llmbar-adver-neighbor"].n == 134
    assert scores["RewardBench/llmbar-adver-neighbor"].value is not None
    # built so that the worse answer looks better
    assert scores["RewardBench/llmbar-adver-neighbor"].value < 0.45
