"""Win rates from judged pairs, with planted biases; AlpacaEval's files; answer files of published
models."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from bezoar.chat.types import Comparison, Message
from bezoar.errors import DataError
from bezoar.evals.answer_files import read_alpaca_eval, standard_error
from bezoar.evals.stats import Score, score
from bezoar.evals.win_rate import length_controlled, outcome
from bezoar.io import content_hash
from bezoar.llm.types import Ask, Reply, Request
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.pairwise import Pairwise, Preference

PROMPTS = {str(i): (Message("user", f"Question {i}?"),) for i in range(200)}


def test_values_by_hand() -> None:
    pairs = [Comparison(str(i), (), "a", "b") for i in range(4)]
    verdicts = [
        Preference("0", "A", "A"),
        Preference("1", "A", "B"),
        Preference("2", "B", "tie"),
        Preference("3", "A", Unparsed("?")),
    ]
    scores = {s.name: s for s in outcome(pairs, verdicts).scores}
    assert scores["win rate"].value == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert (scores["win rate"].n, scores["win rate"].num_failed) == (3, 1)
    # games won by the answer shown first: A A, B; A A; B; of decisive ones: first games A, A, B, A
    # -> 3 of 4, second A, B -> 1 of 2
    assert scores["win rate/first position"].value == pytest.approx(4 / 6)
    assert scores["win rate/orders disagree"].value == pytest.approx(2 / 3)


def pair_up(
    first: dict[str, str], second: dict[str, str], prompts: dict[str, tuple[Message, ...]] = PROMPTS
) -> list[Comparison]:
    return [Comparison(i, messages, first[i], second[i]) for i, messages in prompts.items()]


def figures(pairs: list[Comparison], ask: Ask) -> dict[str, Score]:
    return {s.name: s for s in outcome(pairs, Pairwise("judge").compare(pairs, ask)).scores}


def biased_judge(better: set[str], bias: float) -> Ask:
    """Names the answer that is in `better`, but in a share `bias` of the games whatever stands
    first."""

    def ask(requests: Sequence[Request]) -> list[Reply]:
        replies = []
        for request in requests:
            text = request.messages[0].content
            first, second = (
                text.split(f"[Answer {side}]\n", 1)[1].split("\n\n[", 1)[0] for side in "AB"
            )
            lazy = int(content_hash(text), 16) % 1000 < 1000 * bias
            wins = "A" if lazy or first in better else "B" if second in better else "C"
            replies.append(Reply(f"I see. [[{wins}]]"))
        return replies

    return ask


def test_a_planted_position_bias_is_found_and_does_not_move_the_win_rate() -> None:
    ones, twos = {i: f"one {i}" for i in PROMPTS}, {i: f"two {i}" for i in PROMPTS}
    better = {ones[i] if int(i) % 10 < 6 else twos[i] for i in PROMPTS}  # 60 % for the first
    pairs = pair_up(ones, twos)
    fair = figures(pairs, biased_judge(better, 0.0))
    lazy = figures(pairs, biased_judge(better, 0.5))
    assert fair["win rate"].value == pytest.approx(0.6)
    assert fair["win rate/first position"].value == pytest.approx(0.5)
    shown = lazy["win rate/first position"]
    assert shown.value == pytest.approx(0.75, abs=0.05)
    assert shown.low is not None
    assert shown.low > 0.6
    # the lazy half of the judge pulls towards one half, and to neither side: 0.5 * 0.5 + 0.5 * 0.6
    assert lazy["win rate"].value == pytest.approx(0.55, abs=0.03)
    mirrored = figures(pair_up(twos, ones), biased_judge(better, 0.5))
    assert mirrored["win rate"].value == pytest.approx(1 - (lazy["win rate"].value or 0))


def test_length_is_taken_out() -> None:
    # equal models; the longer answer wins three of four, and the first is longer in 150 of 200
    gaps = [100.0 if i < 150 else -100.0 for i in range(200)]
    values = [float((i % 4 != 0) == (g > 0)) for i, g in enumerate(gaps)]
    raw, free = score("w", values), length_controlled(values, gaps)
    assert raw.value is not None
    assert raw.value > 0.6
    assert free.value == pytest.approx(0.5, abs=0.02)
    assert free.low is not None
    assert free.high is not None
    assert free.low < 0.5 < free.high
    # without a difference in length there is nothing to take out
    assert length_controlled([1.0, 1.0, 1.0, 0.0] * 50, [0.0] * 200).value == pytest.approx(
        0.75, abs=1e-3
    )
    assert 0.5 < (length_controlled([1.0] * 20, [float(i) for i in range(20)]).value or 0) < 1.0


def test_alpaca_eval_annotations(tmp_path: Path) -> None:
    def row(instruction: str, preference: float | None) -> dict[str, object]:
        return {
            "instruction": instruction,
            "output_1": "base",
            "output_2": "model",
            "generator_2": "m",
            "preference": preference,
        }

    path = tmp_path / "annotations.json"
    path.write_text(
        json.dumps([row("a", 2.0), row("b", 1.0), row("c", 1.75), row("d", 0), row("e", None)])
    )
    pairs, values = read_alpaca_eval(path)
    assert values == [1.0, 0.0, 0.75, 0.5, None]
    assert pairs[0].chosen == "model"
    got = score("win rate", values)
    assert (got.value, got.n, got.num_failed) == (2.25 / 4, 4, 1)
    assert standard_error(values) == pytest.approx(
        math.sqrt(((0.4375**2 + 0.5625**2 + 0.1875**2 + 0.0625**2) / 3) / 4)
    )
    path.write_text(json.dumps([row("a", 2.0), row("a", 1.0)]))
    with pytest.raises(DataError, match="stands twice"):
        read_alpaca_eval(path)


def test_published_answers_under_a_biased_judge() -> None:
    folder = os.environ.get("BEZOAR_DATA")
    if not folder:
        pytest.skip("BEZOAR_DATA names no folder with the published MT-Bench files")
    from bezoar.data.questions import read_answers, read_questions

    home = Path(folder) / "mt_bench"
    prompts = {
        str(q.id): (Message("user", q.turns[0]),) for q in read_questions(home / "question.jsonl")
    }
    one, two = (
        {
            str(i): turns[0]
            for i, turns in read_answers(home / "model_answer" / f"{name}.jsonl").items()
        }
        for name in ("gpt-3.5-turbo", "alpaca-13b")
    )
    pairs = pair_up(one, two, prompts)
    better = {one[i] if int(i) % 10 < 7 else two[i] for i in prompts}  # about 70 % for the first
    # 40 % of the questions are decided by the place alone
    lazy = {i for i in prompts if int(i) % 5 < 2}
    fair = outcome(pairs, Pairwise("judge").compare(pairs, biased_judge(better, 0.0)))
    merit = {row["id"]: row["value"] for row in fair.items}
    for favoured, share in (("A", 0.7), ("B", 0.3)):

        def judge(requests: Sequence[Request], favoured: str = favoured) -> list[Reply]:
            honest = biased_judge(better, 0.0)(requests)
            swayed = [
                any(
                    f"User: {prompts[i][0].content}\n\n[Answer A]" in r.messages[0].content
                    for i in lazy
                )
                for r in requests
            ]
            return [
                Reply(f"[[{favoured}]]") if s else reply
                for s, reply in zip(swayed, honest, strict=True)
            ]

        for games, flip in ((pairs, False), ([p.swap() for p in pairs], True)):
            found = figures(games, judge)
            values = [0.5 if i in lazy else 1 - merit[i] if flip else merit[i] for i in prompts]
            # the same whichever place is favoured
            assert found["win rate"].value == pytest.approx(sum(values) / len(values))
            place = found["win rate/first position"]
            assert place.value == pytest.approx(share, abs=0.02)
            assert place.low is not None
            assert place.high is not None
            assert not place.low <= 0.5 <= place.high


def test_margins_say_who_wins_free_of_position() -> None:
    pairs = [Comparison(i, (Message("user", i),), "one", "two") for i in "abcd"]
    first_wins = [Preference(p.id, "A", "B") for p in pairs]  # whatever stands first
    scores = {s.name: s for s in outcome(pairs, first_wins, [1.5, 0.5, 0.0, None]).scores}
    assert scores["win rate"].value is None
    free = scores["win rate/free of position"]
    assert (free.value, free.n, free.num_failed) == (pytest.approx(2.5 / 3), 3, 1)
    assert "win rate/free of position" not in {s.name for s in outcome(pairs, first_wins).scores}
