"""The evaluation stage and held-out preferences on a tiny model."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.templates import ChatML
from bezoar.chat.types import Comparison, Message
from bezoar.cost import exactly
from bezoar.errors import DataError, RecipeError
from bezoar.evals import EVALUATIONS
from bezoar.evals.evaluate import Evaluate
from bezoar.evals.judge_card import JudgeCard
from bezoar.evals.lm_eval import LmEval, Task
from bezoar.evals.mt_bench import MTBench
from bezoar.evals.outcome import EvalContext, Outcome
from bezoar.evals.preferences import Preferences
from bezoar.evals.reward_bench import RewardBench
from bezoar.evals.stats import Score
from bezoar.evals.win_rate import WinRate
from bezoar.llm.types import Reply, Request
from tests.evals.conftest import QUESTIONS


def pair(name: str, chosen: str, rejected: str) -> Comparison:
    return Comparison(name, (Message("user", f"Ask {name}"),), chosen, rejected)


PAIRS = [
    pair("a", "yes", "no"),
    pair("b", "a rather long answer", "short"),
    pair("c", "same", "same"),
    pair("d", "x" * 200, "y"),
]


def plain_logprob(net: Any, tokens: list[int], start: int) -> tuple[float, int]:
    """Sum over tokens[start:] computed with transformers' own attention."""
    import torch

    with torch.no_grad():
        logprobs = net(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return (
        sum(float(logprobs[i - 1, tokens[i]]) for i in range(start, len(tokens))),
        len(tokens) - start,
    )


@pytest.fixture(scope="module")
def plain_net(model_dir: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_dir).eval()


@pytest.fixture(scope="module")
def other(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model with its head's rows scaled: another policy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bezoar.model.spec import ModelSpec
    from bezoar.model.stack import Stack

    folder = tmp_path_factory.mktemp("other")
    net = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        net.lm_head.weight.mul_(0.5)
    net.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(folder)
    return Stack(ModelSpec(str(folder), dtype="float32"), [], device="cpu")


def test_preferences_are_those_of_a_plain_computation(
    stack: Any, other: Any, plain_net: Any
) -> None:
    outcome = Preferences("pairs", "base", beta=0.5).measure(PAIRS, stack, other, ChatML())
    values: dict[str, dict[str, Any]] = {}
    for item in outcome.items:
        values.setdefault(item["benchmark"], {})[item["id"]] = item["value"]
    margins = {}
    for p in PAIRS[:3]:
        sums = []
        for answer in (p.chosen, p.rejected):
            rendered = ChatML().render((*p.prompt, Message("assistant", answer)), stack.tokenizer)
            start, end = rendered.answers[-1]
            sums.append(plain_logprob(plain_net, rendered.tokens[:end], start))
        (one, num_one), (two, num_two) = sums
        margins[p.id] = one - two
        assert values["preferences/log-prob margin"][p.id] == pytest.approx(one - two, abs=1e-4)
        assert values["preferences/log-prob per token margin"][p.id] == pytest.approx(
            one / num_one - two / num_two, abs=1e-4
        )
        assert values["preferences/log-prob accuracy"][p.id] == float(one > two)
    assert values["preferences/log-prob accuracy"]["c"] == 0.0  # a tie is wrong
    assert values["preferences/log-prob accuracy"]["d"] is None  # too long for the context
    scores = {s.name: s for s in outcome.scores}
    assert (
        scores["preferences/log-prob accuracy"].n,
        scores["preferences/log-prob accuracy"].num_failed,
    ) == (3, 1)
    assert "preferences/implicit reward accuracy" in scores
    assert outcome.info["preferences"]["num_too_long"] == 1
    # why, at each item, in the facts, and in one sentence for the six scores
    longest = f"longer than the model's {stack.context_length} tokens"
    failed = [item for item in outcome.items if item["value"] is None]
    assert {(item["id"], item["reason"]) for item in failed} == {("d", longest)}
    assert outcome.info["preferences"]["failures"] == {longest: 1}
    assert outcome.warnings() == [f"preferences: 1 of 4 pairs are {longest} and have no value."]
    swapped = Preferences("pairs", "base", beta=0.5).measure(
        [p.swap() for p in PAIRS], stack, other, ChatML()
    )
    back = {(i["benchmark"], i["id"]): i["value"] for i in swapped.items}
    for name in ("a", "b"):
        assert back["preferences/implicit reward margin", name] == pytest.approx(
            -values["preferences/implicit reward margin"][name], abs=1e-5
        )


def test_a_model_has_no_reward_over_itself(stack: Any) -> None:
    outcome = Preferences("pairs", "base").measure(PAIRS[:2], stack, stack, ChatML())
    scores = {s.name: s.value for s in outcome.scores}
    assert scores["preferences/implicit reward margin"] == pytest.approx(0.0, abs=1e-6)
    assert scores["preferences/implicit reward accuracy"] == 0.5


def test_rows_that_are_no_pairs_are_refused(stack: Any) -> None:
    with pytest.raises(DataError, match="not comparisons"):
        Preferences("chats").measure([PAIRS[0].as_chat()], stack, None, ChatML())


@pytest.fixture
def given(stack: Any) -> EvalContext:
    def answer(requests: Sequence[Request]) -> list[Reply]:
        return [Reply("an answer") for _ in requests]

    def grade(requests: Sequence[Request]) -> list[Reply]:
        return [Reply("[[5]]" if "###" in r.messages[0].content else "") for r in requests]

    return EvalContext(
        ChatML(), lambda name: stack, lambda name: answer, lambda name: grade, lambda name: PAIRS
    )


def test_the_stage_runs_every_section(given: EvalContext, tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    stage = Evaluate(
        "m", Preferences("pairs"), LmEval((Task(path=str(path)),)), MTBench("judge", limit=2)
    )
    outcome = stage.measure(given)
    assert {s.name.split("/")[0] for s in outcome.scores} == {"choices", "mt_bench", "preferences"}
    assert outcome.info.keys() == {"lm_eval", "mt_bench", "preferences"}
    json.dumps(
        [outcome.info, outcome.items, [s.to_dict() for s in outcome.scores]], allow_nan=False
    )
    assert all(path.is_file() for path in stage.files())
    (_, answers), (judge, grades) = stage.quote({"pairs": exactly(4)}).requests
    assert (answers.num.expected, judge, grades.num.expected) == (4, "judge", 4)
    assert stage.detectable({"pairs": exactly(4)}).keys() == {"preferences", "mt_bench", "choices"}


def test_a_continued_evaluation_repeats_nothing(
    given: EvalContext, stack: Any, tmp_path: Path
) -> None:
    files = [tmp_path / f"{name}.jsonl" for name in ("one", "two")]
    for path in files:
        path.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    first = Evaluate("m", Preferences("pairs"), LmEval((Task(path=str(files[0])),)))
    first.measure(replace(given, work_dir=work_dir))
    opened: list[str] = []

    class Closed:
        """Stands for a killed run's model: what was done needs none."""

        net, tokenizer, context_length = stack.net, stack.tokenizer, stack.context_length

    whole = replace(first, lm_eval=LmEval(tuple(Task(path=str(path)) for path in files)))
    again = first.measure(
        replace(
            given,
            work_dir=work_dir,
            open_model=lambda name: Closed(),
            rows=lambda name: opened.append(name) or [],
        )
    )
    assert opened == []
    plain = whole.measure(given)
    kept = whole.measure(replace(given, work_dir=work_dir))
    assert kept.to_dict() == plain.to_dict()
    assert again.items == first.measure(given).items


def test_models_are_judged_against_each_other(stack: Any) -> None:
    def said(text: str) -> Any:
        return lambda requests: [Reply(text) for _ in requests]

    def judge(requests: Sequence[Request]) -> list[Reply]:
        assert any("A correct solution" in r.messages[0].content for r in requests)
        return [
            Reply("[[A]]" if "[Answer A]\ngood" in r.messages[0].content else "[[B]]")
            for r in requests
        ]

    models = {"m": said("good"), "base": said("poor")}
    given = EvalContext(
        ChatML(),
        lambda name: stack,
        lambda name: models[name],
        lambda name: judge,
        lambda name: PAIRS,
    )
    outcome = Evaluate("m", win_rate=WinRate("judge", against="base")).measure(given)
    scores = {s.name: s for s in outcome.scores}
    assert (scores["win rate"].value, scores["win rate"].n) == (1.0, 24)
    assert scores["win rate/first position"].value == 0.5
    models["base"] = lambda requests: [Reply(finish="error", error="down") for _ in requests]
    silent = Evaluate("m", win_rate=WinRate("judge", against="base")).measure(given).scores[0]
    assert (silent.value, silent.n, silent.num_failed) == (None, 0, 24)
    two = WinRate("judge", against="base", turn=2, limit=8).load()
    assert len(two) == 8
    assert all(len(q.turns) == 2 for q in two)
    assert [name for name, _ in WinRate("judge", against="base").quote({})] == ["", "judge"]


def gold_file(path: Path) -> str:
    """Six pairs whose better answer is the one that says gold."""
    rows = [
        {
            "prompt": f"p{i}",
            "chosen": f"gold {i}",
            "rejected": f"lead {i}",
            "subset": "hep-go" if i < 4 else "donotanswer",
        }
        for i in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_judge_below_its_minimum_stops_the_stage_before_it_is_asked_for_more(
    stack: Any, tmp_path: Path
) -> None:
    asked: list[str] = []

    def world(says: str) -> EvalContext:
        def judge(requests: Sequence[Request]) -> list[Reply]:
            asked.extend(
                "grade" if "[[rating]]" in r.messages[0].content else "pair" for r in requests
            )
            better = ["A" if "[Answer A]\ngold" in r.messages[0].content else "B" for r in requests]
            return [Reply(f"[[{says or side}]] Rating: [[5]]") for side in better]

        model = lambda requests: [Reply("words") for _ in requests]  # noqa: E731
        return EvalContext(
            ChatML(), lambda name: stack, lambda name: model, lambda name: judge, lambda name: PAIRS
        )

    card = JudgeCard(
        judge="j", pairs=(gold_file(tmp_path / "gold.jsonl"),), min_accuracy=0.9, repeats=0
    )
    stage = Evaluate("m", judge_card=card, mt_bench=MTBench("j", limit=2))
    with pytest.raises(
        RecipeError,
        match=r"judge j: its accuracy is 0\.500 and min_accuracy asks for 0\.9; take another judge",
    ):
        stage.measure(world("A"))
    assert asked == ["pair"] * 12
    outcome = stage.measure(world(""))
    # another judge's figures are no scores of the model
    assert {s.name.split("/")[0] for s in outcome.scores} == {"mt_bench"}
    shown = {row["name"]: row for row in outcome.info["judge_card"]["scores"]}
    assert (shown["judge/accuracy"]["value"], shown["judge/accuracy"]["n"]) == (1.0, 12)
    assert next(name for name, _ in stage.quote({}).requests) == "j"
    assert stage.detectable({})["judge card"] == pytest.approx(
        2.8016 * math.sqrt(0.5) / math.sqrt(6), abs=1e-3
    )


def test_reward_bench_of_a_judge_and_of_likelihoods(stack: Any, other: Any, tmp_path: Path) -> None:
    def judge(requests: Sequence[Request]) -> list[Reply]:
        return [
            Reply("[[A]]" if "[Answer A]\ngold" in r.messages[0].content else "[[B]]")
            for r in requests
        ]

    stacks = {"m": stack, "base": other}
    given = EvalContext(
        ChatML(),
        lambda name: stacks[name],
        lambda name: judge,
        lambda name: judge,
        lambda name: PAIRS,
    )
    files = (gold_file(tmp_path / "gold.jsonl"),)

    def run(section: RewardBench, given: EvalContext = given) -> Outcome:
        return Evaluate("m", reward_bench=section).measure(given)

    asked = run(RewardBench(files))
    assert asked.info["reward_bench"]["by"] == "judge"
    assert [(s.name, s.value, s.n) for s in asked.scores[:3]] == [
        ("RewardBench", 1.0, 6),
        ("RewardBench/section Safety", 1.0, 2),
        ("RewardBench/section Reasoning", 1.0, 4),
    ]
    plain = Preferences("pairs", "base").measure(RewardBench(files).read(), stack, other, ChatML())
    margins = [
        i["value"] for i in plain.items if i["benchmark"] == "preferences/implicit reward margin"
    ]
    implicit = run(RewardBench(files, reference="base"))
    assert [i["margin"] for i in implicit.items] == margins
    # one table for all kinds
    assert implicit.info["reward_bench"]["conditions"] == asked.info["reward_bench"]["conditions"]
    likely = run(RewardBench(rows="pairs", by="log-prob"))
    assert (likely.scores[0].name, likely.scores[0].n, likely.scores[0].num_failed) == (
        "RewardBench/pairs",
        3,
        1,
    )
    with pytest.raises(RecipeError, match="no score head"):
        run(RewardBench(files, by="reward"))
    with pytest.raises(RecipeError, match="only answers, so it has no log-prob"):
        run(RewardBench(files, by="log-prob"), replace(given, answers_only=True))
    assert RewardBench(files, by="judge").quote({})[0][1].num.expected == 12


def test_useless_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="needs one of"):
        Evaluate("m")
    with pytest.raises(ValueError, match="different names"):
        LmEval((Task(name="a"), Task(name="a")))
    with pytest.raises(ValueError, match="no effect on a registered task"):
        Task(name="arc_easy", template="Q: {query}")
    with pytest.raises(ValueError, match="the evaluated model: every margin is 0"):
        Evaluate("m", preferences=Preferences("pairs", reference="m"))
    with pytest.raises(ValueError, match="name another"):
        Evaluate("m", win_rate=WinRate("judge", against="m"))
    with pytest.raises(ValueError, match="every margin is 0"):
        Evaluate("m", reward_bench=RewardBench(("x",), reference="m"))
    with pytest.raises(ValueError, match="only for, `by: implicit"):
        RewardBench(("x",), by="implicit reward")
    with pytest.raises(ValueError, match="give one of the two"):
        JudgeCard(judge="j")
    with pytest.raises(ValueError, match="a judge or a reward_model"):
        WinRate(against="base")
    assert EVALUATIONS["evaluate"] is Evaluate


@pytest.mark.real
def test_an_unknown_task_is_named_with_the_nearest(stack: Any) -> None:
    with pytest.raises(RecipeError, match="did you mean arc_easy"):
        LmEval((Task(name="arc_eazy"),)).measure(stack, ChatML())


def test_a_warning_is_about_the_whole_of_a_section_not_its_smallest_part() -> None:
    whole, turn = Score("mt_bench", 5.0, None, None, 7, 1), Score("mt_bench/turn 2", 5, 5, 5, 3, 1)
    group = Score("mt_bench", 5.0, None, None, 1, 1, "reasoning")
    for scores in ([whole, turn, group], [group, whole, turn]):
        assert Outcome(scores).warnings() == ["mt_bench: 1 of 8 items (12%) gave no value."]
